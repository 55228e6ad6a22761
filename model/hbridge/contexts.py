"""Understanding contexts of many rows, packed for the bridged layers.

Shapes: R rows, L positions of a row, U packed positions over all rows, K key heads, D head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.qwen_vl.context import KVContext


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedContexts:
    """Keys and values of the bridged understanding layers, row after row.

    Attributes:
        lengths: Positions of each row.
        next_ids: First free multimodal position of each row.
        keys: [U, K, D] of each bridged pair in rising order, already rotated.
        values: [U, K, D] of each bridged pair.
    """

    lengths: tuple[int, ...]
    next_ids: tuple[int, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def of(cls, contexts: Sequence[KVContext], pairs: Sequence[int]) -> "PackedContexts":
        """Pack the bridged layers of contexts, one context for each row."""
        places = [[context.layers.index(pair) for pair in pairs] for context in contexts]
        keys = [[context.keys[place] for place in row] for context, row in zip(contexts, places, strict=True)]
        values = [
            [context.values[place] for place in row] for context, row in zip(contexts, places, strict=True)
        ]
        return cls(
            lengths=tuple(context.num_tokens for context in contexts),
            next_ids=tuple(context.next_id for context in contexts),
            keys=tuple(torch.cat(layer) for layer in zip(*keys, strict=True)),
            values=tuple(torch.cat(layer) for layer in zip(*values, strict=True)),
        )

    @property
    def num_tokens(self) -> int:
        """Positions over all rows."""
        return sum(self.lengths)

    @property
    def num_bytes(self) -> int:
        """Memory that the tensors hold."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))
