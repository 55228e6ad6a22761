"""The process that has the device: answers what it is, and measures case by case.

It keeps no time and writes nothing; whatever a case raises is an answer too.
"""

import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.device.plan import Case, Size
from benchmarks.device.record import Clocks, Device, Outcome

if TYPE_CHECKING:
    from benchmarks.device.measures import Bench

NEEDED = ("torch", "transformers", "diffusers", "safetensors", "tokenizers", "jinja2", "numpy", "PIL")
"""What a machine must have to measure; a service's packages are not among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What the process says of itself before the first case; `problem` when it cannot measure."""

    problem: str = ""
    circumstances: dict[str, Any] = field(default_factory=dict)
    hardware: Device | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """To a case.

    Attributes:
        clocks: After it.
        is_broken: The device answers no more: the process is of no further use.
    """

    outcome: Outcome
    clocks: Clocks
    is_broken: bool = False


def work(line: Connection, size: Size, device_name: str, seed: int, command: str) -> None:
    """Introduce oneself, then answer cases until the line is closed."""
    line.recv()
    if problem := missing(NEEDED):
        line.send(Introduction(problem=problem))
        return
    import torch  # noqa: PLC0415 - what is missing must be said before it is imported

    is_cuda = torch.cuda.is_available() if device_name == "auto" else device_name.startswith("cuda")
    if is_cuda and not torch.cuda.is_available():
        line.send(Introduction(problem=f"device {device_name} is not usable here; --toy runs on a CPU"))
        return
    if not is_cuda and size == "full":
        line.send(Introduction(problem="no CUDA device is here; --toy runs on a CPU"))
        return
    device = torch.device(("cuda" if device_name == "auto" else device_name) if is_cuda else "cpu")
    if is_cuda:
        torch.cuda.set_device(device.index or 0)
    from benchmarks.device.measures import Bench  # noqa: PLC0415
    from training.record import circumstances  # noqa: PLC0415

    line.send(Introduction(circumstances=circumstances(command), hardware=describe(device)))
    answer_cases(line, device, partial(Bench, device, size, seed))


def missing(packages: tuple[str, ...]) -> str:
    """Say which packages are not installed; nothing if all are."""
    absent = [name for name in packages if find_spec(name) is None]
    return f"{', '.join(absent)} must be installed to measure" if absent else ""


def answer_cases(line: Connection, device: Any, make_bench: Callable[[], "Bench"]) -> None:
    """Measure whatever case comes, until the line is closed."""
    from benchmarks.device.timing import read_clocks, synchronize  # noqa: PLC0415

    bench: Bench | None = None

    def measure(case: Case) -> Outcome:
        nonlocal bench
        bench = bench or make_bench()
        return bench.measure(case)

    while True:
        try:
            case = line.recv()
        except EOFError:
            return
        outcome = attempt(measure, case)
        if "OutOfMemory" in outcome.reason and bench is not None:
            bench.networks.clear()
        try:
            synchronize(device)
        except RuntimeError as error:
            broken = replace(outcome, status="failed", reason=outcome.reason or told(error))
            line.send(Answer(outcome=broken, clocks=Clocks(), is_broken=True))
            return
        try:
            line.send(Answer(outcome=outcome, clocks=read_clocks(device)))
        except OSError:  # who asked has stopped waiting
            return


def attempt(measure: Callable[[Case], Outcome], case: Case) -> Outcome:
    """Measure a case; what cannot run here is skipped, what goes wrong is told."""
    from benchmarks.device.networks import Unavailable  # noqa: PLC0415

    begun = perf_counter()
    try:
        outcome = measure(case)
    except Unavailable as error:
        outcome = Outcome(name=case.name, case=case, status="skipped", reason=str(error))
    except Exception as error:  # whatever it is, it is this case's alone
        traceback.print_exc()
        outcome = Outcome(name=case.name, case=case, status="failed", reason=told(error))
    return replace(outcome, seconds=perf_counter() - begun)


def told(error: BaseException) -> str:
    """Return an error in a line."""
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]


def describe(device: Any) -> Device:
    """Say what a device is."""
    import torch  # noqa: PLC0415

    from training.record import device as name  # noqa: PLC0415

    if device.type != "cuda":
        return Device(name=platform.processor() or name(), kind="cpu")
    properties = torch.cuda.get_device_properties(device)
    return Device(
        name=properties.name,
        kind="cuda",
        memory_bytes=properties.total_memory,
        capability=f"{properties.major}.{properties.minor}",
        multiprocessors=properties.multi_processor_count,
        cache_bytes=properties.L2_cache_size,
        cuda=torch.version.cuda,
        driver=_driver(),
        triton=_version("triton"),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Ask the driver its version, through the library that also tells the clocks."""
    try:
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # it is only said
        return None
