"""The stages that a job goes through, in time, told apart by its events.

While a job runs, a stage is known to begin when word of it comes. When it has finished, the engine's own
timings say how long each stage was: then they are laid end to end before the moment of the last event.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model.drawing import Drawn
from model.request import Progress
from service.engine.job import Event, Finished, Preview, Timings

Value = str | bool | int | float | Sequence[str]

NAMES = {
    "queue": "admission",
    "prefill": "prefill",
    "denoise": "steps",
    "decode": "decode",
    "answer": "decode",
}
"""Of the stages of an engine's Progress; an answer's tokens are its decode, as in Timings."""


@dataclass(slots=True, kw_only=True)
class Moment:
    """Something that happened during a stage.

    Attributes:
        time: Unix nanoseconds, as all times here.
    """

    name: str
    time: int
    attributes: Mapping[str, Value]


@dataclass(slots=True, kw_only=True)
class Stage:
    """A job's time in one stage.

    Attributes:
        error: The code of what ended it, if it did not go well.
    """

    name: str
    begun: int
    ended: int
    attributes: dict[str, Value] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    error: str | None = None


class Stages:
    """Takes a job's events in order, from its submission to its end."""

    def __init__(self, now: int) -> None:
        self._stages = [Stage(name="admission", begun=now, ended=now)]
        self._first = 0
        self._is_finished = False

    def take(self, event: Event, now: int) -> None:
        """Take note of what is told now."""
        if isinstance(event, Progress):
            self._progress(event, now)
        elif isinstance(event, Preview):
            self._last.moments.append(Moment(name="preview", time=now, attributes={"index": event.index}))
        elif isinstance(event, Finished):
            self._finish(event, now)

    def end(self, now: int, error: str | None) -> list[Stage]:
        """Return all stages; when the job has not finished, the last of them ends now, with the error."""
        if not self._is_finished:
            self._last.ended, self._last.error = now, error
        return self._stages

    @property
    def _last(self) -> Stage:
        return self._stages[-1]

    def _progress(self, progress: Progress, now: int) -> None:
        name = NAMES[progress.stage]
        if name == "admission" and self._last.name != name:
            # The engine ended under the job, which begins again.
            self._last.error = "engine_restarting"
            self._first = len(self._stages)
        if name != self._last.name:
            self._last.ended = now
            self._stages.append(Stage(name=name, begun=now, ended=now))
        if name == "steps" and progress.done:
            at = {"done": progress.done, "total": progress.total}
            self._last.moments.append(Moment(name="step", time=now, attributes=at))

    def _finish(self, finished: Finished, now: int) -> None:
        """Lay the stages of the last run end to end, as long as the engine says that they were."""
        admission = self._stages[self._first]
        lengths = _lengths(finished.timings)
        passed = {stage.name: stage for stage in self._stages[self._first + 1 :]}
        laid = [passed.get(name) or Stage(name=name, begun=now, ended=now) for name in lengths]
        end = now
        for stage in reversed(laid):
            stage.ended, stage.begun = end, end - lengths[stage.name]
            for moment in stage.moments:
                moment.time = min(max(moment.time, stage.begun), stage.ended)
            end = stage.begun
        admission.ended = end
        for stage in (admission, *laid):
            stage.attributes |= _attributes(stage.name, finished)
        self._stages[self._first + 1 :] = laid
        self._is_finished = True


def _lengths(timings: Timings) -> dict[str, int]:
    """Return how long each stage after the admission was, in order; not those that the job left out."""
    seconds = {
        "prefill": timings.prefill_seconds,
        "steps": timings.denoise_seconds,
        "decode": timings.decode_seconds,
    }
    return {name: round(1e9 * length) for name, length in seconds.items() if length}


def _attributes(stage: str, finished: Finished) -> dict[str, Value]:
    result, usage = finished.result, finished.result.usage
    told: dict[str, dict[str, Value]] = {
        "admission": {"hbridge.queue_seconds": finished.timings.queue_seconds},
        "prefill": {
            "hbridge.prompt_tokens": usage.prompt_tokens,
            "hbridge.prefilled_tokens": usage.prefilled_tokens,
            "hbridge.cached_prompt_tokens": usage.cached_prompt_tokens,
        },
        "steps": {
            "hbridge.steps": usage.steps,
            "hbridge.network_calls": usage.network_calls,
            "hbridge.image_tokens": usage.image_tokens,
        },
        "decode": {"hbridge.images": len(result.images)}
        if isinstance(result, Drawn)
        else {"hbridge.completion_tokens": usage.completion_tokens},
    }
    return told[stage]
