"""The OmniGen2 diffusion transformer on packed rows: each row has its own sizes, time, text and references.

`ImageTransformer` is the part that reads images and time; `OmniGen2Transformer` adds the text features.
Parameter names are those of the released checkpoint.

Shapes: R rows, T packed tokens, L text tokens, F text feature width, h width, e time width, C latent
channels, Y and X latent rows and columns.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from model.attention import Backend
from model.family import Row
from model.layers import (
    RMSNorm,
    Sharing,
    TimestepEmbedding,
    interleave,
    part,
    patchify,
    time_sinusoid,
    unpatchify,
)
from model.omnigen2.blocks import ModulatedBlock, OutputNorm, PlainBlock, Stream
from model.omnigen2.config import MAX_REFERENCES, TIME_CHANNELS, OmniGen2Config
from model.omnigen2.layout import Grid, Images, image_ids, joint_ids, text_ids


class TimeCaptionEmbedding(nn.Module):
    """The embedders of time and, where the network reads text features, of text."""

    def __init__(self, config: OmniGen2Config, *, has_text: bool) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(TIME_CHANNELS, config.time_width)
        if has_text:
            self.caption_embedder = nn.Sequential(
                RMSNorm(config.text_feat_dim, eps=config.norm_eps),
                nn.Linear(config.text_feat_dim, config.hidden_size),
            )


class ImageTransformer(nn.Module):
    """Embedders, refiners, joint layers and output head; who calls the layers decides what they see."""

    def __init__(self, config: OmniGen2Config, *, has_text: bool = False) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = nn.Linear(config.patch_channels, config.hidden_size)
        self.ref_image_patch_embedder = nn.Linear(config.patch_channels, config.hidden_size)
        self.image_index_embedding = nn.Parameter(
            torch.empty(MAX_REFERENCES, config.hidden_size).normal_(std=0.02)
        )
        self.time_caption_embed = TimeCaptionEmbedding(config, has_text=has_text)
        if config.learned_positions:
            tables = torch.empty(2, config.max_learned_positions, config.hidden_size).normal_(std=0.02)
            self.row_embedding, self.column_embedding = (
                nn.Parameter(tables[0].clone()),
                nn.Parameter(tables[1].clone()),
            )
        self.noise_refiner = _blocks(config, config.num_refiner_layers)
        self.ref_image_refiner = _blocks(config, config.num_refiner_layers)
        self.layers = _blocks(config, config.num_layers)
        self.norm_out = OutputNorm(config)

    def embed_times(self, times_R: Tensor) -> Tensor:
        """Return silu of the time embedding of each row: [R, e].

        Args:
            times_R: Flow times in [0, 1], float32.
        """
        sinusoid_RZ = time_sinusoid(times_R, TIME_CHANNELS, self.config.timestep_scale)
        return silu(self.time_caption_embed.timestep_embedder(sinusoid_RZ))

    def noise_stream(self, images: Images, backend: Backend) -> Stream:
        """Pack every row's noise alone."""
        return self._image_stream(images.noise, backend)

    def embed_noise(
        self, rows: Sequence[Row], images: Images, condition_Re: Tensor, backend: Backend
    ) -> Tensor:
        """Embed and refine the pictures in the making: packed [T, h].

        Rows that share a latent and a time, such as the guidance branches of a picture, are refined once.
        """
        sharing = Sharing.of([(id(row.latent_CYX), row.time) for row in rows])
        grids = sharing.pick(images.noise)
        stream, condition_Be = self._image_stream(grids, backend), _picked(condition_Re, sharing.firsts)
        x_Th = self._embed(self.x_embedder, [row.latent_CYX for row in sharing.pick(rows)], grids)
        for block in self.noise_refiner:
            x_Th = block(x_Th, condition_Be, stream)
        return sharing.spread(x_Th, list(map(prod, grids)))

    def embed_references(
        self, rows: Sequence[Row], images: Images, condition_Re: Tensor, backend: Backend
    ) -> Tensor:
        """Embed and refine reference images, each alone: packed [T, h], row by row.

        Rows that share a reference, its place and a time refine it once.
        """
        placed = [
            (i, j, latent_CYX) for i, row in enumerate(rows) for j, latent_CYX in enumerate(row.references)
        ]
        if not placed:
            return self.x_embedder.weight.new_empty(0, self.config.hidden_size)
        sharing = Sharing.of([(id(latent_CYX), j, rows[i].time) for i, j, latent_CYX in placed])
        picked = sharing.pick(placed)
        grids = [images.references[i][j] for i, j, _ in picked]
        lengths = list(map(prod, grids))
        stream = self._image_stream(grids, backend)
        condition_Be = _picked(condition_Re, [i for i, _, _ in picked])
        index_BZh = [
            self.image_index_embedding[j].expand(length, -1)
            for (_, j, _), length in zip(picked, lengths, strict=True)
        ]
        latents = [latent_CYX for _, _, latent_CYX in picked]
        x_Th = self._embed(self.ref_image_patch_embedder, latents, grids) + torch.cat(index_BZh)
        for block in self.ref_image_refiner:
            x_Th = block(x_Th, condition_Be, stream)
        return sharing.spread(x_Th, lengths)

    def velocities(
        self, x_Th: Tensor, grids: Sequence[Grid], condition_Re: Tensor, stream: Stream
    ) -> list[Tensor]:
        """Read the velocity [C, Y, X] of each row off its noise tokens, float32."""
        patches_TZ = self.norm_out(x_Th, condition_Re, stream)
        return unpatchify(patches_TZ.float(), grids, self.config.patch_size)

    def _image_stream(self, grids: Sequence[Grid], backend: Backend) -> Stream:
        ids_T3 = torch.cat([image_ids(0, grid) for grid in grids])
        lengths = tuple(rows * columns for rows, columns in grids)
        return Stream.of(lengths, ids_T3.to(self.x_embedder.weight.device), self.config, backend)

    def _embed(self, embedder: nn.Module, latents: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
        weight = self.x_embedder.weight
        x_Th: Tensor = embedder(patchify(latents, self.config.patch_size).to(weight)).to(weight.dtype)
        if not self.config.learned_positions:
            return x_Th
        places = {grid: self._places(grid) for grid in set(grids)}
        return x_Th + torch.cat([places[grid] for grid in grids])

    def _places(self, grid: Grid) -> Tensor:
        rows, columns = grid
        return (self.row_embedding[:rows, None] + self.column_embedding[:columns]).flatten(0, 1)


def _picked(condition_Re: Tensor, rows: Sequence[int]) -> Tensor:
    return condition_Re.index_select(0, torch.tensor(rows, device=condition_Re.device))


def _blocks(config: OmniGen2Config, num: int) -> nn.ModuleList:
    return nn.ModuleList(ModulatedBlock(config) for _ in range(num))


class OmniGen2Transformer(ImageTransformer):
    """Text features, references and noise in one bidirectional stack.

    Source: OmniGen2, Wu et al. 2025, arXiv:2506.18871.
    """

    def __init__(self, config: OmniGen2Config) -> None:
        super().__init__(config, has_text=True)
        self.context_refiner = nn.ModuleList(PlainBlock(config) for _ in range(config.num_refiner_layers))

    def forward(
        self, rows: Sequence[Row], texts: Sequence[Tensor], *, backend: Backend = "sdpa"
    ) -> list[Tensor]:
        """Predict the velocity [C, Y, X] of each row, float32.

        Args:
            rows: Latents, times and references; contexts are not read.
            texts: Text features [L, F] of each row.
            backend: Of the attention.
        """
        images = Images.of(rows, self.config.patch_size)
        times_R = torch.tensor([row.time for row in rows], device=self.x_embedder.weight.device)
        condition_Re = self.embed_times(times_R)
        noise = self.noise_stream(images, backend)
        text_Th = self.embed_texts(texts, backend)
        reference_Th = self.embed_references(rows, images, condition_Re, backend)
        noise_Th = self.embed_noise(rows, images, condition_Re, backend)
        num_text = [len(text_LF) for text_LF in texts]
        lengths = list(zip(num_text, images.reference_lengths, images.noise_lengths, strict=True))
        x_Th = interleave(*zip((text_Th, reference_Th, noise_Th), zip(*lengths, strict=True), strict=True))
        ids_T3 = torch.cat(list(map(joint_ids, num_text, images.references, images.noise)))
        joint = Stream.of(tuple(map(sum, lengths)), ids_T3.to(x_Th.device), self.config, backend)
        for block in self.layers:
            x_Th = block(x_Th, condition_Re, joint)
        return self.velocities(part(x_Th, lengths, 2), images.noise, condition_Re, noise)

    def embed_texts(self, texts: Sequence[Tensor], backend: Backend) -> Tensor:
        """Embed and refine text features, each text alone: packed [T, h]; depends on no time and no image."""
        packed_TF = torch.cat(list(texts)).to(self.x_embedder.weight)
        lengths = tuple(len(text_LF) for text_LF in texts)
        ids_T3 = torch.cat([text_ids(0, length) for length in lengths])
        stream = Stream.of(lengths, ids_T3.to(packed_TF.device), self.config, backend)
        x_Th: Tensor = self.time_caption_embed.caption_embedder(packed_TF)
        for block in self.context_refiner:
            x_Th = block(x_Th, stream)
        return x_Th
