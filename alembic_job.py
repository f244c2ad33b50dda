"""The program's door: loads the package in ``runner/`` under the name ``alembic_job``.

The name ``runner`` is a common one. A project that has a ``runner`` module of its own must get
*its* module when its ``env.py`` imports it, wherever it comes on ``sys.path`` (``PYTHONPATH``
comes before site-packages). So our files are loaded from here by their location, and ``runner``
stays free. Every import inside the package is relative, which is what makes this work.
"""

import importlib
import signal
import sys
from pathlib import Path

__path__ = [str(Path(__file__).with_name("runner"))]  # this alone makes the module a package


def main() -> int:
    """Run the command line in ``sys.argv`` and return the exit code."""
    # PID 1 has no default handlers: a signal during the imports would be lost. It waits until there are some.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    for name in [name for name in sys.modules if name.partition(".")[0] == "runner"]:
        del sys.modules[name]  # "python -m runner" has imported it under the other name
    code: int = importlib.import_module("alembic_job.cli").main(sys.argv[1:])
    return code
