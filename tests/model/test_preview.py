from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from model.preview import Previewer


class Mixing(nn.Module):
    """An autoencoder of a kind: each latent channel is a mixture of the mean colours of 8x8 pixels."""

    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(shift_factor=0.3, scaling_factor=2.0)
    mixture = torch.tensor([[1.0, 0.2, 0.0], [0.0, -1.0, 0.5], [0.3, 0.0, 1.0], [1.0, 1.0, 1.0]])

    def encode(self, pixels_N3HW: Tensor) -> Any:
        mean = torch.einsum("cz,nzyx->ncyx", self.mixture, avg_pool2d(pixels_N3HW, 8))
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mean))


def test_where_colours_can_be_read_off_linearly_a_preview_is_exact() -> None:
    autoencoder = Mixing()
    previews = Previewer(autoencoder)
    colours = torch.tensor([[0.1, 0.5, 0.9], [1.0, 0.0, 0.4]])
    for colour in colours:
        flat_13HW = (colour * 2 - 1)[None, :, None, None].expand(1, 3, 16, 24)
        latent_CYX = (autoencoder.encode(flat_13HW).latent_dist.mode()[0] - 0.3) * 2.0
        (preview_3HW,) = previews([latent_CYX])
        assert preview_3HW.shape == (3, 16, 24)
        torch.testing.assert_close(preview_3HW, colour[:, None, None].expand(3, 16, 24), atol=1e-4, rtol=0)
