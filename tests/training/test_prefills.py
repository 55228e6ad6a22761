from pathlib import Path

import pytest
import torch

from model.hbridge.contexts import PackedContexts
from model.hbridge.family import HBridge
from model.hbridge.network import HBridgeNetwork
from model.prompt import Prompt
from training.drawings import Group, Shelf, sample
from training.noised import Noised
from training.prefills import Prefills, asked, fill_prefills, packed, see, unasked
from training.recipe import Recipe
from training.world import render


def fresh(family: HBridge, prompts: list[Prompt]) -> PackedContexts:
    return PackedContexts.of(family.prefill(prompts), family.config.pairs)


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("blank", [False, True])
def test_what_is_kept_is_what_a_prefill_says_as_exactly_as_float16(
    recipe: Recipe, prefills: list[Prefills], group: int, blank: bool
) -> None:
    family, indices = recipe.assemble(), [4, 0, 5]
    samples = [sample(prefills[group].group, index) for index in indices]
    with torch.no_grad():
        wanted = fresh(family, [(unasked if blank else asked)(each) for each in samples])
    given = packed([prefills[group].prompt(index, blank=blank) for index in indices])
    assert (given.lengths, given.next_ids) == (wanted.lengths, wanted.next_ids)
    for side in ("keys", "values"):
        for one, other in zip(getattr(given, side), getattr(wanted, side), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_words_are_all_that_a_blank_prompt_lacks() -> None:
    for is_edit in (False, True):
        each = sample(Group(is_edit, 64, 64, 1), 0)
        assert unasked(each) == Prompt.draw("", asked(each).images)
        assert len(asked(each).images) == is_edit
        assert asked(each) == Prompt.draw(each.text, asked(each).images)


def test_pictures_are_seen_as_the_vision_tower_sees_them(recipe: Recipe, prefills: list[Prefills]) -> None:
    family = recipe.assemble()
    pictures = [render(sample(prefills[0].group, index).after) for index in (3, 1)]
    features_NSW = prefills[0].seen([3, 1])
    assert features_NSW.shape == (2, family.config.srt_count, family.config.understanding.hidden_size)
    torch.testing.assert_close(features_NSW, see(family, pictures), rtol=1e-3, atol=1e-3)


def test_a_network_reads_what_is_kept_as_it_reads_contexts(
    bridged: HBridge, shelves: list[Shelf], prefills: list[Prefills]
) -> None:
    network: HBridgeNetwork = bridged.network
    torch.nn.init.normal_(network.gen.norm_out.linear_2.weight, std=0.02)
    indices = [4, 1]
    references = [(latent,) for latent in shelves[1].before(indices)]
    drawn = Noised.of(list(shelves[1].after(indices)), references, torch.Generator().manual_seed(0), 0.0)
    prompts = [asked(sample(shelves[1].group, index)) for index in indices]
    kept = packed([prefills[1].prompt(index, blank=False) for index in indices])
    with torch.no_grad():
        outputs = [network(drawn.rows, contexts=each) for each in (kept, fresh(bridged, prompts))]
    torch.testing.assert_close(*(torch.stack(output.velocities) for output in outputs), rtol=1e-3, atol=1e-3)


def test_what_is_there_is_left_alone_unless_another_expert_said_it(recipe: Recipe, tmp_path: Path) -> None:
    family, group = recipe.assemble(), Group(False, 64, 64, 2)
    fill_prefills(tmp_path, group, family)
    seen = tmp_path / f"{group.name}-seen.npy"
    before = seen.stat().st_mtime_ns
    fill_prefills(tmp_path, group, family)
    assert seen.stat().st_mtime_ns == before
    with torch.no_grad():
        next(family.expert.parameters()).add_(1)
    with pytest.raises(ValueError, match="another expert said"):
        fill_prefills(tmp_path, group, family)


def test_a_stage_that_has_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run stage prefill first"):
        Prefills(tmp_path, Group(False, 64, 64, 2))
