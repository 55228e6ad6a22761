import torch

from model.family import Row
from training.noised import NoContext, Noised, draw_times


def latents() -> list[torch.Tensor]:
    """Pictures of two sizes."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(4, *size, generator=generator) for size in ((4, 4), (4, 8), (4, 4))]


def noised() -> Noised:
    data = latents()
    return Noised.of(data, [(), (data[0],), ()], torch.Generator().manual_seed(0), 0.0)


def test_times_lie_inside_the_flow_and_lean_as_asked() -> None:
    early, late = (draw_times(torch.Generator().manual_seed(0), 500, mean) for mean in (-1.0, 1.0))
    assert 0 < early.min() < late.max() < 1
    assert early.median() < 0.5 < late.median()


def test_noised_pictures_flow_straight_to_their_data() -> None:
    drawn = noised()
    for row, target, data in zip(drawn.rows, drawn.targets, latents(), strict=True):
        torch.testing.assert_close(row.latent_CYX + (1 - row.time) * target, data)
    assert [len(row.references) for row in drawn.rows] == [0, 1, 0]


def test_the_right_velocities_cost_nothing_and_every_picture_weighs_the_same() -> None:
    drawn = noised()
    assert drawn.loss(drawn.targets).item() == 0
    for wrong in range(3):
        velocities = [target + (index == wrong) for index, target in enumerate(drawn.targets)]
        torch.testing.assert_close(drawn.loss(velocities), torch.tensor(1 / 3))


def test_a_seed_is_the_same_noise() -> None:
    one, other = noised(), noised()
    assert all(torch.equal(a, b) for a, b in zip(one.targets, other.targets, strict=True))
    assert [row.time for row in one.rows] == [row.time for row in other.rows]


def test_a_context_of_nothing_covers_nothing() -> None:
    row = Row(latent_CYX=torch.zeros(1, 2, 2), time=0.5, context=NoContext())
    assert row.context.num_tokens == row.context.num_bytes == 0
