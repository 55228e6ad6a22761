from random import Random

import pytest

from training.canvas import Canvas
from training.captions import CAPTIONS, described, describing, taught
from training.detector import detect
from training.world import BETWEEN, is_held_out, render

KINDS = {**CAPTIONS, "described": described}

CANVASES = [Canvas(), Canvas(odd=1.0), Canvas(held_out=True), Canvas(width=96, height=64, lattice=False)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("canvas", CANVASES)
def test_a_caption_is_true_of_its_scene(kind: str, canvas: Canvas) -> None:
    rng = Random(0)
    for _ in range(25):
        caption = KINDS[kind](rng, canvas)
        assert caption.kind == kind
        assert caption.wish.is_met(caption.scene)
        assert any(map(is_held_out, caption.scene.things)) == canvas.held_out


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_leaves_open_what_has_no_name(kind: str) -> None:
    rng = Random(5)
    for _ in range(25):
        assert not {"#", BETWEEN} & set(KINDS[kind](rng, Canvas(odd=1.0)).text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_detector_sees_a_caption_fulfilled_in_the_rendering(kind: str) -> None:
    rng = Random(1)
    for _ in range(10):
        caption = KINDS[kind](rng, Canvas())
        assert caption.wish.is_met(detect(render(caption.scene)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_is_seldom_true_of_another_captions_scene(kind: str) -> None:
    rng = Random(2)
    captions = [KINDS[kind](rng, Canvas()) for _ in range(60)]
    others = captions[1:] + captions[:1]
    met = [caption.wish.is_met(other.scene) for caption, other in zip(captions, others, strict=True)]
    assert sum(met) / len(met) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_draws_make_the_same_caption(kind: str) -> None:
    assert KINDS[kind](Random("again"), Canvas()) == KINDS[kind](Random("again"), Canvas())


def test_what_is_taught_is_of_every_kind() -> None:
    rng = Random(3)
    assert {taught(rng, Canvas()).kind for _ in range(100)} == KINDS.keys()


def test_a_description_says_where_every_thing_stands() -> None:
    rng = Random(4)
    for _ in range(20):
        caption = described(rng, Canvas())
        assert len(caption.wish.wants) == len(caption.scene.things)
        assert all(want.shape and want.colour and want.region for want in caption.wish.wants)
        assert describing(rng, caption.scene).scene is caption.scene
