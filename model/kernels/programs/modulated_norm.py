"""RMSNorm times a factor, plus a residual, in one pass over the tokens: float32 inside, rounded once.

Widths are constants of the kernel, so that the compiler sees that rows of 2520 or 120 begin at 16 bytes and
loads them in vectors; as a number given at launch, 2520 would only be known to be no multiple of 16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096
"""Of one program: a row of a wide norm, many rows of a narrow one."""


@triton.jit
def _norm(
    x,
    weight,
    factor,
    place,
    around,
    out,
    num_rows,
    rows_per_factor,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    HAS_PLACE: tl.constexpr,
    HAS_AROUND: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < num_rows)[:, None] & (column < WIDTH)[None, :]
    at = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    size = tl.rsqrt(tl.sum(value * value, 1) / WIDTH + eps)
    by = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    if HAS_FACTOR:
        if HAS_PLACE:
            time = tl.load(place + row, mask=row < num_rows, other=0)
        else:
            time = row // rows_per_factor
        of_time = factor + time[:, None] * WIDTH + column[None, :]
        by = by * tl.load(of_time, mask=inside, other=0.0).to(tl.float32)
    value = value * size[:, None] * by
    if HAS_AROUND:
        value += tl.load(around + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


def norm(
    x: Tensor,
    weight_h: Tensor,
    eps: float,
    factor_Mh: Tensor | None = None,
    place_T: Tensor | None = None,
    around: Tensor | None = None,
) -> Tensor:
    """Launch the kernel; see model.kernels.modulated_norm.

    Returns:
        In the dtype of the weight.
    """
    width = weight_h.shape[0]
    x = x.contiguous()
    num_rows = x.numel() // width
    out = torch.empty(x.shape, dtype=weight_h.dtype, device=x.device)
    if not num_rows:
        return out
    block = triton.next_power_of_2(width)
    rows = max(1, ELEMENTS // block)
    with torch.cuda.device_of(x):
        _norm[(triton.cdiv(num_rows, rows),)](
            x,
            weight_h,
            x if factor_Mh is None else factor_Mh.contiguous(),
            x if place_T is None else place_T,
            x if around is None else around.contiguous(),
            out,
            num_rows,
            1 if factor_Mh is None else num_rows // factor_Mh.shape[0],
            eps,
            WIDTH=width,
            BLOCK=block,
            ROWS=rows,
            HAS_FACTOR=factor_Mh is not None,
            HAS_PLACE=place_T is not None,
            HAS_AROUND=around is not None,
            num_warps=8,
        )
    return out
