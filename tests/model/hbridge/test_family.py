from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor

from model.checkpoint import load
from model.errors import BadCheckpoint, MissingCapability
from model.family import Depth, Row, Size, TextRow
from model.hbridge.family import HBridge
from model.prompt import Prompt, Turn
from model.qwen_vl.context import KVContext

PICTURE = Image.effect_noise((70, 100), 60).convert("RGB")


@pytest.fixture(scope="module")
def family(golden_folder: Path) -> HBridge:
    """Latents in, latents out."""
    return load(golden_folder)


@pytest.fixture(scope="module")
def drawing(drawing_folder: Path) -> HBridge:
    """Words in, pictures out."""
    return load(drawing_folder)


def of_tokens(tensors: dict[str, Tensor], task: Any = "generate", name: str = "in.tokens") -> Prompt:
    images = tuple(Image.fromarray(tensors[key].numpy()) for key in tensors if key.endswith(".u8"))
    return Prompt.of_tokens(tuple(tensors[name].tolist()), images, task=task)


def question_in_an_edits_words(text: str) -> Prompt:
    """A question whose prompt begins as that of an edit does."""
    system = "You are a helpful assistant that generates high-quality images based on user instructions."
    return Prompt(task="understand", turns=(Turn("system", (system,)), Turn("user", (PICTURE, text))))


@pytest.mark.parametrize("task", ["edit", "understand"])
@pytest.mark.parametrize("name", ["prefill_text", "velocity_ref1"])
def test_contexts_are_those_of_the_golden_vectors(family: HBridge, golden: Any, name: str, task: Any) -> None:
    tensors = golden(name)
    (context,) = family.prefill([of_tokens(tensors, task)])
    assert context.next_id == int(tensors["ctx.next_id"])
    assert torch.equal(context.ids_L3, tensors["ctx.position_ids"])
    for pair in family.config.pairs:
        place = context.layers.index(pair)
        torch.testing.assert_close(context.keys[place], tensors[f"ctx.k.{pair}"], atol=1e-4, rtol=0)
        torch.testing.assert_close(context.values[place], tensors[f"ctx.v.{pair}"], atol=1e-4, rtol=0)


def test_a_question_goes_on_to_the_logits_and_a_drawing_does_not(family: HBridge, golden: Any) -> None:
    tensors = golden("prefill_text")
    question, drawing = family.prefill([of_tokens(tensors, "understand"), of_tokens(tensors)])
    torch.testing.assert_close(question.logits_V, tensors["out.logits"][-1], atol=1e-4, rtol=0)
    assert question.layers == tuple(range(6))
    assert drawing.logits_V is None
    assert drawing.layers == tuple(family.config.pairs)


def test_a_part_of_a_context_is_the_context_of_those_tokens(drawing: HBridge) -> None:
    edit = drawing.prepare(Prompt.draw("bluer", (PICTURE,)))
    (whole,) = drawing.prefill([edit.beginning(len(edit.blocks))])
    for depth, prompt in ((Depth.BEGINNING, edit.beginning(1)), (Depth.PICTURE, edit)):
        (read,) = drawing.prefill([prompt])
        part = cast(KVContext, drawing.part(whole, read.num_tokens, depth))
        assert (part.layers, part.next_id) == (cast(KVContext, read).layers, cast(KVContext, read).next_id)
        for layer in part.layers:
            for first, second in zip(part.at(layer), cast(KVContext, read).at(layer), strict=True):
                torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_a_prompt_that_goes_on_from_a_beginning_is_the_prompt_read_whole(drawing: HBridge) -> None:
    edit = drawing.prepare(Prompt.draw("bluer", (PICTURE,)))
    question = drawing.prepare(question_in_an_edits_words("how blue?"))
    assert edit.blocks[0] == question.blocks[0]
    (deep,) = drawing.prefill([question.beginning(1)])
    before = drawing.expert.num_prefilled_tokens
    prompts = [edit, Prompt.draw("blue"), question]
    together = drawing.prefill(prompts, prefixes=[deep, None, deep])
    rests = edit.blocks[1].num_tokens + question.blocks[1].num_tokens
    assert drawing.expert.num_prefilled_tokens - before == rests + together[1].num_tokens
    whole = drawing.prefill(prompts)
    for one, other in zip(together, whole, strict=True):
        assert one.layers == other.layers
        for first, second in zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True):
            torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    torch.testing.assert_close(together[2].logits_V, whole[2].logits_V, atol=1e-5, rtol=0)
    latent_CYX = torch.randn(4, 4, 4)
    pictures = drawing.velocity(
        [Row(latent_CYX=latent_CYX, time=0.5, context=c) for c in (together[0], whole[0])]
    )
    torch.testing.assert_close(*pictures, atol=1e-5, rtol=0)


def test_a_beginning_keeps_what_a_picture_goes_on_from_and_not_what_an_answer_needs(drawing: HBridge) -> None:
    edit = drawing.prepare(Prompt.draw("bluer", (PICTURE,)))
    whole, beginning = drawing.prefill([edit, edit.beginning(1)])
    assert whole.layers == tuple(drawing.config.pairs)
    assert beginning.layers == tuple(range(max(drawing.config.pairs) + 1))
    drawing.prefill([edit], prefixes=[beginning])
    with pytest.raises(ValueError, match="lacks layers"):
        drawing.prefill([edit], prefixes=[drawing.prefill([Prompt.draw("x")])[0]])
    with pytest.raises(ValueError, match="lacks layers"):
        drawing.prefill([question_in_an_edits_words("how blue?")], prefixes=[beginning])


def test_prefill_then_step_is_the_whole_pass_of_the_golden_loop(family: HBridge, golden: Any) -> None:
    tensors = golden("loop_t2i")
    contexts = family.prefill([of_tokens(tensors, name=f"in.{branch}.tokens") for branch in "cu"])
    rows = [Row(latent_CYX=tensors["in.latent"], time=0.0, context=context) for context in contexts]
    full, negative = family.velocity(rows)
    guided = negative + 4 * (full - negative)
    torch.testing.assert_close(guided, tensors["out.guided_velocity"][0], atol=1e-4, rtol=0)


def test_logits_do_not_know_of_generation(family: HBridge, golden: Any) -> None:
    tensors = golden("prefill_text")
    (before,) = family.prefill([of_tokens(tensors, "understand")])
    family.velocity([Row(latent_CYX=torch.randn(4, 4, 4), time=0.5, context=before)])
    (after,) = family.prefill([of_tokens(tensors, "understand")])
    assert torch.equal(before.logits_V, after.logits_V)


def test_layers_above_the_last_bridge_change_no_picture(golden_folder: Path, golden: Any) -> None:
    family = load(golden_folder)
    row = Row(
        latent_CYX=torch.randn(4, 4, 4),
        time=0.5,
        context=family.prefill([of_tokens(golden("prefill_text"))])[0],
    )
    before = family.velocity([row])[0]
    for parameter in (*family.expert.model.layers[5].parameters(), family.expert.lm_head.weight):
        parameter.data.normal_()
    again = replace(row, context=family.prefill([of_tokens(golden("prefill_text"))])[0])
    assert torch.equal(family.velocity([again])[0], before)


def test_the_module_has_the_names_of_the_specification(drawing: HBridge) -> None:
    names = {name.partition(".")[0] for name in drawing.module.state_dict()}
    assert names == {"und", "gen", "bridge", "srt_tokens", "srt_proj", "vae"}


def test_the_network_shares_every_weight_with_the_module(family: HBridge) -> None:
    ours, theirs = dict(family.network.named_parameters()), dict(family.module.named_parameters())
    assert all(theirs[name] is parameter for name, parameter in ours.items())
    assert {"srt_tokens", "bridge.1.q_linear.weight"} <= ours.keys()
    assert not any(name.startswith(("und", "vae")) for name in ours)


def test_noise_follows_from_the_seed_alone(family: HBridge) -> None:
    first, second, third = (family.noise(Size(64, 96), seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert first.shape == (4, 12, 8)
    assert first.dtype == torch.float32


def test_without_an_autoencoder_latents_go_in_and_come_out(family: HBridge) -> None:
    assert family.capabilities.tasks == ("understand",)
    latent = torch.randn(4, 4, 4)
    assert family.decode([latent])[0] is latent
    with pytest.raises(MissingCapability, match="autoencoder"):
        family.encode([PICTURE])


def test_references_are_encoded_in_whole_steps_and_without_chance(drawing: HBridge) -> None:
    first, second = (drawing.encode([PICTURE])[0] for _ in range(2))
    assert first.shape == (4, 12, 8)
    assert torch.equal(first, second)


def test_pictures_have_the_size_of_their_latents(drawing: HBridge) -> None:
    pictures = drawing.decode([torch.randn(4, 4, 8), torch.randn(4, 6, 4)])
    assert [tuple(picture.shape) for picture in pictures] == [(3, 32, 64), (3, 48, 32)]
    assert all(0 <= picture.min() <= picture.max() <= 1 for picture in pictures)


def test_weights_that_are_missing_make_no_pictures(drawing_folder: Path) -> None:
    family = load(drawing_folder)
    family.module.vae = None
    with pytest.raises(MissingCapability, match="lacks the autoencoder"):
        family.decode([torch.randn(4, 4, 4)])


def test_an_answer_goes_on_as_one_long_prompt_would(family: HBridge, golden: Any) -> None:
    tensors = golden("prefill_text")
    tokens = tuple(tensors["in.tokens"].tolist())
    (context,) = family.prefill([Prompt.of_tokens(tokens[:-1], task="understand")])
    cache, _ = family.begin_answer(context)
    logits_V = family.next_tokens([TextRow(token=tokens[-1], cache=cache)])[0]
    torch.testing.assert_close(logits_V, tensors["out.logits"][-1], atol=1e-4, rtol=0)


def test_an_answer_needs_the_context_of_a_question(family: HBridge, golden: Any) -> None:
    (context,) = family.prefill([of_tokens(golden("prefill_text"))])
    with pytest.raises(ValueError, match="understand prompt"):
        family.begin_answer(context)


def test_answers_are_words_and_end(drawing: HBridge) -> None:
    assert drawing.text(drawing.processor.tokenizer.encode("poodle", [])) == "poodle"
    assert 501 in drawing.end_tokens


def test_capabilities_follow_the_config(drawing: HBridge) -> None:
    can = drawing.capabilities
    assert can.tasks == ("generate", "edit", "understand")
    assert (can.num_inference_steps, can.guidance_scale, can.image_guidance_scale) == (6, 4.0, 2.0)
    assert (can.size_step, can.max_references, can.guidance_clock) == (16, 5, "time")
    assert drawing.output_size([PICTURE]) == Size(64, 96)


def test_a_config_of_an_unknown_autoencoder_is_refused(golden_config: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match="vae"):
        HBridge.from_config(golden_config | {"vae": {"poodle": 1}}, None)


def test_a_row_may_share_its_context_and_references_with_another(
    family: HBridge, make_row: Callable[..., Row]
) -> None:
    row = make_row(family.config, 0, (4, 4), 5, (2, 2))
    both = family.velocity([row, replace(row, time=0.9)])
    torch.testing.assert_close(both[0], family.velocity([row])[0], atol=1e-5, rtol=0)
    assert not torch.allclose(both[0], both[1])


def test_without_an_autoencoder_there_is_no_preview(family: HBridge) -> None:
    with pytest.raises(MissingCapability):
        family.preview([torch.zeros(4, 4, 4)])
