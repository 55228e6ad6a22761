from pathlib import Path

import pytest
from PIL import Image

from training.sheets import Sheet, contact_sheet


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (64, 64), colour)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def test_a_sheet_shows_every_picture_enlarged(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "new/sheet.png", [(picture("red"), picture("blue")), (picture("green"),)])
    sheet = opened(tmp_path / "new/sheet.png")
    counts = {colour: count for count, colour in sheet.getcolors() or ()}
    assert all(counts[colour] == 128 * 128 for colour in ((255, 0, 0), (0, 0, 255), (0, 128, 0)))


@pytest.mark.parametrize(("cells", "columns", "shape"), [(7, 3, (3, 3)), (2, 6, (2, 1))])
def test_cells_fill_rows_from_the_left(
    tmp_path: Path, cells: int, columns: int, shape: tuple[int, int]
) -> None:
    contact_sheet(tmp_path / "one.png", [(picture("red"),)])
    contact_sheet(tmp_path / "all.png", [(picture("red"),)] * cells, columns=columns)
    one, all_cells = opened(tmp_path / "one.png"), opened(tmp_path / "all.png")
    assert all_cells.size == (one.width * shape[0], one.height * shape[1])


def test_a_long_caption_makes_its_cell_higher_and_not_wider(tmp_path: Path) -> None:
    for name, text in (("short", "star"), ("long", "a red star " * 10)):
        sheet = Sheet()
        sheet.add((picture("red"),), text)
        sheet.write(tmp_path / f"{name}.png")
    short, long = opened(tmp_path / "short.png"), opened(tmp_path / "long.png")
    assert long.width == short.width
    assert long.height > short.height


def test_pictures_and_captions_must_be_as_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        contact_sheet(tmp_path / "sheet.png", [(picture("red"),)] * 2, captions=["one"])
