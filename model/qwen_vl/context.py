"""What the understanding expert leaves behind for whoever reads a prompt: keys, values and where they end.

Shapes: T packed tokens, L positions of a prompt, K key heads, D head dim, V vocabulary, 3 the axes t, h, w.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class KVContext:
    """Keys and values of chosen layers over one prompt; never changed, and shared freely.

    Attributes:
        layers: Which layers are kept, rising.
        keys: [L, K, D] of each kept layer, already rotated.
        values: [L, K, D] of each kept layer.
        ids_L3: Multimodal positions.
        next_id: First free position: one more than the largest id.
        logits_V: For the token after the prompt; None when only pictures read it.
    """

    layers: tuple[int, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    ids_L3: Tensor
    next_id: int
    logits_V: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Positions it covers."""
        return self.ids_L3.shape[0]

    @property
    def num_bytes(self) -> int:
        """Memory that its tensors hold."""
        tensors = [*self.keys, *self.values, self.ids_L3]
        if self.logits_V is not None:
            tensors.append(self.logits_V)
        return sum(tensor.nbytes for tensor in tensors)


class Recorder:
    """Takes the keys and values of chosen layers as packed prompts pass through the decoder.

    Args:
        keep: Layers to take.
        lengths: Tokens of each prompt.
    """

    def __init__(self, keep: Sequence[int], lengths: Sequence[int]) -> None:
        self._keep = frozenset(keep)
        self._lengths = list(lengths)
        self._taken: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def read(self, layer: int, k_TKD: Tensor, v_TKD: Tensor) -> tuple[Tensor, Tensor]:
        """Take what is chosen and hand everything on."""
        if layer in self._keep:
            self._taken[layer] = (self._cut(k_TKD), self._cut(v_TKD))
        return k_TKD, v_TKD

    def context(self, index: int, ids_L3: Tensor, next_id: int, logits_V: Tensor | None) -> KVContext:
        """Return what was taken of one prompt."""
        return KVContext(
            layers=tuple(self._taken),
            keys=tuple(keys[index] for keys, _ in self._taken.values()),
            values=tuple(values[index] for _, values in self._taken.values()),
            ids_L3=ids_L3,
            next_id=next_id,
            logits_V=logits_V,
        )

    def _cut(self, x_TKD: Tensor) -> list[Tensor]:
        """Give each prompt memory of its own, so that contexts can be freed one by one."""
        pieces = torch.split(x_TKD, self._lengths)
        return [x_LKD.clone() for x_LKD in pieces] if len(pieces) > 1 else list(pieces)
