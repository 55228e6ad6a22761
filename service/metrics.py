"""What operators see: counters and histograms of one app, in a registry of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from model.drawing import Drawn
from model.prompt import Task
from model.question import Answered
from service.engine.cost import STAGES, Load, Stage
from service.engine.job import Job, Status, Timings
from service.engine.observer import Observer
from service.engine.scheduler import PRIORITIES, Priority
from service.errors import STATUS
from service.fetch import Reason

OUTCOMES = ("ok", "rejected", "cancelled", "failed")
FALLBACKS = ("tokens", "rows", "context", "unprepared")
"""Why a stack is computed as it is: it has too many of one, or could not be prepared."""
ENDED = ("succeeded", "failed", "cancelled")
DELIVERIES = ("delivered", "retried", "failed")
LOADED = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    HTTPStatus.INSUFFICIENT_STORAGE,
)
"""Refusals that say more of the server than of the request."""
COUNTS = tuple(2**power for power in range(17))
FORGETTING = 0.99
"""Of what a step computed, with every step after it: the ratio of use is that of about the last hundred."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


# When a counter came to be is the build's start; each would be told beside its count.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics(Observer):
    """Counts what the engine and the wire tell it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests by task and outcome.", "task", "outcome")
        self._rejected = self._counter("requests_rejected", "Requests refused, by error code.", "reason")
        self._cancellations = self._counter(
            "cancellations", "Jobs cancelled, by the stage they were in.", "stage"
        )
        self._prefilled = self._counter("prefilled_tokens", "Tokens read by the understanding side.")
        self._device = self._counter("device_seconds", "Time on the device of jobs that went well.", "task")
        self._busy = self._counter("device_busy_seconds", "Time that the device worked, by stage.", "stage")
        self._wasted = self._counter(
            "wasted_device_seconds", "Time on the device of jobs that were cancelled."
        )
        self._missed = self._counter("deadline_missed", "Jobs cut off at their deadline.")
        self._steps = self._counter("steps", "Packed flow steps, computed or skipped.", "mode")
        self._flops = self._counter("model_flops", "Floating-point operations that steps computed.")
        self._recent_flops = self._recent_seconds = 0.0
        self._fallbacks = self._counter(
            "eager_fallback", "Stacks of blocks that fitted no prepared size, by reason.", "reason"
        )
        self._cache_queries = self._counter("prefix_cache_queries", "Prompts asked for.")
        self._cache_hits = self._counter("prefix_cache_hits", "Prompts of which nothing had to be read.")
        self._restarts = self._counter(
            "engine_restarts", "Times that the engine ended by itself and was started again."
        )
        self._fetch_blocked = self._counter(
            "fetch_blocked", "Remote images that were not fetched, by reason.", "reason"
        )
        self._jobs = self._counter("jobs", "Jobs that ended, by task and state.", "task", "state")
        self._webhooks = self._counter("webhooks", "Tries to deliver a webhook, by outcome.", "outcome")
        self._request_seconds = self._histogram("request_seconds", "Arrival to answer.", "task")
        self._queue_seconds = self._histogram("queue_seconds", "Submission to the device.", "priority")
        self._first_seconds = {
            "token": self._histogram("time_to_first_token_seconds", "Submission to an answer's first token."),
            "preview": self._histogram("time_to_first_preview_seconds", "Submission to a first preview."),
        }
        self._step_seconds = {
            "prefill": self._histogram("prefill_seconds", "Understanding side, packed over jobs."),
            "denoise": self._histogram("step_seconds", "One packed flow step."),
            "decode": self._histogram("decode_seconds", "Latents to pictures, packed over jobs."),
        }
        self._step_rows = self._histogram("step_rows", "Rows of a packed flow step.", buckets=COUNTS)
        self._step_tokens = self._histogram("step_tokens", "Tokens of a packed flow step.", buckets=COUNTS)
        self._begin()

    def _begin(self) -> None:
        """Show at 0 what has not happened yet: a rate is known only of what was there before."""
        for mode in ("computed", "skipped"):
            self._steps.labels(mode=mode)
        for reason in FALLBACKS:
            self._fallbacks.labels(reason=reason)
        for stage in ("queue", *STAGES, "done"):
            self._cancellations.labels(stage=stage)
        for stage in STAGES:
            self._busy.labels(stage=stage)
        for priority in PRIORITIES:
            self._queue_seconds.labels(priority=priority)
        for reason in {code for status, code in STATUS.values() if status in LOADED}:
            self._rejected.labels(reason=reason)
        for reason in get_args(Reason):
            self._fetch_blocked.labels(reason=reason)
        for outcome in DELIVERIES:
            self._webhooks.labels(outcome=outcome)
        for task in get_args(Task):
            self._device.labels(task=task)
            self._request_seconds.labels(task=task)
            for outcome in OUTCOMES:
                self._requests.labels(task=task, outcome=outcome)
            for state in ENDED:
                self._jobs.labels(task=task, state=state)

    def describe(
        self,
        *,
        model: str,
        num_running: Callable[[], int],
        status: Callable[[], Status],
        peak_flops: float | None = None,
    ) -> None:
        """Add what is read when it is asked for.

        Args:
            model: Its name on the wire.
            num_running: Counts the jobs on the device.
            status: Says what there is to do.
            peak_flops: What the device can do in a second; without it there is no ratio of use.
        """
        self._gauge("requests_running", "Jobs on the device.").set_function(num_running)
        waiting = self._gauge("requests_waiting", "Jobs in the queue.", "priority")
        for priority in PRIORITIES:
            waiting.labels(priority=priority).set_function(partial(_num_waiting, status, priority))
        self._gauge(
            "queued_device_seconds", "What all jobs that are in still need on the device."
        ).set_function(lambda: status().queued_device_seconds)
        self._gauge("prefix_cache_bytes", "Contexts that are kept.").set_function(
            lambda: status().cache_bytes
        )
        if peak_flops is not None:
            self._gauge(
                "mfu_ratio", "Model FLOPs of the last steps, of what the device could have done meanwhile."
            ).set_function(lambda: self.flops_per_second / peak_flops)
        build = self._gauge("build_info", "1.", "version", "model")
        build.labels(version=version("hbridge"), model=model).set(1)

    def render(self) -> bytes:
        """Return everything in Prometheus' text form."""
        return generate_latest(self.registry)

    def answered(self, task: str, outcome: str, seconds: float) -> None:
        """Count a request that has its answer; "ok", "rejected", "cancelled" or "failed"."""
        self._requests.labels(task=task, outcome=outcome).inc()
        self._request_seconds.labels(task=task).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a refusal by its error code."""
        self._rejected.labels(reason=reason).inc()

    def fetch_blocked(self, reason: str) -> None:
        """Count a remote image that was not fetched, by one of the few reasons of service/fetch.py."""
        self._fetch_blocked.labels(reason=reason).inc()

    def job_ended(self, task: str, state: str) -> None:
        """Count a job that has ended: succeeded, failed or cancelled."""
        self._jobs.labels(task=task, state=state).inc()

    def webhook_tried(self, outcome: str) -> None:
        """Count a try to deliver a webhook: delivered, retried or failed."""
        self._webhooks.labels(outcome=outcome).inc()

    def waited(self, priority: Priority, seconds: float) -> None:
        """Take note of a job that leaves the queue for the device."""
        self._queue_seconds.labels(priority=priority).observe(seconds)

    def stepped(self, stage: Stage, load: Load, seconds: float) -> None:
        """Take note of a packed step."""
        self._busy.labels(stage=stage).inc(seconds)
        if stage in self._step_seconds:
            self._step_seconds[stage].observe(seconds)
        if stage == "denoise":
            self._steps.labels(mode="computed").inc()
            self._step_rows.observe(load.rows)
            self._step_tokens.observe(load.tokens)

    def computed(self, flops: int, seconds: float) -> None:
        """Take note of the floating-point operations of a packed step."""
        self._flops.inc(flops)
        self._recent_flops = FORGETTING * self._recent_flops + flops
        self._recent_seconds = FORGETTING * self._recent_seconds + seconds

    @property
    def flops_per_second(self) -> float:
        """What about the last hundred steps computed, in the time that they took; 0 before the first."""
        return self._recent_flops / self._recent_seconds if self._recent_seconds else 0.0

    def prefilled(self, num_prompts: int, num_hits: int) -> None:
        """Take note of prompts that were asked for, and of how many of them nothing had to be read."""
        self._cache_queries.inc(num_prompts)
        self._cache_hits.inc(num_hits)

    def came_first(self, what: Literal["token", "preview"], seconds: float) -> None:
        """Take note of the first that a job showed, so long after it came in."""
        self._first_seconds[what].observe(seconds)

    def missed_deadline(self) -> None:
        """Take note of a job that was cut off at its deadline."""
        self._missed.inc()

    def fell_back(self, reason: str, count: int) -> None:
        """Count stacks that were computed as they are, because no prepared size fits."""
        self._fallbacks.labels(reason=reason).inc(count)

    def finished(self, job: Job, result: Drawn | Answered, timings: Timings) -> None:
        """Take note of a job that went well."""
        self._prefilled.inc(result.usage.prefilled_tokens)
        self._device.labels(task=job.task).inc(timings.device_seconds)

    def cancelled(self, tenant: str, stage: str, wasted_seconds: float) -> None:
        """Take note of a job that was cancelled, whose, where, and of the work that was for nothing."""
        self._cancellations.labels(stage=stage).inc()
        self._wasted.inc(wasted_seconds)

    def restarted(self) -> None:
        """Take note of an engine that ended by itself and is started again."""
        self._restarts.inc()

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, namespace="hbridge", registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, labels, namespace="hbridge", registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, *labels: str, buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        return Histogram(
            name, help_text, labels, namespace="hbridge", buckets=buckets, registry=self.registry
        )


def _num_waiting(status: Callable[[], Status], priority: Priority) -> int:
    return status().waiting[priority]
