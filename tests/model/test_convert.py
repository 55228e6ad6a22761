import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import build_random, load
from model.convert import convert
from model.drawing import Drawing
from model.errors import BadCheckpoint
from model.family import Row, Size
from model.hbridge.start import Start
from model.pipeline import answer, draw
from model.prompt import Prompt, Turn
from model.question import Question
from model.stored_tensor import list_tensors

CONFIG = {
    "skip_first": 1,
    "skip_last": 1,
    "srt_count": 4,
    "limits": {"min_side": 16, "max_side": 64, "max_pixels": 64 * 64, "default_size": [32, 32]},
}


@pytest.fixture(scope="module")
def converted(qwen_folder: Path, omnigen2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "hbridge"
    convert(qwen_folder, omnigen2_folder, out, config=CONFIG, max_shard_bytes=300_000)
    return out


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def test_both_experts_weights_arrive_as_they_were(
    converted: Path, qwen_folder: Path, omnigen2_folder: Path
) -> None:
    made = tensors(converted)
    for name, weight in tensors(qwen_folder).items():
        assert torch.equal(made.pop(f"und.{name}"), weight)
    for part, word in (("transformer", "gen"), ("vae", "vae")):
        for name, weight in tensors(omnigen2_folder / part).items():
            if not name.startswith(("context_refiner.", "time_caption_embed.caption_embedder.")):
                assert torch.equal(made.pop(f"{word}.{name}"), weight)
    assert {name.partition(".")[0] for name in made} == {"bridge", "srt_tokens"}


def test_it_is_sharded_and_the_config_says_what_it_is(converted: Path) -> None:
    shards = sorted(converted.glob("*.safetensors"))
    assert len(shards) > 2
    assert all(shard.stat().st_size < 320_000 for shard in shards)
    config = json.loads((converted / "config.json").read_text())
    assert (config["family"], config["prefix_layers"]) == ("hbridge", 2)
    assert config["limits"]["max_references"] == 5


def test_files_of_tokenizer_and_processor_are_copied(converted: Path, qwen_folder: Path) -> None:
    for name in (
        "tokenizer.json",
        "preprocessor_config.json",
        "chat_template.json",
        "vocab.json",
        "merges.txt",
    ):
        assert (converted / name).read_bytes() == (qwen_folder / name).read_bytes()


def test_it_draws_edits_and_answers(converted: Path) -> None:
    family = load(converted)
    (picture,) = draw(family, Drawing(prompt="a circle", seed=1, num_inference_steps=2)).images
    assert picture.size == (32, 32)
    draw(family, Drawing(prompt="bluer", images=(picture,), seed=1, num_inference_steps=1))
    turns = (Turn("user", (picture, "what is it?")),)
    assert answer(family, Question(turns=turns, max_tokens=3)).usage.completion_tokens >= 1


def test_every_published_naming_gives_the_same(
    converted: Path, qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(qwen_folder, newer)
    weights = tensors(newer)
    for file in (*newer.glob("*.safetensors"), newer / "model.safetensors.index.json"):
        file.unlink()
    nested = (("model.", "model.language_model."), ("visual.", "model.visual."), ("lm_head.", "lm_head."))
    renamed = {
        theirs + name.removeprefix(ours): weight
        for name, weight in weights.items()
        for ours, theirs in nested
        if name.startswith(ours)
    }
    assert len(renamed) == len(weights)
    save_file(renamed, newer / "model.safetensors")
    convert(newer, omnigen2_folder, tmp_path / "out", config=CONFIG)
    made, expected = tensors(tmp_path / "out"), tensors(converted)
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)


@pytest.mark.parametrize(("start", "sees"), [("zero", False), ("identity", True)])
def test_only_a_bridge_that_is_open_lets_the_prompt_be_seen(
    qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path, start: Start, *, sees: bool
) -> None:
    convert(qwen_folder, omnigen2_folder, tmp_path / "out", config=CONFIG, start=start)
    family = load(tmp_path / "out")
    contexts = family.prefill([Prompt.draw("a red circle"), Prompt.draw("seven blue squares")])
    noise = family.noise(Size(32, 32), 0)
    one, other = family.velocity([Row(latent_CYX=noise, time=0.5, context=each) for each in contexts])
    assert torch.equal(one, other) != sees


def bridge_weights(converted: Path) -> dict[str, Tensor]:
    weights = build_random(json.loads((converted / "config.json").read_text()), seed=5).module.state_dict()
    return {name: weight for name, weight in weights.items() if name.startswith(("bridge.", "srt_"))}


@pytest.mark.parametrize("has_projection", [True, False])
def test_weights_of_a_trained_bridge_are_taken(
    converted: Path, qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path, *, has_projection: bool
) -> None:
    bridge = bridge_weights(converted)
    if not has_projection:
        bridge = {name: weight for name, weight in bridge.items() if not name.startswith("srt_proj")}
    save_file(bridge, tmp_path / "bridge.safetensors")
    out = tmp_path / "out"
    convert(qwen_folder, omnigen2_folder, out, config=CONFIG, bridge=tmp_path / "bridge.safetensors")
    made = load(out).module.state_dict()
    assert all(torch.equal(made[name], weight) for name, weight in bridge.items())
    assert ("srt_proj.weight" in made) == has_projection


def test_what_is_wrong_is_told_at_once_and_nothing_is_written(
    converted: Path, qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    generation = tmp_path / "generation"
    shutil.copytree(omnigen2_folder, generation)
    file = generation / "vae/diffusion_pytorch_model.safetensors"
    weights: dict[str, Any] = load_file(file)
    weights["extra"] = weights.pop("decoder.conv_out.bias")
    save_file(weights, file)
    bridge = bridge_weights(converted)
    bridge["srt_tokens"] = torch.zeros(3, 3)
    del bridge["bridge.2.o_linear.weight"]
    save_file(bridge, tmp_path / "bridge.safetensors")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadCheckpoint) as error:
        convert(
            qwen_folder, generation, tmp_path / "out", config=CONFIG, bridge=tmp_path / "bridge.safetensors"
        )
    assert str(error.value).partition(": ")[2].split("; ") == [
        "left over vae.extra in diffusion_pytorch_model.safetensors",
        "missing bridge.2.o_linear.weight",
        "missing vae.decoder.conv_out.bias",
        "srt_tokens in bridge.safetensors has shape [3, 3], not [4, 48]",
    ]
    assert sorted(tmp_path.iterdir()) == before


def test_weights_of_something_else_are_no_bridge(
    converted: Path, qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadCheckpoint, match=r"holds \d+ tensors of no bridge, such as gen\."):
        convert(qwen_folder, omnigen2_folder, tmp_path / "out", config=CONFIG, bridge=converted)


@pytest.mark.parametrize(
    ("config", "told"),
    [({}, "skip_first 6 and skip_last 6"), ({**CONFIG, "colour": 1}, "colour is unknown")],
)
def test_a_config_that_does_not_fit_is_told(
    qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path, config: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadCheckpoint, match=told):
        convert(qwen_folder, omnigen2_folder, tmp_path / "out", config=config)


def test_folders_that_are_something_else_are_told(
    qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    for pair in ((omnigen2_folder, qwen_folder), (qwen_folder, qwen_folder), (tmp_path, omnigen2_folder)):
        with pytest.raises(BadCheckpoint):
            convert(*pair, tmp_path / "out", config=CONFIG)


def test_what_is_there_already_is_not_touched(
    qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        convert(qwen_folder, omnigen2_folder, tmp_path, config=CONFIG)


def test_it_is_there_as_a_whole_or_not_at_all(
    qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part/left by a crash").write_text("")

    def crash(done: int, total: int) -> None:
        assert not out.exists()
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(qwen_folder, omnigen2_folder, out, config=CONFIG, on_progress=crash, max_shard_bytes=100_000)
    assert not list(tmp_path.iterdir())
    convert(qwen_folder, omnigen2_folder, out, config=CONFIG)
    assert [folder.name for folder in tmp_path.iterdir()] == ["out"]


def test_weights_stay_of_their_type_or_become_what_is_asked(
    converted: Path, qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    stored = list_tensors(converted)
    assert stored["und.model.norm.weight"].dtype == torch.bfloat16
    assert stored["gen.x_embedder.weight"].dtype == stored["srt_tokens"].dtype == torch.float32
    convert(qwen_folder, omnigen2_folder, tmp_path / "out", config=CONFIG, dtype=torch.float16)
    assert {each.dtype for each in list_tensors(tmp_path / "out").values()} == {torch.float16}


def test_progress_goes_up_to_all_that_is_read(
    qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    convert(
        qwen_folder,
        omnigen2_folder,
        tmp_path / "out",
        config=CONFIG,
        max_shard_bytes=200_000,
        on_progress=lambda *where: told.append(where),
    )
    assert told == sorted(told)
    assert told[-1] == (told[0][1],) * 2
