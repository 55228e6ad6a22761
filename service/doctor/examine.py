"""The whole examination: machine, checkpoint, what fits, how fast it should be, what to change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from model.drawing import check_size
from model.errors import ModelError, UnsupportedSize
from model.family import Capabilities, Size
from model.quantize import check_scheme, foretell_bytes
from model.registry import LoadableFamily, resolve
from service.doctor.advice import advise
from service.doctor.demand import begin, context_sizes, drawing_of, foretell
from service.doctor.machine import look_at
from service.doctor.report import Case, Checkpoint, Machine, Measured, Model, Report, Speed
from service.doctor.speed import best_seconds, measure_speed
from service.doctor.weights import held_bytes, loading_bytes, parts_of, read
from service.engine.calibration import sizes
from service.hub import locate
from service.loading import load_model
from service.settings import Settings

SMALL_BYTES = 2**28
"""Weights that are loaded for a real step without being asked."""
NUM_STEPS = 3
COUNTS = 1, 2, 4, 8
TASKS: tuple[Literal["generate", "edit"], ...] = ("generate", "edit")
GB = 1e9

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to examine.

    Attributes:
        sizes: Of pictures; usual_sizes when there are none.
        counts: Of pictures at once.
        memory_bytes: To judge another machine by; None takes what is free here.
        measures: Whether to load the model, however large, and take a real step.
    """

    sizes: Sequence[Size] = ()
    counts: Sequence[int] = COUNTS
    memory_bytes: int | None = None
    measures: bool = False


def examine(settings: Settings, ask: Ask, tell: Tell = lambda what: None) -> Report:
    """Examine a machine and a model.

    Args:
        tell: Called with what is being done.
    """
    tell("the device")
    machine = look_at(settings.device, ask.memory_bytes)
    reasons = [] if machine.is_usable else [f"device {settings.device} is not usable here"]
    try:
        tell("the checkpoint")
        family, checkpoint, problems = read(resolve(locate(settings.model, weights=False)))
        for size in ask.sizes:
            check_size(size, family.capabilities)
        if machine.is_usable:
            check_scheme(settings.quantization, settings.device, _dtype(settings))
        family.module.to(_dtype(settings))
        model = _model(family, settings, checkpoint, problems)
    except ModelError as error:
        return _report(machine, reasons=[*reasons, str(error)])
    reasons += [f"the checkpoint is broken: {'; '.join(problems)}"] if problems else []
    if checkpoint == "configs only" and settings.load_format == "auto":
        reasons += [f"{settings.model} has no weights here: name their folder, or take --load-format random"]
    tell("the device's speed")
    speed = measure_speed(settings.device, _dtype(settings)) if machine.is_usable else None
    can, cases = family.capabilities, []
    beside = _beside_bytes(settings, model, machine)
    for task in [each for each in TASKS if each in can.tasks]:
        for size in ask.sizes or usual_sizes(can):
            tell(f"{task} {size}")
            cases.append(_case(family, task, size, beside_bytes=beside, speed=speed, counts=ask.counts))
    judged = [each for each in cases if ask.sizes or each.size == str(can.default_size)]
    reasons += _too_much(model, machine, judged, min(ask.counts))
    if ask.memory_bytes is None:
        reasons += _too_much_to_read(model, machine)
    wanted = [(each, min(ask.counts)) for each in judged]
    advice = advise(family, settings, model, machine, wanted) if wanted else []
    measured = None
    if not reasons and judged and speed and (ask.measures or model.weights_bytes < SMALL_BYTES):
        tell("a real step")
        measured = _measure(settings, judged[0], speed)
    return _report(
        machine, model=model, speed=speed, cases=cases, measured=measured, reasons=reasons, advice=advice
    )


def usual_sizes(can: Capabilities) -> list[Size]:
    """Return half the default size, the default, and the largest square, as far as they are possible."""
    half = Size(can.default_size.width // 2, can.default_size.height // 2)
    *_, largest = sizes(can)
    return [size for size in dict.fromkeys((half, can.default_size, largest)) if _is_possible(size, can)]


def _is_possible(size: Size, can: Capabilities) -> bool:
    try:
        check_size(size, can)
    except UnsupportedSize:
        return False
    return True


def _report(
    machine: Machine,
    *,
    model: Model | None = None,
    speed: Speed | None = None,
    cases: Sequence[Case] = (),
    measured: Measured | None = None,
    reasons: Sequence[str] = (),
    advice: Sequence[str] = (),
) -> Report:
    return Report(
        machine=machine,
        model=model,
        speed=speed,
        cases=list(cases),
        measured=measured,
        can_serve=not reasons,
        reasons=list(reasons),
        advice=list(advice),
    )


def _dtype(settings: Settings) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return dtype


def _model(family: LoadableFamily, settings: Settings, checkpoint: Checkpoint, problems: list[str]) -> Model:
    foretold = foretell_bytes(family.module, settings.quantization, _dtype(settings))
    token_bytes, image_tokens, image_bytes = context_sizes(family, family.capabilities.default_size)
    return Model(
        model=settings.model,
        checkpoint=checkpoint,
        problems=problems,
        dtype=settings.dtype,
        quantization=settings.quantization,
        offload=settings.offload,
        parts=parts_of(family.module, foretold),
        weights_bytes=sum(foretold.values()),
        device_bytes=held_bytes(family, settings),
        loading_bytes=loading_bytes(family, settings),
        token_bytes=token_bytes,
        image_tokens=image_tokens,
        image_bytes=image_bytes,
    )


def _case(
    family: LoadableFamily,
    task: Literal["generate", "edit"],
    size: Size,
    *,
    beside_bytes: int,
    speed: Speed | None,
    counts: Sequence[int],
) -> Case:
    """Foretell one kind of request.

    Args:
        beside_bytes: What there is beside the weights.
    """
    demand = foretell(family, task, size)
    at_once = demand.fitting(beside_bytes)
    rate = speed.matmul_flops_per_second if speed else None
    seconds = {stage: count / rate for stage, count in demand.flops.items()} if rate else {}
    return Case(
        task=task,
        size=str(size),
        context_bytes=demand.context_bytes,
        peak_bytes=dict(demand.peaks),
        more_bytes=dict(demand.more),
        needed_bytes={count: demand.bytes_for(count) for count in counts},
        fits={count: count <= at_once for count in counts},
        at_once=at_once,
        flops=dict(demand.flops),
        expected_seconds=seconds,
        picture_seconds=sum(
            seconds[stage] * (demand.num_steps if stage == "denoise" else 1) for stage in seconds
        ),
    )


def _beside_bytes(settings: Settings, model: Model, machine: Machine) -> int:
    """Return what there is for contexts and steps, as the engine has it."""
    beside = machine.free_bytes - model.device_bytes
    return min(beside, settings.max_memory_bytes or beside)


def _too_much(model: Model, machine: Machine, judged: Sequence[Case], count: int) -> list[str]:
    """Say what does not fit."""
    reasons = []
    for case in judged:
        if not case.fits[count] and machine.free_bytes:
            needed = model.device_bytes + case.needed_bytes[count]
            free = machine.free_bytes / GB
            reasons.append(f"{case.task} {case.size} needs {needed / GB:.1f} GB, {free:.1f} GB are free")
    return reasons


def _too_much_to_read(model: Model, machine: Machine) -> list[str]:
    """Say whether the weights do not fit where they are read to first."""
    is_same = machine.device == "cpu" and model.loading_bytes <= model.device_bytes
    if is_same or model.loading_bytes <= machine.host_free_bytes:
        return []
    needed, free = model.loading_bytes / GB, machine.host_free_bytes / GB
    return [f"reading the weights needs {needed:.1f} GB of the host's memory, {free:.1f} GB are free"]


@torch.inference_mode()
def _measure(settings: Settings, case: Case, speed: Speed) -> Measured:
    """Load the model and take real steps."""
    family = load_model(settings).family
    drawing = drawing_of(case.task, Size(*map(int, case.size.split("x"))))
    rows = begin(family, drawing).easel(family, drawing).rows()
    seconds = best_seconds(lambda: family.velocity(rows), settings.device, NUM_STEPS)
    return Measured(
        task=case.task,
        size=case.size,
        step_seconds=seconds,
        expected_seconds=case.expected_seconds["denoise"],
        matmul_share=case.flops["denoise"] / seconds / speed.matmul_flops_per_second,
    )
