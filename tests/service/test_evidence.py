import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from model.images import encode_image, open_image

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def made(run: Run, tmp_path: Path) -> tuple[Path, Path]:
    """A picture and its receipt."""
    picture, receipt = tmp_path / "a.png", tmp_path / "a.json"
    size = ("--size", "64x64", "--steps", 2)
    code, output = run("generate", "a red circle", "-o", picture, "--receipt", receipt, *size)
    assert code == 0, output
    return picture, receipt


def test_a_picture_of_the_command_line_is_ours(run: Run, made: tuple[Path, Path]) -> None:
    code, output = run("verify", made[0])
    assert code == 0, output
    for words in ("ours", "valid, trusted", "not for production", "tiny", "c2pa.created", "found"):
        assert words in output


def test_a_picture_of_nobody_ends_with_1(run: Run, tmp_path: Path, png: Callable[..., bytes]) -> None:
    (tmp_path / "[b].png").write_bytes(png())
    code, output = run("verify", tmp_path / "[b].png")
    assert code == 1
    assert "[b].png: not known to be ours" in output


def test_what_is_no_picture_ends_with_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    for name in ("a.txt", "none.png"):
        assert run("verify", tmp_path / name)[0] == 2


def test_a_replay_writes_the_same_pixels(run: Run, made: tuple[Path, Path], tmp_path: Path) -> None:
    picture, receipt = made
    again = tmp_path / "again.png"
    code, output = run("replay", receipt, "-o", again)
    assert code == 0, output
    assert "the same pixels" in output
    assert open_image(again.read_bytes()).tobytes() == open_image(picture.read_bytes()).tobytes()
    assert run("verify", again)[0] == 0


def test_a_replay_of_an_edit_takes_its_image_and_no_other(
    run: Run, made: tuple[Path, Path], tmp_path: Path
) -> None:
    picture, _ = made
    receipt = tmp_path / "edit.json"
    output = tmp_path / "edit.webp"
    assert run("edit", picture, "make it blue", "-o", output, "--receipt", receipt, "--steps", 1)[0] == 0
    assert run("replay", receipt, picture)[0] == 0
    other = tmp_path / "other.png"
    other.write_bytes(encode_image(Image.new("RGB", (64, 64))))
    code, words = run("replay", receipt, other)
    assert (code, "image 1 is another" in words) == (2, True)
    assert run("replay", receipt)[0] == 2
    code, words = run("verify", output)
    assert (code, "with credentials of its own" in words) == (0, True)


def test_what_differs_is_said_and_other_pixels_are_not_written(
    run: Run, made: tuple[Path, Path], tmp_path: Path
) -> None:
    _, receipt = made
    data = json.loads(receipt.read_text())
    output = tmp_path / "again.png"
    for change, words in (
        ({"weights_sha256": "other"}, "weights_sha256: other in the receipt"),
        ({"dtype": "bfloat16", "pixels_sha256": ["other"]}, "try --dtype bfloat16"),
        ({"pixels_sha256": ["other"]}, "nothing that the receipt names is different"),
    ):
        receipt.write_text(json.dumps(data | change))
        code, said = run("replay", receipt, "-o", output)
        assert (code, words in said) == (1, True), said
        assert not output.exists()


def test_a_difference_that_changed_no_pixel_is_still_said(run: Run, made: tuple[Path, Path]) -> None:
    _, receipt = made
    data = json.loads(receipt.read_text())
    data["environment"]["versions"]["numpy"] = "0"
    receipt.write_text(json.dumps(data))
    code, output = run("replay", receipt)
    assert code == 0
    assert "the same pixels" in output
    assert "versions.numpy: 0 in the receipt" in output


def test_what_was_not_marked_is_not_marked_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, receipt, again = (tmp_path / name for name in ("a.png", "a.json", "b.png"))
    monkeypatch.setenv("HBRIDGE_PROVENANCE", "off")
    made = run("generate", "a", "-o", picture, "--receipt", receipt, "--size", "64x64", "--steps", 1)
    assert made[0] == 0
    monkeypatch.delenv("HBRIDGE_PROVENANCE")
    assert run("replay", receipt, "-o", again)[0] == 0
    assert again.read_bytes() == picture.read_bytes()
