"""What the frozen understanding expert says of the samples, computed once and reused at every step.

prefill/expert.txt                      which expert said it
        <group>-asked-{kv,places}.npy   keys and values of the prompts
        <group>-blank-{kv,places}.npy   of the same prompts without words, for guidance
        <group>-seen.npy                vision features of the pictures to make, for the reconstruction loss
        <group>-samples.txt             of which samples all that is

Shapes: N samples, U packed tokens, L tokens of a prompt, P bridged pairs, K key heads, D head dim,
S learned tokens, W understanding width.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from model.hbridge.contexts import PackedContexts
from model.hbridge.family import HBridge
from model.prompt import Prompt
from model.qwen_vl.context import KVContext
from model.qwen_vl.patches import cut
from training.drawings import Group, Sample, holds, mark_samples, sample, write_array
from training.world import render

AT_ONCE = 64
Floats = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Prefill:
    """Keys and values [L, P, 2, K, D] of one prompt, and the first free multimodal position after it."""

    kv_LP2KD: Floats
    next_id: int


def packed(prefills: Sequence[Prefill]) -> PackedContexts:
    """Pack prefills as the network reads them."""
    kv_UP2KD = torch.from_numpy(np.concatenate([each.kv_LP2KD for each in prefills])).float()
    keys_UPKD, values_UPKD = kv_UP2KD.unbind(2)
    return PackedContexts(
        lengths=tuple(len(each.kv_LP2KD) for each in prefills),
        next_ids=tuple(each.next_id for each in prefills),
        keys=keys_UPKD.unbind(1),
        values=values_UPKD.unbind(1),
    )


class Prefills:
    """All that the expert says of one group's samples, float16 on disk.

    Raises:
        FileNotFoundError: The stage "prefill" has not run.
    """

    def __init__(self, folder: Path, group: Group) -> None:
        self.group = group
        if not (folder / f"{group.name}-seen.npy").exists():
            raise FileNotFoundError(f"{folder} lacks {group.name}; run stage prefill first")
        self._asked, self._blank = (_Prompts(folder, f"{group.name}-{name}") for name in ("asked", "blank"))
        self._seen: Floats = np.load(folder / f"{group.name}-seen.npy", mmap_mode="r")

    def prompt(self, index: int, *, blank: bool) -> Prefill:
        """Return what a sample's prompt left, or the same prompt without its words."""
        if not blank:
            return self._asked[index]
        return self._blank[index if self.group.is_edit else 0]

    def seen(self, indices: Sequence[int]) -> Tensor:
        """Return the vision features of the pictures to make, pooled to one per learned token: [N, S, W]."""
        return torch.from_numpy(self._seen[list(indices)].astype(np.float32))


class _Prompts:
    def __init__(self, folder: Path, name: str) -> None:
        self._kv: Floats = np.load(folder / f"{name}-kv.npy", mmap_mode="r")
        self._places: NDArray[np.int64] = np.load(folder / f"{name}-places.npy")

    def __getitem__(self, index: int) -> Prefill:
        start, end, next_id = self._places[index]
        return Prefill(self._kv[start:end], int(next_id))


def fill_prefills(folder: Path, group: Group, family: HBridge) -> None:
    """Ask the expert about a group's samples once; what is there already is left alone.

    Raises:
        ValueError: What is there was said by another expert, or of other samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark, ours = folder / "expert.txt", _fingerprint(family.expert)
    if mark.exists() and mark.read_text() != ours:
        raise ValueError(f"{folder} holds what another expert said; move it away and run stage prefill again")
    mark.write_text(ours)
    mark_samples(folder, group)
    seen = folder / f"{group.name}-seen.npy"
    if holds(seen, group.count):
        return
    _write_prompts(folder, f"{group.name}-asked", family, group.count, lambda i: asked(sample(group, i)))
    blanks = group.count if group.is_edit else 1
    _write_prompts(folder, f"{group.name}-blank", family, blanks, lambda i: unasked(sample(group, i)))
    features = [
        see(family, [render(sample(group, index).after) for index in indices]).numpy().astype(np.float16)
        for indices in _portions(group.count, f"looking at {group.name}")
    ]
    write_array(seen, np.concatenate(features))


def asked(each: Sample) -> Prompt:
    """Ask for a sample."""
    return Prompt.draw(each.text, () if each.before is None else (render(each.before),))


def unasked(each: Sample) -> Prompt:
    """Ask for a sample without words."""
    return Prompt.draw("", asked(each).images)


@torch.no_grad()
def see(family: HBridge, pictures: Sequence[Image]) -> Tensor:
    """Return vision features of pictures, pooled to a cell for each learned token: [N, S, W], float32.

    Source: HBridge, arXiv:2511.20520, semantic reconstruction tokens.
    """
    vision = family.config.understanding.vision
    assert vision is not None, "the reconstruction loss needs a vision tower"
    images = [cut(picture, vision) for picture in pictures]
    features = torch.split(family.expert.see(images).float(), [image.num_tokens for image in images])
    side = math.isqrt(family.config.srt_count)
    pooled = [
        adaptive_avg_pool2d(torch.unflatten(each_TW.mT, 1, (image.rows, image.columns)), side)
        for each_TW, image in zip(features, images, strict=True)
    ]
    return torch.stack(pooled).flatten(2).mT


@torch.no_grad()
def _write_prompts(
    folder: Path, name: str, family: HBridge, count: int, prompt: Callable[[int], Prompt]
) -> None:
    kv: list[Floats] = []
    places: list[tuple[int, int, int]] = []
    end = 0
    for indices in _portions(count, f"prefilling {name}"):
        for context in family.prefill([prompt(index) for index in indices]):
            context = cast(KVContext, context)
            pairs = zip(context.keys, context.values, strict=True)
            kv_LP2KD = torch.stack([torch.stack(pair, 1) for pair in pairs], 1)
            kv.append(kv_LP2KD.numpy().astype(np.float16))
            places.append((end, end + context.num_tokens, context.next_id))
            end += context.num_tokens
    write_array(folder / f"{name}-kv.npy", np.concatenate(kv))
    write_array(folder / f"{name}-places.npy", np.array(places))


def _portions(count: int, description: str) -> Iterator[range]:
    starts = range(0, count, AT_ONCE)
    for start in track(starts, description=description):
        yield range(start, min(start + AT_ONCE, count))


def _fingerprint(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for _, p in sorted(module.named_parameters()):
        digest.update(p.detach().float().numpy().tobytes())
    return digest.hexdigest()
