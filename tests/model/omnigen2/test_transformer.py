from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from model.attention import Backend
from model.backend_choice import available
from model.drawing import Easel
from model.family import Row
from model.omnigen2.config import OmniGen2Config
from model.omnigen2.family import OmniGen2, TextContext
from model.omnigen2.layout import Images
from model.omnigen2.transformer import OmniGen2Transformer
from tests.model.omnigen2.goldens import FORWARDS, LOOPS, begin_loop, described, forward_rows, tensors

BACKENDS = available(torch.device("cpu"), torch.float32)
MakeRow = Callable[..., Row]


def texts(rows: list[Row]) -> list[Tensor]:
    return [cast(TextContext, row.context).text_Lh for row in rows]


def assert_golden(velocities: Sequence[Tensor], case: dict[str, Tensor]) -> None:
    for i, velocity in enumerate(velocities):
        torch.testing.assert_close(velocity, case[f"out.velocity.{i}"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FORWARDS)
def test_a_row_alone_has_the_velocity_of_the_reference(family: OmniGen2, name: str, backend: Backend) -> None:
    case = tensors(name)
    alone = [family.transformer([row], texts([row]), backend=backend) for row in forward_rows(family, case)]
    assert_golden([velocity for (velocity,) in alone], case)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_packed_with_others_have_the_velocities_of_the_reference(
    family: OmniGen2, make_row: MakeRow, backend: Backend
) -> None:
    cases = [tensors(name) for name in FORWARDS]
    golden = [forward_rows(family, case) for case in cases]
    others = [[make_row(0, (4, 6), 5, (4, 4), (2, 6))], [make_row(1, (8, 12), 3)], [make_row(2, (2, 2), 40)]]
    rows = [row for both in zip(others, golden, strict=True) for side in both for row in side]
    velocities = iter(family.transformer(rows, texts(rows), backend=backend))
    for other, of_case, case in zip(others, golden, cases, strict=True):
        next_few = [next(velocities) for _ in (*other, *of_case)]
        assert_golden(next_few[len(other) :], case)


def assert_on_the_way(easel: Easel, name: str) -> None:
    index = easel.num_done - 1
    torch.testing.assert_close(easel.latents[0], tensors(name)["out.trajectory"][index, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_alone_goes_where_the_reference_goes(family: OmniGen2, name: str) -> None:
    case, easel = tensors(name), begin_loop(family, name)
    assert list(easel.walks[0].times[:-1]) == pytest.approx(case["out.timesteps"].tolist(), abs=1e-6)
    while not easel.is_done:
        (before,), time = easel.latents, easel.walks[0].time
        easel.advance(family.velocity(easel.rows()))
        assert_on_the_way(easel, name)
        passed = easel.walks[0].times[easel.num_done] - time
        guided = case["out.guided_velocity"][easel.num_done - 1, 0]
        torch.testing.assert_close(easel.latents[0] - before, passed * guided, atol=1e-4, rtol=0)
    assert easel.usage.network_calls == described(name)["transformer_calls"]
    torch.testing.assert_close(easel.latents[0], case["out.final_latents"][0], atol=1e-4, rtol=0)


def test_loops_packed_together_go_where_the_reference_goes(family: OmniGen2, make_row: MakeRow) -> None:
    easels = {name: begin_loop(family, name) for name in LOOPS}
    other = make_row(3, (4, 6), 11, (2, 2))
    while not all(easel.is_done for easel in easels.values()):
        rows = [(name, row) for name, easel in easels.items() for row in easel.rows()]
        _, *velocities = family.velocity([other, *(row for _, row in rows)])
        for name, easel in easels.items():
            easel.advance([v for (whose, _), v in zip(rows, velocities, strict=True) if whose == name])
            assert_on_the_way(easel, name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_packed_with_others_is_the_row_alone(
    family: OmniGen2, make_row: MakeRow, backend: Backend
) -> None:
    rows = [make_row(0, (4, 6), 5, (4, 4), (2, 6)), make_row(1, (6, 2), 3), make_row(2, (4, 6), 7, (2, 2))]
    packed = family.transformer(rows, texts(rows), backend=backend)
    for row, together in zip(rows, packed, strict=True):
        (alone,) = family.transformer([row], texts([row]), backend=backend)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_refined_noise_does_not_know_the_text(family: OmniGen2, make_row: MakeRow) -> None:
    refined = []
    for num_text in (3, 9):
        row = make_row(0, (4, 6), num_text)
        images = Images.of([row], 2)
        moments = family.transformer.embed_times([row])
        blank = replace(row, latent_CYX=torch.ones_like(row.latent_CYX))
        refined.append(family.transformer.embed_noise([blank], images, moments, "sdpa"))
    assert torch.equal(*refined)


def test_the_order_of_references_matters(family: OmniGen2, make_row: MakeRow) -> None:
    row = make_row(0, (4, 4), 3, (4, 4), (4, 4))
    swapped = replace(row, references=row.references[::-1])
    first, second = family.transformer([row, swapped], texts([row, swapped]))
    assert (first - second).abs().max() > 1e-2


def test_references_that_swap_places_and_rows_of_the_index_still_differ(
    family: OmniGen2, make_row: MakeRow
) -> None:
    row = make_row(0, (4, 4), 3, (4, 4), (4, 4))
    swapped = replace(row, references=row.references[::-1])
    network = deepcopy(family.transformer)
    network.image_index_embedding.data[:2] = network.image_index_embedding.data[[1, 0]]
    (before,), (after,) = family.transformer([row], texts([row])), network([swapped], texts([swapped]))
    assert (before - after).abs().max() > 1e-2


def test_refined_references_know_neither_the_text_nor_the_picture(
    family: OmniGen2, make_row: MakeRow
) -> None:
    refined = []
    for noise, num_text in (((4, 6), 3), ((2, 2), 9)):
        row = replace(make_row(0, noise, num_text), references=make_row(1, (2, 2), 1, (4, 4)).references)
        moments = family.transformer.embed_times([row])
        images = Images.of([row], 2)
        refined.append(family.transformer.embed_references([row], images, moments, "sdpa"))
    assert torch.equal(*refined)


def test_a_text_is_refined_without_its_neighbours(family: OmniGen2, config: OmniGen2Config) -> None:
    features = [torch.randn(length, config.text_feat_dim) for length in (3, 7)]
    together = family.transformer.refine_texts(features)
    for features_LF, text_Lh in zip(features, together, strict=True):
        (alone,) = family.transformer.refine_texts([features_LF])
        torch.testing.assert_close(text_Lh, alone, atol=1e-5, rtol=0)
        assert text_Lh.untyped_storage().nbytes() == text_Lh.nbytes


def test_a_reference_is_refined_without_its_neighbours(family: OmniGen2, make_row: MakeRow) -> None:
    row = make_row(0, (4, 4), 3, (4, 4), (2, 6))
    moments = family.transformer.embed_times([row])
    refined = []
    for references in (row.references, row.references[:1]):
        given = [replace(row, references=references)]
        images = Images.of(given, 2)
        refined.append(family.transformer.embed_references(given, images, moments, "sdpa"))
    torch.testing.assert_close(refined[0][:4], refined[1])


def test_groupings_of_heads_may_be_of_any_size(make_row: MakeRow, config: OmniGen2Config) -> None:
    sizes = {"hidden_size": 84, "num_attention_heads": 7, "num_kv_heads": 1, "axes_dim_rope": (4, 4, 4)}
    torch.manual_seed(0)
    network = OmniGen2Transformer(replace(config, **sizes))
    rows = [make_row(0, (4, 6), 5, (4, 4)), make_row(1, (2, 2), 3)]
    narrow = [text_Lh[:, :84] for text_Lh in texts(rows)]
    velocities = [network(rows, narrow, backend=backend) for backend in BACKENDS]
    for first, second in zip(*velocities, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_learned_positions_tell_rows_from_columns(config: OmniGen2Config, make_row: MakeRow) -> None:
    torch.manual_seed(0)
    network = OmniGen2Transformer(replace(config, learned_positions=True, max_learned_positions=3))
    row = make_row(0, (4, 6), 3)
    before = network([row], texts([row]))[0]
    network.row_embedding.data, network.column_embedding.data = (
        network.column_embedding.data,
        network.row_embedding.data,
    )
    assert not torch.allclose(before, network([row], texts([row]))[0])


def test_bfloat16_weights_give_float32_velocities(config: OmniGen2Config, make_row: MakeRow) -> None:
    network = OmniGen2Transformer(config).to(torch.bfloat16)
    row = make_row(0, (4, 6), 3, (2, 2))
    (text_Lh,) = network.refine_texts([torch.randn(3, config.text_feat_dim)])
    row = replace(row, context=TextContext(text_Lh))
    assert network([row], texts([row]))[0].dtype == torch.float32


def test_the_released_shape_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = OmniGen2Transformer(OmniGen2Config())
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_967_161_400
