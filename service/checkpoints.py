"""Checkpoints at the command line: what they weigh, fetching them, hbridge folders made of others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from model.checkpoint import count_weights, read_config, weights_hash
from model.convert import convert
from model.errors import BadRequest
from model.hbridge.start import Start
from model.registry import resolve
from model.stored_tensor import read_json
from service.hub import locate, verify
from service.loading import check_hash, hashes_folder
from service.local import bytes_bar
from service.settings import Settings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STARTS: Mapping[str, Start] = {"zero": "zero", "identity": "identity"}
UNTRAINED = "the bridge is not trained: pictures will not follow prompts before it is"


def size_table(model: str) -> str:
    """Return how many weights a model has, part by part, and what they take in memory, as a Markdown table.

    Raises:
        BadCheckpoint: There is no such model, or its config is not understood.
    """
    counts = count_weights(read_config(resolve(locate(model, weights=False))))
    lines = ["| part | weights | float32 | bfloat16, float16 |", "|---|---:|---:|---:|"]
    for part, count in {**counts, "all": sum(counts.values())}.items():
        lines.append(f"| {part} | {count:,} | {4 * count / 1e9:.2f} GB | {2 * count / 1e9:.2f} GB |")
    return "\n".join(lines)


def fetch_model(settings: Settings) -> str:
    """Bring the files of the settings' model here, and return the SHA-256 of its weights.

    They are compared with the hash that the settings expect. Where there is none, or another, every file is
    compared with the checksum that the hub states. So who expects a hash and has the files needs no network.

    Raises:
        BadCheckpoint: They cannot be downloaded, or are not what they should be.
    """
    found = weights_hash(resolve(locate(settings.model)), kept=hashes_folder(settings))
    if found != settings.weights_sha256:
        verify(settings.model)
        check_hash(settings, found)
    return found


def convert_models(
    understanding: str,
    generation: str,
    out: Path,
    console: Console,
    *,
    bridge: Path | None,
    start: str,
    config: Path | None,
    dtype: str | None,
) -> None:
    """Write an hbridge folder and say so.

    Raises:
        ModelError: It cannot be made of these; lists why.
        OSError: It cannot be written.
    """
    if start not in STARTS:
        raise BadRequest(f"start {start!r} must be one of {', '.join(STARTS)}")
    if dtype is not None and dtype not in DTYPES:
        raise BadRequest(f"dtype {dtype!r} must be one of {', '.join(DTYPES)}")
    given: Mapping[str, Any] = read_json(config) if config else {}
    experts = resolve(locate(understanding)), resolve(locate(generation))
    with bytes_bar(console, "converting") as listen:
        convert(
            experts[0],
            experts[1],
            out,
            bridge=bridge,
            start=STARTS[start],
            config=given,
            dtype=DTYPES[dtype] if dtype else None,
            on_progress=listen,
        )
    console.print(str(out), highlight=False, soft_wrap=True, markup=False)
    if bridge is None:
        console.print(UNTRAINED, highlight=False, soft_wrap=True)
