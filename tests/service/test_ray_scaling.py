from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingContext

from benchmarks.ray_server import RayServer
from service.ray_scaling import METRIC, DeviceSecondsPolicy
from tests.service.ray_service import background, wait_for

UPSCALED = {
    "min_replicas": 1,
    "max_replicas": 2,
    "upscale_delay_s": 1,
    "downscale_delay_s": 3,
    "look_back_period_s": 2,
    "policy": {
        "policy_function": "service.ray_scaling:DeviceSecondsPolicy",
        "policy_kwargs": {"target_seconds": 3},
    },
}


def context(metrics: Any) -> AutoscalingContext:
    return AutoscalingContext(
        deployment_id=DeploymentID(name="Engine", app_name="hbridge"),
        deployment_name="Engine",
        app_name="hbridge",
        current_num_replicas=1,
        target_num_replicas=1,
        running_replicas=[],
        total_num_requests=0,
        total_queued_requests=0,
        aggregated_metrics=metrics,
        raw_metrics={},
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=9,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=None,
    )


@pytest.mark.parametrize(
    ("metrics", "wanted"),
    [({}, 0), (None, 0), ({METRIC: {"a": 30.0}}, 1), ({METRIC: {"a": 50.0, "b": 25.0}}, 2.5)],
)
def test_there_is_a_replica_for_so_many_device_seconds(metrics: Any, wanted: float) -> None:
    assert DeviceSecondsPolicy(target_seconds=30)(context(metrics)) == (wanted, {})


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan")])
def test_a_target_that_cannot_be_kept_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        DeviceSecondsPolicy(wrong)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_engines_come_with_work_and_go_without_each_with_its_own_gpus() -> None:
    options = {"engines": 1, "max_engines": 2, "cpus": 0.5, "gpus": 2}
    engine = {"name": "Engine", "autoscaling_config": UPSCALED}
    # Ray believes in four GPUs; the engines, on the processor, do not look for them.
    pretended = {"RAY_OVERRIDE_RESOURCES": '{"GPU": 4}', "HBRIDGE_NUM_THREADS": "1", "HBRIDGE_DEVICE": "cpu"}
    pretended["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"
    with RayServer(options, [engine], **pretended) as server:
        wait_for(lambda: server.num_engines_up == 1)
        (alone,) = server.engine_environments
        assert len(alone["CUDA_VISIBLE_DEVICES"].split(",")) == 2
        asked = {"prompt": "a red circle", "num_inference_steps": 300}
        with background(server.url, asked, num_clients=6):
            wait_for(lambda: server.num_engines_up == 2, 180)
        seen = [each["CUDA_VISIBLE_DEVICES"].split(",") for each in server.engine_environments]
        assert sorted(gpu for gpus in seen for gpu in gpus) == ["0", "1", "2", "3"]
        wait_for(lambda: server.num_engines_up == 1, 180)
