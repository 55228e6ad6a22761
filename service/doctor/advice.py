"""What to change so that a model fits here, or fits better."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from operator import itemgetter
from typing import Any

import torch

from model.quantize import FP8_CAPABILITY
from model.registry import LoadableFamily
from service.doctor.report import Case, Machine, Model
from service.doctor.weights import held_bytes
from service.settings import Settings

GB = 1e9
CHANGES: Mapping[str, tuple[str, str]] = {
    "--dtype bfloat16": ("dtype", "bfloat16"),
    "--quantization int8": ("quantization", "int8"),
    "--quantization fp8": ("quantization", "fp8"),
    "--offload layers": ("offload", "layers"),
}
"""Options, and the setting that each changes."""
MAX_TOGETHER = 2


def advise(
    family: LoadableFamily,
    settings: Settings,
    model: Model,
    machine: Machine,
    judged: Sequence[tuple[Case, int]],
) -> list[str]:
    """Say what to change, in sentences.

    Args:
        judged: What should fit, one thing at least, and how many pictures of it.
    """
    advice = []
    if settings.device == "cpu" and torch.cuda.is_available():
        advice.append("a CUDA device is here: take --device cuda")
    if settings.device.startswith("cuda") and settings.dtype == "float32":
        advice.append("a GPU computes faster in bfloat16, in half the memory: take --dtype bfloat16")
    needed, largest = max(((case.needed_bytes[count], case) for case, count in judged), key=itemgetter(0))
    if all(case.fits[count] for case, count in judged) or not machine.free_bytes:
        return advice
    ways = [
        f"{options} ({there / GB:.1f} GB)"
        for options, there in changes_that_fit(
            family, settings, needed_bytes=needed, free_bytes=machine.free_bytes
        )
    ]
    smaller = [f"--size {case.size}" for case, count in judged if case.fits[count]]
    fewer = [f"at most {largest.at_once} pictures at once"] if largest.at_once else []
    what = (
        f"{largest.task} {largest.size} needs {(model.device_bytes + needed) / GB:.1f} GB, "
        f"{machine.free_bytes / GB:.1f} GB are free"
    )
    if others := [*ways, *smaller, *fewer]:
        return [*advice, f"{what}: take {', or '.join(others)}"]
    return [*advice, f"{what}: no option makes it fit; take a smaller size, or a device with more memory"]


def changes_that_fit(
    family: LoadableFamily, settings: Settings, *, needed_bytes: int, free_bytes: int
) -> Iterator[tuple[str, int]]:
    """Yield options that make a request fit, fewest first, and what would then be needed in all.

    Args:
        needed_bytes: What the request takes beside the weights, in the type there is now: at most so much.
        free_bytes: What there is.
    """
    found: list[set[str]] = []
    usable = [change for change in CHANGES if _is_a_change(change, settings)]
    for number in range(1, MAX_TOGETHER + 1):
        for together in combinations(usable, number):
            fields: dict[str, Any] = dict(CHANGES[change] for change in together)
            changed = settings.model_copy(update=fields)
            is_known = any(known <= set(together) for known in found)
            if is_known or len(fields) < number or not _can_run(changed):
                continue
            needed = held_bytes(family, changed) + needed_bytes
            if needed <= free_bytes:
                found.append(set(together))
                yield " ".join(together), needed


def _is_a_change(change: str, settings: Settings) -> bool:
    name, value = CHANGES[change]
    if name == "offload" and settings.device == "cpu":
        return False
    return getattr(settings, name) != value and (name != "dtype" or settings.dtype == "float32")


def _can_run(settings: Settings) -> bool:
    """Say whether fp8 is possible, if that is what is set; a GPU that is not here may be any."""
    if settings.quantization != "fp8":
        return True
    if not settings.device.startswith("cuda") or settings.dtype != "bfloat16":
        return False
    return (
        not torch.cuda.is_available() or torch.cuda.get_device_capability(settings.device) >= FP8_CAPABILITY
    )
