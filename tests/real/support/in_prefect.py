"""What prefect's ``env.py`` expects around it: a worker thread of anyio."""

from collections.abc import Iterator
from contextlib import contextmanager

from anyio import from_thread


@contextmanager
def worker_thread() -> Iterator[None]:
    """Calls that a worker thread would make to its event loop go to one that runs beside this thread."""
    call = from_thread.run
    with from_thread.start_blocking_portal() as portal:
        from_thread.run = portal.call
        try:
            yield
        finally:
            from_thread.run = call
