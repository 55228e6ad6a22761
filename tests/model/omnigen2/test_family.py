from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import tokenizers
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration

from model.checkpoint import build, load, save
from model.drawing import Drawing, plan_drawing
from model.errors import MissingCapability, PromptTooLong, TooManyReferences, UnsupportedSize
from model.family import Context, Row, Size
from model.guidance import Branch
from model.omnigen2.config import OmniGen2Config
from model.omnigen2.family import PROMPT_TEMPLATE, OmniGen2, TextContext
from model.pipeline import draw
from model.prompt import Prompt

PICTURE = Image.new("RGB", (70, 40), (200, 30, 30))
WORDS = "an {odd} poodle"


def text(context: Context) -> torch.Tensor:
    return cast(TextContext, context).text_Lh


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


def test_a_row_is_served_up_to_the_last_position_and_refused_beyond(
    family: OmniGen2, config: OmniGen2Config, make_row: Callable[..., Row]
) -> None:
    last = config.axes_lens[0] - 1
    family.velocity([make_row(0, (4, 4), last), make_row(0, (4, 4), last - 3, (4, 4), (2, 2))])
    for row in (make_row(0, (4, 4), last + 1), make_row(0, (4, 4), last - 2, (4, 4), (2, 2))):
        with pytest.raises(PromptTooLong, match="257 positions, 256 at most"):
            family.velocity([row])


def test_five_references_are_told_apart_and_six_refused(
    family: OmniGen2, make_row: Callable[..., Row]
) -> None:
    row = make_row(0, (4, 4), 3, *[(2, 2)] * 6)
    family.velocity([replace(row, references=row.references[:5])])
    with pytest.raises(TooManyReferences, match="6 images, 5 at most"):
        family.velocity([row])


def test_a_whole_checkpoint_reads_draws_and_decodes(whole: OmniGen2) -> None:
    assert whole.capabilities.tasks == ("generate", "edit")
    (context,) = whole.prefill([Prompt.draw("a poodle", (PICTURE,))])
    assert context.num_bytes == context.num_tokens * whole.config.transformer.hidden_size * 4
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


def test_prompts_are_read_in_the_published_template_whatever_they_say(
    whole: OmniGen2, drawing_folder: Path
) -> None:
    published = tokenizers.Tokenizer.from_file(str(drawing_folder / "tokenizer.json"))
    for words in (WORDS, ""):
        told = (
            "<|im_start|>system\nYou are a helpful assistant that generates high-quality images based on "
            f"user instructions.<|im_end|>\n<|im_start|>user\n{words}<|im_end|>\n"
        )
        assert list(whole.prepare(Prompt.draw(words)).prompt.tokens) == published.encode(told).ids
        with_image = whole.prepare(Prompt.draw(words, (PICTURE,)))
        assert with_image.prompt == whole.prepare(Prompt.draw(words)).prompt, "images are not shown to it"


def test_text_is_the_last_hidden_state_of_the_language_model_refined(omnigen2_folder: Path) -> None:
    """The library pads on the right, and its last hidden state is the one after the final norm."""
    family = cast(OmniGen2, load(omnigen2_folder))
    library = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        omnigen2_folder / "mllm", dtype=torch.float32
    )
    prompts = [Prompt.draw(WORDS), Prompt.draw("")]
    tokens = [family.prepare(prompt).prompt.tokens for prompt in prompts]
    longest = max(map(len, tokens))
    mask = torch.tensor([[i < len(each) for i in range(longest)] for each in tokens]).long()
    padded = torch.tensor([[*each, *[0] * (longest - len(each))] for each in tokens])
    with torch.inference_mode():
        states = library(padded, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        features = [states_LF[: len(each)] for states_LF, each in zip(states, tokens, strict=True)]
        expected = family.transformer.refine_texts(features)
    for context, text_Lh in zip(family.prefill(prompts), expected, strict=True):
        torch.testing.assert_close(text(context), text_Lh, atol=1e-4, rtol=0)


def test_a_prompt_read_with_others_is_the_prompt_alone(whole: OmniGen2) -> None:
    prompts = [Prompt.draw("a poodle"), Prompt.draw("two")]
    for together, prompt in zip(whole.prefill(prompts), prompts, strict=True):
        (alone,) = whole.prefill([prompt])
        torch.testing.assert_close(text(together), text(alone), atol=1e-5, rtol=1e-4)


def test_a_prompt_is_one_block_and_prepared_once(whole: OmniGen2) -> None:
    prepared = whole.prepare(Prompt.draw("a poodle", (PICTURE,)))
    (together,) = whole.prefill([prepared], prefixes=[None])
    (alone,) = whole.prefill([Prompt.draw("a poodle", (PICTURE,))])
    assert [block.num_tokens for block in prepared.blocks] == [together.num_tokens]
    assert torch.equal(text(together), text(alone))
    assert whole.part(together, together.num_tokens, prepared.depth) is together


def test_steps_read_no_text(whole: OmniGen2) -> None:
    """The language model and all of the transformer's text side run once for a prompt."""
    network, passed = whole.transformer, 0

    def count(*_: object) -> None:
        nonlocal passed
        passed += 1

    text_side = (
        network.time_caption_embed.caption_embedder,
        network.context_refiner[0],
        whole.module.mllm.model,
    )
    hooks = [module.register_forward_hook(count) for module in text_side]
    draw(whole, Drawing(prompt="a", size=Size(64, 64), num_inference_steps=3))
    for hook in hooks:
        hook.remove()
    assert passed == len(text_side), "both branches in one call"


def test_questions_are_refused(whole: OmniGen2) -> None:
    with pytest.raises(MissingCapability, match="answers no questions"):
        whole.prefill([Prompt.ask("what is this?")])
    for ask in (lambda: whole.begin_answer(None), lambda: whole.next_tokens([]), lambda: whole.text([1])):
        with pytest.raises(MissingCapability, match="answers no questions"):
            ask()
    assert not whole.end_tokens


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ([(70, 40)], (64, 64)),
        ([(1024, 512)], (1024, 512)),
        ([(2048, 1024)], (1024, 512)),
        ([(512, 512), (64, 64)], (1024, 1024)),
    ],
)
def test_an_edit_has_the_size_of_its_only_image_as_it_is_read(
    whole: OmniGen2, given: list[tuple[int, int]], size: tuple[int, int]
) -> None:
    assert whole.output_size([Image.new("RGB", each) for each in given]) == Size(*size)


def test_a_mask_keeps_the_size_of_the_first_of_several_images(whole: OmniGen2) -> None:
    first = Image.new("RGB", (1440, 720))
    drawing = Drawing(prompt="a", images=(first, PICTURE), mask=Image.new("1", first.size, 1))
    assert plan_drawing(whole, drawing).size == Size(1440, 720)


@pytest.mark.parametrize("size", [Size(1000, 1000), Size(2048, 2048), Size(2064, 64), Size(48, 64)])
def test_a_size_is_made_as_asked_or_refused(whole: OmniGen2, size: Size) -> None:
    with pytest.raises(UnsupportedSize, match="multiples of 16 from 64 to 2048, with at most 1048576 pixels"):
        plan_drawing(whole, Drawing(prompt="a", size=size))


def test_prompts_and_images_beyond_the_last_position_are_refused_before_any_work(whole: OmniGen2) -> None:
    template = len(PROMPT_TEMPLATE.format(prompt="")) - 2 * len("<|im_start|>") - 2 * len("<|im_end|>") + 4
    room = 1023 - template
    wide = Image.new("RGB", (2048, 16))  # read as 1024x16: 64 positions
    assert whole.capabilities.max_prompt_tokens == 1023
    whole.prepare(Prompt.draw("a" * room))
    whole.prepare(Prompt.draw("a" * (room - 128), (wide, wide)))
    with pytest.raises(PromptTooLong, match="takes 1024 tokens, 1023 at most"):
        whole.prepare(Prompt.draw("a" * (room + 1)))
    drawing = Drawing(prompt="a", negative_prompt="a" * (room - 127), images=(wide, wide), size=Size(64, 64))
    with pytest.raises(PromptTooLong, match="1025 positions, 1024 at most"):
        draw(whole, drawing, lambda progress: progress.stage == "denoise" and pytest.fail("began"))
    with pytest.raises(TooManyReferences):
        plan_drawing(whole, Drawing(prompt="a", images=(PICTURE,) * 6))


def test_sizes_and_prompts_stay_within_the_positions_of_a_smaller_network() -> None:
    small = build({"transformer": {"axes_lens": [256, 64, 32]}, "family": "omnigen2"})
    assert (small.capabilities.max_side, small.capabilities.max_prompt_tokens) == (512, 32)
    assert small.output_size([Image.new("RGB", (1024, 1024))]) == Size(512, 512)
    assert small.capabilities.default_size == Size(512, 512)


def test_the_scheduler_of_the_checkpoint_chooses_the_grid() -> None:
    def grid(**scheduler: Any) -> str:
        return build({"family": "omnigen2", "transformer": {}, **scheduler}).capabilities.grid

    assert grid() == grid(scheduler={"dynamic_time_shift": True}) == "omnigen2"
    assert grid(scheduler={"dynamic_time_shift": False, "_class_name": "any"}) == "linear"


@pytest.mark.parametrize(("interval", "guided"), [((0.0, 1.0), 5), ((0.2, 0.6), 3), ((0.3, 0.5), 1)])
def test_guidance_works_from_one_share_of_the_steps_to_another_both_included(
    whole: OmniGen2, interval: tuple[float, float], guided: int
) -> None:
    drawing = Drawing(prompt="a", size=Size(64, 64), num_inference_steps=5, guidance_interval=interval)
    assert draw(whole, drawing).usage.network_calls == 5 + guided
    edit = replace(drawing, images=(PICTURE,))
    assert draw(whole, edit).usage.network_calls == 5 + 2 * guided
    assert draw(whole, replace(edit, image_guidance_scale=1.0)).usage.network_calls == 5 + guided
    assert draw(whole, replace(edit, guidance_scale=1.0)).usage.network_calls == 5


def test_the_branch_without_an_image_drops_the_references_and_reads_the_negative_prompt(
    whole: OmniGen2,
) -> None:
    plan = plan_drawing(whole, Drawing(prompt="a", negative_prompt="b", images=(PICTURE,), size=Size(64, 64)))
    said = {branch: whole.prepare(prompt).prompt.tokens for branch, prompt in plan.prompts.items()}
    assert said[Branch.NO_TEXT] == said[Branch.NO_IMAGE] == whole.prepare(Prompt.draw("b")).prompt.tokens
    assert said[Branch.FULL] == whole.prepare(Prompt.draw("a")).prompt.tokens


def test_a_saved_checkpoint_still_reads_words(whole: OmniGen2, drawing_folder: Path, tmp_path: Path) -> None:
    save(whole, tmp_path, tokenizer_from=drawing_folder)
    (again,) = load(tmp_path).prefill([Prompt.draw(WORDS)])
    (context,) = whole.prefill([Prompt.draw(WORDS)])
    assert torch.equal(text(again), text(context))
