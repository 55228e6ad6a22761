"""The OmniGen2 transformer as its release runs it, over our own parameters: what packing is compared with.

A pass takes samples as a padded batch, and whoever guides makes a pass for each branch. Every pass embeds and
refines text, references and noise, lays out position ids, gathers rotations from tables in float64, repeats
keys and values for their queries, and masks padding, whether there is any or not. Nothing is made slower than
it is there, and nothing faster.

Shapes: B samples or references, S padded tokens of one, T tokens of one, h width, e time width, H query
heads, K key heads, D head dim, E half of it, L text tokens, F text feature width, Z values of a patch.

Source: OmniGen2, Wu et al. 2025, arXiv:2506.18871, released transformer and pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, rms_norm, scaled_dot_product_attention, silu

from model.family import Row
from model.layers import GatedFeedForward, RMSNorm, patchify, time_sinusoid, unpatchify
from model.omnigen2.blocks import Attention, ModulatedBlock, PlainBlock
from model.omnigen2.config import TIME_CHANNELS
from model.omnigen2.layout import Grid, Images, axis_starts
from model.omnigen2.transformer import OmniGen2Transformer


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tokens of several sequences: which are real, and how each is rotated (complex128)."""

    x_BSh: Tensor
    is_real_BS: Tensor
    turns_BSE: Tensor


class PaddedTwin:
    """A network's twin.

    Args:
        network: Whose parameters it uses.
    """

    def __init__(self, network: OmniGen2Transformer) -> None:
        self.network, self.config = network, network.config
        sizes = zip(self.config.axes_dim_rope, self.config.axes_lens, strict=True)
        self._tables = [turns(length, dim, self.config.rope_theta) for dim, length in sizes]

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row], features_BLF: Tensor, is_text_BL: Tensor) -> list[Tensor]:
        """Predict the velocity [C, Y, X] of each row in one pass, float32.

        Args:
            rows: Latents, times and references; contexts are not read.
            features_BLF: Text features, padded on the right.
            is_text_BL: Which of them are real.
        """
        network, images = self.network, Images.of(rows, self.config.patch_size)
        num_text = cast(list[int], is_text_BL.sum(1).tolist())
        time_Be = self._embed_times(rows)
        turns_BSE = self._turns(num_text, images)
        text_BLh = self._refine_text(features_BLF, is_text_BL, num_text, turns_BSE)
        seen = [self._refine_references(row, images.references[i], time_Be[i], turns_BSE[i, num_text[i] :])
                for i, row in enumerate(rows)]  # fmt: skip
        noise_BSh = self._refine_noise(rows, images, time_Be, num_text, turns_BSE)
        joint = [
            torch.cat([text_BLh[i, : num_text[i]], seen[i], noise_BSh[i, :length]])
            for i, length in enumerate(images.noise_lengths)
        ]
        lengths = [len(x_Th) for x_Th in joint]
        batch = Batch(padded(joint), is_within(lengths), turns_BSE)
        x_BSh = self._run(cast(Sequence[ModulatedBlock], network.layers), batch, time_Be)
        scale_B1h = 1 + network.norm_out.linear_1(silu(time_Be))[:, None]
        y_BSZ = network.norm_out.linear_2(layer_norm(x_BSh, x_BSh.shape[-1:], eps=1e-6) * scale_B1h)
        patches = [
            y_BSZ[i, length - num_noise : length].float()
            for i, (length, num_noise) in enumerate(zip(lengths, images.noise_lengths, strict=True))
        ]
        return unpatchify(torch.cat(patches), images.noise, self.config.patch_size)

    def _embed_times(self, rows: Sequence[Row]) -> Tensor:
        times_B = torch.tensor([row.time for row in rows])
        sinusoid_BZ = time_sinusoid(times_B, TIME_CHANNELS, self.config.timestep_scale)
        embedded_Be: Tensor = self.network.time_caption_embed.timestep_embedder(sinusoid_BZ)
        return embedded_Be

    def _turns(self, num_text: Sequence[int], images: Images) -> Tensor:
        """Lay out the ids of every sample and gather their rotations."""
        layouts = zip(num_text, images.references, images.noise, strict=True)
        ids_BS3 = padded([position_ids(*layout) for layout in layouts])
        gathered = []
        for axis, table_PE in enumerate(self._tables):
            index_BSE = ids_BS3[:, :, axis : axis + 1].repeat(1, 1, table_PE.shape[-1])
            gathered.append(torch.gather(table_PE[None].repeat(len(ids_BS3), 1, 1), 1, index_BSE))
        return torch.cat(gathered, -1)

    def _refine_text(
        self, features_BLF: Tensor, is_text_BL: Tensor, num_text: Sequence[int], turns_BSE: Tensor
    ) -> Tensor:
        own = padded([turns_BSE[i, :length] for i, length in enumerate(num_text)], is_text_BL.shape[1])
        x_BLh = self.network.time_caption_embed.caption_embedder(features_BLF)
        blocks = cast(Sequence[PlainBlock], self.network.context_refiner)
        return self._run(blocks, Batch(x_BLh, is_text_BL, own), None)

    def _refine_noise(
        self, rows: Sequence[Row], images: Images, time_Be: Tensor, num_text: Sequence[int], turns_BSE: Tensor
    ) -> Tensor:
        patches = [patchify([row.latent_CYX], self.config.patch_size) for row in rows]
        x_BSh = self.network.x_embedder(padded(patches))
        starts = [sum(each) for each in zip(num_text, images.reference_lengths, strict=True)]
        own = padded(
            [
                turns_BSE[i, s : s + n]
                for i, (s, n) in enumerate(zip(starts, images.noise_lengths, strict=True))
            ]
        )
        blocks = cast(Sequence[ModulatedBlock], self.network.noise_refiner)
        return self._run(blocks, Batch(x_BSh, is_within(images.noise_lengths), own), time_Be)

    def _refine_references(self, row: Row, grids: Sequence[Grid], time_e: Tensor, turns_TE: Tensor) -> Tensor:
        """Return a row's references, refined as a padded batch: [T, h]."""
        if not row.references:
            return self.network.x_embedder.weight.new_empty(0, self.config.hidden_size)
        lengths = list(map(prod, grids))
        embedder, index_Bh = self.network.ref_image_patch_embedder, self.network.image_index_embedding
        embedded = [
            embedder(patchify([latent_CYX], self.config.patch_size)) + index_Bh[j]
            for j, latent_CYX in enumerate(row.references)
        ]
        own = padded(list(torch.split(turns_TE[: sum(lengths)], lengths)))
        batch = Batch(padded(embedded), is_within(lengths), own)
        blocks = cast(Sequence[ModulatedBlock], self.network.ref_image_refiner)
        x_BSh = self._run(blocks, batch, time_e.expand(len(lengths), -1))
        return torch.cat([x_Sh[:length] for x_Sh, length in zip(x_BSh, lengths, strict=True)])

    def _run(
        self, blocks: Sequence[ModulatedBlock | PlainBlock], batch: Batch, time_Be: Tensor | None
    ) -> Tensor:
        x_BSh = batch.x_BSh
        for block in blocks:
            if isinstance(block, PlainBlock):
                mixed_BSh = attend(block.attn, norm(block.norm1, x_BSh), batch)
                x_BSh = x_BSh + norm(block.norm2, mixed_BSh)
                x_BSh = x_BSh + norm(block.ffn_norm2, feed(block.feed_forward, norm(block.ffn_norm1, x_BSh)))
                continue
            assert time_Be is not None, "a modulated block needs a time"
            scale_1, gate_1, scale_2, gate_2 = block.norm1.linear(silu(time_Be))[:, None].chunk(4, -1)
            mixed_BSh = attend(block.attn, norm(block.norm1.norm, x_BSh) * (1 + scale_1), batch)
            x_BSh = x_BSh + gate_1.tanh() * norm(block.norm2, mixed_BSh)
            fed_BSh = feed(block.feed_forward, norm(block.ffn_norm1, x_BSh) * (1 + scale_2))
            x_BSh = x_BSh + gate_2.tanh() * norm(block.ffn_norm2, fed_BSh)
        return x_BSh


def turns(length: int, dim: int, theta: float) -> Tensor:
    """Tabulate an axis's rotations as complex numbers in float64: [length, dim / 2]."""
    angles = torch.outer(
        torch.arange(length, dtype=torch.float64),
        theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim),
    )
    return torch.polar(torch.ones_like(angles), angles)


def position_ids(num_text: int, references: Sequence[Grid], noise: Grid) -> Tensor:
    """Lay out one sample's ids anew: [T, 3]."""
    parts = [torch.arange(num_text)[:, None].repeat(1, 3)]
    for start, (rows, columns) in zip(axis_starts(num_text, references), (*references, noise), strict=True):
        row_T = torch.arange(rows)[:, None].repeat(1, columns).flatten()
        column_T = torch.arange(columns)[None].repeat(rows, 1).flatten()
        parts.append(torch.stack([torch.full_like(row_T, start), row_T, column_T], -1))
    return torch.cat(parts)


def attend(attention: Attention, u_BSh: Tensor, batch: Batch) -> Tensor:
    """Attend to all that is real, keys and values repeated for their queries."""
    q_BSHD, k_BSKD, v_BSKD = (
        linear(u_BSh).unflatten(-1, (-1, attention.head_dim))
        for linear in (attention.to_q, attention.to_k, attention.to_v)
    )
    q_BSHD = turn(norm(attention.norm_q, q_BSHD), batch.turns_BSE)
    k_BSKD = turn(norm(attention.norm_k, k_BSKD), batch.turns_BSE)
    group = q_BSHD.shape[2] // k_BSKD.shape[2]
    k_BHSD, v_BHSD = (each.transpose(1, 2).repeat_interleave(group, 1) for each in (k_BSKD, v_BSKD))
    mask_B11S = batch.is_real_BS[:, None, None]
    out_BHSD = scaled_dot_product_attention(q_BSHD.transpose(1, 2), k_BHSD, v_BHSD, attn_mask=mask_B11S)
    out_BSh: Tensor = attention.to_out[0](out_BHSD.transpose(1, 2).flatten(2))
    return out_BSh


def turn(x_BSHD: Tensor, turns_BSE: Tensor) -> Tensor:
    """Rotate pairs of channels as complex numbers, in the float64 of the table."""
    x_BSHE = torch.view_as_complex(torch.unflatten(x_BSHD.float(), -1, (-1, 2)))
    return torch.view_as_real(x_BSHE * turns_BSE[:, :, None]).flatten(3).to(x_BSHD.dtype)


def feed(layer: GatedFeedForward, z_BSh: Tensor) -> Tensor:
    """Apply the feed-forward layers, silu in float32."""
    gate = layer.linear_1(z_BSh)
    out_BSh: Tensor = layer.linear_2(silu(gate.float()).to(gate.dtype) * layer.linear_3(z_BSh))
    return out_BSh


def norm(layer: RMSNorm, x: Tensor) -> Tensor:
    """Apply the norm and its weight in one call of PyTorch's."""
    return rms_norm(x, layer.weight.shape, layer.weight, layer.eps)


def padded(tensors: Sequence[Tensor], length: int | None = None) -> Tensor:
    """Stack tensors of different lengths, zeros behind the shorter ones."""
    longest = max(map(len, tensors)) if length is None else length
    batch = tensors[0].new_zeros(len(tensors), longest, *tensors[0].shape[1:])
    for one, tensor in zip(batch, tensors, strict=True):
        one[: len(tensor)] = tensor
    return batch


def is_within(lengths: Sequence[int]) -> Tensor:
    """Say which places of a padded batch are real: [B, S]."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
