"""Tiny checkpoints that tests load: the golden networks, with and without a tokenizer; and how to wait."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from model.checkpoint import build_random, save
from model.stored_tensor import list_tensors, read_tensors

GOLDENS = Path(__file__).parent / "goldens"
SPECIAL = {
    "<|im_start|>": 500,
    "<|im_end|>": 501,
    "<|endoftext|>": 502,
    "<|vision_start|>": 504,
    "<|vision_end|>": 505,
    "<|image_pad|>": 506,
}
VAE = {
    "latent_channels": 4,
    "block_out_channels": [32, 32, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
LIMITS = {
    "min_side": 16,
    "max_side": 64,
    "max_pixels": 64 * 64,
    "default_size": [32, 32],
    "max_prompt_tokens": 400,
    "max_references": 3,
    "max_images": 4,
}


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of single bytes and the special tokens of the golden networks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)} | SPECIAL
    words = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in SPECIAL])
    words.save(str(folder / "tokenizer.json"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", help="Folder for screenshots of the playground.")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let nothing that tests learn about this machine, or keep for later, stay on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HBRIDGE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HBRIDGE_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def golden_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((GOLDENS / "hbridge/prefill_text.json").read_text())["config"]
    return config


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory: pytest.TempPathFactory, golden_config: dict[str, Any]) -> Path:
    """The golden hbridge networks as a checkpoint folder: token ids and latents in, latents out."""
    folder = tmp_path_factory.mktemp("hbridge-golden")
    for name in ("weights-und.safetensors", "weights-gen.safetensors", "model.safetensors.index.json"):
        shutil.copyfile(GOLDENS / "hbridge" / name, folder / name)
    (folder / "config.json").write_text(json.dumps(golden_config))
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, golden_folder: Path) -> Path:
    """The golden checkpoint with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("hbridge-tiny")
    shutil.copytree(golden_folder, folder, dirs_exist_ok=True)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def drawing_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, golden_config: dict[str, Any]
) -> Path:
    """The golden checkpoint with a tokenizer of bytes and a random autoencoder: words in, pictures out."""
    folder = tmp_path_factory.mktemp("hbridge-drawing")
    family = build_random({**golden_config, "vae": VAE})
    stored = list_tensors(tiny_folder)
    weights = read_tensors(stored, stored, torch.device("cpu"), torch.float32)
    family.module.load_state_dict(weights, strict=False)
    save(family, folder, tokenizer_from=tiny_folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, drawing_folder: Path) -> Path:
    """A tiny checkpoint of words and pictures, with limits as tiny."""
    folder = tmp_path_factory.mktemp("service") / "tiny"
    shutil.copytree(drawing_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["limits"] |= LIMITS
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Return a function that returns as soon as something holds."""

    def wait(holds: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.005)

    return wait
