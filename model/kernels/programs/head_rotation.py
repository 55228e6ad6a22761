"""Norm and rotation of all heads of a token in one pass: float32 inside, rounded once."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rotate_pairs(
    x,
    weight,
    cos,
    sin,
    out,
    eps,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    TABLE: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEAD_BLOCK)
    channel = tl.arange(0, BLOCK)
    inside = (head < HEADS)[:, None] & (channel < WIDTH)[None, :]
    at = token * HEADS * WIDTH + head[:, None] * WIDTH + channel[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        size = tl.rsqrt(tl.sum(value * value, 1) / WIDTH + eps)
        by = tl.load(weight + channel, mask=channel < WIDTH, other=0.0).to(tl.float32)
        value = value * size[:, None] * by[None, :]
    pair = tl.arange(0, BLOCK // 2)
    known = pair < WIDTH // 2
    cosine = tl.load(cos + token * TABLE + pair, mask=known, other=0.0).to(tl.float32)[None, :]
    sine = tl.load(sin + token * TABLE + pair, mask=known, other=0.0).to(tl.float32)[None, :]
    even, odd = tl.split(tl.reshape(value, (HEAD_BLOCK, BLOCK // 2, 2)))
    turned = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
    turned = tl.reshape(turned, (HEAD_BLOCK, BLOCK))
    tl.store(out + at, turned.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_half(
    x,
    weight,
    cos,
    sin,
    out,
    eps,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    TABLE: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEAD_BLOCK)
    channel = tl.arange(0, BLOCK // 2)
    known = channel < WIDTH // 2
    inside = (head < HEADS)[:, None] & known[None, :]
    at = token * HEADS * WIDTH + head[:, None] * WIDTH + channel[None, :]
    low = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x + at + WIDTH // 2, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        size = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / WIDTH + eps)[:, None]
        low = low * size * tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)[None, :]
        high_weight = tl.load(weight + WIDTH // 2 + channel, mask=known, other=0.0).to(tl.float32)
        high = high * size * high_weight[None, :]
    cosine = tl.load(cos + token * TABLE + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    sine = tl.load(sin + token * TABLE + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at, (low * cosine - high * sine).to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + WIDTH // 2, (high * cosine + low * sine).to(out.dtype.element_ty), mask=inside)


def norm_rotate(
    x_THD: Tensor, weight_D: Tensor | None, eps: float, cos: Tensor, sin: Tensor, *, pairs: bool
) -> Tensor:
    """Launch one of the kernels; see model.kernels.head_rotation.

    Args:
        cos: A row for each token, of which the first half of D is read; sin likewise.
        pairs: Whether neighbours are rotated, or halves.
    """
    x_THD = x_THD.contiguous()
    num_tokens, num_heads, head_dim = x_THD.shape
    dtype = x_THD.dtype if weight_D is None else weight_D.dtype
    out_THD = torch.empty(x_THD.shape, dtype=dtype, device=x_THD.device)
    if not num_tokens:
        return out_THD
    heads, block = triton.next_power_of_2(num_heads), triton.next_power_of_2(head_dim)
    program = _rotate_pairs if pairs else _rotate_half
    with torch.cuda.device_of(x_THD):
        program[(num_tokens,)](
            x_THD,
            x_THD if weight_D is None else weight_D,
            cos.contiguous(),
            sin.contiguous(),
            out_THD,
            eps,
            HEADS=num_heads,
            WIDTH=head_dim,
            HEAD_BLOCK=heads,
            BLOCK=block,
            TABLE=cos.shape[-1],
            HAS_NORM=weight_D is not None,
            num_warps=4 if heads * block >= 2048 else 2,
        )
    return out_THD
