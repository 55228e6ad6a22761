"""Every manifest against its kind's schema: Kubernetes' own for each version, CRDs for custom resources."""

from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from kubernetes_validate import utils

from tests.k8s.crds import SOURCES, schema_of
from tests.k8s.rendered import OVERLAYS, RAY, VARIANTS, Manifest, ray_groups, render

VERSIONS = [f"1.{minor}" for minor in range(29, 38)]


def own_manifests() -> dict[str, Manifest]:
    """Return the manifests of Kubernetes' own kinds, those that variants share once."""
    found = [(variant, manifest) for variant in [*VARIANTS, RAY] for manifest in render(variant)]
    own = [(variant, each) for variant, each in found if each["kind"] not in {*SOURCES, "RayService"}]
    # What KubeRay takes for pods is Kubernetes' own.
    own += [(RAY, {"apiVersion": "v1", "kind": "PodTemplate", **each}) for each in ray_templates()]
    return {repr(manifest): {"variant": variant, **manifest} for variant, manifest in own}


def ray_templates() -> list[Manifest]:
    """Return the templates of Ray's pods, as far as a PodTemplate has them."""
    return [{"metadata": {"name": name}, "template": each} for name, each in ray_groups().items()]


@pytest.fixture(autouse=True)
def _schemas_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "schema_contents", cached_contents)


@cache
def cached_contents(name: str, version: str) -> Any:
    return read_contents(name, version)


read_contents = utils.schema_contents


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_overlay_is_made_offline(variant: str) -> None:
    assert len(render(variant)) >= 8


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_kubernetes(version: str) -> None:
    for manifest in own_manifests().values():
        variant = manifest.pop("variant")
        try:
            assert kubernetes_validate.validate(manifest, version, strict=True) == version
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.path))
            pytest.fail(
                f"{variant}: {manifest['kind']} {manifest['metadata']['name']}: {where}: {error.message}"
            )


def test_a_wrong_field_is_found() -> None:
    (service,) = (each for each in render("cpu-dev") if each["kind"] == "Service")
    with pytest.raises(kubernetes_validate.ValidationError, match="selectr"):
        kubernetes_validate.validate(
            {**service, "spec": {**service["spec"], "selectr": {}}}, "1.32", strict=True
        )


@pytest.mark.parametrize("kind", SOURCES)
def test_every_custom_resource_fits_its_crd(kind: str) -> None:
    found = [manifest for variant in VARIANTS for manifest in render(variant) if manifest["kind"] == kind]
    assert found
    for manifest in found:
        jsonschema.validate(manifest, schema_of(kind))
    with pytest.raises(jsonschema.ValidationError, match="nonsense"):
        jsonschema.validate({**found[0], "spec": {**found[0]["spec"], "nonsense": 1}}, schema_of(kind))


def test_an_overlay_needs_nothing_but_kubernetes_unless_a_component_is_chosen() -> None:
    assert not {manifest["kind"] for overlay in OVERLAYS for manifest in render(overlay)} & SOURCES.keys()
