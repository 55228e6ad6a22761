"""What must hold between manifests and the service: times, names, ports, rights."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from service.server import ANSWER_SECONDS
from service.settings import SECRETS, Settings
from tests.k8s.rendered import (
    K8S,
    OVERLAYS,
    ROOT,
    VARIANTS,
    containers,
    deployment,
    of_kind,
    pod,
    render,
    server,
    settings,
)
from tests.service.test_metrics import API

RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True}
WORDS = "".join(path.read_text() for path in sorted(K8S.rglob("*")) if path.suffix in {".yaml", ".env"})

overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def loaded_settings(overlay: str) -> Settings:
    """Return the settings as the service would read them."""
    given = {name.removeprefix("HBRIDGE_").lower(): text for name, text in settings(overlay).items()}
    return Settings(**{name: text for name, text in given.items() if name in Settings.model_fields})  # type: ignore[arg-type]


def seconds(probe: dict[str, int]) -> int:
    """Return how long a probe fails before it counts."""
    return probe["failureThreshold"] * probe["periodSeconds"]


@overlays
def test_a_pod_may_finish_what_it_drains(overlay: str) -> None:
    stopped_after = int(server(overlay)["lifecycle"]["preStop"]["exec"]["command"][1])
    drained_after = stopped_after + loaded_settings(overlay).drain_seconds
    assert pod(overlay)["terminationGracePeriodSeconds"] >= drained_after + ANSWER_SECONDS + 5


@overlays
def test_a_pod_that_goes_is_out_of_every_list_before_it_refuses(overlay: str) -> None:
    assert int(server(overlay)["lifecycle"]["preStop"]["exec"]["command"][1]) >= 5
    assert seconds(server(overlay)["readinessProbe"]) <= 10


@overlays
def test_weights_may_load_as_long_as_the_server_lets_them_and_a_second_time(overlay: str) -> None:
    read = loaded_settings(overlay)
    budget = seconds(server(overlay)["startupProbe"])
    assert budget >= read.max_load_seconds + read.max_restart_pause_seconds + 200
    assert deployment(overlay)["spec"]["progressDeadlineSeconds"] > budget


@overlays
def test_probes_ask_what_they_are_for(overlay: str) -> None:
    asked = {
        name: server(overlay)[name]["httpGet"]["path"] for name in server(overlay) if name.endswith("Probe")
    }
    assert asked == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    assert seconds(server(overlay)["livenessProbe"]) >= 30


@overlays
def test_an_update_waits_for_no_device_that_nobody_gives_up(overlay: str) -> None:
    update = deployment(overlay)["spec"]["strategy"]
    assert update == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    (budget,) = of_kind(overlay, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


@overlays
def test_a_pod_has_no_rights_to_lose(overlay: str) -> None:
    spec = pod(overlay)
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsNonRoot"]) == (10001, True)
    for container in containers(overlay):
        assert container["securityContext"] == {**RESTRICTED, "capabilities": {"drop": ["ALL"]}}
    assert spec["automountServiceAccountToken"] is False
    (account,) = of_kind(overlay, "ServiceAccount")
    assert (account["automountServiceAccountToken"], account["metadata"]["name"]) == (
        False,
        spec["serviceAccountName"],
    )
    assert not [each for each in render(overlay) if "Role" in each["kind"]]
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@overlays
def test_everything_that_is_written_is_on_a_volume(overlay: str) -> None:
    volumes = {volume["name"]: volume for volume in pod(overlay)["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in server(overlay)["volumeMounts"]}
    read = loaded_settings(overlay)
    for folder in ("/tmp", str(read.cache_dir), str(read.data_dir)):
        assert "emptyDir" in volumes[mounts[folder]["name"]]
    assert all("sizeLimit" in each["emptyDir"] for each in volumes.values() if "emptyDir" in each)


@overlays
def test_nothing_goes_in_or_out_unless_it_is_listed(overlay: str) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(overlay, "NetworkPolicy")}
    assert policies["deny-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    rules = [
        rule for spec in policies.values() for way in ("ingress", "egress") for rule in spec.get(way, ())
    ]
    assert all(rule["ports"] and (rule.get("from") or rule.get("to")) for rule in rules)
    blocks = [to["ipBlock"] for rule in rules for to in rule.get("to", ()) if "ipBlock" in to]
    private = {
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "100.64.0.0/10",
    }
    assert all(private <= set(block["except"]) for block in blocks if block["cidr"] == "0.0.0.0/0")
    assert not blocks or overlay != "cpu-dev"


@overlays
def test_every_setting_is_one_and_what_is_said_of_it_can_be(overlay: str) -> None:
    named = {name.removeprefix("HBRIDGE_").lower() for name in settings(overlay)}
    assert named <= Settings.model_fields.keys()
    assert loaded_settings(overlay).host == "0.0.0.0"


def test_every_setting_that_is_named_anywhere_is_one() -> None:
    named = {name.lower() for name in re.findall(r"HBRIDGE_([A-Z0-9_]*[A-Z0-9])", WORDS)}
    assert len(named) > 10
    assert named - {"name"} <= Settings.model_fields.keys()


def test_services_do_not_set_settings() -> None:
    assert all(pod(overlay)["enableServiceLinks"] is False for overlay in OVERLAYS)


@pytest.mark.parametrize("component", ["monitoring", "keda", "hpa"])
def test_every_metric_is_one(component: str) -> None:
    words = "".join(path.read_text() for path in (K8S / "components" / component).glob("*.yaml"))
    used = set(re.findall(r"(?<![:\w/-])hbridge_(\w+)", words))
    assert used
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= API


@pytest.mark.parametrize("variant", VARIANTS)
def test_ports_are_the_same_everywhere(variant: str) -> None:
    port = loaded_settings(variant).port
    assert server(variant)["ports"] == [{"name": "http", "containerPort": port, "protocol": "TCP"}]
    (service,) = of_kind(variant, "Service")
    assert [(each["port"], each["targetPort"]) for each in service["spec"]["ports"]] == [(port, "http")]
    for route in of_kind(variant, "HTTPRoute"):
        backends = [backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]]
        assert all(backend == {"name": service["metadata"]["name"], "port": port} for backend in backends)
    for monitor in of_kind(variant, "ServiceMonitor"):
        assert [each["port"] for each in monitor["spec"]["endpoints"]] == [
            service["spec"]["ports"][0]["name"]
        ]


def test_the_image_is_as_the_pods_take_it_to_be() -> None:
    image = (ROOT / "docker/Dockerfile").read_text()
    assert f"EXPOSE {loaded_settings('cpu-dev').port}\n" in image
    user, group = (pod("cpu-dev")["securityContext"][name] for name in ("runAsUser", "runAsGroup"))
    assert f"USER {user}:{group}\n" in image
    # Containers without a command serve; those with one find it.
    assert 'ENTRYPOINT ["tini", "--", "hbridge"]\nCMD ["serve"]\n' in image
    assert "PATH=/opt/hbridge/bin:$PATH" in image
    assert str(SECRETS) == "/run/secrets"
    mounted = {mount["mountPath"] for mount in server("cpu-dev")["volumeMounts"]}
    assert {str(SECRETS), *re.findall(r"HBRIDGE_(?:CACHE|DATA)_DIR=(\S+)", image)} <= mounted


@pytest.mark.parametrize("variant", VARIANTS)
def test_everything_is_in_one_namespace_and_selects_the_servers(variant: str) -> None:
    own = {"app.kubernetes.io/name": "hbridge"}
    assert {each["metadata"].get("namespace", "hbridge") for each in render(variant)} == {"hbridge"}
    assert all(
        each["metadata"]["labels"].items() >= own.items()
        for each in render(variant)
        if each["kind"] != "ConfigMap"
    )
    assert deployment(variant)["spec"]["template"]["metadata"]["labels"] == own


@overlays
def test_an_image_has_a_tag_of_its_own(overlay: str) -> None:
    images = {container["image"] for container in containers(overlay)}
    assert len(images) == 1
    tag = images.pop().rpartition(":")[2]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert tag == ("cpu" if overlay == "cpu-dev" else f"{version}-cuda")


@pytest.mark.parametrize(("overlay", "devices"), [("cpu-dev", None), ("h100", "1"), ("h100-multi", "2")])
def test_a_server_gets_as_many_devices_as_it_uses(overlay: str, devices: str | None) -> None:
    resources = server(overlay)["resources"]
    assert {resources[way].get("nvidia.com/gpu") for way in ("requests", "limits")} == {devices}
    assert settings(overlay).get("HBRIDGE_DEVICES", "1") == (devices or "1")
    tolerated = {each["key"] for each in pod(overlay).get("tolerations", ())}
    assert tolerated == ({"nvidia.com/gpu"} if devices else set())


@pytest.mark.parametrize("overlay", ["h100", "h100-multi"])
def test_weights_are_at_a_commit_checked_and_only_read_by_the_server(overlay: str) -> None:
    assert re.fullmatch(r"[\w-]+/[\w.-]+@[0-9a-f]{40}", settings(overlay)["HBRIDGE_MODEL"])
    assert re.fullmatch(r"[0-9a-f]{64}", settings(overlay)["HBRIDGE_WEIGHTS_SHA256"])
    (fetch,) = pod(overlay)["initContainers"]
    assert (fetch["command"], fetch["image"]) == (["hbridge", "fetch"], server(overlay)["image"])
    homes = [
        {each["name"]: each.get("value") for each in container["env"]} for container in containers(overlay)
    ]
    assert homes[0]["HF_HOME"] == homes[1]["HF_HOME"] == "/weights"
    reads = {mount["mountPath"]: mount.get("readOnly") for mount in server(overlay)["volumeMounts"]}
    assert (reads["/weights"], homes[1]["HF_HUB_OFFLINE"]) == (True, "1")


def test_who_scales_is_the_only_one_who_says_how_many() -> None:
    assert all("replicas" not in deployment(variant)["spec"] for variant in VARIANTS)
    for variant, kind in (("h100+keda", "ScaledObject"), ("h100+hpa", "HorizontalPodAutoscaler")):
        (scaler,) = of_kind(variant, kind)
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment(variant)["metadata"]["name"]


def test_both_scalers_scale_alike() -> None:
    (keda,), (hpa,) = of_kind("h100+keda", "ScaledObject"), of_kind("h100+hpa", "HorizontalPodAutoscaler")
    assert keda["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["spec"]["behavior"]
    (trigger,), (metric,) = keda["spec"]["triggers"], hpa["spec"]["metrics"]
    assert trigger["metadata"]["threshold"] == metric["pods"]["target"]["averageValue"]
    adapter = yaml.safe_load((K8S / "components/hpa/adapter-values.yaml").read_text())
    assert adapter["rules"]["custom"][0]["seriesQuery"].partition("{")[0] == metric["pods"]["metric"]["name"]


def test_the_route_gives_long_requests_their_time_and_leads_to_nothing_that_is_for_operators() -> None:
    (route,) = of_kind("h100+gateway", "HTTPRoute")
    limits: dict[str, Any] = {
        match["path"]["value"]: rule["timeouts"]["request"]
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    }
    assert limits["/v1/jobs"] == "0s"
    assert int(limits["/v1"][:-1]) > loaded_settings("h100").drain_seconds
    assert not [path for path in ("/metrics", "/livez", "/readyz", "/health") if path in limits]
