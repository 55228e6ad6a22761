import pytest
import torch

from model.errors import BadRequest
from model.guidance import Branch, Guidance

FULL, NO_TEXT, NO_IMAGE = Branch.FULL, Branch.NO_TEXT, Branch.NO_IMAGE
C, R, U = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("text", "image", "has_references", "branches"),
    [
        (1.0, 1.0, True, (FULL,)),
        (1.0, 3.0, True, (FULL,)),
        (4.0, 1.0, True, (FULL, NO_IMAGE)),
        (4.0, 2.0, False, (FULL, NO_IMAGE)),
        (4.0, 2.0, True, (FULL, NO_TEXT, NO_IMAGE)),
    ],
)
def test_scales_choose_the_branches(
    text: float, image: float, has_references: bool, branches: tuple[Branch, ...]
) -> None:
    guidance = Guidance(text=text, image=image)
    assert guidance.branches(0.5, has_references=has_references) == branches
    assert guidance.all_branches(has_references=has_references) == branches


@pytest.mark.parametrize(("clock", "count"), [(0.1, 1), (0.2, 2), (0.5, 2), (0.6, 2), (0.61, 1)])
def test_both_ends_of_the_interval_are_guided(clock: float, count: int) -> None:
    guidance = Guidance(text=4.0, interval=(0.2, 0.6))
    assert len(guidance.branches(clock, has_references=False)) == count


def test_both_scales_at_one_equal_the_full_branch() -> None:
    combined = Guidance(text=1.0, image=1.0).combine({FULL: C, NO_TEXT: R, NO_IMAGE: U})
    torch.testing.assert_close(combined, C)


def test_when_the_image_changes_nothing_three_branches_equal_two() -> None:
    three = Guidance(text=4.0, image=2.0).combine({FULL: C, NO_TEXT: U, NO_IMAGE: U})
    torch.testing.assert_close(three, Guidance(text=4.0).combine({FULL: C, NO_IMAGE: U}))


def test_three_branches_lean_by_both_scales() -> None:
    combined = Guidance(text=5.0, image=2.0).combine({FULL: C, NO_TEXT: R, NO_IMAGE: U})
    torch.testing.assert_close(combined, U + 2 * (R - U) + 5 * (C - R))


@pytest.mark.parametrize("interval", [(0.6, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_an_interval_must_rise_within_flow_time(interval: tuple[float, float]) -> None:
    with pytest.raises(BadRequest, match="guidance_interval"):
        Guidance(interval=interval)


def test_a_full_rescale_has_the_spread_of_the_full_branch_and_none_changes_nothing() -> None:
    velocities = {FULL: C, NO_IMAGE: U}
    plain, half, whole = (Guidance(text=5.0, rescale=r).combine(velocities) for r in (0.0, 0.5, 1.0))
    torch.testing.assert_close(whole.std(), C.std())
    torch.testing.assert_close(half, (plain + whole) / 2)
    torch.testing.assert_close(plain, U + 5 * (C - U))
    assert torch.equal(Guidance(rescale=1.0).combine({FULL: C}), C)


@pytest.mark.parametrize("rescale", [-0.1, 1.1])
def test_a_rescale_is_a_share(rescale: float) -> None:
    with pytest.raises(BadRequest, match="guidance_rescale"):
        Guidance(rescale=rescale)
