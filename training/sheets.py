"""Contact sheets: many small pictures in one, so that a person can look."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw

GAP = 4
LINE = 12


@dataclass(slots=True)
class Sheet:
    """Cells of a contact sheet that is being gathered."""

    pictures: list[tuple[Image.Image, ...]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)

    def add(self, pictures: tuple[Image.Image, ...], caption: str, *, right: bool | None = None) -> None:
        """Add a cell; a caption that was met begins with +, one that was not with -."""
        mark = "" if right is None else "+ " if right else "- "
        self.pictures.append(pictures)
        self.captions.append(mark + caption)

    def write(self, path: Path, *, columns: int = 6) -> None:
        """Write the picture file."""
        contact_sheet(path, self.pictures, captions=self.captions, columns=columns)


def contact_sheet(
    path: Path,
    pictures: Sequence[Sequence[Image.Image]],
    *,
    captions: Sequence[str] = (),
    columns: int = 6,
    zoom: int = 2,
) -> None:
    """Write a sheet of cells; a cell is one or more pictures side by side with a caption below.

    Args:
        pictures: The pictures of each cell.
        captions: A text for each cell, folded to its width; none at all is fine too.
    """
    cells = [
        _cell(group, text, zoom)
        for group, text in zip(pictures, captions or [""] * len(pictures), strict=True)
    ]
    width = max(cell.width for cell in cells) + GAP
    height = max(cell.height for cell in cells) + GAP
    columns = min(columns, len(cells))
    sheet = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % columns * width, i // columns * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _cell(group: Sequence[Image.Image], caption: str, zoom: int) -> Image.Image:
    enlarged = [
        picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
        for picture in group
    ]
    width = sum(picture.width + 2 for picture in enlarged)
    lines = _folded(caption, max(8, width // 6))
    height = max(picture.height for picture in enlarged)
    cell = Image.new("RGB", (width, height + LINE * len(lines)), "white")
    x = 0
    for picture in enlarged:
        cell.paste(picture, (x, 0))
        x += picture.width + 2
    pen = ImageDraw.Draw(cell)
    for i, line in enumerate(lines):
        pen.text((0, height + i * LINE), line, fill="black")
    return cell


def _folded(text: str, letters: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= letters:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines
