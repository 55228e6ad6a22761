"""The only attention call: packed sequences of different lengths, never a padded mask from outside.

Which backends can be used where, and which is fastest, is for model.backend_choice to say.

Shapes: T packed query positions, S packed key positions, U of them that lie apart and come first, H query
heads, K key heads, D head dim, B segments.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from model import device_attention
from model.bounds import Bounds, BoundsBackend, starts
from model.layers import interleave

Backend = Literal["sdpa", "plain", "cudnn", "varlen", "xformers", "triton"]


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of an attention layer.

    Attributes:
        causal: Whether it is used so.
    """

    num_heads: int
    num_key_heads: int
    head_dim: int
    causal: bool = False


@dataclass(frozen=True, slots=True)
class Segments:
    """Which stretch of queries sees which stretch of keys; both packed in the same order.

    Attributes:
        q_lengths: Queries of each segment; they sum to T.
        kv_lengths: Keys of each segment; they sum to S.
        causal: Queries are the last positions of their keys, and see none after themselves.
        backend: "sdpa" is PyTorch's kernel, a call for each shape of segment; "cudnn" the same, by cuDNN.
            "plain" pads inside and multiplies matrices: for training on a CPU, where bfloat16 SDPA is slow
            backwards. "varlen", "xformers" and "triton" take all segments in one call, on CUDA.
        before_lengths: For attend_joined: of each segment's keys, the first ones that lie apart.
    """

    q_lengths: tuple[int, ...]
    kv_lengths: tuple[int, ...]
    causal: bool = False
    backend: Backend = "sdpa"
    before_lengths: tuple[int, ...] = ()

    @classmethod
    def own(cls, lengths: tuple[int, ...], *, causal: bool = False, backend: Backend = "sdpa") -> "Segments":
        """Let every segment see itself alone."""
        return cls(lengths, lengths, causal, backend)

    @property
    def own_lengths(self) -> tuple[int, ...]:
        """Keys of each segment without those that lie apart."""
        before_lengths = self.before_lengths or (0,) * len(self.kv_lengths)
        return tuple(kv - before for kv, before in zip(self.kv_lengths, before_lengths, strict=True))

    def bounds(self, backend: BoundsBackend, device: torch.device) -> Bounds:
        """Return the same on a device; keys are those that do not lie apart."""
        own_lengths = self.own_lengths
        return Bounds(
            starts(self.q_lengths, device),
            starts(own_lengths, device),
            max(self.q_lengths, default=0),
            max(own_lengths, default=0),
            self.causal,
            backend,
        )


class Spread(Protocol):
    """Segments whose tokens no process has alone: it attends from its own with the others' help."""

    def attend(self, q_PHD: Tensor, k_PKD: Tensor, v_PKD: Tensor) -> Tensor:
        """Attend as `attend` does, from this process's tokens."""
        ...

    def attend_joined(
        self, q_PHD: Tensor, own: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Attend as `attend_joined` does, from this process's tokens."""
        ...


Sight = Segments | Bounds | Spread
"""Who sees whom."""


def attend(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, segments: Sight) -> Tensor:
    """Attend within segments; query head h reads key head h // (H/K); scale 1/sqrt(D).

    Returns:
        [T, H, D].

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1; grouped keys: Ainslie et al. 2023,
    arXiv:2305.13245.
    """
    if isinstance(segments, Bounds):
        return ON_BOUNDS[segments.backend](q_THD, k_SKD, v_SKD, segments)
    if not isinstance(segments, Segments):
        return segments.attend(q_THD, k_SKD, v_SKD)
    assert sum(segments.q_lengths) == q_THD.shape[0], "query lengths must cover the packed queries"
    assert sum(segments.kv_lengths) == k_SKD.shape[0], "key lengths must cover the packed keys"
    return BACKENDS[segments.backend](q_THD, k_SKD, v_SKD, segments)


def attend_joined(
    q_THD: Tensor, own: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor], segments: Sight
) -> Tensor:
    """Attend to keys that lie in two places: each segment sees those before, and then its own.

    They are laid side by side, unless the backend is "triton", which reads both where they are.

    Args:
        q_THD: Queries.
        own: Keys and values of the segments themselves.
        before: Keys [U, K, D] and values that lie apart, in the dtype of the others.
        segments: With the lengths of what lies apart; not causal.
    """
    if not isinstance(segments, Segments | Bounds):
        return segments.attend_joined(q_THD, own, before)
    assert not segments.causal, "what lies apart is seen by all"
    if isinstance(segments, Bounds):
        is_plain = segments.backend == "plain"
        attend_both = device_attention.masked_joined if is_plain else device_attention.triton_joined
        assert segments.before_starts_B is not None, "bounds must say where keys that lie apart begin"
        places = (*own, segments.kv_starts_B), (*before, segments.before_starts_B)
        return attend_both(q_THD, *places, segments)
    if segments.backend == "triton":
        bounds = segments.bounds("triton", q_THD.device)
        apart = *before, starts(segments.before_lengths, q_THD.device)
        return device_attention.triton_joined(q_THD, (*own, bounds.kv_starts_B), apart, bounds)
    k_SKD, v_SKD = (join(before[i], own[i], segments) for i in (0, 1))
    return attend(
        q_THD, k_SKD, v_SKD, Segments(segments.q_lengths, segments.kv_lengths, backend=segments.backend)
    )


def join(before_UKD: Tensor, own_TKD: Tensor, segments: Segments) -> Tensor:
    """Lay keys or values that lie apart before the others, segment by segment: [S, K, D]."""
    return interleave((before_UKD, segments.before_lengths), (own_TKD, segments.own_lengths))


def _sdpa(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, segments: Segments) -> Tensor:
    q_starts = [0, *accumulate(segments.q_lengths)]
    kv_starts = [0, *accumulate(segments.kv_lengths)]
    same_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, shape in enumerate(zip(segments.q_lengths, segments.kv_lengths, strict=True)):
        same_shape[shape].append(index)
    out: list[Tensor] = [q_THD] * len(segments.q_lengths)
    for (q_length, kv_length), indices in same_shape.items():
        q_BHLD = _stacked(q_THD, [q_starts[i] for i in indices], q_length)
        k_BKLD = _stacked(k_SKD, [kv_starts[i] for i in indices], kv_length)
        v_BKLD = _stacked(v_SKD, [kv_starts[i] for i in indices], kv_length)
        mask = causal_mask(q_length, kv_length, q_THD.device) if segments.causal and q_length > 1 else None
        grouped = q_BHLD.shape[1] != k_BKLD.shape[1]
        a_BHLD = scaled_dot_product_attention(q_BHLD, k_BKLD, v_BKLD, attn_mask=mask, enable_gqa=grouped)
        for i, a_HLD in zip(indices, a_BHLD, strict=True):
            out[i] = a_HLD.transpose(0, 1)
    return torch.cat(out)


def _stacked(x_TKD: Tensor, starts: list[int], length: int) -> Tensor:
    """Stack stretches of one length as a batch, heads first."""
    return torch.stack([x_TKD[start : start + length] for start in starts]).transpose(1, 2)


def _plain(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, segments: Segments) -> Tensor:
    (H, D), K = q_THD.shape[1:], k_SKD.shape[1]
    q_BLHD = _padded(q_THD, segments.q_lengths)
    k_BLKD = _padded(k_SKD, segments.kv_lengths)
    v_BLKD = _padded(v_SKD, segments.kv_lengths)
    B, Q, L = q_BLHD.shape[0], q_BLHD.shape[1], k_BLKD.shape[1]
    q_BKGD = q_BLHD.reshape(B, Q, K, H // K, D).permute(0, 2, 3, 1, 4).reshape(B * K, H // K * Q, D)
    k_BKDL = k_BLKD.permute(0, 2, 3, 1).reshape(B * K, D, L)
    scores = (torch.bmm(q_BKGD, k_BKDL) * D**-0.5).view(B, K, H // K, Q, L)
    if segments.causal or min(segments.kv_lengths) < L:
        scores = scores.masked_fill(~_allowed(segments, Q, L, q_THD.device), float("-inf"))
    weights = scores.softmax(-1).view(B * K, H // K * Q, L)
    v_BKLD = v_BLKD.transpose(1, 2).reshape(B * K, L, D)
    a_BLHD = torch.bmm(weights, v_BKLD).view(B, K, H // K, Q, D).permute(0, 3, 1, 2, 4).reshape(B, Q, H, D)
    a_THD = a_BLHD.reshape(-1, H, D)
    if min(segments.q_lengths) == Q:
        return a_THD
    return a_THD.index_select(0, _padding(segments.q_lengths)[1].to(a_THD.device))


def _padded(x_TKD: Tensor, lengths: tuple[int, ...]) -> Tensor:
    if min(lengths) == max(lengths):
        return x_TKD.view(len(lengths), lengths[0], *x_TKD.shape[1:])
    into, _ = _padding(lengths)
    return x_TKD.index_select(0, into.to(x_TKD.device)).view(len(lengths), max(lengths), *x_TKD.shape[1:])


@lru_cache(maxsize=32)
def _padding(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Where each padded place takes its value from (padding repeats a real one), and the way back."""
    starts_B1 = torch.tensor([0, *accumulate(lengths)][:-1])[:, None]
    lengths_B1 = torch.tensor(lengths)[:, None]
    place_L = torch.arange(max(lengths))
    into_BL = starts_B1 + torch.minimum(place_L, (lengths_B1 - 1).clamp(min=0))
    back_T = (place_L < lengths_B1).flatten().nonzero().flatten()
    return into_BL.flatten(), back_T


@lru_cache(maxsize=8)
def _allowed(segments: Segments, Q: int, L: int, device: torch.device) -> Tensor:
    kv_B = torch.tensor(segments.kv_lengths, device=device)
    key_L = torch.arange(L, device=device)
    allowed = (key_L < kv_B[:, None])[:, None, :].expand(-1, Q, -1)
    if segments.causal:
        first_B = kv_B - torch.tensor(segments.q_lengths, device=device)
        last_BQ = first_B[:, None] + torch.arange(Q, device=device)
        allowed = allowed & (key_L <= last_BQ[:, :, None])
    return allowed[:, None, None]


def causal_mask(q_length: int, kv_length: int, device: torch.device) -> Tensor:
    """Say which keys each query sees when the queries are the last positions: [q_length, kv_length]."""
    query = torch.arange(kv_length - q_length, kv_length, device=device)
    return query[:, None] >= torch.arange(kv_length, device=device)


def _cudnn(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, segments: Segments) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa(q_THD, k_SKD, v_SKD, segments)


def _varlen(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, segments: Segments) -> Tensor:
    return device_attention.varlen(q_THD, k_SKD, v_SKD, segments.bounds("varlen", q_THD.device))


def _triton(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, segments: Segments) -> Tensor:
    return device_attention.triton(q_THD, k_SKD, v_SKD, segments.bounds("triton", q_THD.device))


def _xformers(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, segments: Segments) -> Tensor:
    lengths = segments.q_lengths, segments.kv_lengths
    return device_attention.xformers(q_THD, k_SKD, v_SKD, lengths, causal=segments.causal)


BACKENDS: dict[Backend, Callable[[Tensor, Tensor, Tensor, Segments], Tensor]] = {
    "sdpa": _sdpa,
    "plain": _plain,
    "cudnn": _cudnn,
    "varlen": _varlen,
    "xformers": _xformers,
    "triton": _triton,
}
ON_BOUNDS: dict[BoundsBackend, Callable[[Tensor, Tensor, Tensor, Bounds], Tensor]] = {
    "plain": device_attention.masked,
    "varlen": device_attention.varlen,
    "triton": device_attention.triton,
}
