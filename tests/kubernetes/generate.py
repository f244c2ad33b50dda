"""The exit codes of podFailurePolicy in the manifests and the chart, from ``runner.errors.ExitCode``.

``python -m tests.kubernetes.generate`` tells where a file says something else; ``--write`` puts them there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.kubernetes.checks import CODES

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "k8s"
ENDINGS = (".yaml", ".yml", ".tpl")
# The rule is on a line of its own, and so are its codes.
_CODES = re.compile(r"(onExitCodes:\n(?:(?!.*values:).*\n)*? *values: )\[[^\]\n]*\]")


def files() -> Iterator[Path]:
    """Those that have a podFailurePolicy."""
    for path in sorted(MANIFESTS.rglob("*")):
        if path.suffix in ENDINGS and "onExitCodes:" in path.read_text(encoding="utf-8"):
            yield path


def generated(text: str) -> str:
    """The same text with the codes as they are now. Raises ValueError where it has no place for them."""
    made, count = _CODES.subn(lambda match: f"{match[1]}{CODES}", text)
    if count != text.count("onExitCodes:"):
        raise ValueError("onExitCodes without 'values: […]' in one line")
    return made


def main(arguments: list[str]) -> str | None:
    """Write, or answer with the files that are not up to date."""
    stale = [
        path for path in files() if generated(path.read_text(encoding="utf-8")) != path.read_text(encoding="utf-8")
    ]
    if "--write" not in arguments:
        named = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        return f"{named}: python -m tests.kubernetes.generate --write" if stale else None
    for path in stale:
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
