import dataclasses

import pytest
import torch

from model.qwen_vl.context import KVContext, Recorder


def test_a_context_is_frozen_and_counted_in_bytes() -> None:
    k_LKD = torch.zeros(5, 2, 4)
    context = KVContext(
        layers=(3,), keys=(k_LKD,), values=(k_LKD.clone(),), ids_L3=torch.zeros(5, 3).long(), next_id=5
    )
    assert context.num_tokens == 5
    assert context.num_bytes == 2 * 5 * 2 * 4 * 4 + 5 * 3 * 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.next_id = 6  # type: ignore[misc]


def test_a_context_lets_go_of_all_layers_but_the_chosen() -> None:
    tensors = tuple(torch.randn(5, 2, 4) for _ in range(3))
    context = KVContext(
        layers=(1, 2, 3), keys=tensors, values=tensors[::-1], ids_L3=torch.zeros(5, 3).long(), next_id=5
    )
    kept = context.only(range(2, 4))
    assert kept.layers == (2, 3)
    assert kept.at(3) == context.at(3) == (tensors[2], tensors[0])


def test_what_is_known_stands_before_what_is_new() -> None:
    known_L, new_T = torch.arange(2.0).view(2, 1, 1), torch.arange(10.0, 15).view(5, 1, 1)
    ids_L3 = torch.zeros(2, 3).long()
    prefix = KVContext(layers=(0,), keys=(known_L,), values=(-known_L,), ids_L3=ids_L3, next_id=2)
    recorder = Recorder((0,), (2, 3), (None, prefix))
    k_S, v_S = recorder.read(0, new_T, -new_T)
    assert recorder.kv_lengths == (2, 5)
    assert k_S.flatten().tolist() == [10, 11, 0, 1, 12, 13, 14]
    assert torch.equal(v_S, -k_S)
    first, second = recorder.contexts(torch.ones(5, 3).long(), (2, 5), (None, None))
    assert torch.equal(first.at(0)[0], k_S[:2])
    assert torch.equal(second.at(0)[1], v_S[2:])
    assert second.ids_L3[:, 0].tolist() == [0, 0, 1, 1, 1]
