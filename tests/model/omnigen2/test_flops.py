import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.checkpoint import build_random
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


@pytest.fixture(scope="module")
def whole(drawing_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random checkpoint with every part."""
    folder = tmp_path_factory.mktemp("omnigen2")
    (folder / "processor").symlink_to(drawing_folder)
    given = json.loads((drawing_folder / "config.json").read_text())
    transformer = given["generation"] | {"text_feat_dim": given["understanding"]["hidden_size"]}
    parts = {"transformer": transformer, "vae": given["vae"], "mllm": given["understanding"]}
    return build_random({"family": "omnigen2", **parts}, folder)


def test_prompts_and_pictures_take_what_is_counted(whole: OmniGen2, measure: Measure) -> None:
    prompts = [whole.prepare(Prompt.draw("a poodle")), whole.prepare(Prompt.draw(""))]
    assert whole.flops.prefill(prompts, [None, None]) == measure(whole.prefill, prompts)[1]
    latents, counted = measure(whole.encode, [Image.new("RGB", (64, 32)), Image.new("RGB", (32, 32))])
    assert whole.flops.encode(latents) == counted
    assert whole.flops.decode(latents) == measure(whole.decode, latents)[1]


def test_no_answer_takes_nothing(family: OmniGen2) -> None:
    assert family.flops.next_tokens([]) == 0
