"""How Ray Serve finds a replica for a job: affinity, and its plain twin. The choice itself knows no Ray."""

from abc import abstractmethod
from random import Random
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from service.engine.affinity import Errand, Loads, Report, choose_at_random, choose_by_affinity

PATIENCE_SECONDS = 1.0
"""About what reading an image takes with an understanding side of 7B; to be measured."""


class EngineRouter(RequestRouter):  # type: ignore[misc] # its types are not followed
    """Reads what replicas report and what is asked; who gets a job is left to say."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loads = Loads()
        self._rng = Random()

    @abstractmethod
    def choose(self, errand: Errand, loads: dict[str, float]) -> str:
        """Return the replica that a job goes to, by the device-seconds that are queued at each."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Rank replicas: the one that is chosen, then the others, the shortest queue first."""
        if pending_request is None or "errand" not in pending_request.kwargs:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        errand: Errand = pending_request.kwargs["errand"]
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        self._loads.retain(replicas)
        for name, replica in replicas.items():
            if replica.routing_stats:
                self._loads.report(name, Report(**replica.routing_stats))
        loads = self._loads.of(replicas, errand.weights_hash)
        chosen = self.choose(errand, loads)
        # Not only when it has been taken: many may be on their way there by then.
        self._loads.send(chosen, pending_request.metadata.internal_request_id, errand.seconds)
        ranked = sorted(loads, key=lambda name: (name != chosen, loads[name]))
        return [[replicas[name]] for name in ranked]

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Count a job no more that has ended before its replica spoke of it."""
        self._loads.end(replica_id.unique_id, internal_request_id)


class AffinityRouter(EngineRouter):
    """Sends a job where its context is kept, unless the queue there is too long."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Take the keyword arguments of the router's configuration."""
        self._patience_seconds = float(kwargs.get("patience_seconds", PATIENCE_SECONDS))

    def choose(self, errand: Errand, loads: dict[str, float]) -> str:
        """Choose by affinity."""
        return choose_by_affinity(errand.key, loads, patience_seconds=self._patience_seconds, rng=self._rng)


class RandomRouter(EngineRouter):
    """Sends a job anywhere: what affinity is measured against."""

    def choose(self, errand: Errand, loads: dict[str, float]) -> str:
        """Choose at random."""
        return choose_at_random(loads, rng=self._rng)
