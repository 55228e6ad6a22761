"""Cheap looks at latents on their way: one linear map from latent channels to colours, no decoder.

The map is fitted once to the autoencoder's own encoder, on random fields of colour.

Shapes: N pictures, C latent channels, Y and X latent rows and columns, T latent pixels, H and W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

NUM_FIELDS = 24
SIDE = 64
CELLS = (1, 2, 4)
"""Of a field, on each side: plain pictures and patched ones."""


class Previewer:
    """Turns latents into blurred pictures of their size.

    Args:
        autoencoder: Of diffusers, with its scale and shift.
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        self._weights_Z3, self._stride = _fit(autoencoder)

    def __call__(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Return pictures [3, H, W] in [0, 1], float32, of latents [C, Y, X]."""
        return [self._picture(latent_CYX) for latent_CYX in latents]

    def _picture(self, latent_CYX: Tensor) -> Tensor:
        colours_YX3 = _with_one(latent_CYX.float().movedim(0, -1)) @ self._weights_Z3.to(latent_CYX.device)
        small_13YX = (colours_YX3.movedim(-1, 0)[None] / 2 + 0.5).clamp(0, 1)
        return interpolate(small_13YX, scale_factor=self._stride, mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def _fit(autoencoder: Any) -> tuple[Tensor, int]:
    """Return least-squares weights [C + 1, 3] and the pixels per latent pixel."""
    generator = torch.Generator().manual_seed(0)
    coarse = [torch.rand(NUM_FIELDS, 3, cells, cells, generator=generator) * 2 - 1 for cells in CELLS]
    fields_N3HW = torch.cat([interpolate(each, size=(SIDE, SIDE), mode="nearest") for each in coarse])
    fields_N3HW = fields_N3HW.to(autoencoder.device, autoencoder.dtype)
    mean_NCYX = autoencoder.encode(fields_N3HW).latent_dist.mode().float().cpu()
    shift = float(autoencoder.config.shift_factor or 0.0)
    latent_NCYX = (mean_NCYX - shift) * float(autoencoder.config.scaling_factor)
    colours_N3YX = adaptive_avg_pool2d(fields_N3HW.float().cpu(), latent_NCYX.shape[2:])
    inputs_TZ = _with_one(latent_NCYX.movedim(1, -1).flatten(0, 2))
    weights_Z3 = torch.linalg.lstsq(inputs_TZ, colours_N3YX.movedim(1, -1).flatten(0, 2)).solution
    return weights_Z3, SIDE // latent_NCYX.shape[-1]


def _with_one(values: Tensor) -> Tensor:
    return torch.cat([values, torch.ones_like(values[..., :1])], -1)
