"""hbridge on Ray Serve: servers without weights, and engines with a device each behind them.

`serve run service.ray_app:app` starts it; docs/ray.md says more. Every replica reads HBRIDGE_* where it runs,
so secrets are needed only where servers run. Importing this module imports Ray.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from time import monotonic
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from service import logs
from service.app import create_app
from service.engine.affinity import Errand
from service.engine.client import Client
from service.engine.errors import EngineNotReady
from service.engine.job import Job
from service.engine.pool import Pool, ReplicaLost
from service.engine.replica import Beat, Message, Replica
from service.loading import create_host, model_id
from service.ray_router import PATIENCE_SECONDS, AffinityRouter, RandomRouter
from service.ray_scaling import METRIC, DeviceSecondsPolicy
from service.settings import Settings
from service.terminal import settings_with

log = logging.getLogger(__name__)

MAX_CALLS = 1000
"""Calls to a replica at once: more than an engine takes in, which refuses what is too much by itself."""
REPORT_SECONDS = 0.5
ANSWER_SECONDS = 5.0


class Options(BaseModel):
    """What the application is made of: arguments of `serve run`, or `args` in a configuration of Serve."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    servers: int = Field(
        1, ge=1, description="Servers; with more than one the database has to be PostgreSQL."
    )
    engines: int = Field(1, ge=1, description="Engines, at least.")
    max_engines: int | None = Field(None, description="Engines, at most; as many as at least when left out.")
    target_seconds: float = Field(
        30.0, gt=0, description="Device-seconds of work that an engine may have before there is another."
    )
    gpus: int = Field(0, ge=0, description="GPUs of one engine, all on one machine.")
    cpus: float = Field(1.0, ge=0, description="CPUs of one engine, as Ray counts them.")
    routing: Literal["affinity", "random"] = Field("affinity", description="How a job finds its engine.")
    patience_seconds: float = Field(
        PATIENCE_SECONDS, ge=0, description="How much longer a queue may be where a job's context is kept."
    )


class Engine:
    """An engine replica."""

    async def __init__(self) -> None:  # type: ignore[misc] # Ray awaits it
        settings = _read_settings()
        name = serve.get_replica_context().replica_id.unique_id
        self._replica = Replica(name, create_host(settings))
        await self._replica.start()
        self._up_at, self._max_down_seconds = monotonic(), settings.max_load_seconds

    async def run(self, job: Job, errand: Errand) -> AsyncGenerator[Message, None]:
        """Run a job, as Replica.run."""
        async with aclosing(self._replica.run(job, errand)) as messages:
            async for message in messages:
                yield message

    async def beat(self) -> Beat:
        """Say how it is, as Replica.beat."""
        return self._replica.beat()

    async def check_health(self) -> None:
        """Return while the engine is up, or may come up again by itself; Ray starts another replica when not.

        Raises:
            EngineNotReady: It has been down for longer than a model may load.
        """
        if self._replica.report().is_up:
            self._up_at = monotonic()
        elif monotonic() - self._up_at > self._max_down_seconds:
            raise EngineNotReady("the engine has been down for too long")

    async def record_routing_stats(self) -> dict[str, Any]:
        """Say what the router has to know."""
        return asdict(self._replica.report())

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Say what the autoscaler has to know."""
        return {METRIC: self._replica.report().queued_seconds}

    async def __del__(self) -> None:
        if hasattr(self, "_replica"):
            await self._replica.stop()


class RayEngines:
    """The replicas behind a handle of Ray Serve."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def run(self, job: Job, errand: Errand) -> AsyncGenerator[Message, None]:
        """Run a job on the replica that the router chooses; leaving the iteration cancels it there.

        Raises:
            ReplicaLost: The replica ended.
        """
        messages = self._handle.options(method_name="run", stream=True).remote(job, errand=errand)
        try:
            async for message in messages:
                yield message
        except RayTaskError:
            raise
        except (RayError, RequestCancelledError, DeploymentUnavailableError) as error:
            raise ReplicaLost(type(error).__name__) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise ReplicaLost("the call was cancelled over there") from None
        finally:
            messages.cancel()

    async def beats(self) -> Sequence[Beat]:
        """Ask all replicas how they are, and return what those say that answer; nothing if there are none."""
        try:
            answers = self._handle.broadcast("beat")
            told = await answers.results_async(timeout_s=ANSWER_SECONDS, return_exceptions=True)
        except DeploymentUnavailableError:
            return []
        except TimeoutError:
            log.warning("a replica does not answer")
            return []
        return [beat for beat in told if isinstance(beat, Beat)]


@serve.ingress()
class Server:
    """A server replica: the same app as on one machine, with the engines of Ray behind it."""

    def __init__(self, engines: DeploymentHandle[Engine]) -> None:
        settings = _read_settings()
        pool = Pool(RayEngines(engines), max_repeats=settings.max_job_attempts - 1)
        self._app = create_app(settings, Client(pool, model_id=model_id(settings)))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


def app(options: Options) -> serve.Application:
    """Build the application of Ray Serve."""
    settings = settings_with()
    router = AffinityRouter if options.routing == "affinity" else RandomRouter
    shared: dict[str, Any] = {
        "max_ongoing_requests": MAX_CALLS,
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        "graceful_shutdown_wait_loop_s": 0.5,
        "logging_config": LoggingConfig(enable_access_log=False),
    }
    engine = serve.deployment(Engine).options(
        request_router_config=RequestRouterConfig(
            request_router_class=router,
            request_router_kwargs={"patience_seconds": options.patience_seconds},
            request_routing_stats_period_s=REPORT_SECONDS,
        ),
        **_place(options),
        **_count(options),
        **shared,
    )
    server = serve.deployment(Server).options(
        num_replicas=options.servers,
        ray_actor_options={"num_cpus": 0},
        **shared,
    )
    return server.bind(engine.bind())


def _place(options: Options) -> dict[str, Any]:
    """Say what a replica needs; several GPUs are reserved together, on one machine."""
    needed: dict[str, Any] = {"ray_actor_options": {"num_cpus": options.cpus, "num_gpus": options.gpus}}
    if options.gpus > 1:
        needed["placement_group_bundles"] = [{"CPU": options.cpus, "GPU": options.gpus}]
        needed["placement_group_strategy"] = "STRICT_PACK"
    return needed


def _count(options: Options) -> dict[str, Any]:
    """Say how many replicas there are."""
    most = max(options.engines, options.max_engines or 0)
    if most == options.engines:
        return {"num_replicas": options.engines}
    policy = AutoscalingPolicy(
        policy_function=DeviceSecondsPolicy, policy_kwargs={"target_seconds": options.target_seconds}
    )
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=options.engines, max_replicas=most, policy=policy
        )
    }


def _read_settings() -> Settings:
    """Read the settings of where a replica runs, and log as they say."""
    settings = settings_with()
    logs.configure(settings.log_format, settings.log_level, has_content=settings.log_content)
    return settings
