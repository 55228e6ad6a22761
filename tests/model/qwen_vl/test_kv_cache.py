import torch

from model.qwen_vl.context import KVContext
from model.qwen_vl.kv_cache import ROOM, KVCache


def context(length: int) -> KVContext:
    keys = tuple(torch.randn(length, 2, 4) for _ in range(2))
    return KVContext(
        layers=(0, 1),
        keys=keys,
        values=tuple(-k for k in keys),
        ids_L3=torch.zeros(length, 3).long(),
        next_id=length,
    )


def test_growing_past_its_room_keeps_everything() -> None:
    begun = context(3)
    cache = KVCache(begun)
    fed = torch.randn(3 * ROOM, 2, 4)
    for row in fed.split(2):
        for layer in (0, 1):
            k_SKD, v_SKD = cache.append(layer, row + layer, row - layer)
        cache.commit(2)
    assert cache.num_tokens == cache.next_id == 3 + 3 * ROOM
    assert torch.equal(k_SKD, torch.cat([begun.keys[1], fed + 1]))
    assert torch.equal(v_SKD, torch.cat([begun.values[1], fed - 1]))


def test_what_is_not_committed_is_written_over() -> None:
    cache = KVCache(context(1))
    cache.append(0, torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    k_SKD, _ = cache.append(0, torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
    assert k_SKD.shape[0] == 2
    assert not k_SKD[1].any()


def test_a_cache_counts_its_bytes() -> None:
    assert KVCache(context(1)).num_bytes == 4 * (1 + ROOM) * 2 * 4 * 4
