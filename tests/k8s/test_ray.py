"""KubeRay's pool: what a RayService says, its fit to Ray Serve and to our own code, and its rights."""

import json
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from service.ray_app import Options, Server
from service.server import ANSWER_SECONDS
from tests.k8s.rendered import RAY, Manifest, of_kind, ray_groups, render, settings
from tests.k8s.test_laws import RESTRICTED, loaded_settings

NODE = {
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "template": {"type": "object"},
}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """Return the schema of an object of these fields."""
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


NUMBER = {"type": "integer", "minimum": 0}
WORKERS = closed(
    ["groupName", "minReplicas", "maxReplicas", *NODE],
    groupName={"type": "string", "pattern": "^[a-z][-a-z0-9]*$"},
    replicas=NUMBER,
    minReplicas=NUMBER,
    maxReplicas=NUMBER,
    **NODE,
)
SCALER = closed(
    [],
    idleTimeoutSeconds=NUMBER,
    resources=closed([], requests={"type": "object"}, limits={"type": "object"}),
    securityContext={"type": "object"},
)
CLUSTER = closed(
    ["headGroupSpec"],
    rayVersion={"type": "string"},
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=SCALER,
    headGroupSpec=closed([*NODE], **NODE),
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
SPEC = closed(["rayClusterConfig"], serveConfigV2={"type": "string"}, rayClusterConfig=CLUSTER)
"""The fields of a ray.io/v1 RayService that are used, by the API reference of KubeRay; not its own schema."""


def spec() -> Manifest:
    """Return what the RayService says."""
    (service,) = of_kind(RAY, "RayService")
    assert (service["apiVersion"], service["metadata"]["namespace"]) == ("ray.io/v1", "hbridge")
    found: Manifest = service["spec"]
    return found


def serve_config() -> Manifest:
    """Return what Ray Serve is told."""
    told: Manifest = yaml.safe_load(spec()["serveConfigV2"])
    return told


def group(name: str) -> Manifest:
    """Return what is said of a group of workers."""
    (found,) = (each for each in spec()["rayClusterConfig"]["workerGroupSpecs"] if each["groupName"] == name)
    return dict(found)


def container(name: str) -> Manifest:
    """Return the container of a group's pods that Ray runs in."""
    (found,) = ray_groups()[name]["spec"]["containers"]
    return dict(found)


def test_a_ray_service_has_the_fields_that_there_are() -> None:
    jsonschema.validate(spec(), SPEC)
    with pytest.raises(jsonschema.ValidationError, match="serveConfig"):
        jsonschema.validate({**spec(), "serveConfig": ""}, SPEC)


def test_serve_takes_its_configuration_and_the_application_its_options() -> None:
    told = ServeDeploySchema.model_validate(serve_config())
    (application,) = told.applications
    options = Options.model_validate(application.args)
    assert application.import_path == "service.ray_app:app"
    (server,) = application.deployments
    assert server.name == Server.__name__
    assert options.max_engines == group("engines")["maxReplicas"]
    assert options.engines == group("engines")["minReplicas"]
    assert options.servers == group("servers")["replicas"]


def test_an_engine_has_the_gpus_that_it_asks_for_and_a_server_has_none() -> None:
    (application,) = serve_config()["applications"]
    gpus = str(application["args"]["gpus"])
    assert container("engines")["resources"]["limits"]["nvidia.com/gpu"] == gpus
    assert group("engines")["rayStartParams"]["num-gpus"] == gpus
    assert application["args"]["cpus"] <= int(container("engines")["resources"]["requests"]["cpu"])
    for name in ("head", "servers"):
        assert "nvidia.com/gpu" not in container(name)["resources"]["limits"]


def test_each_server_has_a_pod_of_its_own_and_engines_go_nowhere_else() -> None:
    needed = serve_config()["applications"][0]["deployments"][0]["ray_actor_options"]["resources"]
    offered = json.loads(json.loads(group("servers")["rayStartParams"]["resources"]))
    assert needed == offered == {"server": 1}
    assert group("servers")["rayStartParams"]["num-cpus"] == "0"
    assert spec()["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_pods_have_no_rights_to_lose_but_the_head_that_asks_for_pods() -> None:
    for name, template in ray_groups().items():
        pod = template["spec"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["runAsUser"] == 10001
        for each in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert each["securityContext"] == {**RESTRICTED, "capabilities": {"drop": ["ALL"]}}
        assert pod.get("automountServiceAccountToken", True) is (name == "head")
    assert spec()["rayClusterConfig"]["autoscalerOptions"]["securityContext"] == {
        **RESTRICTED,
        "capabilities": {"drop": ["ALL"]},
    }


def test_only_servers_see_secrets() -> None:
    for name in ray_groups():
        mounted = {mount["name"] for mount in container(name)["volumeMounts"]}
        assert ("secrets" in mounted) is (name == "servers")
    assert {mount["mountPath"] for mount in container("servers")["volumeMounts"]} >= {"/run/secrets"}


def test_everything_that_is_written_is_on_a_volume() -> None:
    read = loaded_settings(RAY)
    for name, template in ray_groups().items():
        volumes = {each["name"]: each for each in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container(name)["volumeMounts"]}
        for folder in ("/tmp", "/dev/shm", str(read.cache_dir), str(read.data_dir)):
            assert volumes[mounts[folder]]["emptyDir"]["sizeLimit"]


def test_a_pod_may_finish_what_it_drains() -> None:
    for template in ray_groups().values():
        grace = template["spec"]["terminationGracePeriodSeconds"]
        assert grace >= loaded_settings(RAY).drain_seconds + ANSWER_SECONDS + 5


def test_clients_reach_servers_and_nobody_else() -> None:
    (service,) = of_kind(RAY, "Service")
    assert service["spec"]["selector"]["app.kubernetes.io/component"] == "server"
    assert [port["name"] for port in container("servers")["ports"]] == ["http"]
    for name in ("head", "engines"):
        assert "http" not in {port["name"] for port in container(name).get("ports", ())}
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(RAY, "NetworkPolicy")}
    assert policies["deny-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in ("ray", "ray-head"):
        for rule in [*policies[policy]["ingress"], *policies[policy]["egress"]]:
            assert rule["ports"]
            assert rule.get("from") or rule.get("to")
    chosen = policies["ray-head"]["podSelector"]["matchLabels"]
    assert chosen.items() <= ray_groups()["head"]["metadata"]["labels"].items()


def test_the_pools_of_h100s_have_the_same_settings_and_no_other_server() -> None:
    assert settings(RAY) == settings("h100")
    assert not {"Deployment", "ScaledObject"} & {each["kind"] for each in render(RAY)}
    (named,) = {
        each["configMapRef"]["name"]
        for template in ray_groups().values()
        for one in template["spec"]["containers"]
        for each in one["envFrom"]
    }
    (given,) = of_kind(RAY, "ConfigMap")
    assert named == given["metadata"]["name"]
