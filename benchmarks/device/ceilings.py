"""What a device can do at its best: the largest matrix products and copies, measured there and then.

A datasheet's rate is a lead, and a share of it says little: all rates are of this run, on random numbers.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from benchmarks.device.record import Rate
from benchmarks.device.timing import Timer
from model.attention import Heads, Segments, attend
from model.backend_choice import available

Shape = tuple[int, int, int]
Product = Callable[[], Tensor]
INNER = 10
MULTIPLE = 16
CACHE_BYTES = 2**28
"""More than the cache of a device holds."""
MAX_WEIGHTS = 8
FLOAT8 = torch.float8_e4m3fn


def large_shapes(side: int) -> list[Shape]:
    """Return rows, inner and columns of products that are large enough to be a ceiling."""
    return [(side, side, side), (side // 2, side // 2, side // 2), (2 * side, side // 2, side)]


def measure_ceilings(
    timer: Timer, dtype: torch.dtype, *, side: int, own: list[Shape], copy_bytes: int
) -> Iterator[Rate]:
    """Time large products and the model's own, in its type and in float8, and a large copy.

    Args:
        dtype: Of the model.
        side: Of the largest square product.
        own: Shapes that the model's layers have.
        copy_bytes: Of the tensor that is copied.
    """
    for is_ceiling, shapes in ((True, large_shapes(side)), (False, own)):
        for shape in shapes:
            name, product = str(dtype).removeprefix("torch."), _plain(timer.device, dtype, shape)
            yield _rate(timer, name, shape, product, is_ceiling)
            if has_float8(timer.device):
                yield _rate(timer, "fp8", shape, _scaled(timer.device, shape), is_ceiling)
    yield _copy(timer, copy_bytes)


def measure_attention(
    timer: Timer, dtype: torch.dtype, heads: Heads, lengths: tuple[int, ...]
) -> Iterator[Rate]:
    """Time every attention backend that there is on these segments; "plain" takes too much memory."""
    H, K, D = heads.num_heads, heads.num_key_heads, heads.head_dim
    q_THD, k_TKD, v_TKD = (
        torch.randn(sum(lengths), num, D, device=timer.device).to(dtype) for num in (H, K, K)
    )
    for backend in available(timer.device, dtype):
        if backend == "plain":
            continue
        segments = Segments.own(lengths, backend=backend)
        try:
            times = timer.measure(partial(attend, q_THD, k_TKD, v_TKD, segments), inner=INNER)
        except RuntimeError:  # the checks say so
            continue
        yield Rate(
            name=f"attention {backend} {H}/{K}x{D} of {'+'.join(map(str, lengths))}",
            unit="operations",
            per_second=4 * H * D * sum(length**2 for length in lengths) / times.median,
            seconds=times,
            is_ceiling=False,
        )


def _rate(timer: Timer, name: str, shape: Shape, product: Product, is_ceiling: bool) -> Rate:
    rows, inner, columns = shape
    times = timer.measure(product, inner=INNER)
    return Rate(
        name=f"matmul {name} {rows}x{inner}x{columns}",
        unit="operations",
        per_second=2 * rows * inner * columns / times.median,
        seconds=times,
        is_ceiling=is_ceiling,
    )


def _plain(device: torch.device, dtype: torch.dtype, shape: Shape) -> Product:
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=device).to(dtype)
    weights = _in_turns(
        columns * inner * dtype.itemsize, lambda: torch.randn(columns, inner, device=device).to(dtype)
    )
    return lambda: a @ next(weights).T


def _in_turns(num_bytes: int, draw: Callable[[], Tensor]) -> Iterator[Tensor]:
    """Go round and round through as many weights as no cache holds: in a network they are never there."""
    return cycle([draw() for _ in range(min(MAX_WEIGHTS, -(-CACHE_BYTES // num_bytes)))])


def has_float8(device: torch.device) -> bool:
    """Whether a device multiplies float8 numbers."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _scaled(device: torch.device, shape: Shape) -> Product:
    """Return a product of float8 numbers with a scale for each row, widths padded to what it demands."""
    rows, *widths = shape
    inner, columns = (-(-width // MULTIPLE) * MULTIPLE for width in widths)
    a = torch.randn(rows, inner, device=device).to(FLOAT8)
    weights = _in_turns(columns * inner, lambda: torch.randn(columns, inner, device=device).to(FLOAT8))
    a_scale, b_scale = torch.ones(rows, 1, device=device), torch.ones(1, columns, device=device)

    def multiply() -> Tensor:
        return torch._scaled_mm(
            a, next(weights).T, a_scale, b_scale, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return multiply


def _copy(timer: Timer, num_bytes: int) -> Rate:
    source = torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, device=timer.device)
    target = torch.empty_like(source)
    times = timer.measure(lambda: target.copy_(source), inner=INNER)
    return Rate(
        name="copy",
        unit="bytes",
        per_second=2 * num_bytes / times.median,
        seconds=times,
        is_ceiling=True,
    )
