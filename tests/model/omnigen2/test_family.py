import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from model.checkpoint import build_random
from model.errors import MissingCapability, PromptTooLong
from model.family import Row, Size
from model.omnigen2.config import OmniGen2Config
from model.omnigen2.family import OmniGen2
from model.prompt import Prompt

PICTURE = Image.new("RGB", (70, 40), (200, 30, 30))


@pytest.fixture(scope="module")
def whole(drawing_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random checkpoint with every part, and the tokenizer where its folders have it."""
    folder = tmp_path_factory.mktemp("omnigen2")
    (folder / "processor").symlink_to(drawing_folder)
    given = json.loads((drawing_folder / "config.json").read_text())
    transformer = given["generation"] | {"text_feat_dim": given["understanding"]["hidden_size"]}
    parts = {"transformer": transformer, "vae": given["vae"], "mllm": given["understanding"]}
    return build_random({"family": "omnigen2", **parts}, folder)


def test_velocities_need_no_language_model(family: OmniGen2, make_row: Callable[..., Row]) -> None:
    rows = [make_row(0, (4, 6), 5, (4, 4)), make_row(1, (2, 4), 3)]
    assert [tuple(v.shape) for v in family.velocity(rows)] == [(16, 4, 6), (16, 2, 4)]


def test_what_a_checkpoint_lacks_is_refused(family: OmniGen2) -> None:
    assert family.capabilities.tasks == ()
    with pytest.raises(MissingCapability, match="language model"):
        family.prefill([Prompt.draw("a poodle")])
    with pytest.raises(MissingCapability, match="autoencoder"):
        family.encode([PICTURE])


def test_without_an_autoencoder_latents_come_out_as_they_went_in(family: OmniGen2) -> None:
    latent = family.noise(Size(64, 32), 3)
    assert latent.shape == (16, 4, 8)
    assert family.decode([latent])[0] is latent


def test_positions_beyond_the_models_are_refused(
    family: OmniGen2, config: OmniGen2Config, make_row: Callable[..., Row]
) -> None:
    row = make_row(0, (4, 4), config.axes_lens[0] - 2, (4, 4))
    with pytest.raises(PromptTooLong, match="257 positions, 256 at most"):
        family.velocity([row])
    family.velocity([replace(row, references=())])


def test_a_whole_checkpoint_reads_draws_and_decodes(whole: OmniGen2) -> None:
    assert whole.capabilities.tasks == ("generate", "edit")
    (context,) = whole.prefill([Prompt.draw("a poodle", (PICTURE,))])
    assert context.num_bytes == context.num_tokens * 64 * 4
    references = whole.encode([PICTURE])
    assert [tuple(latent.shape) for latent in references] == [(4, 4, 8)]
    (velocity,) = whole.velocity(
        [
            Row(
                latent_CYX=whole.noise(Size(64, 32), 3),
                time=0.0,
                context=context,
                references=tuple(references),
            )
        ]
    )
    assert whole.decode([velocity])[0].shape == (3, 32, 64)


def test_a_prompt_read_with_others_is_the_prompt_alone(whole: OmniGen2) -> None:
    prompts = [Prompt.draw("a poodle"), Prompt.draw("two")]
    for together, prompt in zip(whole.prefill(prompts), prompts, strict=True):
        (alone,) = whole.prefill([prompt])
        torch.testing.assert_close(together.features_LF, alone.features_LF, atol=1e-5, rtol=1e-4)


def test_a_prompt_is_one_block_and_prepared_once(whole: OmniGen2) -> None:
    prepared = whole.prepare(Prompt.draw("a poodle", (PICTURE,)))
    (together,) = whole.prefill([prepared], prefixes=[None])
    (alone,) = whole.prefill([Prompt.draw("a poodle", (PICTURE,))])
    assert [block.num_tokens for block in prepared.blocks] == [together.num_tokens]
    assert torch.equal(together.features_LF, alone.features_LF)


def test_questions_are_refused(whole: OmniGen2) -> None:
    with pytest.raises(MissingCapability, match="answers no questions"):
        whole.prefill([Prompt.ask("what is this?")])
    for ask in (lambda: whole.begin_answer(None), lambda: whole.next_tokens([]), lambda: whole.text([1])):
        with pytest.raises(MissingCapability, match="answers no questions"):
            ask()
    assert not whole.end_tokens


def test_an_edit_has_its_images_size_in_whole_steps(whole: OmniGen2) -> None:
    assert whole.output_size([PICTURE]) == Size(64, 64)
