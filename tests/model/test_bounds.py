import torch

from model.bounds import padded_starts, segment_of, starts

CPU = torch.device("cpu")


def test_starts_are_where_segments_begin_and_the_last_ends() -> None:
    assert starts((3, 0, 2), CPU).tolist() == [0, 3, 3, 5]


def test_padding_is_a_segment_of_its_own_and_all_others_are_empty() -> None:
    at = padded_starts((3, 2), 4, 8, CPU)
    assert at.diff().tolist() == [3, 2, 3, 0, 0]


def test_every_position_is_in_the_segment_between_its_starts() -> None:
    assert segment_of(starts((3, 0, 2), CPU), 5).tolist() == [0, 0, 0, 2, 2]
