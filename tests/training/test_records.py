import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import png, write_dataset
from training.errors import BrokenRecord, TrainingRefused
from training.records import Columns, Example, Records

BROKEN = b"\x89PNG\r\n\x1a\n and no more"


def same(example: Example) -> Example:
    return example


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Return a function that opens a dataset of pictures, some of them broken."""

    def open_records(broken: tuple[int, ...] = (), count: int = 10, **options: Any) -> Records:
        pictures: list[bytes | None] = [BROKEN if i in broken else png(i, (16, 16)) for i in range(count)]
        write_dataset(tmp_path / "data", {"image": pictures}, [f"picture {i}" for i in range(count)])
        held_out = options.pop("held_out", 0)
        columns = Columns(path=str(tmp_path / "data"), held_out=held_out)
        return Records(columns, cache=tmp_path / "cache", **options)

    return open_records


def test_every_record_comes_once_in_an_epoch_and_each_epoch_has_its_order(make: Any) -> None:
    records = make(held_out=2)
    epochs = [[records.place(8 * epoch + index) for index in range(8)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert records.held_out(1, same).text == "picture 9"


def test_an_order_comes_from_its_seed(make: Any) -> None:
    orders = [[make(seed=seed).place(number) for number in range(10)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_record_is_what_was_written(make: Any) -> None:
    example = make().record(3, same)
    assert (example.text, example.image.size, example.references) == ("picture 3", (16, 16), ())
    assert example.image.getpixel((0, 0)) == (120, 14, 134)


def test_a_broken_record_is_refused_by_file_and_number(make: Any) -> None:
    records = make(broken=(5,))
    with pytest.raises(BrokenRecord, match=r"data-00001-of-00003\.arrow, record 5: the image is truncated"):
        [records.sample(number, same) for number in range(10)]


def test_broken_records_are_passed_over_when_that_is_asked(make: Any) -> None:
    records = make(broken=(5, 6), skip=True)
    found = [records.sample(number, same).text for number in range(10)]
    assert set(found) == {f"picture {i}" for i in range(10) if i not in (5, 6)}
    assert records.num_skipped >= 2


def test_what_a_model_cannot_take_is_a_broken_record(make: Any) -> None:
    def refuse(example: Example) -> Example:
        raise ValueError(f"{example.text} is too small")

    with pytest.raises(BrokenRecord, match="record 2: picture 2 is too small"):
        make().record(2, refuse)
    with pytest.raises(BrokenRecord, match="100 broken records in a row"):
        make(skip=True).sample(0, refuse)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": "caption"}, "has no column caption; there are image, text"),
        ({"held_out": 10}, "10 records, of which 10 are held out"),
        ({"path": "nowhere"}, "nowhere is no folder"),
        ({"path": "empty"}, "cannot be read as a dataset"),
    ],
)
def test_a_dataset_that_cannot_be_learnt_from_is_refused(
    make: Any, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    make()
    (tmp_path / "empty").mkdir()
    path = str(tmp_path / changes.get("path", "data"))
    with pytest.raises(TrainingRefused, match=said):
        Records(Columns(**{**changes, "path": path}), cache=tmp_path / "cache")


def test_tars_are_read_and_broken_records_named_by_their_tar(tmp_path: Path) -> None:
    for shard in range(2):
        (tmp_path / "tars").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / f"tars/{shard}.tar", "w") as tar:
            for index in range(3):
                name = f"{shard}{index}"
                picture = BROKEN if name == "11" else png(index, (16, 16))
                for file, data in ((f"{name}.png", picture), (f"{name}.txt", b"edit " + name.encode())):
                    info = tarfile.TarInfo(file)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    columns = Columns(path=str(tmp_path / "tars"), image="png", text="txt")
    records = Records(columns, cache=tmp_path / "cache")
    assert [records.record(place, same).text for place in (0, 5)] == ["edit 00", "edit 12"]
    with pytest.raises(BrokenRecord, match=r"tars/1\.tar, 11, record 4: the image is truncated"):
        records.record(4, same)
