"""One file of tensors, mapped into memory: safetensors, or PyTorch's .bin with nothing but tensors in it."""

import json
import pickle
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import BadCheckpoint

MAX_HEADER_BYTES = 100_000_000
BITS = re.compile(r"^[A-Z]+(\d+)")


def map_tensors(file: Path) -> dict[str, Tensor]:
    """Map a file's tensors by their names there; bytes are read when they are used.

    Raises:
        BadCheckpoint: It is broken, or holds more than tensors; names the file, and the tensor if it can.
    """
    return _map_pickled(file) if file.suffix == ".bin" else _map_safetensors(file)


def _map_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{file} is broken: {'; '.join([str(error), *_faults(file)])}") from error


def _map_pickled(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        held = f" ({found[1]})" if found else ""
        raise BadCheckpoint(
            f"{file} is refused: it holds more than tensors{held}, which could run code"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError) as error:
        reason = str(error)
        if "mmap can only be used" in reason:
            reason = "it is no zip archive, as torch.save has written since PyTorch 1.6"
        raise BadCheckpoint(f"{file} is broken: {reason}") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{file} is refused: it holds a {type(content).__name__}, not tensors by name")
    others = sorted(str(name) for name, value in content.items() if not isinstance(value, Tensor))
    if others:
        raise BadCheckpoint(f"{file} is refused: no tensors are {', '.join(others)}")
    return {str(name): tensor for name, tensor in content.items()}


def _faults(file: Path) -> Iterator[str]:
    """Say which tensors a broken safetensors file cannot hold; nothing when its header cannot be read."""
    try:
        with file.open("rb") as opened:
            header_bytes = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(min(header_bytes, MAX_HEADER_BYTES)))
        body_bytes = file.stat().st_size - 8 - header_bytes
        for name, entry in header.items():
            if name != "__metadata__":
                yield from _fault(name, entry, body_bytes)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return


def _fault(name: str, entry: dict[str, Any], body_bytes: int) -> Iterator[str]:
    begin, end = entry["data_offsets"]
    if end > body_bytes:
        yield f"{name} ends at byte {end} of {body_bytes}"
    bits = BITS.match(entry["dtype"])
    if bits and (end - begin) * 8 != prod(entry["shape"]) * int(bits[1]):
        yield f"{name} has {end - begin} bytes, which are not {entry['shape']} of {entry['dtype']}"
