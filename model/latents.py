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
