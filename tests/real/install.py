"""One virtual environment for each project, with the program of this checkout in it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.real.projects import PROJECTS, ROOT, Project

OURS = ("-e", f"{ROOT}[postgresql]")


def install(project: Project) -> None:
    """Make it, unless it is there with the same requirements. "made" is the last thing written."""
    made, wanted = project.venv / "made", "\n".join([sys.version, *project.requires, *OURS])
    if made.is_file() and made.read_text() == wanted:
        return
    started = time.monotonic()
    first, *others = project.requires
    _uv("venv", "--clear", "--python", sys.executable, str(project.venv))
    python = ["--python", str(project.venv / "bin" / "python"), "--compile-bytecode"]
    if not project.dependencies:
        _uv("pip", "install", *python, "--no-deps", first)
        first = ""
    _uv("pip", "install", *python, *filter(None, [first, *others]), *OURS)
    made.write_text(wanted)
    print(f"== {project.name}: {project.requires[0]} in {time.monotonic() - started:.0f} s", flush=True)


def _uv(*arguments: str) -> None:
    subprocess.run([str(Path(sys.executable).with_name("uv")), "--quiet", *arguments], check=True)


if __name__ == "__main__":
    for one in PROJECTS:
        if len(sys.argv) == 1 or one.name in sys.argv[1:]:
            install(one)
