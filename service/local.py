"""One request without a server: files in, the pipeline, files out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from model.drawing import Drawing, Drawn, plan_drawing
from model.errors import BadRequest
from model.images import Format, encode_image, open_image
from model.pipeline import answer, draw
from model.prompt import Turn
from model.question import Question
from model.request import Listener
from model.request import Progress as Step
from model.stored_tensor import OnProgress
from service import receipts
from service.engine.job import LoadedModel
from service.loading import load_model
from service.manifest import Statement
from service.provenance import Provenance
from service.schemas.drawing import read_size
from service.settings import Settings

__all__ = ["Drawing", "Question", "Turn", "ask", "draw_to_file", "read_image", "read_size"]

FORMATS: dict[str, Format] = {f".{name}": name for name in get_args(Format)} | {".jpg": "jpeg"}


def read_image(path: Path) -> Image.Image:
    """Open a picture.

    Raises:
        OSError: The file cannot be read.
        InvalidImage: It is no picture.
    """
    return open_image(path.read_bytes())


def check_output(path: Path) -> None:
    """Refuse a place where no picture can be written, before any work.

    Raises:
        BadRequest: Says what is wrong with it.
    """
    if path.suffix.lower() not in FORMATS:
        raise BadRequest(f"{path}: the name must end in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise BadRequest(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise BadRequest(f"{path} is a folder")


def output_paths(path: Path, count: int) -> list[Path]:
    """Return the path, or one for each picture: out-0.png, out-1.png."""
    if count == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{index}") for index in range(count)]


def write_images(
    images: Sequence[Image.Image], path: Path, write: Callable[[Image.Image, Format], bytes] = encode_image
) -> list[Path]:
    """Write pictures in the format that the name says; return where they are.

    Args:
        images: RGB.
        path: Of the first, or the only one.
        write: Makes a file of a picture.

    Raises:
        OSError: A file cannot be written; nothing half-written stays.
    """
    paths = output_paths(path, len(images))
    for image, each in zip(images, paths, strict=True):
        write_whole(each, write(image, FORMATS[path.suffix.lower()]))
    return paths


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there as a whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def progress_bar(console: Console) -> Iterator[Listener]:
    """Show where a request stands; yield what the pipeline calls."""
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("prefill", total=1)

        def listen(step: Step) -> None:
            bar.update(task, description=step.stage, completed=step.done, total=step.total)

        yield listen


@contextmanager
def bytes_bar(console: Console, words: str) -> Iterator[OnProgress]:
    """Show how many bytes of all are done; yield what to call with both."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(escape(words), total=None)

        def listen(done_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes)

        yield listen


def draw_to_file(
    drawing: Drawing,
    output: Path,
    settings: Settings,
    console: Console,
    *,
    sources: Sequence[Path] = (),
    receipt: Path | None = None,
) -> None:
    """Run a drawing, write its pictures, say where they are.

    Args:
        drawing: What to do.
        output: Where its pictures go.
        settings: Which model, and what is stated in the pictures.
        console: Shows how far it is.
        sources: The files of the drawing's images.
        receipt: Where its receipt goes.

    Raises:
        ModelError: It cannot be done as asked.
        OSError: A file cannot be read or written.
    """
    check_output(output)
    provenance = Provenance(settings)
    files = [path.read_bytes() for path in sources]
    model = load(settings, console)
    plan_drawing(model.family, drawing)
    with progress_bar(console) as listen:
        drawn = draw(model.family, drawing, listen)
    if receipt:
        plan = provenance.plan(drawn.images[0], has_mask=drawing.mask is not None)
        made = receipts.receipt(model.card, drawing, drawn, plan)
        write_whole(receipt, made.model_dump_json(indent=2).encode() + b"\n")
    paths = write_drawn(drawn, drawing, output, provenance, receipts.statement(model.card, drawing, files))
    for path, seed in zip(paths, drawn.seeds, strict=True):
        console.print(f"{path}  {drawn.size}, seed {seed}", highlight=False, soft_wrap=True, markup=False)


def write_drawn(
    drawn: Drawn, drawing: Drawing, output: Path, provenance: Provenance, statement: Statement
) -> list[Path]:
    """Write a drawing's pictures, marked and signed; as write_images."""

    def write(image: Image.Image, image_format: Format) -> bytes:
        has_mask = drawing.mask is not None
        return provenance.write(image, image_format, None, statement, has_mask=has_mask)

    return write_images(drawn.images, output, write)


def ask(question: Question, settings: Settings, console: Console) -> str:
    """Answer a question.

    Raises:
        ModelError: It cannot be done as asked.
    """
    family = load(settings, console).family
    with progress_bar(console) as listen:
        return answer(family, question, listen).text


def load(settings: Settings, console: Console) -> LoadedModel:
    """Load the model of the settings; as load_model."""
    with bytes_bar(console, f"loading {settings.model}") as listen:
        return load_model(settings, listen)
