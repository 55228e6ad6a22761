"""What is measured on a device, as data: cases in the order of their worth, and how long each may take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

Kind = Literal["checks", "ceilings", "denoise", "step", "prefill", "encode", "decode", "kept", "dense"]
Model = Literal["hbridge", "omnigen2"]
Task = Literal["generate", "edit"]
Mode = Literal["eager", "compiled", "graphed"]
Precision = Literal["float32", "bfloat16", "fp8"]
Size = Literal["full", "toy"]

KINDS: tuple[Kind, ...] = get_args(Kind)
MODELS: tuple[Model, ...] = get_args(Model)
MODES: tuple[Mode, ...] = ("eager", "graphed", "compiled")
TASKS: tuple[Task, ...] = get_args(Task)
BRANCHES: dict[Task, int] = {"generate": 2, "edit": 3}
MIXED = ((1.0, 1.0), (0.75, 1.0), (1.0, 0.75), (0.5, 0.5))
"""Width and height of the pictures of a batch, as shares of the side."""
PATIENCE = 6.0
"""A case is stopped when it takes so many times what was expected of it."""
LEAST_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large everything is.

    Attributes:
        sides: Of pictures in pixels, the one that goals speak of first.
        num_steps: Flow steps of a whole picture, by model.
        prompt_tokens: Words of each guidance branch; images come on top.
        precision: Of the weights, unless a case says otherwise.
        repeats: Timed runs of a case, at most.
        measure_seconds: After which no further run of a case begins; one there is in any case.
        settle_seconds: Of work before the first timing, so that clocks are up.
        matmul_side: Of the largest square product.
        copy_bytes: Of the large copy.
        weights: Of a generation network; with its width and layers, for what a case is expected to take.
        rate: Operations per second that are expected.
        start_seconds: What a process takes to be ready, and what a network takes to be built.
        compile_seconds: What compiling a step takes.
    """

    size: Size
    sides: tuple[int, ...]
    num_steps: dict[Model, int]
    prompt_tokens: int
    precision: Precision
    repeats: int
    measure_seconds: float
    settle_seconds: float
    matmul_side: int
    copy_bytes: int
    weights: float
    width: int
    layers: int
    rate: float
    start_seconds: float
    compile_seconds: float


FULL = Scale(
    size="full",
    sides=(1024, 512),
    num_steps={"hbridge": 28, "omnigen2": 50},
    prompt_tokens=256,
    precision="bfloat16",
    repeats=7,
    measure_seconds=11.0,
    settle_seconds=1.0,
    matmul_side=8192,
    copy_bytes=2**31,
    weights=4e9,
    width=2520,
    layers=32,
    rate=4e14,
    start_seconds=20.0,
    compile_seconds=75.0,
)
TOY = Scale(
    size="toy",
    sides=(32, 16),
    num_steps={"hbridge": 3, "omnigen2": 3},
    prompt_tokens=12,
    precision="float32",
    repeats=2,
    measure_seconds=0.05,
    settle_seconds=0.01,
    matmul_side=128,
    copy_bytes=2**20,
    weights=3e5,
    width=48,
    layers=8,
    rate=1e10,
    start_seconds=0.0,
    compile_seconds=0.0,
)
SCALES: dict[Size, Scale] = {"full": FULL, "toy": TOY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
        model: None where it is about the device alone.
        side: Of the pictures in pixels; in a batch, of the largest.
        batch: Pictures at once; several differ in size and time.
        expected_seconds: What must be left for it to begin.
    """

    kind: Kind
    model: Model | None = None
    task: Task = "generate"
    side: int = 0
    batch: int = 1
    mode: Mode = "eager"
    precision: Precision = "float32"
    expected_seconds: float = 0.0

    @property
    def name(self) -> str:
        """What it is called on record."""
        if self.model is None:
            return self.kind
        batch = f"{self.side}" if self.batch == 1 else f"{self.side}x{self.batch}"
        return " ".join([self.kind, self.model, self.task, batch, self.mode, self.precision])

    @property
    def max_seconds(self) -> float:
        """After which it is stopped."""
        return max(PATIENCE * self.expected_seconds, LEAST_PATIENCE_SECONDS)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each picture, in pixels."""
        return tuple(
            (max(16, int(self.side * width) // 16 * 16), max(16, int(self.side * height) // 16 * 16))
            for width, height in MIXED[: self.batch]
        )


def make_plan(scale: Scale) -> list[Case]:
    """Return all cases, the one that would be missed most first.

    Nothing counts on a device whose kernels are wrong, nor without its ceilings. Then come whole pictures, of
    which the goals speak, the steps of single requests, what the design saves, and what surrounds the steps;
    then the compiler, lower precision and packed requests, and at last all combinations that are left.
    """
    ordered = dict.fromkeys(replace(each, expected_seconds=_expected(each, scale)) for each in _cases(scale))
    return list(ordered)


def _cases(scale: Scale) -> Iterator[Case]:
    side, own = scale.sides[0], scale.precision
    yield Case(kind="checks", precision=own)
    yield Case(kind="ceilings", precision=own)
    yield from _pictures(side, ("eager", "graphed"), own)
    steps = list(_steps(scale))
    served = [each for each in steps if each.precision == own and each.mode != "compiled"]
    yield from (each for each in served if each.batch == 1)
    yield Case(kind="dense", model="hbridge", side=side, precision=own)
    for task in TASKS:
        yield Case(kind="kept", model="hbridge", task=task, side=scale.sides[-1], precision=own)
    for side_, model in product(scale.sides, MODELS):
        for task in TASKS:
            yield Case(kind="prefill", model=model, task=task, side=side_, precision=own)
        yield Case(kind="decode", model=model, side=side_, precision=own)
        yield Case(kind="encode", model=model, task="edit", side=side_, precision=own)
    yield from _pictures(side, ("compiled",), own)
    yield from _pictures(side, ("graphed",), "fp8")
    yield from (each for each in served if each.mode == "graphed")
    yield from (each for each in steps if each.precision == "fp8" and each.mode == "graphed")
    yield from served
    yield from (each for each in steps if each.batch == 1)
    yield from steps


def _pictures(side: int, modes: Sequence[Mode], precision: Precision) -> Iterator[Case]:
    for mode, model in product(modes, MODELS):
        yield Case(kind="denoise", model=model, side=side, mode=mode, precision=precision)


def _steps(scale: Scale) -> Iterator[Case]:
    """Return every step there is: each workload in each mode and precision."""
    precisions: tuple[Precision, ...] = (scale.precision, "fp8")
    workloads = product((1, 4), scale.sides, TASKS, MODELS)
    for (batch, side, task, model), precision, mode in product(workloads, precisions, MODES):
        yield Case(
            kind="step", model=model, task=task, side=side, batch=batch, mode=mode, precision=precision
        )


def _expected(case: Case, scale: Scale) -> float:
    """Guess what a case takes, a first call that compiles kernels included."""
    if case.kind == "checks":
        return 2 * scale.start_seconds
    if case.model is None:
        return scale.start_seconds / 2
    tokens = [width * height // 16**2 * (1 + (case.task == "edit")) for width, height in case.sizes]
    operations = sum(each * (2 * scale.weights + 4 * scale.width * scale.layers * each) for each in tokens)
    step = BRANCHES[case.task] * operations / scale.rate
    # Pictures are warmed up, drawn three times and profiled in part; those of `kept` are drawn in two ways.
    drawn = {"denoise": 4, "kept": 8}.get(case.kind)
    runs = drawn * scale.num_steps[case.model] if drawn else scale.repeats + 3
    compiling = scale.compile_seconds if case.mode == "compiled" else 0
    return round(scale.start_seconds / 10 + compiling + runs * step, 1)
