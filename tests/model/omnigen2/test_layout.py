from collections.abc import Callable

from model.family import Row
from model.omnigen2.layout import Images, axis_starts, image_ids, joint_ids, text_ids


def test_the_example_of_the_specification() -> None:
    ids = joint_ids(3, ((2, 3),), (2, 2)).tolist()
    assert ids == [
        *([i, i, i] for i in range(3)),
        *([3, row, column] for row in range(2) for column in range(3)),
        *([6, row, column] for row in range(2) for column in range(2)),
    ]


def test_a_reference_moves_the_next_on_by_its_longer_side() -> None:
    assert axis_starts(7, [(2, 5), (4, 1)]) == [7, 12, 16]


def test_ids_of_an_image_go_row_by_row() -> None:
    assert image_ids(9, (2, 2)).tolist() == [[9, 0, 0], [9, 0, 1], [9, 1, 0], [9, 1, 1]]


def test_text_counts_up_on_all_axes() -> None:
    assert text_ids(4, 2).tolist() == [[4, 4, 4], [5, 5, 5]]


def test_images_are_measured_in_patches(make_row: Callable[..., Row]) -> None:
    images = Images.of([make_row(0, (4, 6), 3, (8, 2), (2, 2)), make_row(1, (2, 2), 3)], 2)
    assert images.noise == ((2, 3), (1, 1))
    assert images.references == (((4, 1), (1, 1)), ())
    assert images.noise_lengths == (6, 1)
    assert images.reference_lengths == (5, 0)
