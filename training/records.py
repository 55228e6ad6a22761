"""Samples at full size: records of datasets on disk, in an order that is known beforehand.

A record may be read at any time and in any process: which one the n-th sample is, follows from the seed
alone. So nothing needs to be kept to go on with a run, and processes share an epoch without meeting. The
files are read by Hugging Face `datasets`; docs/decisions says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from model.errors import BadRequest
from model.images import open_image
from training.errors import BrokenRecord, TrainingRefused

if TYPE_CHECKING:
    from datasets import Dataset

MAX_SKIPPED = 100
"""Broken records in a row after which something else must be wrong."""


Fitted = TypeVar("Fitted")
Fit = Callable[["Example"], Fitted]
"""Makes of an example what a model takes; raises ValueError where it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What a dataset holds and where.

    Attributes:
        path: A folder that `Dataset.save_to_disk` wrote, or one of Parquet files, WebDataset tars or such.
        image: Column of the picture to make.
        text: Column of the caption or instruction.
        references: Columns of the pictures to edit, in order; none to generate.
        weight: Steps of this dataset for every step of one with weight 1.
        held_out: The last so many records are for evaluation, and never learnt from.
    """

    path: str
    image: str = "image"
    text: str = "text"
    references: tuple[str, ...] = ()
    weight: int = 1
    held_out: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """One record, read."""

    text: str
    image: Image
    references: tuple[Image, ...]


class Records:
    """The records of one dataset.

    Args:
        columns: What it holds and where.
        cache: Where what is no Arrow file yet is written as one, once.
        seed: Of the order.
        skip: Passes over broken records instead of refusing them; the next one in order takes their place.

    Attributes:
        columns: What it was made of.
        count: How many are learnt from, each once in an epoch.
        num_skipped: Broken records that this process has passed over.

    Raises:
        TrainingRefused: The folder is not understood, lacks a column, or holds nothing to learn from.
    """

    def __init__(
        self,
        columns: Columns,
        *,
        cache: Path,
        seed: int = 0,
        skip: bool = False,
    ) -> None:
        self.columns, self._seed, self._skip = columns, seed, skip
        self.num_skipped = 0
        self._dataset = _open(Path(columns.path), cache)
        wanted = {columns.text, columns.image, *columns.references}
        if missing := sorted(wanted - set(self._dataset.column_names)):
            there = ", ".join(sorted(self._dataset.column_names))
            raise TrainingRefused(f"{columns.path} has no column {', '.join(missing)}; there are {there}")
        self.count = len(self._dataset) - columns.held_out
        if self.count < 1 or columns.held_out < 0:
            raise TrainingRefused(
                f"{columns.path} has {len(self._dataset)} records, of which {columns.held_out} are held out"
            )
        self._dataset = _undecoded(self._dataset, (columns.image, *columns.references))

    def place(self, number: int) -> int:
        """Return which record the n-th sample is: a new order in each epoch."""
        epoch, index = divmod(number, self.count)
        return int(_order(self.count, self._seed, epoch)[index])

    def sample(self, number: int, fit: Fit[Fitted]) -> Fitted:
        """Read the n-th sample and fit it to the model.

        Args:
            number: Which sample.
            fit: Makes of it what the model takes.

        Raises:
            BrokenRecord: It cannot be read, and is not to be passed over; or very many in a row cannot.
        """
        for tried in range(MAX_SKIPPED):
            try:
                return self.record(self.place(number + tried), fit)
            except BrokenRecord:
                if not self._skip:
                    raise
                self.num_skipped += 1
        raise BrokenRecord(f"{self.columns.path}: {MAX_SKIPPED} broken records in a row")

    def held_out(self, index: int, fit: Fit[Fitted]) -> Fitted:
        """Read a record that is not learnt from; as sample, and a broken one is always refused."""
        assert 0 <= index < self.columns.held_out, "there are so many and no more"
        return self.record(self.count + index, fit)

    def record(self, place: int, fit: Fit[Fitted]) -> Fitted:
        """Read a record and fit it to the model.

        Raises:
            BrokenRecord: It cannot be read.
        """
        try:
            content: Mapping[str, Any] = self._dataset[place]
            columns = self.columns
            references = tuple(_picture(content, name) for name in columns.references)
            return fit(Example(_text(content, columns.text), _picture(content, columns.image), references))
        except (BadRequest, OSError, ValueError) as error:
            raise BrokenRecord(f"{self._file(place)}, record {place}: {error}") from error

    def _file(self, place: int) -> str:
        """Name the file that a record came from."""
        if "__url__" in self._dataset.column_names:
            origin = self._dataset.select_columns(["__url__", "__key__"])[place]
            return f"{origin['__url__']}, {origin['__key__']}"
        files = [block for blocks in getattr(self._dataset.data, "blocks", [[]]) for block in blocks]
        for block in files:
            if place < block.num_rows:
                return str(getattr(block, "path", self.columns.path))
            place -= block.num_rows
        return self.columns.path


def _open(folder: Path, cache: Path) -> "Dataset":
    # Not at the head of the module: it takes two seconds, and the small recipe does without.
    from datasets import Dataset, disable_progress_bars, load_dataset, load_from_disk  # noqa: PLC0415

    if not folder.is_dir():
        raise TrainingRefused(f"{folder} is no folder of a dataset")
    disable_progress_bars()
    try:
        if (folder / "state.json").is_file():
            dataset = load_from_disk(folder)
        else:
            dataset = load_dataset(str(folder), split="train", cache_dir=str(cache))
    except (OSError, ValueError) as error:
        raise TrainingRefused(f"{folder} cannot be read as a dataset: {error}") from error
    if not isinstance(dataset, Dataset):
        raise TrainingRefused(f"{folder} holds several splits: name the folder of one")
    return dataset


def _undecoded(dataset: "Dataset", columns: tuple[str, ...]) -> "Dataset":
    """Leave pictures as the files that they are: model.images opens them as it opens those of requests."""
    from datasets import Image as ImageFeature  # noqa: PLC0415

    for column in columns:
        dataset = dataset.cast_column(column, ImageFeature(decode=False))
    return dataset


def _text(content: Mapping[str, Any], column: str) -> str:
    text = content[column]
    if not isinstance(text, str):
        raise ValueError(f"{column} is no text")  # noqa: TRY004
    return text


def _picture(content: Mapping[str, Any], column: str) -> Image:
    file = content[column]
    if file is None or (file["bytes"] is None and file["path"] is None):
        raise ValueError(f"{column} is empty")
    data = file["bytes"] if file["bytes"] is not None else Path(file["path"]).read_bytes()
    return open_image(data, max_bytes=len(data))


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.integer[Any]]:
    """Return a permutation; 4 bytes a record as long as these suffice."""
    kind = np.uint32 if count <= np.iinfo(np.uint32).max else np.uint64
    return np.random.default_rng((seed, epoch)).permutation(np.arange(count, dtype=kind))
