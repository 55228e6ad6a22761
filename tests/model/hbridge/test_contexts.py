from collections.abc import Callable
from dataclasses import replace

import torch

from model.family import Row
from model.hbridge.config import HBridgeConfig
from model.hbridge.contexts import PackedContexts


def test_contexts_are_packed_row_after_row(config: HBridgeConfig, make_row: Callable[..., Row]) -> None:
    contexts = [make_row(config, seed, (2, 2), 3 + seed).context for seed in range(2)]
    packed = PackedContexts.of(contexts, config.pairs)
    assert packed.lengths == packed.next_ids == (3, 4)
    assert torch.equal(packed.keys[2], torch.cat([context.keys[2] for context in contexts]))
    assert packed.num_tokens == 7
    assert packed.num_bytes == sum(t.nbytes for c in contexts for t in (*c.keys, *c.values))


def test_only_bridged_layers_are_taken(config: HBridgeConfig, make_row: Callable[..., Row]) -> None:
    context = make_row(config, 0, (2, 2), 3).context
    deep = replace(
        context, layers=(0, *context.layers, 5), keys=(0, *context.keys, 5), values=(0, *context.values, 5)
    )
    packed = PackedContexts.of([deep], config.pairs)
    assert all(map(torch.equal, packed.keys, context.keys))
    assert all(map(torch.equal, packed.values, context.values))
