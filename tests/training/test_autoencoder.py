from random import Random

import pytest
import torch
from torch import nn

from model.images import to_tensor
from training.autoencoder import AutoencoderStage, latent_statistics
from training.schedule import MicroBatch
from training.world import random_scene, render

CONFIG = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": False,
}


@pytest.fixture
def stage() -> AutoencoderStage:
    torch.manual_seed(0)
    return AutoencoderStage(CONFIG)


def loss_of(stage: AutoencoderStage, seed: int = 0) -> torch.Tensor:
    return stage.loss(MicroBatch(run=seed, size=4))[0]


def test_the_loss_falls_in_a_few_steps(stage: AutoencoderStage) -> None:
    optimizer = torch.optim.Adam(stage.module.parameters(), 1e-2)
    before = loss_of(stage).item()
    for _ in range(8):
        optimizer.zero_grad()
        loss_of(stage).backward()
        optimizer.step()
    assert loss_of(stage).item() < 0.8 * before


def test_a_step_is_a_function_of_its_seed(stage: AutoencoderStage) -> None:
    losses = [loss_of(stage, seed).item() for seed in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_noise_on_the_latent_makes_reconstruction_harder_to_tell(stage: AutoencoderStage) -> None:
    stage.noise = 0.0
    plain = loss_of(stage).item()
    stage.noise = 0.5
    assert loss_of(stage).item() != plain


def test_measured_shift_and_scale_bring_latents_to_mean_0_and_deviation_1(vae: nn.Module) -> None:
    shift, scale = latent_statistics(vae, pictures=24)
    rng = Random(11)
    pictures = torch.stack([to_tensor(render(random_scene(rng, 64, 64))) for _ in range(24)])
    with torch.no_grad():
        latents = (vae.encode(pictures).latent_dist.mean - shift) * scale
    assert latents.mean().item() == pytest.approx(0, abs=1e-3)
    assert latents.std().item() == pytest.approx(1, abs=1e-3)
