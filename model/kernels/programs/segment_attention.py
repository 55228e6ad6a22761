"""Attention within packed segments whose keys lie in one place or in two: online softmax, nothing copied.

Segments are data, so that one launch, or one captured graph, serves every layout of as many tokens.

Source: Dao et al. 2022, arXiv:2205.14135, algorithm 1, with segments as in Dao 2023, arXiv:2307.08691.

Shapes: T packed queries, S packed keys, U packed keys that come before them, H query heads, K key heads,
D head dim, B segments.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

Keys = tuple[Tensor, Tensor, Tensor]
"""Keys, values, and where each segment's begin: int32 [B + 1]."""


@triton.jit
def _over(
    query,
    best,
    total,
    mixed,
    keys,
    values,
    first,
    length,
    last_seen,
    kv_head,
    scale,
    KEY_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """Let a tile of queries read a stretch of keys, as far as the last that each sees."""
    channel = tl.arange(0, BLOCK)
    if CAUSAL:
        length = tl.minimum(length, tl.max(last_seen, 0) + 1)
    for start in range(0, length, KEYS):
        key = start + tl.arange(0, KEYS)
        known = key < length
        inside = known[:, None] & (channel < WIDTH)[None, :]
        at = ((first + key).to(tl.int64)[:, None] * KEY_HEADS + kv_head) * WIDTH + channel[None, :]
        key_tile = tl.load(keys + at, mask=inside, other=0.0)
        scores = tl.dot(query, tl.trans(key_tile), input_precision="ieee") * scale
        seen = known[None, :]
        if CAUSAL:
            seen = seen & (key[None, :] <= last_seen[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(best - higher)
        total = total * shrink + tl.sum(weights, 1)
        value_tile = tl.load(values + at, mask=inside, other=0.0)
        product = tl.dot(weights.to(value_tile.dtype), value_tile, input_precision="ieee")
        mixed = mixed * shrink[:, None] + product
        best = higher
    return best, total, mixed


@triton.jit
def _attend(
    q,
    k,
    v,
    before_k,
    before_v,
    out,
    q_starts,
    kv_starts,
    before_starts,
    num_segments,
    scale,
    HEADS: tl.constexpr,
    KEY_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SEGMENTS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    # Tiles are dealt out segment by segment; those beyond the last have nothing to do.
    tile = tl.program_id(0)
    head = tl.program_id(1)
    index = tl.arange(0, SEGMENTS)
    real = index < num_segments
    begin = tl.load(q_starts + index, mask=real, other=0)
    end = tl.load(q_starts + index + 1, mask=real, other=0)
    ends = tl.cumsum((end - begin + QUERIES - 1) // QUERIES, 0)
    segment = tl.sum((ends <= tile).to(tl.int32), 0)
    if segment >= num_segments:
        return
    tiles_before = tl.max(tl.where(ends <= tile, ends, 0), 0)
    q_first = tl.load(q_starts + segment)
    q_length = tl.load(q_starts + segment + 1) - q_first
    kv_first = tl.load(kv_starts + segment)
    kv_length = tl.load(kv_starts + segment + 1) - kv_first

    place = (tile - tiles_before) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, BLOCK)
    inside = (place < q_length)[:, None] & (channel < WIDTH)[None, :]
    at = ((q_first + place).to(tl.int64)[:, None] * HEADS + head) * WIDTH + channel[None, :]
    query = tl.load(q + at, mask=inside, other=0.0)
    kv_head = head // (HEADS // KEY_HEADS)
    last_seen = kv_length - q_length + place
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mixed = tl.zeros((QUERIES, BLOCK), tl.float32)
    if HAS_BEFORE:
        before_first = tl.load(before_starts + segment)
        before_length = tl.load(before_starts + segment + 1) - before_first
        best, total, mixed = _over(
            query,
            best,
            total,
            mixed,
            before_k,
            before_v,
            before_first,
            before_length,
            last_seen,
            kv_head,
            scale,
            KEY_HEADS,
            WIDTH,
            BLOCK,
            KEYS,
            False,
        )
    best, total, mixed = _over(
        query,
        best,
        total,
        mixed,
        k,
        v,
        kv_first,
        kv_length,
        last_seen,
        kv_head,
        scale,
        KEY_HEADS,
        WIDTH,
        BLOCK,
        KEYS,
        CAUSAL,
    )
    tl.store(out + at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)


def attend_segments(
    q_THD: Tensor, q_starts_B: Tensor, own: Keys, before: Keys | None = None, *, causal: bool = False
) -> Tensor:
    """Let each segment's queries read its keys: first those before, which all of them see, then its own.

    Args:
        q_THD: Queries; head h reads key head h // (H/K).
        q_starts_B: Where each segment's queries begin, and where the last ends: int32 [B + 1].
        own: Keys [S, K, D] and values.
        before: Keys [U, K, D] and values that lie elsewhere.
        causal: Queries are the last positions of their own keys, and see none after themselves.
    """
    (k_SKD, v_SKD, kv_starts_B), other = own, before or own
    num_tokens, num_heads, head_dim = q_THD.shape
    num_segments = q_starts_B.shape[0] - 1
    out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
    if not num_tokens:
        return out_THD
    is_single = q_THD.dtype == torch.float32
    queries, keys = (64, 32) if is_single else (128, 64)
    with torch.cuda.device_of(q_THD):
        _attend[(num_tokens // queries + num_segments, num_heads)](
            q_THD.contiguous(),
            k_SKD.contiguous(),
            v_SKD.contiguous(),
            other[0].contiguous(),
            other[1].contiguous(),
            out_THD,
            q_starts_B,
            kv_starts_B,
            other[2],
            num_segments,
            head_dim**-0.5 * math.log2(math.e),
            HEADS=num_heads,
            KEY_HEADS=k_SKD.shape[1],
            WIDTH=head_dim,
            BLOCK=max(16, triton.next_power_of_2(head_dim)),
            SEGMENTS=triton.next_power_of_2(num_segments),
            QUERIES=queries,
            KEYS=keys,
            HAS_BEFORE=before is not None,
            CAUSAL=causal,
            num_warps=4 if is_single else 8,
            num_stages=2 if is_single else 3,
        )
    return out_THD


@torch.library.custom_op("hbridge::attend_segments", mutates_args=())
def attend_segments_op(
    q: Tensor,
    q_starts: Tensor,
    k: Tensor,
    v: Tensor,
    kv_starts: Tensor,
    before_k: Tensor | None,
    before_v: Tensor | None,
    before_starts: Tensor | None,
    causal: bool,
) -> Tensor:
    """The same as an operator, for compiled blocks: a compiler does not look into it."""
    before: Keys | None = None
    if before_k is not None and before_v is not None and before_starts is not None:
        before = before_k, before_v, before_starts
    return attend_segments(q, q_starts, (k, v, kv_starts), before, causal=causal)


@attend_segments_op.register_fake
def _(q: Tensor, *others: Tensor | bool | None) -> Tensor:
    return torch.empty_like(q)
