"""The growing keys and values of one answer.

Shapes: N new positions, S positions so far, K key heads, D head dim.
"""

import torch
from torch import Tensor

from model.qwen_vl.context import KVContext

ROOM = 64


class KVCache:
    """Keys and values of every layer, begun from a context that stays as it is.

    Attributes:
        num_tokens: Positions committed.
        next_id: Multimodal position of the next token.
    """

    def __init__(self, context: KVContext) -> None:
        self.num_tokens = context.num_tokens
        self.next_id = context.next_id
        self._keys = [_grown(k_SKD, self.num_tokens + ROOM) for k_SKD in context.keys]
        self._values = [_grown(v_SKD, self.num_tokens + ROOM) for v_SKD in context.values]

    @property
    def num_bytes(self) -> int:
        """Memory that it holds, free room included."""
        return sum(tensor.nbytes for tensor in (*self._keys, *self._values))

    def append(self, layer: int, k_NKD: Tensor, v_NKD: Tensor) -> tuple[Tensor, Tensor]:
        """Write after the last committed position and return all that is written.

        Args:
            layer: Which layer's rows.
            k_NKD: New keys, rotated.
            v_NKD: New values, same shape.

        Returns:
            The layer's keys and values from position 0, new ones last.
        """
        end = self.num_tokens + k_NKD.shape[0]
        if end > self._keys[layer].shape[0]:
            self._keys[layer] = _grown(self._keys[layer], 2 * end)
            self._values[layer] = _grown(self._values[layer], 2 * end)
        k_SKD, v_SKD = self._keys[layer][:end], self._values[layer][:end]
        k_SKD[self.num_tokens :] = k_NKD.detach()
        v_SKD[self.num_tokens :] = v_NKD.detach()
        return k_SKD, v_SKD

    def commit(self, num_tokens: int) -> None:
        """Keep what every layer has just appended."""
        self.num_tokens += num_tokens
        self.next_id += num_tokens


def _grown(x_SKD: Tensor, length: int) -> Tensor:
    grown = torch.zeros(length, *x_SKD.shape[1:], dtype=x_SKD.dtype, device=x_SKD.device)
    grown[: x_SKD.shape[0]] = x_SKD.detach()
    return grown
