"""Weights to disk as safetensors: one file, or shards with an index, each let go before the next is read."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

MAX_SHARD_BYTES = 4 * 1024**3
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
READABLE = 0o644

Read = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Brings the named tensors into memory, contiguous and on the CPU."""


def write_shards(folder: Path, sizes: Mapping[str, int], read: Read, max_bytes: int) -> None:
    """Write tensors; what an earlier call left in the folder goes first.

    Args:
        sizes: Bytes of each, in the order to write them.
        read: Called once for each shard.
        max_bytes: Of a shard; a tensor that is larger has one of its own.
    """
    for old in (folder / INDEX, folder / WHOLE, *folder.glob("model-*-of-*.safetensors")):
        old.unlink(missing_ok=True)
    shards = plan_shards(sizes, max_bytes)
    if len(shards) == 1:
        _write(folder / WHOLE, read(shards[0]))
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(folder / file, read(names))
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Split tensors, in order, into shards; always at least one."""
    shards: list[list[str]] = [[]]
    num_bytes = 0
    for name, size in sizes.items():
        if shards[-1] and num_bytes + size > max_bytes:
            shards.append([])
            num_bytes = 0
        shards[-1].append(name)
        num_bytes += size
    return shards


def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file(dict(tensors), file, metadata={"format": "pt"})
    file.chmod(READABLE)  # as it is written nobody else may read it, such as the user of a container
