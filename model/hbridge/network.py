"""The bridged generation network on packed rows.

It reads rows and the understanding side's keys and values, and knows nothing of prompts, steps or guidance.
Training and inference use the same module.

Shapes: R rows, T packed generation tokens, U packed understanding tokens, h width, e time width, N learned
(SRT) tokens, K key heads, D head dim, C latent channels, Y and X latent rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.attention import Backend, Segments
from model.family import Row
from model.hbridge.bridge import Bridge, BridgeStream
from model.hbridge.config import HBridgeConfig
from model.hbridge.contexts import PackedContexts
from model.hbridge.positions import bridge_ids, self_ids
from model.layers import Sharing, interleave, part
from model.omnigen2.blocks import Attention, Mix, Stream
from model.omnigen2.layout import Images
from model.omnigen2.transformer import ImageTransformer
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
        backend: Backend = "sdpa",
        record_attention: bool = False,
    ) -> NetworkOutput:
        """Predict the velocities of packed rows.

        Args:
            rows: Latents, times, references and contexts.
            contexts: The rows' contexts when already packed; then those in `rows` are not read.
            backend: Of the attention.
            record_attention: Whether to measure how much the generation tokens look at the prompt.
        """
        if contexts is None:
            contexts = PackedContexts.of([cast(KVContext, row.context) for row in rows], self.config.pairs)
        images = Images.of(rows, self.config.generation.patch_size)
        condition_Re = self._condition(rows)
        x_Th = self._unread(rows, backend)
        stream = self._stream(images, backend)
        bridged = self._bridge_stream(images, contexts, backend)
        masses: dict[int, Tensor] | None = {} if record_attention else None
        for index in range(self.config.first_bridged_layer, self.config.generation.num_layers):
            mix = self._mix(index - self.config.prefix_layers, bridged, contexts, masses)
            x_Th = self.gen.layers[index](x_Th, condition_Re, stream, mix)
        lengths = self._lengths(images)
        noise = self.gen.noise_stream(images, backend)
        velocities = self.gen.velocities(part(x_Th, lengths, 2), images.noise, condition_Re, noise)
        srt_RNh = torch.unflatten(part(x_Th, lengths, 1), 0, (len(rows), -1))
        return NetworkOutput(velocities=velocities, srt_RNh=srt_RNh, attention=masses or {})

    def _condition(self, rows: Sequence[Row]) -> Tensor:
        times_R = torch.tensor([row.time for row in rows], dtype=torch.float32, device=self.srt_tokens.device)
        return self.gen.embed_times(times_R)

    def _unread(self, rows: Sequence[Row], backend: Backend) -> Tensor:
        """Return the joined tokens before the first bridged layer, where no prompt has been read yet.

        Rows that differ in nothing but their prompts, such as guidance branches, come this far as one.
        """
        sharing = Sharing.of([(id(row.latent_CYX), row.time, *map(id, row.references)) for row in rows])
        rows = sharing.pick(rows)
        images = Images.of(rows, self.config.generation.patch_size)
        condition_Re = self._condition(rows)
        reference_Th = self.gen.embed_references(rows, images, condition_Re, backend)
        noise_Th = self.gen.embed_noise(rows, images, condition_Re, backend)
        first = self.config.prefix_layers if self.config.prefix_scope == "noise" else 0
        for layer in self.gen.layers[:first]:
            noise_Th = layer(noise_Th, condition_Re, self.gen.noise_stream(images, backend))
        lengths = self._lengths(images)
        parts = reference_Th, self.srt_tokens.repeat(len(rows), 1), noise_Th
        x_Th = interleave(*zip(parts, zip(*lengths, strict=True), strict=True))
        stream = self._stream(images, backend)
        for layer in self.gen.layers[first : self.config.first_bridged_layer]:
            x_Th = layer(x_Th, condition_Re, stream)
        return sharing.spread(x_Th, list(map(sum, lengths)))

    def _lengths(self, images: Images) -> list[tuple[int, int, int]]:
        """Return each row's reference, learned and noise tokens."""
        num_srt = (self.config.srt_count,) * len(images.noise)
        return list(zip(images.reference_lengths, num_srt, images.noise_lengths, strict=True))

    def _stream(self, images: Images, backend: Backend) -> Stream:
        """Prepare what the unbridged layers share."""
        srt = (self.config.srt_count, self.config.srt_position)
        ids_T3 = torch.cat(
            [self_ids(*grids, *srt) for grids in zip(images.references, images.noise, strict=True)]
        )
        lengths = tuple(map(sum, self._lengths(images)))
        return Stream.of(lengths, ids_T3.to(self.srt_tokens.device), self.gen.config, backend)

    def _bridge_stream(self, images: Images, contexts: PackedContexts, backend: Backend) -> BridgeStream:
        """Prepare what the bridged layers share."""
        srt, und = (self.config.srt_count, self.config.srt_position), self.config.understanding
        placed = zip(images.references, images.noise, contexts.next_ids, strict=True)
        ids_T3 = torch.cat([bridge_ids(*grids, *srt) + next_id for *grids, next_id in placed])
        table = mrope_table(ids_T3.to(self.srt_tokens.device), und.mrope_section, und.rope_theta)
        lengths = tuple(map(sum, self._lengths(images)))
        kv_lengths = tuple(map(sum, zip(contexts.lengths, lengths, strict=True)))
        segments = Segments(lengths, kv_lengths, backend=backend)
        cos_TD, sin_TD = (each.to(self.srt_tokens.dtype) for each in table)
        return BridgeStream(segments, contexts.lengths, cos_TD, sin_TD)

    def _mix(
        self, pair: int, stream: BridgeStream, contexts: PackedContexts, masses: dict[int, Tensor] | None
    ) -> Mix | None:
        """Return what takes the place of the layer's attention; None leaves it as it is."""
        if pair not in self.config.pairs:
            return None
        bridge = cast(Bridge, self.bridge[str(pair)])
        place = pair - self.config.skip_first
        und_UKD = contexts.keys[place], contexts.values[place]

        def mix(attention: Attention, u_Th: Tensor) -> Tensor:
            if masses is not None:
                masses[pair] = bridge.understanding_mass(attention, u_Th, stream, und_UKD)
            mixed_Th: Tensor = bridge(attention, u_Th, stream, und_UKD)
            return mixed_Th

        return mix
