import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import BadCheckpoint, MissingCapability
from model.family import Size
from model.latents import AUTOENCODER, build_autoencoder, decode_latent, draw_noise, encode_references
from model.names import Names
from model.registry import resolve

GOLDENS = Path(__file__).parents[1] / "goldens"
PICTURE = Image.effect_noise((32, 48), 60).convert("RGB")


@pytest.fixture(scope="module")
def autoencoder(drawing_folder: Path) -> nn.Module:
    torch.manual_seed(0)
    config = json.loads((drawing_folder / "config.json").read_text())["vae"]
    return build_autoencoder({"_class_name": "AutoencoderKL", **config}).requires_grad_(False).eval()


def test_both_published_namings_of_the_autoencoder_are_read() -> None:
    """The names are those of FLUX's own file, as its release describes them."""
    config = json.loads((resolve("omnigen2") / "vae/config.json").read_text())
    with torch.device("meta"):
        ours = build_autoencoder(config).state_dict()
    names = Names(parts={"vae": AUTOENCODER})
    assert all(names.ours(f"vae.{name}") == f"vae.{name}" for name in ours)
    assert {names.ours(f"vae.{name}") for name in flux_names()} == {f"vae.{name}" for name in ours}
    assert (
        names.ours("vae.decoder.up.3.upsample.conv.bias") == "vae.decoder.up_blocks.0.upsamplers.0.conv.bias"
    )
    assert names.ours("vae.encoder.mid.attn_1.v.weight") == "vae.encoder.mid_block.attentions.0.to_v.weight"


def flux_names() -> Iterator[str]:
    residual = ("norm1", "conv1", "norm2", "conv2")
    for side, level, num_blocks, sample, widened in (
        ("encoder", "down", 2, "downsample", ("down.1", "down.2")),
        ("decoder", "up", 3, "upsample", ("up.0", "up.1")),
    ):
        blocks = [f"{level}.{i}.block.{j}" for i in range(4) for j in range(num_blocks)]
        modules = [
            f"{block}.{each}" for block in (*blocks, "mid.block_1", "mid.block_2") for each in residual
        ]
        modules += [f"{place}.block.0.nin_shortcut" for place in widened]
        still = 3 if side == "encoder" else 0
        modules += [f"{level}.{i}.{sample}.conv" for i in range(4) if i != still]
        modules += [f"mid.attn_1.{each}" for each in ("norm", "q", "k", "v", "proj_out")]
        modules += ["conv_in", "norm_out", "conv_out"]
        yield from (f"{side}.{module}.{kind}" for module in modules for kind in ("weight", "bias"))


def test_noise_is_standard_and_in_latent_pixels() -> None:
    noise_CYX = draw_noise(16, Size(256, 512), 8, 0)
    assert noise_CYX.shape == (16, 64, 32)
    assert abs(noise_CYX.mean()) < 0.02
    assert abs(noise_CYX.std() - 1) < 0.02


def test_latents_are_the_posteriors_mean_shifted_and_scaled(autoencoder: nn.Module) -> None:
    (latent_CYX,) = encode_references(autoencoder, [PICTURE])
    pixels = torch.tensor(list(PICTURE.tobytes())).view(48, 32, 3).permute(2, 0, 1) / 127.5 - 1
    mean = autoencoder.encode(pixels[None]).latent_dist.mean[0]
    torch.testing.assert_close(latent_CYX, (mean - 0.1159) * 0.3611)


def test_decoding_undoes_shift_and_scale(autoencoder: nn.Module) -> None:
    latent_CYX = torch.randn(4, 4, 6)
    expected = autoencoder.decode(latent_CYX[None] / 0.3611 + 0.1159).sample[0] / 2 + 0.5
    torch.testing.assert_close(decode_latent(autoencoder, latent_CYX), expected.clamp(0, 1))


@pytest.mark.parametrize("name", ["loop_t2i_nocfg", "loop_t2i_textcfg", "loop_edit_text_image_cfg"])
def test_the_decoder_gets_what_the_reference_gives_it(drawing_folder: Path, name: str) -> None:
    case = load_file(GOLDENS / f"omnigen2/{name}.safetensors")
    config = json.loads((drawing_folder / "config.json").read_text())["vae"]
    decoding = build_autoencoder(config | {"latent_channels": 16}).requires_grad_(False).eval()
    given: list[Tensor] = []
    hook = decoding.get_submodule("decoder").register_forward_pre_hook(lambda _, args: given.append(args[0]))
    decode_latent(decoding, case["out.final_latents"][0])
    hook.remove()
    torch.testing.assert_close(given[0], case["out.vae_decode_input"], atol=1e-5, rtol=0)


def test_an_autoencoder_in_bfloat16_still_gives_float32(autoencoder: nn.Module) -> None:
    autoencoder.to(torch.bfloat16)
    (latent_CYX,) = encode_references(autoencoder, [PICTURE])
    assert latent_CYX.dtype == decode_latent(autoencoder, latent_CYX).dtype == torch.float32
    autoencoder.to(torch.float32)


def test_no_images_need_no_autoencoder() -> None:
    assert encode_references(None, []) == []
    with pytest.raises(MissingCapability, match="no autoencoder"):
        encode_references(None, [PICTURE])


def test_a_config_that_is_not_its_own_is_refused() -> None:
    with pytest.raises(BadCheckpoint, match="poodle"):
        build_autoencoder({"poodle": 1})
