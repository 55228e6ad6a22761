from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.attention import Backend
from model.backend_choice import available
from model.family import Row
from model.flow import Walk, time_grid
from model.guidance import Branch, Guidance
from model.omnigen2.config import OmniGen2Config
from model.omnigen2.family import OmniGen2, TextContext
from model.omnigen2.layout import Images
from model.omnigen2.transformer import OmniGen2Transformer

Golden = Callable[[str], dict[str, Tensor]]
BACKENDS = available(torch.device("cpu"), torch.float32)
MakeRow = Callable[..., Row]


def texts(rows: list[Row]) -> list[Tensor]:
    return [row.context.features_LF for row in rows]


def golden_rows(tensors: dict[str, Tensor]) -> list[Row]:
    return [
        Row(
            latent_CYX=tensors[f"in.latents.{i}"],
            time=float(time),
            context=TextContext(
                tensors["in.text_hidden_states"][i][tensors["in.text_attention_mask"][i].bool()]
            ),
            references=tuple(
                tensors[name] for name in sorted(tensors) if name.startswith(f"in.ref_latents.{i}.")
            ),
        )
        for i, time in enumerate(tensors["in.timestep"])
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["fwd_t2i", "fwd_ref1", "fwd_batch2_samesize"])
def test_velocities_are_those_of_the_reference(
    family: OmniGen2, golden: Golden, name: str, backend: Backend
) -> None:
    tensors = golden(name)
    rows = golden_rows(tensors)
    for i, velocity in enumerate(family.transformer(rows, texts(rows), backend=backend)):
        torch.testing.assert_close(velocity, tensors[f"out.velocity.{i}"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "guidance"),
    [
        ("loop_t2i_nocfg", Guidance()),
        ("loop_t2i_textcfg", Guidance(text=4.0)),
        ("loop_edit_text_image_cfg", Guidance(text=5.0, image=2.0)),
    ],
)
def test_euler_loops_are_those_of_the_reference(
    family: OmniGen2, golden: Golden, name: str, guidance: Guidance
) -> None:
    tensors = golden(name)
    references = tuple(tensor for key, tensor in tensors.items() if key.startswith("in.ref_latents.0."))
    walk = Walk(tensors["in.latents"][0], time_grid(8, 8, 12))
    for latent_CYX in tensors["out.trajectory"][:, 0]:
        branches = guidance.branches(walk.index / walk.num_steps, has_references=bool(references))
        rows = [branch_row(branch, tensors, references, walk) for branch in branches]
        walk.advance(guidance.combine(dict(zip(branches, family.velocity(rows), strict=True))))
        torch.testing.assert_close(walk.latent, latent_CYX, atol=1e-4, rtol=0)
    assert walk.is_done


def branch_row(branch: Branch, tensors: dict[str, Tensor], references: tuple[Tensor, ...], walk: Walk) -> Row:
    side = "" if branch is Branch.FULL else "negative_"
    return Row(
        latent_CYX=walk.latent,
        time=walk.time,
        context=TextContext(tensors[f"in.{side}text_hidden_states"][0]),
        references=() if branch is Branch.NO_IMAGE else references,
    )


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
    velocities = [network(rows, texts(rows), backend=backend) for backend in BACKENDS]
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
    assert network([row], texts([row]))[0].dtype == torch.float32


def test_the_released_shape_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = OmniGen2Transformer(OmniGen2Config())
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_967_161_400
