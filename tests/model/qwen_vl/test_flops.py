from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.family import TextRow
from model.qwen_vl.config import QwenVLConfig, VisionConfig
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.flops import ExpertFlops, VisionFlops
from model.qwen_vl.kv_cache import KVCache
from model.qwen_vl.token_prompt import ImagePatches, TokenPrompt
from model.qwen_vl.vision import build_vision

Measure = Callable[..., tuple[Any, int]]


@pytest.mark.parametrize("keep", [(), (0,), (1, 3)])
def test_a_prefill_that_stops_early_takes_less(
    expert: QwenVL,
    measure: Measure,
    text_prompt: TokenPrompt,
    image_prompt: TokenPrompt,
    keep: tuple[int, ...],
) -> None:
    prompts = [text_prompt, image_prompt]
    _, counted = measure(expert.prefill, prompts, keep=keep)
    assert ExpertFlops(expert).prefill(prompts, [None, None], keep=keep) == counted


def test_a_prefill_that_goes_on_from_a_beginning_reads_only_the_rest(
    expert: QwenVL, config: QwenVLConfig, measure: Measure, image_prompt: TokenPrompt
) -> None:
    keep = range(config.num_hidden_layers)
    whole, counted = measure(expert.prefill, [image_prompt], keep=keep, logits=True)
    flops = ExpertFlops(expert)
    assert flops.prefill([image_prompt], [None], keep=keep, num_logits=1) == counted
    for num_known in (2, len(image_prompt.tokens) - 1):
        prefix = whole[0].first(num_known)
        _, counted = measure(expert.prefill, [image_prompt], keep=keep, logits=True, prefixes=[prefix])
        assert flops.prefill([image_prompt], [prefix], keep=keep, num_logits=1) == counted


def test_features_are_those_of_every_token(
    expert: QwenVL, measure: Measure, text_prompt: TokenPrompt, image_prompt: TokenPrompt
) -> None:
    prompts = [image_prompt, text_prompt]
    assert ExpertFlops(expert).features(prompts) == measure(expert.features, prompts)[1]


def test_a_token_takes_more_the_more_it_sees(
    expert: QwenVL, config: QwenVLConfig, measure: Measure, text_prompt: TokenPrompt
) -> None:
    (context,) = expert.prefill([text_prompt], keep=range(config.num_hidden_layers), logits=True)
    rows = [TextRow(token=3, cache=KVCache(context)), TextRow(token=4, cache=KVCache(context.first(2)))]
    for _ in range(2):
        expected = ExpertFlops(expert).next_tokens(rows)
        assert expected == measure(expert.next_tokens, rows)[1]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 4), (5, 3), (7, 2)])
@pytest.mark.parametrize("full", [(), (0,), (0, 1)])
def test_a_tower_attends_in_windows_but_for_its_full_layers(
    config: QwenVLConfig, measure: Measure, rows: int, columns: int, full: tuple[int, ...]
) -> None:
    assert config.vision
    vision: VisionConfig = replace(config.vision, fullatt_block_indexes=full)
    tower = build_vision(vision).requires_grad_(False)
    merge = vision.spatial_merge_size
    num_values = 3 * vision.temporal_patch_size * vision.patch_size**2
    patches_PE = torch.randn(2 * rows * columns * merge**2, num_values)
    grid = torch.tensor([[1, rows * merge, columns * merge]] * 2)
    image = ImagePatches(patches_PE=patches_PE, rows=rows, columns=columns)
    assert VisionFlops(vision, tower).see([image] * 2) == measure(tower, patches_PE, grid_thw=grid)[1]
