"""Checkpoint folders to loaded families and back; every name accounted for, both ways."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.digest import file_digests
from model.errors import BadCheckpoint
from model.names import Names
from model.qwen_vl.tokenizer import FILES as TOKENIZER_FILES
from model.registry import FAMILIES, PUBLISHED, LoadableFamily, family_name, resolve
from model.shards import MAX_SHARD_BYTES, write_shards
from model.stored_tensor import OnProgress, StoredTensor, list_tensors, parts, read_json, read_tensors

PIPELINES = {"OmniGen2Pipeline": "omnigen2", "OmniGen2ChatPipeline": "omnigen2"}
READABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def load(
    checkpoint: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    on_progress: OnProgress | None = None,
) -> LoadableFamily:
    """Load a checkpoint.

    Args:
        checkpoint: A folder, or a shipped checkpoint's short name.
        device: Where to put it.
        dtype: Of the weights in memory, whatever it is on disk.
        on_progress: Called with the bytes that are read and with those that there are.

    Raises:
        BadCheckpoint: Lists everything that is wrong with the folder.
    """
    folder = resolve(checkpoint)
    if folder.parent == PUBLISHED:
        raise BadCheckpoint(
            f"{checkpoint} is a published model, of which only configs are here: name its folder"
        )
    family, stored = inspect(folder)
    ours = family.module.state_dict()
    weights = read_tensors(stored, ours, torch.device(device), dtype, on_progress)
    shaped = {name: weight.view(ours[name].shape) for name, weight in weights.items()}
    family.module.load_state_dict(shaped, assign=True)
    family.module.requires_grad_(False).eval()
    return family


def inspect(folder: Path) -> tuple[LoadableFamily, dict[str, StoredTensor]]:
    """Build a checkpoint's family without its weights, and list these, which are all that it needs.

    Raises:
        BadCheckpoint: Lists everything that is wrong with the folder.
    """
    family = build(read_config(folder), folder)
    stored = list_tensors(folder, family.names)
    for part in family.names.optional:
        if hasattr(family.module, part) and not any(name.startswith(f"{part}.") for name in stored):
            setattr(family.module, part, None)
    check(family.module.state_dict(), stored, family.names, folder)
    return family, stored


def build(config: Mapping[str, Any], folder: Path | None = None) -> LoadableFamily:
    """Build a family without memory for its weights.

    Args:
        config: Content of a config.json.
        folder: Holds the tokenizer, if there is one.

    Raises:
        BadCheckpoint: The config is not understood.
    """
    try:
        with torch.device("meta"):
            return FAMILIES[family_name(config)].from_config(config, folder)
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{folder}: {error}" if folder else str(error)) from error


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
        device: Where to put it; the weights are drawn there.
        dtype: Of the weights.

    Raises:
        BadCheckpoint: The config is not understood.
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
    weights = family.module.state_dict()

    def read(names: Sequence[str]) -> dict[str, Tensor]:
        return {name: weights[name].detach().cpu().contiguous() for name in names}

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    write_shards(folder, {name: weight.nbytes for name, weight in weights.items()}, read, max_shard_bytes)
    if tokenizer_from is not None:
        for name in TOKENIZER_FILES:
            if (tokenizer_from / name).is_file():
                shutil.copyfile(tokenizer_from / name, folder / name)
    write_config(folder, {"family": family.capabilities.family, **family.config.to_dict()})


def weights_hash(checkpoint: str | Path, *, kept: Path | None = None) -> str:
    """Return the SHA-256 over the SHA-256 of a checkpoint's weight files, in order of their paths.

    Args:
        checkpoint: As load takes it.
        kept: A folder for the files' own hashes, so that a file that stays as it is, is read once.

    Raises:
        BadCheckpoint: Files are missing or broken.
    """
    files = sorted({stored.file for stored in list_tensors(resolve(checkpoint)).values()})
    return hashlib.sha256(b"".join(file_digests(files, kept))).hexdigest()


def random_hash(config: Mapping[str, Any], seed: int) -> str:
    """Return what names build_random's weights as weights_hash names those of files: over config and seed."""
    return hashlib.sha256(json.dumps(["random", seed, config], sort_keys=True).encode()).hexdigest()


def count_weights(config: Mapping[str, Any]) -> dict[str, int]:
    """Count a family's weights, part by part, without memory for them.

    Raises:
        BadCheckpoint: The config is not understood.
    """
    counts: dict[str, int] = {}
    for name, weight in build(config).module.named_parameters():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + weight.numel()
    return counts


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
    scheduler = folder / "scheduler" / "scheduler_config.json"
    return {
        "family": PIPELINES[pipeline],
        **{part.name: read_json(part / "config.json") for part in parts(folder)},
        **({"scheduler": read_json(scheduler)} if scheduler.is_file() else {}),
    }


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a config.json."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def check(
    ours: Mapping[str, Tensor], theirs: Mapping[str, StoredTensor], names: Names, where: str | Path
) -> None:
    """Compare what a network needs with what is stored.

    Args:
        ours: What is needed.
        theirs: What is stored, under our names.
        names: Say what may be left over.
        where: Begins the message.

    Raises:
        BadCheckpoint: Lists what is missing, left over, or of another shape or type, in order.
    """
    problems = list(_missing(ours, theirs))
    problems += [
        f"left over {name} in {theirs[name].file.name}"
        for name in theirs.keys() - ours.keys()
        if not names.is_spare(name)
    ]
    for name in ours.keys() & theirs.keys():
        stored, shape = theirs[name], tuple(ours[name].shape)
        # A product with a matrix may be stored as a convolution with kernels of one pixel.
        if stored.shape not in (shape, (*shape, 1, 1)):
            problems.append(f"{name} in {stored.file.name} has shape {list(stored.shape)}, not {list(shape)}")
        if stored.dtype not in READABLE:
            problems.append(f"{name} in {stored.file.name} is {stored.dtype}, which is no float that is read")
    if problems:
        raise BadCheckpoint(f"{where}: " + "; ".join(sorted(problems)))


def _missing(ours: Mapping[str, Tensor], theirs: Mapping[str, StoredTensor]) -> Iterator[str]:
    """Say what is missing; a part of which nothing is there in one phrase."""
    there = {name.partition(".")[0] for name in theirs}
    absent: dict[str, int] = {}
    for name in ours.keys() - theirs.keys():
        part, dot, _ = name.partition(".")
        if dot and part not in there:
            absent[part] = absent.get(part, 0) + 1
        else:
            yield f"missing {name}"
    for part, count in absent.items():
        yield f"missing {part}.* ({count} tensors)"
