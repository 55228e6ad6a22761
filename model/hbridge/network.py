"""The bridged generation network on packed rows.

It reads rows and the understanding side's keys and values, and knows nothing of prompts, steps or guidance.
Training and inference use the same module.

Shapes: R rows, T packed generation tokens, U packed understanding tokens, h width, N learned
(SRT) tokens, K key heads, D head dim, C latent channels, Y and X latent rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from model.attention import Backend, Segments
from model.family import Row
from model.hbridge.bridge import Bridge, BridgedStack, BridgeSide, BridgeStream
from model.hbridge.config import HBridgeConfig
from model.hbridge.contexts import PackedContexts
from model.hbridge.positions import SrtPosition, bridge_ids, self_ids
from model.layers import Sharing, interleave, part
from model.omnigen2.blocks import KEPT_STREAMS, ModulatedBlock, Moments, Stream
from model.omnigen2.config import OmniGen2Config
from model.omnigen2.layout import Images
from model.omnigen2.stack import StackInputs
from model.omnigen2.transformer import ImageTransformer
from model.qwen_vl.config import QwenVLConfig
from model.qwen_vl.context import KVContext
from model.rope import mrope_table


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOutput:
    """What one packed call gives.

    Attributes:
        velocities: [C, Y, X] of each row, float32.
        srt_RNh: The learned tokens after the last layer, for the reconstruction loss.
        attention: For each bridged pair, the share of attention on understanding keys; empty unless asked.
    """

    velocities: list[Tensor]
    srt_RNh: Tensor
    attention: dict[int, Tensor]


class HBridgeNetwork(nn.Module):
    """The generation expert, its bridges to the understanding expert, and the learned tokens.

    Source: HBridge, arXiv:2511.20520, for the design; see docs for what is this project's own decision.
    """

    def __init__(self, config: HBridgeConfig) -> None:
        super().__init__()
        self.config = config
        self.gen = ImageTransformer(config.positioned_generation)
        self.bridge = nn.ModuleDict({str(pair): Bridge(config) for pair in config.pairs})
        width = config.generation.hidden_size
        self.srt_tokens = nn.Parameter(torch.empty(config.srt_count, width).normal_(std=0.02))
        self.srt_proj = nn.Linear(width, config.understanding.hidden_size)

    def forward(
        self,
        rows: Sequence[Row],
        *,
        contexts: PackedContexts | None = None,
        backend: Backend | None = None,
        record_attention: bool = False,
    ) -> NetworkOutput:
        """Predict the velocities of packed rows.

        Args:
            rows: Latents, times, references and contexts.
            contexts: The rows' contexts when already packed; then those in `rows` are not read.
            backend: Of the attention; the network's own when left out.
            record_attention: Whether to measure how much the generation tokens look at the prompt.
        """
        backend = backend or self.gen.backend
        if contexts is None:
            contexts = PackedContexts.of([cast(KVContext, row.context) for row in rows], self.config.pairs)
        images = Images.of(rows, self.config.generation.patch_size)
        moments = self.gen.embed_times(rows)
        x_Th = self._unread(rows, backend)
        stream = self._stream(images, moments, backend)
        bridged = self._bridge_stream(images, contexts, backend)
        side = BridgeSide(bridged, contexts.keys, contexts.values)
        inputs = StackInputs(x_Th=x_Th, condition_Me=moments.condition_Me, stream=stream, side=side)
        masses: list[Tensor] = []
        stack = BridgedStack("bridged", self._read_layers, masses if record_attention else None)
        x_Th = stack(inputs) if record_attention else self.gen.runner(stack, inputs)
        lengths = self._lengths(images)
        noise = self.gen.noise_stream(images, moments, backend)
        velocities = self.gen.velocities(part(x_Th, lengths, 2), images.noise, moments, noise)
        srt_RNh = torch.unflatten(part(x_Th, lengths, 1), 0, (len(rows), -1))
        attention = dict(zip(self.config.pairs, masses, strict=False))
        return NetworkOutput(velocities=velocities, srt_RNh=srt_RNh, attention=attention)

    def _unread(self, rows: Sequence[Row], backend: Backend) -> Tensor:
        """Return the joined tokens before the first bridged layer, where no prompt has been read yet.

        Rows that differ in nothing but their prompts, such as guidance branches, come this far as one.
        """
        sharing = Sharing.of([(id(row.latent_CYX), row.time, *map(id, row.references)) for row in rows])
        rows = sharing.pick(rows)
        images = Images.of(rows, self.config.generation.patch_size)
        moments = self.gen.embed_times(rows)
        reference_Th = self.gen.embed_references(rows, images, moments, backend)
        noise_Th = self.gen.embed_noise(rows, images, moments, backend)
        first = self.config.prefix_layers if self.config.prefix_scope == "noise" else 0
        alone = self.gen.noise_stream(images, moments, backend)
        noise_Th = self.gen.run("prefix", self.gen.layers[:first], noise_Th, moments, alone)
        lengths = self._lengths(images)
        parts = reference_Th, self.srt_tokens.repeat(len(rows), 1), noise_Th
        x_Th = interleave(*zip(parts, zip(*lengths, strict=True), strict=True))
        stream = self._stream(images, moments, backend)
        layers = self.gen.layers[first : self.config.first_bridged_layer]
        x_Th = self.gen.run("unread", layers, x_Th, moments, stream)
        return sharing.spread(x_Th, list(map(sum, lengths)))

    @property
    def _srt(self) -> tuple[int, SrtPosition]:
        return self.config.srt_count, self.config.srt_position

    def _lengths(self, images: Images) -> list[tuple[int, int, int]]:
        return row_lengths(images, self.config.srt_count)

    def _stream(self, images: Images, moments: Moments, backend: Backend) -> Stream:
        """Return what the unbridged layers share."""
        layout = images, self._srt, moments.places, self.gen.config
        return _self_stream(*layout, backend=backend, device=self.srt_tokens.device)

    def _bridge_stream(self, images: Images, contexts: PackedContexts, backend: Backend) -> BridgeStream:
        """Return what the bridged layers share."""
        return _bridge_stream(
            images,
            self._srt,
            und_lengths=contexts.lengths,
            next_ids=contexts.next_ids,
            und=self.config.understanding,
            backend=backend,
            dtype=self.srt_tokens.dtype,
            device=self.srt_tokens.device,
        )

    @property
    def _read_layers(self) -> list[tuple[ModulatedBlock, Bridge | None, int]]:
        """The layers from the first bridged one on, each with its bridge and the bridge's place among all."""
        first, prefix = self.config.first_bridged_layer, self.config.prefix_layers
        pairs = [index - prefix for index in range(first, self.config.generation.num_layers)]
        bridges = [self.bridge[str(pair)] if pair in self.config.pairs else None for pair in pairs]
        places = [pair - self.config.skip_first for pair in pairs]
        return list(zip(cast(Any, self.gen.layers[first:]), cast(Any, bridges), places, strict=True))


def row_lengths(images: Images, num_srt: int) -> list[tuple[int, int, int]]:
    """Return each row's reference, learned and noise tokens."""
    srt = (num_srt,) * len(images.noise)
    return list(zip(images.reference_lengths, srt, images.noise_lengths, strict=True))


@lru_cache(maxsize=KEPT_STREAMS)
@torch.inference_mode(mode=False)
def _self_stream(
    images: Images,
    srt: tuple[int, SrtPosition],
    places: tuple[int, ...],
    config: OmniGen2Config,
    *,
    backend: Backend,
    device: torch.device,
) -> Stream:
    """Prepare what the unbridged layers share; outside inference mode, so that it also serves training."""
    ids_T3 = torch.cat(
        [self_ids(*grids, *srt) for grids in zip(images.references, images.noise, strict=True)]
    )
    lengths = tuple(map(sum, row_lengths(images, srt[0])))
    return Stream.of(lengths, ids_T3.to(device), config, backend, places=places)


@lru_cache(maxsize=KEPT_STREAMS)
@torch.inference_mode(mode=False)
def _bridge_stream(
    images: Images,
    srt: tuple[int, SrtPosition],
    *,
    und_lengths: tuple[int, ...],
    next_ids: tuple[int, ...],
    und: QwenVLConfig,
    backend: Backend,
    dtype: torch.dtype,
    device: torch.device,
) -> BridgeStream:
    """Prepare what the bridged layers share; as _self_stream."""
    placed = zip(images.references, images.noise, next_ids, strict=True)
    ids_T3 = torch.cat([bridge_ids(*grids, *srt) + next_id for *grids, next_id in placed])
    table = mrope_table(ids_T3.to(device), und.mrope_section, und.rope_theta)
    lengths = tuple(map(sum, row_lengths(images, srt[0])))
    kv_lengths = tuple(map(sum, zip(und_lengths, lengths, strict=True)))
    segments = Segments(lengths, kv_lengths, backend=backend, before_lengths=und_lengths)
    cos_TD, sin_TD = (each.to(dtype) for each in table)
    return BridgeStream(segments, cos_TD, sin_TD)
