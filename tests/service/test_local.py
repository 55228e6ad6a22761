from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from model.errors import BadRequest, InvalidImage
from model.request import Progress
from service.local import (
    bytes_bar,
    check_output,
    output_paths,
    progress_bar,
    read_image,
    write_images,
    write_whole,
)

PICTURE = Image.new("RGB", (4, 4), "red")


def test_the_name_says_the_format(tmp_path: Path) -> None:
    for name, kind in (("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")):
        (path,) = write_images([PICTURE], tmp_path / name)
        with Image.open(path) as image:
            assert image.format == kind


def test_several_pictures_are_counted_from_zero(tmp_path: Path) -> None:
    paths = write_images([PICTURE] * 2, tmp_path / "a.png")
    assert paths == output_paths(tmp_path / "a.png", 2) == [tmp_path / "a-0.png", tmp_path / "a-1.png"]
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize("name", ["a.gif", "a", "none/a.png", "folder.png"])
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BadRequest, match=name.split("/", maxsplit=1)[0]):
        check_output(tmp_path / name)


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=r"a\.png"):
        write_whole(path, b"newer")
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_picture_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InvalidImage):
        read_image(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "b.png")


def test_the_bar_of_bytes_takes_what_loading_tells() -> None:
    screen = Console(file=StringIO(), force_terminal=True, width=120)
    with bytes_bar(screen, "loading [a]") as listen:
        listen(5 * 10**6, 20 * 10**6)
    assert "loading [a]" in screen.file.getvalue()  # type: ignore[attr-defined]
    assert "5.0/20.0 MB" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_the_bar_takes_what_the_pipeline_tells() -> None:
    with progress_bar(Console(quiet=True)) as listen:
        listen(Progress(stage="denoise", done=1, total=4))
