"""Attention by the kernels of libraries and our own, over segments whose bounds lie on the device.

Shapes: T packed query positions, S packed key positions, U packed keys that come before them, H query heads,
K key heads, D head dim.
"""

import inspect
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from model.bounds import Bounds, segment_of

Keys = tuple[Tensor, Tensor, Tensor]
"""Keys [S, K, D], values, and where each segment's begin: int32 [B + 1]."""

ASKS_FOR_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Whether grouped heads have to be asked for; in earlier releases they were taken as they came."""


def masked(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, bounds: Bounds) -> Tensor:
    """Attend by a mask over all queries and keys: the plain twin of all others, on any device."""
    return _masked(q_THD, bounds.q_starts_B, (k_SKD, v_SKD, bounds.kv_starts_B), causal=bounds.causal)


def masked_joined(q_THD: Tensor, own: Keys, before: Keys, bounds: Bounds) -> Tensor:
    """Attend to keys that lie in two places: the plain twin of triton_joined."""
    q_segment_T = segment_of(bounds.q_starts_B, len(q_THD))
    kv_segment_S = torch.cat([segment_of(each[2], len(each[0])) for each in (before, own)])
    seen_TS = q_segment_T[:, None] == kv_segment_S
    k_SKD, v_SKD = (torch.cat([before[i], own[i]]) for i in (0, 1))
    return _attend_where(q_THD, k_SKD, v_SKD, seen_TS)


def _masked(q_THD: Tensor, q_starts_B: Tensor, keys: Keys, *, causal: bool) -> Tensor:
    k_SKD, v_SKD, kv_starts_B = keys
    q_segment_T = segment_of(q_starts_B, len(q_THD))
    seen_TS = q_segment_T[:, None] == segment_of(kv_starts_B, len(k_SKD))
    if causal:
        ends_B = kv_starts_B[1:] - q_starts_B[1:]
        last_T = torch.arange(len(q_THD), device=q_THD.device) + ends_B[q_segment_T]
        seen_TS = seen_TS & (torch.arange(len(k_SKD), device=q_THD.device) <= last_T[:, None])
    return _attend_where(q_THD, k_SKD, v_SKD, seen_TS)


def _attend_where(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, seen_TS: Tensor) -> Tensor:
    q_HTD, k_KSD, v_KSD = (each.transpose(0, 1)[None] for each in (q_THD, k_SKD, v_SKD))
    grouped = q_HTD.shape[1] != k_KSD.shape[1]
    a_HTD = scaled_dot_product_attention(q_HTD, k_KSD, v_KSD, attn_mask=seen_TS, enable_gqa=grouped)
    return a_HTD[0].transpose(0, 1)


def varlen(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, bounds: Bounds) -> Tensor:
    """Attend by PyTorch's flash attention over packed sequences; its causal mask ends at the last key."""
    named: dict[str, Any] = {"window_size": (-1, 0)} if bounds.causal else {}
    if ASKS_FOR_GROUPS and q_THD.shape[1] != k_SKD.shape[1]:
        named["enable_gqa"] = True
    starts = bounds.q_starts_B, bounds.kv_starts_B
    out = varlen_attn(q_THD, k_SKD, v_SKD, *starts, bounds.max_q, bounds.max_kv, **named)
    return cast(Tensor, out)


def xformers(
    q_THD: Tensor,
    k_SKD: Tensor,
    v_SKD: Tensor,
    lengths: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    causal: bool,
) -> Tensor:
    """Attend by xformers' block-diagonal mask.

    Args:
        lengths: Queries and keys of each segment.
    """
    from xformers import ops  # noqa: PLC0415 - an optional library

    mask = ops.fmha.attn_bias.BlockDiagonalMask.from_seqlens(*map(list, lengths), device=q_THD.device)
    if causal:
        mask = mask.make_causal_from_bottomright()
    K = k_SKD.shape[1]
    group = q_THD.shape[1] // K
    # Grouped heads are a dimension of their own: [1, T, K, H/K, D].
    q_TKGD = torch.unflatten(q_THD, 1, (K, group))[None]
    k_SKGD, v_SKGD = (each[None, :, :, None].expand(-1, -1, -1, group, -1) for each in (k_SKD, v_SKD))
    out: Tensor = ops.memory_efficient_attention(q_TKGD, k_SKGD, v_SKGD, attn_bias=mask)
    return out[0].flatten(1, 2)


def triton(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, bounds: Bounds) -> Tensor:
    """Attend by our own kernel."""
    own = k_SKD, v_SKD, bounds.kv_starts_B
    return _triton(q_THD, bounds.q_starts_B, own, None, causal=bounds.causal)


def triton_joined(q_THD: Tensor, own: Keys, before: Keys, bounds: Bounds) -> Tensor:
    """Attend to keys that lie in two places, by our own kernel, which reads both where they are."""
    return _triton(q_THD, bounds.q_starts_B, own, before, causal=False)


def _triton(q_THD: Tensor, q_starts_B: Tensor, own: Keys, before: Keys | None, *, causal: bool) -> Tensor:
    from model.kernels.programs import segment_attention as program  # noqa: PLC0415 - needs Triton

    if torch.compiler.is_compiling():
        out: Tensor = program.attend_segments_op(
            q_THD, q_starts_B, *own, *(before or (None, None, None)), causal
        )
        return out
    return program.attend_segments(q_THD, q_starts_B, own, before, causal=causal)
