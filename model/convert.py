"""An hbridge checkpoint out of its two experts' published folders, a shard at a time.

The understanding expert is a Qwen2.5-VL folder, the generation expert's transformer and the autoencoder those
of an OmniGen2 folder. What OmniGen2's transformer needs to read text features is dropped.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import build, check, write_config
from model.errors import BadCheckpoint
from model.hbridge.config import HBridgeConfig
from model.hbridge.names import HBRIDGE
from model.hbridge.start import Start, start_weight
from model.names import PartNames
from model.qwen_vl.config import QwenVLConfig
from model.shards import MAX_SHARD_BYTES, write_shards
from model.stored_tensor import OnProgress, StoredTensor, list_tensors, read_json, read_tensors

TEXT_SIDE = PartNames(spare=r"^(context_refiner|time_caption_embed\.caption_embedder)\.")
SOURCES = replace(HBRIDGE, parts={**HBRIDGE.parts, "gen": TEXT_SIDE})
BRIDGE = ("bridge", "srt_tokens", "srt_proj")
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
)


def convert(
    understanding: Path,
    generation: Path,
    out: Path,
    *,
    bridge: Path | None = None,
    start: Start = "identity",
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_progress: OnProgress | None = None,
) -> None:
    """Write an hbridge folder; it is there as a whole or not at all.

    Args:
        understanding: A Qwen2.5-VL folder.
        generation: An OmniGen2 folder, of which `transformer` and `vae` are read.
        out: What to write; must not be there yet.
        bridge: A file or folder of `bridge.*`, `srt_tokens` and perhaps `srt_proj.*`.
        start: Where a bridge without weights begins.
        config: Fields of the hbridge config that are to differ from the experts' and the defaults.
        dtype: Of the written weights; None keeps each as it is.
        max_shard_bytes: Of a file; about so much memory is taken.
        on_progress: Called with the bytes that are read and with those that there are.

    Raises:
        BadCheckpoint: Lists everything that is wrong with the folders or the config; nothing is written.
        FileExistsError: `out` is there already.
        OSError: It cannot be written, or there is not enough room.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already: name another folder")
    if not (understanding / "tokenizer.json").is_file():
        raise BadCheckpoint(f"{understanding} has no tokenizer.json")
    hbridge = bridged_config(understanding, generation, config or {})
    plain = {"family": "hbridge", **hbridge.to_dict()}
    ours = build(plain, understanding).module.state_dict()
    stored = _stored(understanding, generation, bridge)
    if not any(name.startswith("srt_proj.") for name in stored):
        ours = {name: weight for name, weight in ours.items() if not name.startswith("srt_proj.")}
    begun = {name for name in ours if name.startswith(BRIDGE) and not bridge}
    needed = {name: weight for name, weight in ours.items() if name not in begun}
    check(needed, stored, SOURCES, f"{understanding} and {generation}")
    source = Source(stored, ours, hbridge, start=start, dtype=dtype, on_progress=on_progress)
    with _whole(out, sum(source.sizes.values())) as folder:
        write_shards(folder, source.sizes, source.bring, max_shard_bytes)
        for name in COPIED:
            if (understanding / name).is_file():
                shutil.copyfile(understanding / name, folder / name)
        write_config(folder, plain)


class Source:
    """Brings the tensors of the new checkpoint, those that are stored and those that begin.

    Attributes:
        sizes: Bytes of each as it will be written, in order.
    """

    def __init__(
        self,
        stored: Mapping[str, StoredTensor],
        ours: Mapping[str, Tensor],
        config: HBridgeConfig,
        *,
        start: Start,
        dtype: torch.dtype | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._stored = stored
        self._shapes = {name: tuple(weight.shape) for name, weight in ours.items()}
        self._config = config
        self._start: Start = start
        self._dtype = dtype
        self._on_progress = on_progress
        self._done = 0
        self._total = sum(stored[name].num_bytes for name in ours if name in stored)
        self.sizes = {name: prod(shape) * self._type(name).itemsize for name, shape in self._shapes.items()}

    def bring(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Read or begin the named tensors."""
        known, before = [name for name in names if name in self._stored], self._done

        def tell(done: int, _: int) -> None:
            self._done = before + done
            if self._on_progress:
                self._on_progress(self._done, self._total)

        weights = read_tensors(self._stored, known, torch.device("cpu"), self._dtype, tell)
        return {
            name: weights[name].view(self._shapes[name]) if name in weights else self._begin(name)
            for name in names
        }

    def _begin(self, name: str) -> Tensor:
        weight = start_weight(name, self._shapes[name], self._config, start=self._start)
        return weight.to(self._type(name))

    def _type(self, name: str) -> torch.dtype:
        """Return what a tensor is written as; what begins is of the transformer's type."""
        return self._dtype or self._stored.get(name, self._stored["gen.x_embedder.weight"]).dtype


def bridged_config(understanding: Path, generation: Path, given: Mapping[str, Any]) -> HBridgeConfig:
    """Make the config of two experts' folders.

    Args:
        given: Fields that are to be otherwise; an object changes only what it names.

    Raises:
        BadCheckpoint: A config is missing, or they do not fit together; all is listed.
    """
    transformer = _public(read_json(generation / "transformer" / "config.json"))
    transformer.pop("text_feat_dim", None)
    expert = QwenVLConfig.from_dict(read_json(understanding / "config.json"))
    config: dict[str, Any] = {
        "understanding": expert.to_dict(),
        "generation": transformer,
        "vae": _public(read_json(generation / "vae" / "config.json")),
        "prefix_layers": transformer.get("num_layers", 0) - expert.num_hidden_layers,
    }
    for name, value in given.items():
        has_fields = isinstance(value, Mapping) and isinstance(config.get(name), Mapping)
        config[name] = {**config[name], **value} if has_fields else value
    return HBridgeConfig.from_dict(config)


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name[0] != "_"}


def _stored(understanding: Path, generation: Path, bridge: Path | None) -> dict[str, StoredTensor]:
    """List what the sources hold, under hbridge's names."""
    stored = list_tensors(understanding, SOURCES, prefix="und.")
    for folder, prefix in (("transformer", "gen."), ("vae", "vae.")):
        stored |= list_tensors(generation / folder, SOURCES, prefix=prefix)
    if bridge:
        trained = list_tensors(bridge, SOURCES)
        if foreign := sorted(name for name in trained if not name.startswith(BRIDGE)):
            raise BadCheckpoint(f"{bridge} holds {len(foreign)} tensors of no bridge, such as {foreign[0]}")
        stored |= trained
    return stored


@contextmanager
def _whole(out: Path, num_bytes: int) -> Iterator[Path]:
    """Yield a folder to fill, and put it in its place when that went well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < num_bytes:
        raise OSError(f"{out} needs {num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
