"""What listens to SQLAlchemy for a while, and is taken back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sqlalchemy import event


class Hooks:
    """Put in one by one, and taken back in the opposite order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def then(self, undo: Callable[[], None]) -> None:
        """To be called when they are taken back."""
        self._undo.append(undo)

    def listen(self, target: Any, name: str, listener: Callable[..., None]) -> None:
        """One of SQLAlchemy's events."""
        event.listen(target, name, listener)
        self.then(functools.partial(event.remove, target, name, listener))

    def put(self, dialect: Any, name: str, ours: Callable[..., Any]) -> None:
        """In place of a dialect's own method; taken back unless others have put theirs over it by then."""
        before = dialect.__dict__.get(name)
        setattr(dialect, name, ours)

        def take_back() -> None:
            if dialect.__dict__.get(name) is ours:
                del dialect.__dict__[name]
                if before:
                    setattr(dialect, name, before)

        self.then(take_back)

    def take_back(self) -> None:
        """All of them."""
        while self._undo:
            self._undo.pop()()
