from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from model.family import Row
from model.omnigen2.family import OmniGen2
from model.prompt import Prompt

Measure = Callable[..., tuple[Any, int]]


def test_a_step_takes_what_is_counted_shared_work_once(
    family: OmniGen2, make_row: Callable[..., Row], measure: Measure
) -> None:
    plain, edit, other = (
        make_row(0, (4, 6), 5),
        make_row(1, (4, 4), 3, (4, 4), (6, 2)),
        make_row(2, (2, 4), 7),
    )
    unguided = replace(edit, context=plain.context)
    imageless = replace(edit, references=())
    for rows in (
        [plain],
        [edit, unguided],
        [edit, imageless, plain],
        [plain, edit, unguided, imageless, other],
    ):
        assert family.flops.velocity(rows) == measure(family.velocity, rows)[1]


def test_prompts_and_pictures_take_what_is_counted(whole: OmniGen2, measure: Measure) -> None:
    prompts = [whole.prepare(Prompt.draw("a poodle")), whole.prepare(Prompt.draw(""))]
    assert whole.flops.prefill(prompts, [None, None]) == measure(whole.prefill, prompts)[1]
    latents, counted = measure(whole.encode, [Image.new("RGB", (64, 32)), Image.new("RGB", (32, 32))])
    assert whole.flops.encode(latents) == counted
    assert whole.flops.decode(latents) == measure(whole.decode, latents)[1]


def test_texts_take_what_is_counted(family: OmniGen2, measure: Measure) -> None:
    features = [torch.randn(length, family.config.transformer.text_feat_dim) for length in (5, 3)]
    assert family.flops.refine([5, 3]) == measure(family.transformer.refine_texts, features)[1]


def test_no_answer_takes_nothing(family: OmniGen2) -> None:
    assert family.flops.next_tokens([]) == 0
