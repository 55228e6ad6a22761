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
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.sizes import TOY_AUTOENCODER
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
    family = build_random({**golden_config, "vae": TOY_AUTOENCODER})
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
def qwen_folder(tmp_path_factory: pytest.TempPathFactory, golden_config: dict[str, Any]) -> Path:
    """A Qwen2.5-VL of the golden size as the library saves it, tokenizer and processor files beside it."""
    folder = tmp_path_factory.mktemp("qwen")
    text = dict(golden_config["understanding"])
    vision = {name: value for name, value in text.pop("vision").items() if not name.endswith("_pixels")}
    rope = {"mrope_section": text.pop("mrope_section"), "rope_type": "default", "type": "mrope"}
    config = Qwen2_5_VLConfig(**text, vision_config=vision, rope_scaling=rope, bos_token_id=500)
    torch.manual_seed(0)
    network = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    network.save_pretrained(folder, max_shard_size="100KB")
    write_tokenizer(folder)
    for name in ("generation_config.json", "preprocessor_config.json", "vocab.json", "chat_template.json"):
        (folder / name).write_text("{}")
    (folder / "merges.txt").write_text("#version: 0.2")
    return folder


@pytest.fixture(scope="session")
def omnigen2_folder(
    tmp_path_factory: pytest.TempPathFactory, qwen_folder: Path, golden_config: dict[str, Any]
) -> Path:
    """An OmniGen2 of the golden size in the files and folders of its release."""
    folder = tmp_path_factory.mktemp("omnigen2")
    index = {
        "_class_name": "OmniGen2Pipeline",
        "mllm": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(qwen_folder, folder / "mllm")
    (folder / "processor").mkdir()
    write_tokenizer(folder / "processor")
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text('{"dynamic_time_shift": true}')
    AutoencoderKL(**TOY_AUTOENCODER).save_pretrained(folder / "vae")
    transformer = {
        **golden_config["generation"],
        "text_feat_dim": golden_config["understanding"]["hidden_size"],
    }
    network = build_random({"family": "omnigen2", "transformer": transformer}, seed=3).module
    place = folder / "transformer"
    place.mkdir()
    (place / "config.json").write_text(
        json.dumps(
            {"_class_name": "OmniGen2Transformer2DModel", "_diffusers_version": "0.33.1", **transformer}
        )
    )
    weights = {name.removeprefix("transformer."): weight for name, weight in network.state_dict().items()}
    names = list(weights)
    weight_map = {}
    for number, own in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in own}, place / file)
        weight_map |= dict.fromkeys(own, file)
    index_file = place / "diffusion_pytorch_model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
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
