import asyncio
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata
from ray.serve.request_router import PendingRequest

from service.engine.affinity import Errand, Report, home_of
from service.ray_router import AffinityRouter, EngineRouter, RandomRouter

ERRAND = Errand(key=b"k", seconds=2.0, weights_hash="a")
HOME = home_of(b"k", ["a", "b"])
(OTHER,) = {"a", "b"} - {HOME}


def replica(name: str, **report: Any) -> Any:
    """Return what a router is told of a replica; without a report it is new."""
    said = Report(**({"is_up": True, "weights_hash": "a", "num_taken": 0, "queued_seconds": 0.0} | report))
    return SimpleNamespace(
        replica_id=SimpleNamespace(unique_id=name), routing_stats=asdict(said) if report else {}
    )


def route(
    router: type[EngineRouter], replicas: list[Any], times: int = 1, *, ends: bool = False, **kwargs: Any
) -> list[list[str]]:
    """Return the names in the order in which they are tried, for each of several jobs."""

    async def ask() -> list[list[str]]:
        chosen = router(
            deployment_id=DeploymentID(name="Engine", app_name="hbridge"),
            handle_source=DeploymentHandleSource.REPLICA,
        )
        chosen.initialize_state(patience_seconds=1.0)
        ranks = []
        for number in range(times):
            metadata = RequestMetadata(request_id="a", internal_request_id=f"{number}")
            asked = PendingRequest(args=[], kwargs=kwargs or {"errand": ERRAND}, metadata=metadata)
            ranks.append(await chosen.choose_replicas(replicas, asked))
            if ends:
                chosen.on_request_completed(ranks[-1][0][0].replica_id, f"{number}")
        return [[each.replica_id.unique_id for rank in of_one for each in rank] for of_one in ranks]

    return asyncio.run(ask())


def test_a_job_goes_home_and_elsewhere_only_when_home_has_no_room() -> None:
    assert route(AffinityRouter, [replica("a"), replica("b")]) == [[HOME, OTHER]]


def test_a_queue_that_is_too_long_is_left_to_others() -> None:
    busy, idle = replica(HOME, queued_seconds=5.0), replica(OTHER, queued_seconds=1.0)
    assert route(AffinityRouter, [busy, idle]) == [[OTHER, HOME]]


def test_jobs_on_their_way_count_before_anybody_reports_them() -> None:
    ranks = route(AffinityRouter, [replica("a"), replica("b")], times=3)
    assert [rank[0] for rank in ranks] == [HOME, OTHER, HOME]


def test_jobs_that_have_ended_count_no_more() -> None:
    ranks = route(AffinityRouter, [replica("a"), replica("b")], times=3, ends=True)
    assert [rank[0] for rank in ranks] == [HOME, HOME, HOME]


def test_a_replica_with_other_weights_is_not_tried() -> None:
    stranger, ours = replica(HOME, weights_hash="b"), replica(OTHER, queued_seconds=9.0)
    assert route(AffinityRouter, [stranger, ours]) == [[OTHER]]


def test_what_is_no_job_goes_anywhere() -> None:
    assert route(AffinityRouter, [replica("a"), replica("b")], other=1) == [["a", "b"]]


@pytest.mark.parametrize("router", [AffinityRouter, RandomRouter])
def test_the_only_replica_gets_every_job(router: type[EngineRouter]) -> None:
    assert route(router, [replica("a", queued_seconds=50.0)], times=4) == [["a"]] * 4


def test_random_routing_knows_no_home() -> None:
    assert {rank[0] for rank in route(RandomRouter, [replica("a"), replica("b")], times=40)} == {"a", "b"}
