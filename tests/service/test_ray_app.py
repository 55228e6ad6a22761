"""What is asked of Ray; tests/service/test_ray_cluster.py asks a real one."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError
from ray import serve

from service.ray_app import Options, app
from service.ray_router import AffinityRouter, RandomRouter


def deployments(**options: Any) -> tuple[Any, Any]:
    """Return the deployments of server and engine."""
    bound = app(Options(**options))
    assert isinstance(bound, serve.Application)
    server = bound._bound_deployment
    (engine,) = server.init_args
    return server, engine._bound_deployment


def test_a_server_needs_no_device_and_no_processor_of_its_own() -> None:
    server, engine = deployments(servers=3, engines=2, gpus=1)
    assert server.ray_actor_options["num_cpus"] == server.ray_actor_options.get("num_gpus", 0) == 0
    assert (server.num_replicas, engine.num_replicas) == (3, 2)
    assert engine.ray_actor_options["num_gpus"] == 1


def test_several_gpus_are_reserved_together() -> None:
    _, engine = deployments(gpus=4, cpus=8)
    assert engine._replica_config.placement_group_bundles == [{"CPU": 8, "GPU": 4}]
    assert engine._replica_config.placement_group_strategy == "STRICT_PACK"
    assert engine.ray_actor_options["num_gpus"] == 4
    _, engine = deployments(gpus=1)
    assert engine._replica_config.placement_group_bundles is None


def test_the_number_of_engines_is_fixed_unless_there_may_be_more() -> None:
    _, engine = deployments(engines=2)
    assert engine._deployment_config.autoscaling_config is None
    _, engine = deployments(engines=2, max_engines=5)
    scaling = engine._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)


@pytest.mark.parametrize(("routing", "router"), [("affinity", AffinityRouter), ("random", RandomRouter)])
def test_jobs_are_routed_as_the_options_say(routing: str, router: type) -> None:
    _, engine = deployments(routing=routing)
    assert engine._deployment_config.request_router_config.get_request_router_class() is router


@pytest.mark.parametrize("wrong", [{"engine": 2}, {"engines": 0}, {"gpus": -1}, {"routing": "best"}])
def test_an_option_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(**wrong)


def test_what_is_not_for_ray_imports_none() -> None:
    code = "import sys, service.app, service.loading, service.cli; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
