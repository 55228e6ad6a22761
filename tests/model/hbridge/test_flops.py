from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.checkpoint import load
from model.family import Row, Size, TextRow
from model.hbridge.config import HBridgeConfig
from model.hbridge.family import HBridge
from model.prompt import Prompt, Turn

Measure = Callable[..., tuple[Any, int]]
PICTURE = Image.effect_noise((70, 100), 60).convert("RGB")


@pytest.fixture(scope="module")
def drawing(drawing_folder: Path) -> HBridge:
    """Words in, pictures out."""
    return load(drawing_folder)


@pytest.mark.parametrize(
    "change",
    [{}, {"prefix_scope": "noise"}, {"skip_first": 0, "skip_last": 3}, {"skip_first": 6, "skip_last": 0}],
)
def test_a_step_takes_what_is_counted_shared_work_once(
    config: HBridgeConfig, make_row: Callable[..., Row], measure: Measure, change: dict[str, Any]
) -> None:
    config = replace(config, **change)
    family = HBridge(config, None)
    family.module.requires_grad_(False)
    plain, edit = make_row(config, 0, (4, 6), 5), make_row(config, 1, (4, 4), 3, (4, 4), (6, 2))
    unguided = replace(edit, context=plain.context)
    imageless = replace(edit, references=())
    for rows in ([plain], [edit, unguided], [edit, imageless, plain], [plain, edit, unguided, imageless]):
        assert family.flops.velocity(rows) == measure(family.velocity, rows)[1]


def test_prompts_take_what_is_counted_and_questions_more(drawing: HBridge, measure: Measure) -> None:
    turns = (Turn("user", (PICTURE, "what?")),)
    edit, words = Prompt.draw("bluer", (PICTURE,)), Prompt.draw("a poodle")
    question = drawing.prepare(Prompt(task="understand", turns=turns))
    prepared = [drawing.prepare(edit), drawing.prepare(words), question]
    for prompts in ([prepared[0]], [question], prepared):
        _, counted = measure(drawing.prefill, prompts)
        assert drawing.flops.prefill(prompts, [None] * len(prompts)) == counted
    (beginning,) = drawing.prefill([question.beginning(1)])
    _, counted = measure(drawing.prefill, [question], prefixes=[beginning])
    assert drawing.flops.prefill([question], [beginning]) == counted


def test_pictures_and_tokens_take_what_is_counted(drawing: HBridge, measure: Measure) -> None:
    latents, counted = measure(drawing.encode, [PICTURE, PICTURE.rotate(90, expand=True)])
    assert drawing.flops.encode(latents) == counted
    latents = [drawing.noise(Size(64, 32), 0), drawing.noise(Size(32, 32), 0)]
    assert drawing.flops.decode(latents) == measure(drawing.decode, latents)[1]
    (context,) = drawing.prefill([Prompt(task="understand", turns=(Turn("user", ("what?",)),))])
    rows = [TextRow(token=3, cache=drawing.begin_answer(context)[0])]
    assert drawing.flops.next_tokens(rows) == measure(drawing.next_tokens, rows)[1]
