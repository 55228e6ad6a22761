"""Several continuations of one prompt in one packed call, each blind to the others.

Packed order: all prefixes, then the branches of the first, of the second, and so on.

Shapes: T packed tokens, S packed keys, K key heads, D head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import Backend, Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Branching:
    """Who sees whom: a prefix sees itself, a branch sees its prefix and itself.

    Attributes:
        segments: One for each prefix, then one for each branch.
        key_index_S: Which packed token each key is.
    """

    segments: Segments
    key_index_S: Tensor

    @classmethod
    def of(
        cls, prefixes: Sequence[int], branches: Sequence[Sequence[int]], *, backend: Backend = "sdpa"
    ) -> "Branching":
        """Lay out prefixes of these lengths, with the lengths of each one's branches."""
        packed = torch.arange(sum(prefixes) + sum(map(sum, branches)))
        lengths = [*prefixes, *(length for of_one in branches for length in of_one)]
        pieces = torch.split(packed, lengths)
        owners = [prefix for prefix, of_one in zip(pieces, branches, strict=False) for _ in of_one]
        tails = pieces[len(prefixes) :]
        keys = [*pieces[: len(prefixes)], *(torch.cat(pair) for pair in zip(owners, tails, strict=True))]
        segments = Segments(tuple(lengths), tuple(map(len, keys)), causal=True, backend=backend)
        return cls(segments=segments, key_index_S=torch.cat(keys))

    def read(self, layer: int, k_TKD: Tensor, v_TKD: Tensor) -> tuple[Tensor, Tensor]:
        """Repeat each prefix's keys and values before each of its branches."""
        index_S = self.key_index_S.to(k_TKD.device)
        return k_TKD[index_S], v_TKD[index_S]
