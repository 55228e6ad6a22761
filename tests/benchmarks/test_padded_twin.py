from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from benchmarks.padded_twin import PaddedTwin, is_within, padded
from model.family import Row
from model.omnigen2.family import OmniGen2, TextContext
from tests.model.omnigen2.goldens import FORWARDS, forward_rows, golden_family, tensors

SAME = 2e-5
"""What both are from the reference's own velocities."""


@pytest.fixture(scope="module")
def family() -> OmniGen2:
    return golden_family()


@pytest.fixture(scope="module")
def twin(family: OmniGen2) -> PaddedTwin:
    return PaddedTwin(family.transformer)


def make(
    family: OmniGen2, seed: int, noise: tuple[int, int], num_text: int, *references: tuple[int, int]
) -> Row:
    """Return a random row whose context holds text features, as the twin reads them."""
    generator, config = torch.Generator().manual_seed(seed), family.config.transformer
    return Row(
        latent_CYX=torch.randn(config.in_channels, *noise, generator=generator),
        time=0.1 + 0.07 * seed,
        context=TextContext(torch.randn(num_text, config.text_feat_dim, generator=generator)),
        references=tuple(torch.randn(config.in_channels, *size, generator=generator) for size in references),
    )


def as_batch(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return padded(texts), is_within([len(text_LF) for text_LF in texts])


@pytest.mark.parametrize("name", FORWARDS)
def test_it_has_the_velocities_of_the_reference(family: OmniGen2, twin: PaddedTwin, name: str) -> None:
    case = tensors(name)
    rows = forward_rows(family, case)
    velocities = twin(rows, case["in.text_hidden_states"], case["in.text_attention_mask"].bool())
    for i, velocity in enumerate(velocities):
        torch.testing.assert_close(velocity, case[f"out.velocity.{i}"], atol=SAME, rtol=0)


def test_it_equals_the_packed_path_whatever_is_padded(family: OmniGen2, twin: PaddedTwin) -> None:
    given = [
        make(family, 0, (4, 6), 5, (4, 4), (2, 6)),
        make(family, 1, (8, 8), 3),
        make(family, 2, (4, 6), 9, (2, 2)),
    ]
    texts = [row.context.text_Lh for row in given]  # type: ignore[attr-defined]
    refined = family.transformer.refine_texts(texts)
    packed = family.transformer(given, refined)
    for one, other in zip(twin(given, *as_batch(texts)), packed, strict=True):
        torch.testing.assert_close(one, other, atol=SAME, rtol=0)


def test_what_lies_in_the_padding_changes_no_velocity(twin: PaddedTwin, family: OmniGen2) -> None:
    rows = [make(family, 0, (4, 6), 5, (4, 4)), make(family, 1, (2, 4), 3)]
    features_BLF, is_text_BL = as_batch([row.context.text_Lh for row in rows])  # type: ignore[attr-defined]
    clean = twin(rows, features_BLF, is_text_BL)
    garbage = torch.where(is_text_BL[..., None], features_BLF, torch.randn_like(features_BLF) * 9)
    for one, other in zip(clean, twin(rows, garbage, is_text_BL), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
