from model.family import Size


def test_a_size_reads_width_first() -> None:
    assert str(Size(640, 480)) == "640x480"


def test_sizes_can_be_keys_and_be_sorted() -> None:
    assert sorted({Size(2, 1), Size(1, 2), Size(1, 2)}) == [Size(1, 2), Size(2, 1)]
