"""Holds every kernel and every attention backend of a device against its plain twin in float64."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.attention import Backend, Heads, Segments, attend_joined
from model.backend_choice import BOUNDS, available, relative_error
from model.kernels import head_rotation, modulated_norm, swiglu
from model.layers import RMSNorm

DTYPES = (torch.float32, torch.bfloat16)
NORM_WIDTHS = (2520, 840, 120)
HEADS = (Heads(21, 7, 120), Heads(28, 4, 128), Heads(28, 4, 128, causal=True), Heads(16, 16, 80))
"""Of the generation expert, of the understanding expert, of its vision tower."""
LENGTHS, BEFORE = (37, 130, 64), (5, 70, 1)


@dataclass(frozen=True, slots=True)
class Check:
    """How far one fast way is from its plain twin.

    Attributes:
        name: What was checked.
        dtype: Of its inputs.
        error: Norm of the difference to the twin in float64, over the norm of the twin's result.
        bound: The largest that passes.
    """

    name: str
    dtype: str
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        """Whether it passes; NaN never does."""
        return self.error <= self.bound


@torch.inference_mode()
def check_all(device: torch.device, dtypes: tuple[torch.dtype, ...] = DTYPES) -> list[Check]:
    """Check everything that can be used on a device, on new random inputs.

    On a device without kernels the plain twins check themselves: their errors are those of the dtype.
    """
    return [
        Check(name, str(dtype).removeprefix("torch."), error, BOUNDS[dtype])
        for dtype in dtypes
        for name, error in [*_kernels(device, dtype), *_backends(device, dtype)]
    ]


def _kernels(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    T = sum(LENGTHS)
    place_T = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS)).to(device)
    for width in NORM_WIDTHS:
        inputs = draw(T, width), draw(len(LENGTHS), width), draw(T, width)
        norm = _norm(width, device, dtype)

        def scaled(norm: RMSNorm, x: Tensor, factor: Tensor, around: Tensor) -> Tensor:
            del around
            return modulated_norm.norm_scale(norm, x, factor, place_T.to(x.device))

        def added(norm: RMSNorm, x: Tensor, factor: Tensor, around: Tensor) -> Tensor:
            return modulated_norm.norm_add(norm, x, around, factor, place_T.to(x.device))

        yield f"norm_scale {width}", _error(scaled, norm, *inputs)
        yield f"norm_add {width}", _error(added, norm, *inputs)
    for heads in (HEADS[0], HEADS[1]):
        D = heads.head_dim
        x_THD, norm = draw(T, heads.num_heads, D), _norm(D, device, dtype)
        angles_TE = torch.randn(T, D // 2, device=device)
        table = angles_TE.cos(), angles_TE.sin()
        doubled = (each.repeat(1, 2).to(dtype) for each in table)
        yield f"norm_rotate_pairs {D}", _error(head_rotation.norm_rotate_pairs, norm, x_THD, *table)
        yield f"norm_rotate_half {D}", _error(head_rotation.norm_rotate_half, norm, x_THD, *doubled)
    yield "gate", _error(lambda _, a, b: swiglu.gate(a, b), nn.Identity(), draw(T, 1000), draw(T, 1000))


def _norm(width: int, device: torch.device, dtype: torch.dtype) -> RMSNorm:
    norm = RMSNorm(width, 1e-5).to(device, dtype)
    norm.weight.data.normal_(1, 0.1)
    return norm


def _error(fast: Callable[..., Tensor], norm: nn.Module, *inputs: Tensor) -> float:
    """Compare a function on the device with itself in float64 on the CPU, where it is the plain twin."""
    # What an allocation finds may be a right answer from before: better NaN.
    torch.full_like(inputs[0], float("nan"))
    given = fast(norm, *inputs)
    exact = fast(deepcopy(norm).double().cpu(), *(each.double().cpu() for each in inputs))
    return relative(given, exact)


def relative(given: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference over the norm of what is exact."""
    return float((given.double().cpu() - exact.cpu()).norm() / exact.norm())


def _backends(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    for backend in available(device, dtype):
        for heads in HEADS:
            shape = f"{heads.num_heads}/{heads.num_key_heads}x{heads.head_dim}"
            name = f"attend {backend} {shape}{' causal' if heads.causal else ''}"
            yield name, relative_error(backend, device, dtype, heads)
        yield f"attend_joined {backend}", _joined_error(backend, device, dtype)


def _joined_error(backend: Backend, device: torch.device, dtype: torch.dtype) -> float:
    heads = HEADS[1]

    def draw(num_tokens: int, num_heads: int) -> Tensor:
        return torch.randn(num_tokens, num_heads, heads.head_dim, device=device, dtype=dtype)

    own, before = (
        (draw(sum(lengths), heads.num_key_heads), draw(sum(lengths), heads.num_key_heads))
        for lengths in (LENGTHS, BEFORE)
    )
    q_THD = draw(sum(LENGTHS), heads.num_heads)
    kv_lengths = tuple(map(sum, zip(LENGTHS, BEFORE, strict=True)))
    segments = Segments(LENGTHS, kv_lengths, backend=backend, before_lengths=BEFORE)
    exact = attend_joined(
        q_THD.double(),
        (own[0].double(), own[1].double()),
        (before[0].double(), before[1].double()),
        replace(segments, backend="plain"),
    )
    return relative(attend_joined(q_THD, own, before, segments), exact)
