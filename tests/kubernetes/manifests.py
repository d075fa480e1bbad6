"""The manifests of docker/kubernetes, as kustomize builds them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"

Manifest = dict[str, Any]


def kustomize() -> list[str] | None:
    """The command that builds a kustomization, where there is one."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


def built(folder: Path) -> list[Manifest]:
    """All manifests of a kustomization. Where nothing can build one, the test is skipped."""
    command = kustomize()
    if command is None:
        pytest.skip("neither kustomize nor kubectl is here")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def plain(folder: Path) -> list[Manifest]:
    """The manifests of a folder as they are written, patches and kustomizations left out."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    files = [folder / name for name in listed if (folder / name).is_file()]
    return [manifest for file in files for manifest in yaml.safe_load_all(file.read_text())]


def only(manifests: list[Manifest], kind: str, name: str = "metalm") -> Manifest:
    """The one of this kind and name."""
    (found,) = (m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)
    return found


def container(manifests: list[Manifest]) -> Any:
    """The one container of the one deployment."""
    (found,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def environment(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    """The variables as the container sees them."""
    described = container(manifests)
    for variable in described["env"]:
        value = variable.get("value")
        if value is None:
            reference = variable["valueFrom"]["resourceFieldRef"]
            assert reference["containerName"] == described["name"]
            kind, _, name = reference["resource"].partition(".")
            value = described["resources"][kind][name]
        yield variable["name"], value
