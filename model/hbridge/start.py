"""Weights of a bridge that has not been trained: where its linear layers begin."""

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from model.hbridge.config import HBridgeConfig

Start = Literal["zero", "identity"]
SRT_STD = 0.02


def start_weight(
    name: str, shape: Sequence[int], config: HBridgeConfig, *, start: Start = "identity", seed: int = 0
) -> Tensor:
    """Return where a weight of the bridge or the learned tokens begins, float32.

    "identity" passes heads on as they are, as far as head counts and widths allow: a key head of the
    generation expert goes to the understanding expert's of its number, round and round, together with its
    query heads, and the output comes back the same way. "zero" is the same with an output of nothing: then
    bridged layers are their feed-forward halves, and no prompt is seen.

    Args:
        name: As in the checkpoint; `bridge.` or `srt_tokens`.
        shape: Its shape.
        config: The checkpoint's.
        start: Of the linear layers.
        seed: Of the learned tokens.
    """
    if name == "srt_tokens":
        return torch.empty(*shape).normal_(std=SRT_STD, generator=torch.Generator().manual_seed(seed))
    found = re.fullmatch(r"bridge\.\d+\.(?:([qkvo])_linear|norm_[qk])\.(weight|bias)", name)
    assert found, f"{name} is no weight of a bridge"
    if found[1] is None:
        return torch.ones(*shape)
    if found[2] == "bias" or (start == "zero" and found[1] == "o"):
        return torch.zeros(*shape)
    return _pass_on(found[1], config)


def _pass_on(which: str, config: HBridgeConfig) -> Tensor:
    """Return the linear layer that carries every head to its place."""
    und, gen = config.understanding, config.generation
    place = _query_places(config) if which in "qo" else _key_places(config)
    num_und = und.num_attention_heads if which in "qo" else und.num_key_value_heads
    blocks = torch.zeros(num_und, und.head_dim, len(place), gen.head_dim)
    for head, target in enumerate(place):
        blocks[target, :, head] = torch.eye(und.head_dim, gen.head_dim)
    # Heads that share a place are averaged there; on the way back each takes all of it.
    if which == "o":
        return blocks.flatten(2).flatten(0, 1).T.contiguous()
    shared = torch.tensor([max(1, place.count(target)) for target in range(num_und)])
    return (blocks / shared[:, None, None, None]).flatten(2).flatten(0, 1)


def _key_places(config: HBridgeConfig) -> list[int]:
    und, gen = config.understanding, config.generation
    return [head % und.num_key_value_heads for head in range(gen.num_kv_heads)]


def _query_places(config: HBridgeConfig) -> list[int]:
    """Return each query head's place: in the group of its key head's, one after another."""
    und, gen = config.understanding, config.generation
    keys, group = _key_places(config), und.num_attention_heads // und.num_key_value_heads
    taken = [0] * und.num_key_value_heads
    places = []
    for head in range(gen.num_attention_heads):
        key = keys[head // (gen.num_attention_heads // gen.num_kv_heads)]
        places.append(key * group + taken[key] % group)
        taken[key] += 1
    return places
