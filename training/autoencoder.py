"""Stage "vae": diffusers' AutoencoderKL learns to carry the shapes world through 16 channels at stride 8.

Learns mostly on 32×32 pictures with one or two things, where every pixel counts; whole pictures of several
sizes come in between, so that the norms see the backgrounds they will meet.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from model.images import to_pictures, to_tensor
from training.detector import detect
from training.schedule import MicroBatch
from training.sheets import contact_sheet
from training.team import Figures
from training.world import BACKGROUNDS, Scene, build, random_kind, random_scene, render, shows_the_same

WHOLE_SIZES = ((64, 64), (64, 64), (96, 64), (64, 96))


class AutoencoderStage:
    """Reconstruction in L1 and L2, a light KL term and a light noise on the latent.

    Attributes:
        module: The autoencoder.
        kl: Weight of the KL term, per latent value.
        noise: Standard deviation of noise added to the latent, as a share of its own, so that small errors
            of the diffusion transformer do not show.
        whole_every: Every so many steps shows whole pictures instead of small ones.
    """

    name = "vae"

    def __init__(
        self, config: Mapping[str, Any], *, kl: float = 1e-5, noise: float = 0.05, whole_every: int = 4
    ) -> None:
        self.autoencoder: Any = AutoencoderKL(**config).to(memory_format=torch.channels_last)
        self.module: nn.Module = self.autoencoder
        self.kl, self.noise, self.whole_every = kl, noise, whole_every

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """Reconstruct pictures of one size."""
        rng, generator = batch.rng(), batch.generator()
        if rng.randrange(self.whole_every) == 0:
            width, height = rng.choice(WHOLE_SIZES)
            scenes = [random_scene(rng, width, height) for _ in range(max(1, batch.size // 4))]
        else:
            scenes = [_close_scene(rng) for _ in range(batch.size)]
        x_BCHW = torch.stack([to_tensor(render(scene)) for scene in scenes])
        x_BCHW = x_BCHW.to(memory_format=torch.channels_last)
        posterior = self.autoencoder.encode(x_BCHW).latent_dist
        z = posterior.mean
        spread = z.detach().float().std()
        z = z + self.noise * spread * torch.randn(z.shape, generator=generator)
        y_BCHW = self.autoencoder.decode(z).sample.float()
        l1 = (y_BCHW - x_BCHW).abs().mean()
        l2 = (y_BCHW - x_BCHW).square().mean()
        kl = 0.5 * (posterior.mean.float().square() + posterior.var - 1 - posterior.logvar).mean()
        loss = l1 + 2 * l2 + self.kl * kl
        return loss, {"l1": l1.item(), "psnr": 10 * torch.log10(4 / l2).item(), "latent_std": spread.item()}

    def look(self, folder: Path, step: int) -> Figures:
        """Reconstruct 200 fresh pictures and count those that the detector reads as they were."""
        rng = Random(7)
        scenes = [random_scene(rng, 64, 64) for _ in range(200)]
        pictures = [render(scene) for scene in scenes]
        x_BCHW = torch.stack([to_tensor(picture) for picture in pictures])
        redrawn = []
        for part in torch.split(x_BCHW, 50):
            z = self.autoencoder.encode(part).latent_dist.mean
            redrawn += to_pictures(list(self.autoencoder.decode(z).sample.float().clamp(-1, 1) / 2 + 0.5))
        right = [
            shows_the_same(detect(picture), scene) for picture, scene in zip(redrawn, scenes, strict=True)
        ]
        wrong_first = sorted(range(200), key=lambda i: right[i])[:36]
        contact_sheet(
            folder / f"sheet-{step:07d}.png",
            [(pictures[i], redrawn[i]) for i in wrong_first],
            captions=["right" if right[i] else "WRONG" for i in wrong_first],
        )
        return {"reconstructed": sum(right) / len(right)}


def _close_scene(rng: Random) -> Scene:
    background = rng.choice(BACKGROUNDS)
    kinds = [random_kind(rng, background)]
    if kinds[0].size == "small" and rng.random() < 0.8:
        kinds.append(replace(random_kind(rng, background), size="small"))
    try:
        return build(rng, background, kinds, width=32, height=32, lattice=False)
    except ValueError:
        return build(rng, background, kinds[:1], width=32, height=32, lattice=False)


def latent_statistics(module: Any, *, pictures: int = 256) -> tuple[float, float]:
    """Measure the shift and scale that bring latents to mean 0 and deviation 1 over all channels."""
    rng = Random(11)
    x_BCHW = torch.stack([to_tensor(render(random_scene(rng, 64, 64))) for _ in range(pictures)])
    with torch.no_grad():
        z = torch.cat([module.encode(part).latent_dist.mean for part in torch.split(x_BCHW, 64)])
    return float(z.mean()), float(1 / z.std())
