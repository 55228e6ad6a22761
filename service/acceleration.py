"""How a loaded model uses its device: which attention it takes, and which sizes of steps are prepared."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from model.attention import Backend, Heads
from model.backend_choice import Trial, choose_both, problem, require, try_backends
from model.bounds import BoundsBackend
from model.compiled import CompileConfig, CompiledRunner, compile_blocks, token_buckets
from model.errors import MissingCapability
from model.family import Capabilities, Family
from model.omnigen2.stack import unchanged
from service.settings import Settings

PATCH_PIXELS = 16 * 16
"""Of one token of a picture, in all families that we have."""
BRANCHES = 3
"""Most guidance branches of a picture."""
BESIDE_IMAGES = 0.05
"""Text and learned tokens of a row, of those of its images."""
PROMPT_LENGTHS = 80, 300
"""Of the prompts that the understanding side's attention is timed on."""

log = logging.getLogger(__name__)

Compile = Literal["off", "graphs", "on"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceleration:
    """What was chosen.

    Attributes:
        backend: The generation side's attention.
        compile: What is prepared; "off" also where it was asked for and cannot be.
        runner: What prepares it.
    """

    backend: Backend
    compile: Compile = "off"
    runner: CompiledRunner | None = None


def accelerate(family: Family, settings: Settings) -> Acceleration:
    """Choose a model's attention, by measuring where there is a choice, and prepare its runner.

    Raises:
        MissingCapability: The backend that is asked for cannot be used, or graphs without CUDA, or prepared
            steps with weights that leave the device.
    """
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    generation, understanding = _backends(family, settings, device, dtype)
    family.use_backends(generation, understanding)
    log.info("attention", extra={"backend": generation, "understanding": understanding})
    if settings.compile == "off":
        return Acceleration(backend=generation)
    if settings.compile == "graphs" and device.type != "cuda":
        raise MissingCapability("graphs need a CUDA device; set HBRIDGE_COMPILE=off or on")
    if settings.offload == "layers":
        raise MissingCapability(
            "steps are prepared over weights that stay on the device; set HBRIDGE_COMPILE=off or "
            "HBRIDGE_OFFLOAD=none"
        )
    on_bounds = bounds_backend(generation, device, dtype)
    most = settings.compile_tokens or largest_edit(family.capabilities)
    runner = CompiledRunner(
        CompileConfig(
            tokens=token_buckets(most),
            backend=on_bounds,
            transform=compile_blocks() if settings.compile == "on" else unchanged,
            has_graphs=device.type == "cuda",
        )
    )
    family.use_runner(runner)
    return Acceleration(backend=generation, compile=settings.compile, runner=runner)


def _backends(
    family: Family, settings: Settings, device: torch.device, dtype: torch.dtype
) -> tuple[Backend, Backend]:
    """Return the backends of the generation and of the understanding side."""
    if settings.attention != "auto":
        asked = require(settings.attention, device, dtype)
        return asked, asked
    if device.type != "cuda":
        return "sdpa", "sdpa"
    can = family.capabilities
    picture = can.default_size.width * can.default_size.height // PATCH_PIXELS

    def attempt(heads: Heads, lengths: tuple[int, ...]) -> Sequence[Trial]:
        trials = try_backends(device, dtype, heads, lengths)
        for trial in trials:
            log.info(
                "attention tried",
                extra={"backend": trial.backend, "seconds": trial.seconds, "problem": trial.problem},
            )
        return trials

    return choose_both(family.heads, ((picture, picture), PROMPT_LENGTHS), attempt)


def bounds_backend(backend: Backend, device: torch.device, dtype: torch.dtype) -> BoundsBackend:
    """Return the backend at prepared sizes: one that reads on the device where segments begin.

    Raises:
        MissingCapability: There is none on this CUDA device.
    """
    if device.type != "cuda":
        return "plain"
    if why := problem("triton", device, dtype):
        raise MissingCapability(f"steps cannot be prepared: {why}; set HBRIDGE_COMPILE=off")
    return "varlen" if backend == "varlen" else "triton"


def largest_edit(can: Capabilities) -> int:
    """Return the tokens of an edit of the default size with all its branches."""
    tokens = can.default_size.width * can.default_size.height / PATCH_PIXELS
    images = 2 if "edit" in can.tasks else 1
    return int(BRANCHES * images * tokens * (1 + BESIDE_IMAGES)) + BRANCHES
