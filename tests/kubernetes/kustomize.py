"""``kubectl kustomize``, which renders without a server."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.tools import BIN

# The Kustomize in the older one is 5.5, in the newer one 5.8.
KUBECTLS = ("kubectl", "kubectl37")


def rendered(directory: Path, kubectl: str = KUBECTLS[-1]) -> list[dict[str, Any]]:
    """What it makes of the directory. Raises CalledProcessError when it refuses."""
    done = subprocess.run([BIN / kubectl, "kustomize", directory], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))
