"""What is asked of the engine, and what comes back: plain data that crosses processes, but for the family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from PIL.Image import Image

from model.drawing import Drawing, Drawn
from model.family import Capabilities, Family
from model.prompt import Task
from model.question import Answered, Question
from model.request import Progress
from service.about import About
from service.engine.scheduler import PRIORITIES, Priority

if TYPE_CHECKING:  # the server's process needs no compiler
    from model.compiled import CompiledRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request, inside.

    Attributes:
        id: The answer's id on the wire.
        work: What to do, in the model's words.
        tenant: Whose share of the device it uses.
        weight: How large that share is beside other tenants'.
        deadline_seconds: After its submission; it is refused or cut off rather than late.
        num_previews: Rough looks at a picture in the making, spread over its steps.
        is_repeatable: It may be run again, its events from the start, when the engine ended under it.
    """

    id: str
    work: Drawing | Question
    tenant: str = ""
    weight: float = 1.0
    priority: Priority = "interactive"
    deadline_seconds: float | None = None
    num_previews: int = 0
    is_repeatable: bool = False

    @property
    def is_question(self) -> bool:
        """Whether words are asked for, and no picture."""
        return isinstance(self.work, Question)

    @property
    def task(self) -> Task:
        """What kind of work it is."""
        if isinstance(self.work, Question):
            return "understand"
        return "edit" if self.work.images else "generate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long a job was in each stage; the decode of an answer is its tokens.

    Attributes:
        device_seconds: Its part of the steps that it shared with others.
        expected_seconds: The total that was expected at its admission.
    """

    queue_seconds: float
    prefill_seconds: float = 0.0
    denoise_seconds: float = 0.0
    decode_seconds: float = 0.0
    device_seconds: float = 0.0
    expected_seconds: float = 0.0

    @property
    def total_seconds(self) -> float:
        """Time from submission to the result."""
        return self.queue_seconds + self.prefill_seconds + self.denoise_seconds + self.decode_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A rough look at the pictures in the making; `index` counts from 0."""

    index: int
    images: tuple[Image, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The last event of a job that went well."""

    result: Drawn | Answered
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The last event of a job that did not; `error` is for the caller."""

    error: Exception


Event = Progress | Preview | Finished | Failed
Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How much an engine has to do, and what it keeps.

    Attributes:
        waiting: Jobs that have not begun, by priority.
        queued_device_seconds: What all jobs that are in still need.
        cache_bytes: Contexts and encoded references that are kept.
    """

    waiting: Mapping[Priority, int]
    queued_device_seconds: float = 0.0
    cache_bytes: int = 0


IDLE = Status(waiting=dict.fromkeys(PRIORITIES, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a model runs, as far as it may show in the last bits of a result.

    Attributes:
        hardware: The processor's or the accelerator's name.
        num_threads: CPU threads of one operation.
        versions: Of Python and of the libraries that compute, by name.
        num_devices: How many share each step.
    """

    hardware: str
    num_threads: int
    versions: Mapping[str, str]
    num_devices: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a loaded model is, and what a receipt says of it.

    Attributes:
        id: Its name on the wire.
        weights_hash: SHA-256 over the weight files; of random weights, over config and seed.
        load_format: Whether the weights are the checkpoint's or random.
        quantization: How the weights were rounded, or "none".
        is_offloaded: Whether layers only visit the device, which changes no result.
        backend: The attention backend.
        compile: Whether steps run at fixed sizes that were prepared, and how.
        about: What the checkpoint says for people.
    """

    id: str
    capabilities: Capabilities
    weights_hash: str
    device: str
    dtype: str
    backend: str
    environment: Environment
    compile: Literal["off", "graphs", "on"] = "off"
    load_format: Literal["auto", "random"] = "auto"
    quantization: Literal["none", "int8", "fp8"] = "none"
    is_offloaded: bool = False
    about: About = field(default_factory=About)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A family in memory, which stays with the engine, and its card, which goes where it is asked for.

    Attributes:
        runner: Computes stacks at prepared sizes; None computes everything as it is.
    """

    card: ModelCard
    family: Family
    runner: "CompiledRunner | None" = None
