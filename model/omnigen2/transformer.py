"""The OmniGen2 diffusion transformer on packed rows: each row has its own sizes, time, text and references.

`ImageTransformer` is the part that reads images and time; `OmniGen2Transformer` adds the text features.
Parameter names are those of the released checkpoint.

Shapes: R rows, M different flow times, T packed tokens, L tokens of a text, F text feature width, h width,
C latent channels, Y and X latent rows and columns.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
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
from model.omnigen2.blocks import KEPT_STREAMS, ModulatedBlock, Moments, OutputNorm, PlainBlock, Stream
from model.omnigen2.config import MAX_REFERENCES, TIME_CHANNELS, OmniGen2Config
from model.omnigen2.layout import Grid, Images, image_ids, joint_ids, text_ids
from model.omnigen2.stack import Runner, Stack, StackInputs, run_as_is


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
    """Embedders, refiners, joint layers and output head; who calls the layers decides what they see.

    Attributes:
        backend: How attention is computed, unless a call says otherwise.
        runner: How stacks of blocks are computed.
    """

    def __init__(self, config: OmniGen2Config, *, has_text: bool = False) -> None:
        super().__init__()
        self.config = config
        self.backend: Backend = "sdpa"
        self.runner: Runner = run_as_is
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

    def embed_times(self, rows: Sequence[Row]) -> Moments:
        """Embed the flow times of rows; those that are the same once."""
        sharing = Sharing.of([row.time for row in rows])
        times = [row.time for row in sharing.pick(rows)]
        times_M = torch.tensor(times, dtype=torch.float32, device=self.x_embedder.weight.device)
        sinusoid_MZ = time_sinusoid(times_M, TIME_CHANNELS, self.config.timestep_scale)
        return Moments(silu(self.time_caption_embed.timestep_embedder(sinusoid_MZ)), sharing.places)

    def noise_stream(self, images: Images, moments: Moments, backend: Backend) -> Stream:
        """Pack every row's noise alone."""
        return self._image_stream(images.noise, moments, backend)

    def embed_noise(self, rows: Sequence[Row], images: Images, moments: Moments, backend: Backend) -> Tensor:
        """Embed and refine the pictures in the making: packed [T, h].

        Rows that share a latent and a time, such as the guidance branches of a picture, are refined once.
        """
        sharing = Sharing.of([(id(row.latent_CYX), row.time) for row in rows])
        grids = sharing.pick(images.noise)
        moments = moments.of(sharing.firsts)
        stream = self._image_stream(grids, moments, backend)
        x_Th = self._embed(self.x_embedder, [row.latent_CYX for row in sharing.pick(rows)], grids)
        x_Th = self.run("noise_refiner", self.noise_refiner, x_Th, moments, stream)
        return sharing.spread(x_Th, list(map(prod, grids)))

    def embed_references(
        self, rows: Sequence[Row], images: Images, moments: Moments, backend: Backend
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
        moments = moments.of([i for i, _, _ in picked])
        stream = self._image_stream(grids, moments, backend)
        index_BZh = [
            self.image_index_embedding[j].expand(length, -1)
            for (_, j, _), length in zip(picked, lengths, strict=True)
        ]
        latents = [latent_CYX for _, _, latent_CYX in picked]
        x_Th = self._embed(self.ref_image_patch_embedder, latents, grids) + torch.cat(index_BZh)
        x_Th = self.run("ref_image_refiner", self.ref_image_refiner, x_Th, moments, stream)
        return sharing.spread(x_Th, lengths)

    def velocities(
        self, x_Th: Tensor, grids: Sequence[Grid], moments: Moments, stream: Stream
    ) -> list[Tensor]:
        """Read the velocity [C, Y, X] of each row off its noise tokens, float32."""
        patches_TZ = self.norm_out(x_Th, moments.condition_Me, stream)
        return unpatchify(patches_TZ.float(), grids, self.config.patch_size)

    def run(
        self, name: str, blocks: Iterable[nn.Module], x_Th: Tensor, moments: Moments, stream: Stream
    ) -> Tensor:
        """Pass tokens through some of the blocks, in the runner's way."""
        inputs = StackInputs(x_Th=x_Th, condition_Me=moments.condition_Me, stream=stream)
        return self.runner(Stack(name, list(blocks)), inputs)

    def _image_stream(self, grids: Sequence[Grid], moments: Moments, backend: Backend) -> Stream:
        device = self.x_embedder.weight.device
        return _image_stream(tuple(grids), moments.places, self.config, backend=backend, device=device)

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


@lru_cache(maxsize=KEPT_STREAMS)
@torch.inference_mode(mode=False)
def _image_stream(
    grids: tuple[Grid, ...],
    places: tuple[int, ...],
    config: OmniGen2Config,
    *,
    backend: Backend,
    device: torch.device,
) -> Stream:
    """Pack images alone; outside inference mode, so that what is kept also serves training."""
    ids_T3 = torch.cat([image_ids(0, grid) for grid in grids])
    return Stream.of(tuple(map(prod, grids)), ids_T3.to(device), config, backend, places=places)


@lru_cache(maxsize=KEPT_STREAMS)
@torch.inference_mode(mode=False)
def _joint_stream(
    num_text: tuple[int, ...],
    images: Images,
    places: tuple[int, ...],
    config: OmniGen2Config,
    *,
    backend: Backend,
    device: torch.device,
) -> Stream:
    """Pack rows of text, references and noise; as _image_stream."""
    lengths = tuple(map(sum, zip(num_text, images.reference_lengths, images.noise_lengths, strict=True)))
    ids_T3 = torch.cat(list(map(joint_ids, num_text, images.references, images.noise)))
    return Stream.of(lengths, ids_T3.to(device), config, backend, places=places)


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
        self, rows: Sequence[Row], texts: Sequence[Tensor], *, backend: Backend | None = None
    ) -> list[Tensor]:
        """Predict the velocity [C, Y, X] of each row, float32.

        Args:
            rows: Latents, times and references; contexts are not read.
            texts: Refined text [L, h] of each row, from refine_texts.
            backend: Of the attention; the network's own when left out.
        """
        backend = backend or self.backend
        images = Images.of(rows, self.config.patch_size)
        moments = self.embed_times(rows)
        noise = self.noise_stream(images, moments, backend)
        reference_Th = self.embed_references(rows, images, moments, backend)
        noise_Th = self.embed_noise(rows, images, moments, backend)
        num_text = tuple(map(len, texts))
        lengths = list(zip(num_text, images.reference_lengths, images.noise_lengths, strict=True))
        streams = torch.cat(list(texts)), reference_Th, noise_Th
        x_Th = interleave(*zip(streams, zip(*lengths, strict=True), strict=True))
        layout = num_text, images, moments.places, self.config
        joint = _joint_stream(*layout, backend=backend, device=x_Th.device)
        x_Th = self.run("layers", self.layers, x_Th, moments, joint)
        return self.velocities(part(x_Th, lengths, 2), images.noise, moments, noise)

    def refine_texts(self, features: Sequence[Tensor], *, backend: Backend | None = None) -> list[Tensor]:
        """Embed and refine text features [L, F], each text alone: [L, h], each in memory of its own.

        It depends on no time and no image, so it is done once for all steps.
        """
        packed_TF = torch.cat(list(features)).to(self.x_embedder.weight)
        lengths = tuple(map(len, features))
        ids_T3 = torch.cat([text_ids(0, length) for length in lengths])
        stream = Stream.of(lengths, ids_T3.to(packed_TF.device), self.config, backend or self.backend)
        x_Th: Tensor = self.time_caption_embed.caption_embedder(packed_TF)
        for block in self.context_refiner:
            x_Th = block(x_Th, stream)
        texts = torch.split(x_Th, list(lengths))
        return [text_Lh.clone() for text_Lh in texts] if len(texts) > 1 else list(texts)
