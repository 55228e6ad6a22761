"""Which attention backends there are on a device, and which of them is fastest there.

A backend is chosen once, at the start: those that can be used are held against float64 on a small layout, and
timed on a large one. One that fails or is wrong is not chosen, and says why.

Shapes: T packed queries, H query heads, K key heads, D head dim.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from model.attention import BACKENDS, Backend, Heads, Segments, attend
from model.errors import MissingCapability

HALF = (torch.bfloat16, torch.float16)
SMALL = (37, 130, 64)
"""Lengths of the layout on which backends must agree."""
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""The relative error that a backend may have, as the norm of the difference over that of the result."""
TIMED_SECONDS = 0.05
MODULES = {
    "cudnn": ("torch.backends.cudnn", ""),
    "varlen": ("torch.nn.attention.varlen", ""),
    "xformers": ("xformers.ops", "install hbridge[gpu]"),
    "triton": ("triton", "install hbridge[gpu]"),
}
"""What each backend on a device stands on, and what to do when it is not there."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a backend.

    Attributes:
        seconds: Of one call; None when it cannot be used.
        problem: Why not.
    """

    backend: Backend
    seconds: float | None = None
    problem: str = ""


Attempt = Callable[[Heads, tuple[int, ...]], Sequence[Trial]]
"""Tries backends for heads, on segments of lengths."""


def problem(backend: Backend, device: torch.device, dtype: torch.dtype) -> str:
    """Say why a backend cannot be used; nothing when it can."""
    if backend in ("sdpa", "plain"):
        return ""
    if device.type != "cuda":
        return f"{backend} needs a CUDA device, not {device.type}"
    if backend in ("cudnn", "varlen") and dtype not in HALF:
        return f"{backend} needs bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    if backend != "xformers" and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{backend} needs compute capability 8.0 or newer"
    module, advice = MODULES[backend]
    return _import_problem(module, advice)


def _import_problem(module: str, advice: str) -> str:
    if find_spec(module.partition(".")[0]) is None:
        return f"{module} is not installed; {advice}"
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return f"{module} cannot be imported ({error}); {advice}"
    return ""


def available(device: torch.device, dtype: torch.dtype) -> list[Backend]:
    """List the backends that can be used."""
    return [backend for backend in BACKENDS if not problem(backend, device, dtype)]


def try_backends(
    device: torch.device, dtype: torch.dtype, heads: Heads, lengths: tuple[int, ...]
) -> list[Trial]:
    """Check and time every backend; "plain" is not timed, as its memory grows with the square of a length.

    Args:
        heads: Of the layers that will be computed.
        lengths: Of the segments that are timed.
    """
    return [_try(backend, device, dtype, heads, lengths) for backend in BACKENDS if backend != "plain"]


def _try(
    backend: Backend, device: torch.device, dtype: torch.dtype, heads: Heads, lengths: tuple[int, ...]
) -> Trial:
    if why := problem(backend, device, dtype):
        return Trial(backend, problem=why)
    try:
        error = relative_error(backend, device, dtype, heads)
        if not error <= BOUNDS[dtype]:
            return Trial(backend, problem=f"off by {error:.1e}, {BOUNDS[dtype]:.0e} at most")
        return Trial(backend, _seconds(backend, device, dtype, heads, lengths))
    except Exception as error:  # a library may fail in any way, and there are others
        return Trial(backend, problem=f"{type(error).__name__}: {error}".partition("\n")[0])


@torch.inference_mode()
def relative_error(backend: Backend, device: torch.device, dtype: torch.dtype, heads: Heads) -> float:
    """Return how far a backend is from the plain one in float64, on segments of several lengths."""
    q_THD, k_TKD, v_TKD = _random(heads, sum(SMALL), device, dtype)
    own = Segments.own(SMALL, causal=heads.causal, backend=backend)
    exact = Segments.own(SMALL, causal=heads.causal, backend="plain")
    expected = attend(q_THD.double(), k_TKD.double(), v_TKD.double(), exact)
    return float((attend(q_THD, k_TKD, v_TKD, own).double() - expected).norm() / expected.norm())


@torch.inference_mode()
def _seconds(
    backend: Backend, device: torch.device, dtype: torch.dtype, heads: Heads, lengths: tuple[int, ...]
) -> float:
    tensors = _random(heads, sum(lengths), device, dtype)
    segments = Segments.own(lengths, causal=heads.causal, backend=backend)
    call = {"attend": attend, "tensors": tensors, "segments": segments}
    timed = Timer("attend(*tensors, segments)", globals=call, num_threads=torch.get_num_threads())
    return float(timed.blocked_autorange(min_run_time=TIMED_SECONDS).median)


def _random(
    heads: Heads, num_tokens: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    drawn = [
        torch.randn(num_tokens, num, heads.head_dim, device=device, dtype=dtype)
        for num in (heads.num_heads, heads.num_key_heads, heads.num_key_heads)
    ]
    return drawn[0], drawn[1], drawn[2]


def choose(trials: Sequence[Trial]) -> Backend:
    """Return the fastest of those that can be used."""
    usable = [trial for trial in trials if trial.seconds is not None]
    return min(usable, key=lambda trial: trial.seconds or 0.0).backend


def choose_both(
    heads: tuple[Heads, Heads | None], lengths: tuple[tuple[int, ...], tuple[int, ...]], attempt: Attempt
) -> tuple[Backend, Backend]:
    """Return the fastest backends of the generation and of the understanding side.

    Args:
        heads: Of both sides; None where the family understands by itself.
        lengths: Of pictures' and of prompts' segments.
        attempt: Tries the backends on a CUDA device.
    """
    own, und = heads
    fastest = choose(attempt(own, lengths[0]))
    if und is None:
        return fastest, "sdpa"
    # Our kernel does not split a long context among programs, so single tokens of an answer would be slow.
    return fastest, choose([trial for trial in attempt(und, lengths[1]) if trial.backend != "triton"])


def require(backend: Backend, device: torch.device, dtype: torch.dtype) -> Backend:
    """Return a backend that was asked for.

    Raises:
        MissingCapability: It cannot be used; says why.
    """
    if why := problem(backend, device, dtype):
        raise MissingCapability(f"attention backend: {why}")
    return backend
