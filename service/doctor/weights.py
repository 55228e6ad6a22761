"""A checkpoint before it is loaded: whether it is whole, and what its weights take, and where."""

from pathlib import Path

import torch

from model.checkpoint import build, inspect, read_config
from model.errors import BadCheckpoint
from model.offload import layers
from model.quantize import Scheme, foretell_bytes
from model.registry import PUBLISHED, LoadableFamily
from model.stored_tensor import KINDS
from service.doctor.report import Checkpoint, Part
from service.settings import Settings


def read(folder: Path) -> tuple[LoadableFamily, Checkpoint, list[str]]:
    """Build a checkpoint's family without its weights, and compare it with the files.

    Returns:
        The family, what there is, and what is wrong with it.

    Raises:
        BadCheckpoint: Its config is missing or not understood.
    """
    has_weights = any(True for _, pattern in KINDS for _ in folder.rglob(pattern))
    if folder.parent == PUBLISHED or not has_weights:
        return build(read_config(folder), folder), "configs only", []
    try:
        return inspect(folder)[0], "found", []
    except BadCheckpoint as error:
        problems = str(error).removeprefix(f"{folder}: ").split("; ")
        return build(read_config(folder), folder), "broken", problems


def parts_of(module: torch.nn.Module, foretold: dict[str, int]) -> list[Part]:
    """Add up weights and their bytes by part."""
    weights: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name, weight in module.named_parameters():
        part = name.partition(".")[0]
        weights[part] = weights.get(part, 0) + weight.numel()
        sizes[part] = sizes.get(part, 0) + foretold[name]
    return [Part(name=name, weights=count, num_bytes=sizes[name]) for name, count in weights.items()]


def device_bytes(module: torch.nn.Module, foretold: dict[str, int], *, is_offloaded: bool) -> int:
    """Return what the device holds of the weights at its peak: of visiting layers, the two largest.

    A bridge is called within the layer that it belongs to, so two may be there at a time.
    """
    if not is_offloaded:
        return sum(foretold.values())
    visiting = [[f"{layer}.{name}" for name, _ in each.named_parameters()] for layer, each in layers(module)]
    staying = foretold.keys() - {name for names in visiting for name in names}
    sizes = sorted(sum(foretold[name] for name in names) for names in visiting)
    return sum(foretold[name] for name in staying) + sum(sizes[-2:])


def held_bytes(family: LoadableFamily, settings: Settings) -> int:
    """Return what weights take on the device under settings; on a processor all of them are there."""
    dtype: torch.dtype = getattr(torch, settings.dtype)
    scheme: Scheme = settings.quantization
    is_offloaded = settings.offload == "layers" and settings.device != "cpu"
    return device_bytes(
        family.module, foretell_bytes(family.module, scheme, dtype), is_offloaded=is_offloaded
    )


def loading_bytes(family: LoadableFamily, settings: Settings) -> int:
    """Return what reading the weights takes of the host's memory: all of them, where that changes them."""
    is_reduced = settings.quantization != "none" or settings.offload == "layers"
    is_read_there = settings.device == "cpu" or (
        is_reduced and (settings.load_format == "auto" or settings.offload == "layers")
    )
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return sum(foretell_bytes(family.module, "none", dtype).values()) if is_read_there else 0
