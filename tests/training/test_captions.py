from random import Random

import pytest

from training.canvas import Canvas
from training.captions import CAPTIONS
from training.detector import detect
from training.world import is_held_out, render

CANVASES = [Canvas(), Canvas(held_out=True), Canvas(width=96, height=64, lattice=False)]


@pytest.mark.parametrize("kind", CAPTIONS)
@pytest.mark.parametrize("canvas", CANVASES)
def test_a_caption_is_true_of_its_scene(kind: str, canvas: Canvas) -> None:
    rng = Random(0)
    for _ in range(25):
        caption = CAPTIONS[kind](rng, canvas)
        assert caption.kind == kind
        assert caption.wish.is_met(caption.scene)
        assert any(map(is_held_out, caption.scene.things)) == canvas.held_out


@pytest.mark.parametrize("kind", CAPTIONS)
def test_the_detector_sees_a_caption_fulfilled_in_the_rendering(kind: str) -> None:
    rng = Random(1)
    for _ in range(10):
        caption = CAPTIONS[kind](rng, Canvas())
        assert caption.wish.is_met(detect(render(caption.scene)))


@pytest.mark.parametrize("kind", CAPTIONS)
def test_a_caption_is_seldom_true_of_another_captions_scene(kind: str) -> None:
    rng = Random(2)
    captions = [CAPTIONS[kind](rng, Canvas()) for _ in range(60)]
    others = captions[1:] + captions[:1]
    met = [caption.wish.is_met(other.scene) for caption, other in zip(captions, others, strict=True)]
    assert sum(met) / len(met) < 0.2


@pytest.mark.parametrize("kind", CAPTIONS)
def test_the_same_draws_make_the_same_caption(kind: str) -> None:
    assert CAPTIONS[kind](Random("again"), Canvas()) == CAPTIONS[kind](Random("again"), Canvas())
