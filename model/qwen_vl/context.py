"""What the understanding expert leaves behind for whoever reads a prompt: keys, values and where they end.

Shapes: T packed tokens, S packed keys, L positions of a prompt, K key heads, D head dim, V
vocabulary, 3 the axes t, h, w.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a kept layer."""
        place = self.layers.index(layer)
        return self.keys[place], self.values[place]

    def first(self, num_tokens: int) -> "KVContext":
        """Return the context of the first positions, in memory of its own."""
        ids_L3 = self.ids_L3[:num_tokens].clone()
        return replace(
            self,
            keys=tuple(k_LKD[:num_tokens].clone() for k_LKD in self.keys),
            values=tuple(v_LKD[:num_tokens].clone() for v_LKD in self.values),
            ids_L3=ids_L3,
            next_id=int(ids_L3.max()) + 1,
            logits_V=None,
        )

    def only(self, layers: Sequence[int]) -> "KVContext":
        """Let go of all layers but these."""
        kept = [self.at(layer) for layer in layers]
        return replace(
            self, layers=tuple(layers), keys=tuple(k for k, _ in kept), values=tuple(v for _, v in kept)
        )


class Recorder:
    """Takes the keys and values of chosen layers as packed prompts pass through the decoder.

    Args:
        keep: Layers to take.
        lengths: Tokens of each prompt that pass.
        prefixes: What is known of the tokens before them; None where they begin a prompt.

    Attributes:
        kv_lengths: Positions of each prompt in what `read` hands on.
    """

    def __init__(
        self, keep: Sequence[int], lengths: Sequence[int], prefixes: Sequence[KVContext | None]
    ) -> None:
        self._keep = frozenset(keep)
        self._lengths = list(lengths)
        self._prefixes = prefixes
        self.kv_lengths = tuple(
            length + (prefix.num_tokens if prefix else 0)
            for length, prefix in zip(lengths, prefixes, strict=True)
        )
        self._taken: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def read(self, layer: int, k_TKD: Tensor, v_TKD: Tensor) -> tuple[Tensor, Tensor]:
        """Put what is known before what passes, take what is chosen, and hand everything on."""
        k_SKD = self._joined(lambda prefix: prefix.at(layer)[0], k_TKD)
        v_SKD = self._joined(lambda prefix: prefix.at(layer)[1], v_TKD)
        if layer in self._keep:
            self._taken[layer] = (self._cut(k_SKD), self._cut(v_SKD))
        return k_SKD, v_SKD

    def contexts(
        self, ids_T3: Tensor, next_ids: Sequence[int], logits: Sequence[Tensor | None]
    ) -> list[KVContext]:
        """Return what was taken of each prompt."""
        ids_S3 = self._joined(lambda prefix: prefix.ids_L3, ids_T3)
        parts = zip(self._cut(ids_S3), next_ids, logits, strict=True)
        return [
            KVContext(
                layers=tuple(self._taken),
                keys=tuple(keys[index] for keys, _ in self._taken.values()),
                values=tuple(values[index] for _, values in self._taken.values()),
                ids_L3=ids_L3,
                next_id=next_id,
                logits_V=logits_V,
            )
            for index, (ids_L3, next_id, logits_V) in enumerate(parts)
        ]

    def _joined(self, known: Callable[[KVContext], Tensor], new_T: Tensor) -> Tensor:
        """Put what is known of each prompt before what is new of it."""
        if not any(self._prefixes):
            return new_T
        pieces: list[Tensor] = []
        for prefix, piece in zip(self._prefixes, torch.split(new_T, self._lengths), strict=True):
            pieces += [piece] if prefix is None else [known(prefix), piece]
        return torch.cat(pieces)

    def _cut(self, packed_S: Tensor) -> list[Tensor]:
        """Give each prompt memory of its own, so that contexts can be freed one by one."""
        pieces = torch.split(packed_S, list(self.kv_lengths))
        return [piece.clone() for piece in pieces] if len(pieces) > 1 else list(pieces)
