"""Floating-point operations of the hbridge family."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from model.family import Context, Depth, PreparedPrompt, Row, TextRow
from model.flops import AutoencoderFlops, attention, per_token
from model.hbridge.config import HBridgeConfig
from model.hbridge.network import HBridgeNetwork, row_lengths
from model.layers import Sharing
from model.omnigen2.flops import ImageFlops, num_times
from model.omnigen2.layout import Images
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.flops import ExpertFlops
from model.qwen_vl.prepared_tokens import PreparedTokens


class HBridgeFlops:
    """Of the calls of one hbridge checkpoint."""

    def __init__(self, config: HBridgeConfig, network: HBridgeNetwork, expert: QwenVL) -> None:
        self._config = config
        self._images = ImageFlops(network.gen)
        self._bridges = per_token(network.bridge)
        self._expert = ExpertFlops(expert)
        self._autoencoder = AutoencoderFlops(config.vae)

    def prefill(self, prompts: Sequence[PreparedPrompt], prefixes: Sequence[Context | None]) -> int:
        """Count a packed prefill: questions go on to the logits, drawings stop at the last bridged pair."""
        total = 0
        for is_question in (False, True):
            chosen = [i for i, each in enumerate(prompts) if (each.depth is Depth.ANSWER) == is_question]
            total += self._expert.prefill(
                [cast(PreparedTokens, prompts[i]).prompt for i in chosen],
                [prefixes[i] for i in chosen],
                keep=self._config.pairs,
                num_logits=len(chosen) if is_question else 0,
            )
        return total

    def encode(self, latents: Sequence[Tensor]) -> int:
        """Count what it took to encode references to these latents [C, Y, X]."""
        return self._autoencoder.encode(latents)

    def velocity(self, rows: Sequence[Row]) -> int:
        """Count a packed step: what rows share before the first bridged layer is computed once."""
        images = Images.of(rows, self._config.generation.patch_size)
        lengths = list(map(sum, row_lengths(images, self._config.srt_count)))
        num_layers = self._config.generation.num_layers
        num_unbridged = num_layers - self._config.first_bridged_layer - len(self._config.pairs)
        return (
            self._unread(rows)
            + self._images.times(rows)
            + self._bridged(rows, lengths)
            + self._images.blocks(num_unbridged, lengths, num_times(rows))
            + self._images.head(rows, images)
        )

    def decode(self, latents: Sequence[Tensor]) -> int:
        """Count the decoding of latents [C, Y, X]."""
        return self._autoencoder.decode(latents)

    def next_tokens(self, rows: Sequence[TextRow]) -> int:
        """Count a packed call of text decoding, before it is made."""
        return self._expert.next_tokens(rows)

    def _unread(self, rows: Sequence[Row]) -> int:
        """Count all before the first bridged layer, where rows that differ in their prompts are one."""
        rows = Sharing.of([(id(row.latent_CYX), row.time, *map(id, row.references)) for row in rows]).pick(
            rows
        )
        images = Images.of(rows, self._config.generation.patch_size)
        lengths = list(map(sum, row_lengths(images, self._config.srt_count)))
        moments = num_times(rows)
        num_alone = self._config.prefix_layers if self._config.prefix_scope == "noise" else 0
        num_joint = self._config.first_bridged_layer - num_alone
        return (
            self._images.times(rows)
            + self._images.references(rows, images)
            + self._images.noise(rows, images)
            + self._images.blocks(num_alone, images.noise_lengths, moments)
            + self._images.blocks(num_joint, lengths, moments)
        )

    def _bridged(self, rows: Sequence[Row], lengths: Sequence[int]) -> int:
        """Count the bridged layers: the layer's own projections, the bridge's, attention over both sides."""
        num_pairs = len(self._config.pairs)
        own = self._images.block * sum(lengths) + self._images.modulation * num_times(rows)
        seen = sum(
            length * (length + row.context.num_tokens) for row, length in zip(rows, lengths, strict=True)
        )
        attended = attention(self._config.understanding.hidden_size, seen)
        return num_pairs * (own + attended) + self._bridges * sum(lengths)
