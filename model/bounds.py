"""Where packed segments begin and end, as tensors: one compiled or captured call serves all such layouts.

Shapes: T packed query positions, S packed key positions, B segments.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

BoundsBackend = Literal["plain", "varlen", "triton"]
KEPT = 64
"""Layouts whose tensors are kept: every layer of a step has one of few, and the next step has them again."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The segments of attention, for kernels that read them on the device.

    Attributes:
        q_starts_B: Where each segment's queries begin, and where the last ends: int32 [B + 1].
        kv_starts_B: The same of its keys.
        max_q: No segment has more queries; an upper bound will do.
        max_kv: No segment has more keys.
        causal: Queries are the last positions of their keys, and see none after themselves.
        backend: Which kernel; "plain" is a mask over everything.
        before_starts_B: For attend_joined: where each segment's keys begin that lie apart.
    """

    q_starts_B: Tensor
    kv_starts_B: Tensor
    max_q: int
    max_kv: int
    causal: bool = False
    backend: BoundsBackend = "plain"
    before_starts_B: Tensor | None = None


@lru_cache(maxsize=KEPT)
@torch.inference_mode(mode=False)
def starts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return where segments of these lengths begin, and where the last ends: int32 [B + 1]."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)


@lru_cache(maxsize=KEPT)
@torch.inference_mode(mode=False)
def padded_starts(lengths: tuple[int, ...], num_rows: int, end: int, device: torch.device) -> Tensor:
    """Return the starts of these segments, of one that holds the padding up to the end, and of empty ones.

    Args:
        lengths: Of real segments.
        num_rows: Most real segments: the result has room for as many, and for the padding: [num_rows + 2].
        end: Positions with padding.
        device: Where to put it.
    """
    known = [0, *accumulate(lengths)]
    return torch.tensor(known + [end] * (num_rows + 2 - len(known)), dtype=torch.int32).to(device)


def segment_of(starts_B: Tensor, num_positions: int) -> Tensor:
    """Say which segment each position is in."""
    position = torch.arange(num_positions, device=starts_B.device, dtype=torch.int32)
    return torch.searchsorted(starts_B[1:], position, right=True)
