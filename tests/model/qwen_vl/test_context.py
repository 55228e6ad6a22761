import dataclasses

import pytest
import torch

from model.qwen_vl.context import KVContext


def test_a_context_is_frozen_and_counted_in_bytes() -> None:
    k_LKD = torch.zeros(5, 2, 4)
    context = KVContext(
        layers=(3,), keys=(k_LKD,), values=(k_LKD.clone(),), ids_L3=torch.zeros(5, 3).long(), next_id=5
    )
    assert context.num_tokens == 5
    assert context.num_bytes == 2 * 5 * 2 * 4 * 4 + 5 * 3 * 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.next_id = 6  # type: ignore[misc]
