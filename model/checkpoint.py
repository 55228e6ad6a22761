"""Checkpoint folders to loaded families and back; every name accounted for, both ways."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.errors import BadCheckpoint
from model.qwen_vl.tokenizer import FILES as TOKENIZER_FILES
from model.registry import FAMILIES, LoadableFamily, family_name, resolve
from model.stored_tensor import StoredTensor, list_tensors, parts, read_json, read_tensors

OPTIONAL = ("srt_proj", "vae")
SPARE = re.compile(r"(^|\.)(lm_head\.weight|rotary_emb\.inv_freq|rotary_pos_emb\.inv_freq)$")
PIPELINES = {"OmniGen2Pipeline": "omnigen2", "OmniGen2ChatPipeline": "omnigen2"}
MAX_SHARD_BYTES = 4 * 1024**3


def load(
    checkpoint: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LoadableFamily:
    """Load a checkpoint.

    Args:
        checkpoint: A folder, or a shipped checkpoint's short name.
        device: Where to put it.
        dtype: Of the weights in memory, whatever it is on disk.

    Raises:
        BadCheckpoint: Lists everything that is wrong with the folder.
    """
    folder = resolve(checkpoint)
    family = build(read_config(folder), folder)
    stored = list_tensors(folder)
    for part in OPTIONAL:
        if hasattr(family.module, part) and not any(name.startswith(f"{part}.") for name in stored):
            setattr(family.module, part, None)
    ours = family.module.state_dict()
    _check(ours, stored, folder)
    family.module.load_state_dict(read_tensors(stored, ours, torch.device(device), dtype), assign=True)
    family.module.requires_grad_(False).eval()
    return family


def build(config: Mapping[str, Any], folder: Path | None = None) -> LoadableFamily:
    """Build a family without memory for its weights.

    Raises:
        BadCheckpoint: The config is not understood.
    """
    with torch.device("meta"):
        return FAMILIES[family_name(config)].from_config(config, folder)


def build_random(
    config: Mapping[str, Any],
    folder: Path | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadableFamily:
    """Build a family with random weights of a sensible size: for tests and for measuring speed.

    Args:
        config: Content of a config.json.
        folder: Holds the tokenizer, if there is one.
        seed: Gives the same weights on the same device.
        device: Where to put it.
        dtype: Of the weights.
    """
    family = build(config, folder)
    family.module.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, weight in family.module.named_parameters():
        is_gain = weight.ndim == 1 and name.endswith("weight")
        std = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
        weight.data.normal_(float(is_gain), std, generator=generator)
    family.module.requires_grad_(False).eval()
    return family


def save(
    family: LoadableFamily,
    folder: Path,
    *,
    tokenizer_from: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a checkpoint folder; its config comes last, so that half a folder does not load.

    Args:
        family: What to write, in the dtype it has.
        folder: Made if it is not there.
        tokenizer_from: A folder whose tokenizer files to copy.
        max_shard_bytes: Larger checkpoints are split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(family.module.state_dict(), max_shard_bytes))
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
    else:
        _save_shards(shards, folder)
    if tokenizer_from is not None:
        for name in TOKENIZER_FILES:
            if (tokenizer_from / name).is_file():
                shutil.copyfile(tokenizer_from / name, folder / name)
    _write_json(folder / "config.json", {"family": family.capabilities.family, **family.config.to_dict()})


def weights_hash(checkpoint: str | Path) -> str:
    """Return the SHA-256 over the SHA-256 of a checkpoint's weight files, in order of their paths."""
    total = hashlib.sha256()
    for file in sorted({stored.file for stored in list_tensors(resolve(checkpoint)).values()}):
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's config; of a diffusers layout, each part's config under the part's name.

    Raises:
        BadCheckpoint: There is none, it is no JSON object, or it is of an unknown pipeline.
    """
    if (folder / "config.json").is_file() or not (folder / "model_index.json").is_file():
        return read_json(folder / "config.json")
    pipeline = read_json(folder / "model_index.json").get("_class_name")
    if pipeline not in PIPELINES:
        raise BadCheckpoint(f"{folder / 'model_index.json'}: pipeline {pipeline!r} is not known")
    return {
        "family": PIPELINES[pipeline],
        **{part.name: read_json(part / "config.json") for part in parts(folder)},
    }


def _check(ours: Mapping[str, Tensor], theirs: Mapping[str, StoredTensor], folder: Path) -> None:
    problems = [f"missing {name}" for name in ours.keys() - theirs.keys()]
    problems += [f"left over {name}" for name in theirs.keys() - ours.keys() if not SPARE.search(name)]
    problems += [
        f"{name} has shape {list(theirs[name].shape)}, not {list(ours[name].shape)}"
        for name in ours.keys() & theirs.keys()
        if theirs[name].shape != tuple(ours[name].shape)
    ]
    if problems:
        raise BadCheckpoint(f"{folder}: " + "; ".join(sorted(problems)))


def _shards(weights: Mapping[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    num_bytes = 0
    for name, weight in weights.items():
        if shard and num_bytes + weight.nbytes > max_bytes:
            yield shard
            shard, num_bytes = {}, 0
        shard[name] = weight.detach().cpu().contiguous()
        num_bytes += weight.nbytes
    yield shard


def _save_shards(shards: list[dict[str, Tensor]], folder: Path) -> None:
    index: dict[str, str] = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, name)
    total = sum(weight.nbytes for shard in shards for weight in shard.values())
    _write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index}
    )


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
