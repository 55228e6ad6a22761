from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.checkpoint import load
from model.drawing import Drawing
from model.errors import BadRequest, Cancelled, MissingCapability, TooManyReferences, UnsupportedSize
from model.family import Size
from model.hbridge.family import HBridge
from model.pipeline import answer, draw
from model.prompt import Prompt, Turn
from model.question import Question
from model.qwen_vl.token_prompt import TokenPrompt
from model.request import Progress

SIZE = Size(64, 64)
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def family(drawing_folder: Path) -> HBridge:
    family = load(drawing_folder)
    assert isinstance(family, HBridge)
    return family


def drawing(**given: object) -> Drawing:
    return Drawing(**{"prompt": "red", "size": SIZE, "seed": 5, "num_inference_steps": 2, **given})  # type: ignore[arg-type]


def question(text: str = "what?", **given: object) -> Question:
    return Question(turns=(Turn("user", (PICTURE, text)),), **{"max_tokens": 6, **given})  # type: ignore[arg-type]


def pixels(image: Image.Image) -> list[int]:
    return np.asarray(image).flatten().tolist()


def test_the_same_seed_draws_the_same(family: HBridge) -> None:
    first, second = draw(family, drawing()), draw(family, drawing())
    assert pixels(first.images[0]) == pixels(second.images[0])
    assert first.images[0].size == (64, 64)
    assert pixels(first.images[0]) != pixels(draw(family, drawing(seed=6)).images[0])


def test_pictures_drawn_together_are_those_drawn_alone(family: HBridge) -> None:
    both = draw(family, drawing(n=2))
    alone = draw(family, drawing(seed=6))
    assert both.seeds == (5, 6)
    np.testing.assert_allclose(np.asarray(both.images[1], float), np.asarray(alone.images[0], float), atol=1)


def test_words_matter_and_so_do_references(family: HBridge) -> None:
    plain = pixels(draw(family, drawing()).images[0])
    assert plain != pixels(draw(family, drawing(prompt="blue")).images[0])
    assert plain != pixels(draw(family, drawing(images=(PICTURE,))).images[0])


def test_the_understanding_side_runs_once_per_branch(family: HBridge) -> None:
    und = family.module.und
    before, told = und.num_prefilled_tokens, []

    def listen(progress: Progress) -> None:
        told.append((progress.stage, und.num_prefilled_tokens - before))

    usage = draw(family, drawing(images=(PICTURE,), num_inference_steps=3), listen).usage
    assert [count for stage, count in told if stage == "denoise"] == [usage.prefilled_tokens] * 3
    assert usage.prefilled_tokens > 2 * usage.prompt_tokens
    assert usage.network_calls == 9
    assert usage.image_tokens == 16


def test_without_guidance_one_branch_is_read_and_run(family: HBridge) -> None:
    usage = draw(family, drawing(guidance_scale=1.0)).usage
    assert usage.prefilled_tokens == usage.prompt_tokens
    assert usage.network_calls == 2


def test_an_edit_takes_the_size_of_its_image(family: HBridge) -> None:
    drawn = draw(family, drawing(images=(PICTURE,), size=None))
    assert drawn.size == Size(64, 80)
    assert drawn.images[0].size == (64, 80)


@pytest.mark.parametrize("size", [Size(65, 64), Size(16, 64), Size(4096, 64), Size(0, 0)])
def test_sizes_that_cannot_be_made_are_refused(family: HBridge, size: Size) -> None:
    with pytest.raises(UnsupportedSize):
        draw(family, drawing(size=size))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("seed", -1),
        ("num_inference_steps", 0),
        ("solver", "magic"),
        ("guidance_interval", (0.5, 0.2)),
        ("images", (PICTURE,) * 6),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(family: HBridge, field: str, value: object) -> None:
    with pytest.raises(BadRequest):
        draw(family, drawing(**{field: value}), lambda progress: pytest.fail(f"began to {progress.stage}"))


def test_a_listener_can_stop_the_work(family: HBridge) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "denoise" and progress.done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        draw(family, drawing(), stop)


def test_the_likeliest_answer_is_that_of_reading_it_all(family: HBridge) -> None:
    told: list[str] = []
    answered = answer(family, question(), lambda progress: told.append(progress.text))
    prompt = family.processor.encode(Prompt(task="understand", turns=question().turns))
    tokens = prompt.tokens
    for _ in range(6):
        (logits_LV,) = family.module.und.logits([TokenPrompt(tokens=tokens, images=prompt.images)])
        tokens = (*tokens, int(logits_LV[-1].argmax()))
    assert answered.text == family.text(tokens[-6:]).strip()
    assert answered.usage.prompt_tokens == len(prompt.tokens)
    assert answered.usage.completion_tokens == 6
    assert answered.finish_reason == "length"
    assert told[-1].strip() == answered.text


def test_an_answer_follows_from_its_seed(family: HBridge) -> None:
    first, second = (answer(family, question(temperature=1.5, seed=3)) for _ in range(2))
    assert first.text == second.text
    assert first.seed == 3
    others = {answer(family, question(temperature=1.5, seed=seed)).text for seed in range(4)}
    assert len(others) > 1


def test_a_stop_word_ends_the_answer_and_is_no_part_of_it(family: HBridge) -> None:
    whole = answer(family, question()).text
    stopped = answer(family, question(stop=(whole[-1],)))
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole[: whole.index(whole[-1])].strip()


def test_questions_that_cannot_be_answered_are_refused(family: HBridge) -> None:
    with pytest.raises(BadRequest):
        answer(family, question(max_tokens=0))
    with pytest.raises(TooManyReferences):
        answer(family, Question(turns=(Turn("user", (PICTURE,) * 99),)))


def test_a_checkpoint_without_autoencoder_and_tokenizer_says_what_it_cannot(golden_folder: Path) -> None:
    family = load(golden_folder)
    with pytest.raises(MissingCapability, match="cannot generate"):
        draw(family, drawing())
    with pytest.raises(MissingCapability, match="no tokenizer"):
        answer(family, question())
