from typing import Any

import pytest
import torch

from model.hbridge.config import HBridgeConfig
from model.hbridge.positions import bridge_ids, self_ids

REFERENCES = ((2, 2),)
NOISE = (1, 2)


def test_the_example_of_the_specification() -> None:
    unbridged = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [2, 0, 0], [2, 0, 0], [2, 0, 0], [2, 0, 1]]
    assert self_ids(REFERENCES, NOISE, 2, "origin").tolist() == unbridged
    bridged = [[9, 9, 9], [9, 9, 10], [9, 10, 9], [9, 10, 10], [9, 9, 9], [9, 9, 9], [10, 9, 9], [10, 9, 10]]
    assert (bridge_ids(REFERENCES, NOISE, 2, "origin") + 9).tolist() == bridged


def test_learned_tokens_may_count_up_as_words() -> None:
    assert self_ids(REFERENCES, NOISE, 2, "text")[4:6].tolist() == [[2, 2, 2], [3, 3, 3]]
    assert bridge_ids(REFERENCES, NOISE, 2, "text")[4:6].tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("name", ["velocity_text", "velocity_ref1"])
def test_ids_are_those_of_the_golden_vectors(golden: Any, config: HBridgeConfig, name: str) -> None:
    tensors = golden(name)
    noise = tuple(side // 2 for side in tensors["in.latent"].shape[1:])
    references = (
        (tuple(side // 2 for side in tensors["in.ref.0"].shape[1:]),) if "in.ref.0" in tensors else ()
    )
    layout = (references, noise, config.srt_count, config.srt_position)
    assert torch.equal(self_ids(*layout), tensors["mid.self_ids"])
    assert torch.equal(bridge_ids(*layout) + tensors["ctx.next_id"], tensors["mid.bridge_ids"])
