"""Floating-point operations of the OmniGen2 transformer, and of the part of it that reads images and time."""

from collections.abc import Sequence
from math import prod
from typing import cast

from torch import Tensor

from model.family import Context, PreparedPrompt, Row, TextRow
from model.flops import AutoencoderFlops, attention, lengths_of_different, per_token
from model.omnigen2.blocks import ModulatedBlock, PlainBlock
from model.omnigen2.config import OmniGen2CheckpointConfig
from model.omnigen2.layout import Images
from model.omnigen2.transformer import ImageTransformer, OmniGen2Transformer
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.flops import ExpertFlops
from model.qwen_vl.prepared_tokens import PreparedTokens


class ImageFlops:
    """Of embedders, refiners, joint layers and head: per token, and per different flow time."""

    def __init__(self, network: ImageTransformer) -> None:
        config = network.config
        block = cast(ModulatedBlock, network.layers[0])
        self.width, self.patch = config.hidden_size, config.patch_size
        self.modulation = per_token(block.norm1)
        self.block = per_token(block) - self.modulation
        self._num_refiners = config.num_refiner_layers
        self._noise = per_token(network.x_embedder)
        self._reference = per_token(network.ref_image_patch_embedder)
        self._time = per_token(network.time_caption_embed.timestep_embedder)
        self._head_time = per_token(network.norm_out.linear_1)
        self._head = per_token(network.norm_out.linear_2)

    def times(self, rows: Sequence[Row]) -> int:
        """Count the embedding of the rows' flow times."""
        return self._time * num_times(rows)

    def blocks(self, count: int, lengths: Sequence[int], num_times: int) -> int:
        """Count layers over segments that attend to themselves."""
        passed = self.block * sum(lengths) + self.modulation * num_times
        return count * (passed + attention(self.width, sum(length**2 for length in lengths)))

    def noise(self, rows: Sequence[Row], images: Images) -> int:
        """Count the embedding and refining of pictures in the making, different ones once."""
        keyed = zip(rows, images.noise_lengths, strict=True)
        lengths = lengths_of_different(((id(row.latent_CYX), row.time), length) for row, length in keyed)
        return self._noise * sum(lengths) + self.blocks(self._num_refiners, lengths, num_times(rows))

    def references(self, rows: Sequence[Row], images: Images) -> int:
        """Count the embedding and refining of references, different ones once."""
        lengths = lengths_of_different(
            ((id(latent_CYX), place, row.time), prod(grid))
            for row, grids in zip(rows, images.references, strict=True)
            for place, (latent_CYX, grid) in enumerate(zip(row.references, grids, strict=True))
        )
        moments = num_times([row for row in rows if row.references])
        return self._reference * sum(lengths) + self.blocks(self._num_refiners, lengths, moments)

    def head(self, rows: Sequence[Row], images: Images) -> int:
        """Count the reading of the velocities."""
        return self._head * sum(images.noise_lengths) + self._head_time * num_times(rows)


class OmniGen2Flops:
    """Of the calls of one omnigen2 checkpoint."""

    def __init__(
        self, config: OmniGen2CheckpointConfig, transformer: OmniGen2Transformer, expert: QwenVL | None
    ) -> None:
        self._images = ImageFlops(transformer)
        self._config = config.transformer
        self._caption = per_token(transformer.time_caption_embed.caption_embedder)
        self._refiner = per_token(*cast(Sequence[PlainBlock], transformer.context_refiner))
        self._autoencoder = AutoencoderFlops(config.vae)
        self._expert = None if expert is None else ExpertFlops(expert)

    def prefill(self, prompts: Sequence[PreparedPrompt], prefixes: Sequence[Context | None]) -> int:
        """Count the text features of prompts, embedded and refined."""
        assert self._expert, "who prefills has a language model"
        read = [cast(PreparedTokens, each).prompt for each in prompts]
        return self._expert.features(read) + self.refine([len(each.tokens) for each in read])

    def refine(self, lengths: Sequence[int]) -> int:
        """Count the embedding and refining of texts."""
        seen = attention(self._config.hidden_size, sum(length**2 for length in lengths))
        return (self._caption + self._refiner) * sum(lengths) + self._config.num_refiner_layers * seen

    def encode(self, latents: Sequence[Tensor]) -> int:
        """Count what it took to encode references to these latents [C, Y, X]."""
        return self._autoencoder.encode(latents)

    def velocity(self, rows: Sequence[Row]) -> int:
        """Count a packed step."""
        images = Images.of(rows, self._config.patch_size)
        texts = [row.context.num_tokens for row in rows]
        lengths = list(map(sum, zip(texts, images.reference_lengths, images.noise_lengths, strict=True)))
        network = self._images
        return (
            network.times(rows)
            + network.references(rows, images)
            + network.noise(rows, images)
            + network.blocks(self._config.num_layers, lengths, num_times(rows))
            + network.head(rows, images)
        )

    def decode(self, latents: Sequence[Tensor]) -> int:
        """Count the decoding of latents [C, Y, X]."""
        return self._autoencoder.decode(latents)

    def next_tokens(self, rows: Sequence[TextRow]) -> int:
        """Count nothing: this family answers no questions."""
        return 0


def num_times(rows: Sequence[Row]) -> int:
    """Count the different flow times of rows."""
    return len({row.time for row in rows})
