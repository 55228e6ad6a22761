from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model.attention import Backend
from model.errors import MissingCapability
from model.family import TextRow
from model.qwen_vl.config import QwenVLConfig
from model.qwen_vl.context import KVContext
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.kv_cache import KVCache
from model.qwen_vl.token_prompt import TokenPrompt

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}
CLOSE = {"rtol": 0.0, "atol": 2e-5}
ALL = range(6)
PAD = 506


def same(one: KVContext, other: KVContext) -> None:
    assert one.layers == other.layers
    assert one.next_id == other.next_id
    for a, b in zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("backend", ["sdpa", "plain"])
def test_text_prefill_matches_the_golden_vectors(
    expert: QwenVL, text_prompt: TokenPrompt, text_golden: dict[str, Tensor], backend: Backend
) -> None:
    expert.use_backend(backend)
    (context,) = expert.prefill([text_prompt], keep=(1, 2, 3, 4))
    for layer, k_LKD, v_LKD in zip(context.layers, context.keys, context.values, strict=True):
        torch.testing.assert_close(k_LKD, text_golden[f"ctx.k.{layer}"], **TOLERANCE)
        torch.testing.assert_close(v_LKD, text_golden[f"ctx.v.{layer}"], **TOLERANCE)
    torch.testing.assert_close(expert.logits([text_prompt])[0], text_golden["out.logits"], **TOLERANCE)


@pytest.mark.parametrize("backend", ["sdpa", "plain"])
def test_image_prefill_matches_the_golden_vectors(
    expert: QwenVL, image_prompt: TokenPrompt, image_golden: dict[str, Tensor], backend: Backend
) -> None:
    expert.use_backend(backend)
    (context,) = expert.prefill([image_prompt], keep=(1, 2, 3, 4))
    assert context.next_id == image_golden["ctx.next_id"]
    for layer, k_LKD, v_LKD in zip(context.layers, context.keys, context.values, strict=True):
        torch.testing.assert_close(k_LKD, image_golden[f"ctx.k.{layer}"], **TOLERANCE)
        torch.testing.assert_close(v_LKD, image_golden[f"ctx.v.{layer}"], **TOLERANCE)


def test_prompts_packed_read_as_each_alone(
    expert: QwenVL, text_prompt: TokenPrompt, image_prompt: TokenPrompt
) -> None:
    prompts = [text_prompt, image_prompt, TokenPrompt(tokens=(9,)), image_prompt]
    packed = expert.prefill(prompts, keep=ALL, logits=True)
    for prompt, context in zip(prompts, packed, strict=True):
        (alone,) = expert.prefill([prompt], keep=ALL, logits=True)
        same(context, alone)
        torch.testing.assert_close(context.logits_V, alone.logits_V, **CLOSE)


def beginning(prompt: TokenPrompt, length: int) -> TokenPrompt:
    tokens = prompt.tokens[:length]
    return TokenPrompt(tokens=tokens, images=prompt.images if PAD in tokens else ())


@pytest.mark.parametrize("backend", ["sdpa", "plain"])
@pytest.mark.parametrize("keep", [ALL, (1, 2, 3)])
def test_going_on_from_a_prefix_equals_reading_it_all(
    expert: QwenVL, text_prompt: TokenPrompt, image_prompt: TokenPrompt, backend: Backend, keep: Sequence[int]
) -> None:
    expert.use_backend(backend)
    logits = keep is ALL
    text_length, image_length = len(text_prompt.tokens), len(image_prompt.tokens)
    first_pad = image_prompt.tokens.index(PAD)
    known = [
        (text_prompt, 5),
        (image_prompt, first_pad + 12),
        (text_prompt, None),
        (image_prompt, first_pad),
        (image_prompt, image_length - 1),
        (text_prompt, text_length - 1),
    ]
    prompts = [prompt for prompt, _ in known]
    prefixes = [
        length and expert.prefill([beginning(prompt, length)], keep=ALL)[0] for prompt, length in known
    ]
    together = expert.prefill(prompts, keep=keep, logits=logits, prefixes=prefixes)
    for context, whole in zip(together, expert.prefill(prompts, keep=keep, logits=logits), strict=True):
        same(context, whole)
        assert torch.equal(context.ids_L3, whole.ids_L3)
        assert context.layers == tuple(keep)
        if logits:
            torch.testing.assert_close(context.logits_V, whole.logits_V, **CLOSE)


def test_what_a_prefix_covers_is_not_read_again(expert: QwenVL, image_prompt: TokenPrompt) -> None:
    start = image_prompt.tokens.index(PAD) + 12
    prefixes = expert.prefill([beginning(image_prompt, start)], keep=(0, 1, 2))
    assert expert.num_prefilled_tokens == start
    expert.visual = None
    expert.prefill([image_prompt], keep=(1, 2), prefixes=prefixes)
    assert expert.num_prefilled_tokens == len(image_prompt.tokens)


def test_a_prefix_that_does_not_serve_is_refused(expert: QwenVL, text_prompt: TokenPrompt) -> None:
    shallow = expert.prefill([beginning(text_prompt, 5)], keep=(1, 2))
    for keep, logits, missing in (((1, 2), False, "0"), ((1, 2), True, "0, 3, 4, 5")):
        with pytest.raises(ValueError, match=f"lacks layers .{missing}"):
            expert.prefill([text_prompt], keep=keep, logits=logits, prefixes=shallow)
    with pytest.raises(ValueError, match="shorter than its prompt"):
        expert.prefill([text_prompt], keep=(0,), prefixes=expert.prefill([text_prompt], keep=(0,)))


def test_stopping_early_leaves_the_same_keys_and_values(expert: QwenVL, text_prompt: TokenPrompt) -> None:
    (early,) = expert.prefill([text_prompt], keep=(1, 2))
    (full,) = expert.prefill([text_prompt], keep=(1, 2), logits=True)
    same(early, full)
    assert early.logits_V is None


def test_stopping_early_computes_nothing_after_the_last_kept_layer(
    expert: QwenVL, text_prompt: TokenPrompt
) -> None:
    ran: list[str] = []
    for name, module in expert.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    expert.prefill([text_prompt], keep=(1, 2))
    assert "layers.1.mlp" in ran
    assert "layers.2.self_attn.k_proj" in ran
    assert not {"layers.2.self_attn.q_proj", "layers.2.mlp", "layers.3", "norm"} & set(ran)


def test_keeping_nothing_runs_no_layer(expert: QwenVL, text_prompt: TokenPrompt) -> None:
    expert.model.layers = torch.nn.ModuleList()
    (context,) = expert.prefill([text_prompt], keep=())
    assert context.keys == ()
    assert context.num_tokens == len(text_prompt.tokens)


def test_every_prefilled_token_is_counted(
    expert: QwenVL, text_prompt: TokenPrompt, image_prompt: TokenPrompt
) -> None:
    (context, _) = expert.prefill([text_prompt, image_prompt], keep=ALL, logits=True)
    assert expert.num_prefilled_tokens == len(text_prompt.tokens) + len(image_prompt.tokens)
    expert.next_tokens([TextRow(token=1, cache=KVCache(context))])
    assert expert.num_prefilled_tokens == len(text_prompt.tokens) + len(image_prompt.tokens)


def test_decoding_with_a_cache_equals_reading_it_all(
    expert: QwenVL, text_prompt: TokenPrompt, image_prompt: TokenPrompt
) -> None:
    prompts = [text_prompt, image_prompt]
    answers = [tuple(range(40, 46)), tuple(range(60, 66))]
    contexts = expert.prefill(prompts, keep=ALL, logits=True)
    caches = [KVCache(context) for context in contexts]
    steps = [torch.stack([context.logits_V for context in contexts if context.logits_V is not None])]
    for pair in zip(*answers, strict=True):
        rows = [TextRow(token=token, cache=cache) for token, cache in zip(pair, caches, strict=True)]
        steps.append(expert.next_tokens(rows))
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        whole = TokenPrompt(tokens=prompt.tokens + answer, images=prompt.images)
        expected = expert.logits([whole])[0][len(prompt.tokens) - 1 :]
        torch.testing.assert_close(torch.stack([step[i] for step in steps]), expected, **CLOSE)


def test_an_answer_leaves_its_context_as_it_was(expert: QwenVL, text_prompt: TokenPrompt) -> None:
    (context,) = expert.prefill([text_prompt], keep=ALL, logits=True)
    before = [tensor.clone() for tensor in (*context.keys, *context.values)]
    first, second = KVCache(context), KVCache(context)
    expert.next_tokens([TextRow(token=7, cache=first)])
    alone = expert.next_tokens([TextRow(token=8, cache=second)])
    for tensor, earlier in zip((*context.keys, *context.values), before, strict=True):
        assert torch.equal(tensor, earlier)
    assert torch.equal(alone, expert.next_tokens([TextRow(token=8, cache=KVCache(context))]))


def test_two_rows_on_one_cache_are_refused(expert: QwenVL, text_prompt: TokenPrompt) -> None:
    (context,) = expert.prefill([text_prompt], keep=ALL, logits=True)
    row = TextRow(token=7, cache=KVCache(context))
    with pytest.raises(ValueError, match="cache of its own"):
        expert.next_tokens([row, row])


def test_branches_of_a_prompt_are_blind_to_each_other(
    expert: QwenVL, text_prompt: TokenPrompt, image_prompt: TokenPrompt
) -> None:
    prompts, branches = [image_prompt, text_prompt], [[(1, 2, 3), (9, 8)], [(5,)]]
    expert.use_backend("plain")
    packed_TC = expert.branch_features(prompts, branches)
    alone = [
        expert.features([TokenPrompt(tokens=prompt.tokens + branch, images=prompt.images)])[0][-len(branch) :]
        for prompt, of_one in zip(prompts, branches, strict=True)
        for branch in of_one
    ]
    torch.testing.assert_close(packed_TC, torch.cat(alone), **CLOSE)


def test_every_weight_learns(config: QwenVLConfig, image_prompt: TokenPrompt) -> None:
    expert = QwenVL(config).to(torch.bfloat16)
    expert.use_backend("plain")
    (logits_LV,) = expert.logits([image_prompt])
    logits_LV.float().logsumexp(-1).sum().backward()
    assert [name for name, weight in expert.named_parameters() if weight.grad is None] == []


def test_images_for_an_expert_without_vision_are_refused(
    config: QwenVLConfig, image_prompt: TokenPrompt
) -> None:
    blind = QwenVL(QwenVLConfig.from_dict(config.to_dict() | {"vision": None}))
    with pytest.raises(MissingCapability):
        blind.prefill([image_prompt], keep=(0,))


def test_a_tied_head_is_the_embedding(config: QwenVLConfig, text_prompt: TokenPrompt) -> None:
    tied = QwenVL(QwenVLConfig.from_dict(config.to_dict() | {"tie_word_embeddings": True}))
    assert "lm_head.weight" not in tied.state_dict()
    (features_LC,) = tied.features([text_prompt])
    torch.testing.assert_close(tied.logits([text_prompt])[0], features_LC @ tied.model.embed_tokens.weight.T)
