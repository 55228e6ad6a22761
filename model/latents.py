"""Between pictures and latents: noise from a seed, and the autoencoder that encodes and decodes.

Shapes: C latent channels, Y and X latent rows and columns, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL.Image import Image
from torch import Tensor, nn

from model.errors import BadCheckpoint, MissingCapability
from model.family import Size
from model.images import to_tensor
from model.names import PartNames

AUTOENCODER = PartNames(
    renamed=(
        (r"\bmid\.block_1\.", "mid_block.resnets.0."),
        (r"\bmid\.block_2\.", "mid_block.resnets.1."),
        (r"\bmid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
        (r"\bmid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
        (r"\bmid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
        (r"\bdown\.(\d)\.block\.", r"down_blocks.\1.resnets."),
        (r"\bdown\.(\d)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
        (r"\bup\.0\.", "up_blocks.3."),
        (r"\bup\.1\.", "up_blocks.2."),
        (r"\bup\.2\.", "up_blocks.1."),
        (r"\bup\.3\.", "up_blocks.0."),
        (r"\bup_blocks\.(\d)\.block\.", r"up_blocks.\1.resnets."),
        (r"\bup_blocks\.(\d)\.upsample\.", r"up_blocks.\1.upsamplers.0."),
        (r"\bnin_shortcut\.", "conv_shortcut."),
        (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
    )
)
"""Ours are diffusers' names; the others are those of FLUX's own `ae.safetensors`, which has four levels."""


def build_autoencoder(config: Mapping[str, Any]) -> nn.Module:
    """Build diffusers' AutoencoderKL; keys that begin with an underscore are passed over.

    Raises:
        BadCheckpoint: The config is not its.
    """
    try:
        autoencoder: nn.Module = AutoencoderKL(
            **{key: value for key, value in config.items() if key[0] != "_"}
        )
    except (TypeError, ValueError) as error:
        raise BadCheckpoint(f"vae: {error}") from error
    return autoencoder


def draw_noise(channels: int, size: Size, stride: int, seed: int) -> Tensor:
    """Return normal noise [C, Y, X], float32, drawn on the CPU: a seed is the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, size.height // stride, size.width // stride, generator=generator)


def encode_references(autoencoder: nn.Module | None, images: Sequence[Image]) -> list[Tensor]:
    """Encode pictures to latents [C, Y, X], float32: the mean of the posterior, so that nothing is drawn.

    Raises:
        MissingCapability: There is no autoencoder.
    """
    if autoencoder is None and images:
        raise MissingCapability("this checkpoint has no autoencoder: it cannot read images to edit")
    return [_encode(autoencoder, image) for image in images]


def _encode(autoencoder: Any, image: Image) -> Tensor:
    pixels_3HW = to_tensor(image).to(autoencoder.device, autoencoder.dtype)
    mean_CYX: Tensor = autoencoder.encode(pixels_3HW[None]).latent_dist.mode()[0].float()
    return (mean_CYX - _shift(autoencoder)) * float(autoencoder.config.scaling_factor)


def decode_latent(autoencoder: Any, latent_CYX: Tensor) -> Tensor:
    """Decode a latent to a picture [3, H, W] in [0, 1], float32."""
    scaled_CYX = latent_CYX / autoencoder.config.scaling_factor + _shift(autoencoder)
    pixels_3HW: Tensor = autoencoder.decode(
        scaled_CYX[None].to(autoencoder.device, autoencoder.dtype)
    ).sample[0]
    return (pixels_3HW.float() / 2 + 0.5).clamp(0, 1)


def _shift(autoencoder: Any) -> float:
    return float(autoencoder.config.shift_factor or 0.0)
