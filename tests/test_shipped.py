"""The shipped checkpoint itself: small, loadable without network, repeatable, doing what its card says."""

from pathlib import Path

import pytest
from PIL import Image

from model.checkpoint import load
from model.drawing import Drawing
from model.hbridge.family import HBridge
from model.pipeline import answer, draw
from model.prompt import Turn
from model.question import Question
from model.registry import SHIPPED
from service.about import read_about
from training.detector import detect
from training.world import PALETTE

MAX_MEGABYTES = 30


@pytest.fixture(scope="module")
def family() -> HBridge:
    loaded = load("hbridge-tiny")
    assert isinstance(loaded, HBridge)
    return loaded


def test_all_shipped_weights_together_are_small() -> None:
    total = sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors"))
    assert 0 < total <= MAX_MEGABYTES * 10**6


def test_every_shipped_checkpoint_has_a_card_and_its_loss_curves() -> None:
    for folder in (path.parent for path in SHIPPED.glob("*/config.json")):
        assert (folder / "README.md").stat().st_size > 0
        assert list((folder / "logs").glob("*.jsonl"))


def test_it_draws_the_same_picture_from_the_same_seed(family: HBridge) -> None:
    drawing = Drawing(prompt="a red circle on a yellow background", seed=7)
    first, second = (draw(family, drawing).images[0] for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("colour", ["yellow", "green", "white"])
def test_it_draws_the_background_that_is_asked(family: HBridge, colour: str) -> None:
    drawing = Drawing(prompt=f"a red circle on a {colour} background", seed=3)
    assert detect(draw(family, drawing).images[0]).background == colour


@pytest.mark.parametrize("colour", ["yellow", "green", "pink"])
def test_it_names_the_background_that_it_sees(family: HBridge, colour: str) -> None:
    picture = Image.new("RGB", (64, 64), PALETTE[colour])
    picture.paste(PALETTE["black"], (24, 24, 40, 40))
    turns = (Turn("user", (picture, "what colour is the background?")),)
    assert answer(family, Question(turns=turns, max_tokens=8)).text == colour


def test_its_examples_come_out_right(family: HBridge) -> None:
    examples = read_about(SHIPPED / "hbridge-tiny").examples
    pictures = [draw(family, Drawing(prompt=words, seed=1)).images[0] for words in examples["generate"]]
    for words, picture in zip(examples["generate"], pictures, strict=True):
        (thing,) = detect(picture).things
        assert {thing.colour, thing.shape, detect(picture).background} <= set(words.split())
    star = pictures[0]
    wanted = [("black", "yellow star"), ("blue", "red star"), ("blue", "white square")]
    for words, (background, name) in zip(examples["edit"], wanted, strict=True):
        edited = detect(draw(family, Drawing(prompt=words, images=(star,), seed=1)).images[0])
        (thing,) = edited.things
        assert (edited.background, f"{thing.colour} {thing.shape}") == (background, name)
    turns = [(Turn("user", (star, words)),) for words in examples["understand"]]
    answers = [answer(family, Question(turns=each, max_tokens=8)).text for each in turns]
    assert answers == ["blue", "1", "yes"]


def test_its_weights_are_in_the_folder_of_its_name() -> None:
    assert (Path(SHIPPED) / "hbridge-tiny/model.safetensors").is_file()


def test_its_previews_show_light_where_the_picture_is_light(family: HBridge) -> None:
    halves = Image.new("RGB", (64, 64), PALETTE["black"])
    halves.paste(PALETTE["white"], (32, 0, 64, 64))
    (preview_3HW,) = family.preview(family.encode([halves]))
    assert preview_3HW.shape == (3, 64, 64)
    assert preview_3HW[..., 48:].mean() - preview_3HW[..., :16].mean() > 0.5
