"""Log lines for people or for machines: an event's words and its fields.

Inside a request every line says its id, and the id of its trace if there is one. No line holds prompts,
images, answers or keys: our code logs none, other libraries log warnings only, and of an error that was not
foreseen only the class and the place are told, because its words may be a caller's.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Literal, TextIO

OURS = ("service", "model", "training", "benchmarks")
NOISY = ("torchao", "diffusers.quantizers", "torch.utils._pytree")
"""They warn, as soon as they are imported, of kernels that are not for this device."""
WITHHELD = "(its words are withheld; HBRIDGE_LOG_CONTENT=true shows them)"

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
_bound: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default=MappingProxyType({}))

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def bind(**fields: str) -> None:
    """Let every line that is logged from here on, in this task and those that it begins, have fields too.

    Empty ones are left out.
    """
    _bound.set({**_bound.get(), **{name: value for name, value in fields.items() if value}})


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what is bound where it was logged, and what was given as `extra`."""
    given = {
        name: value
        for name, value in record.__dict__.items()
        if name not in _STANDARD and not name.startswith("_")  # what libraries keep in every record
    }
    return {**_bound.get(), **given}


class Formatter(logging.Formatter):
    """What both forms have in common.

    Args:
        has_content: Whether the words of errors are told.
    """

    def __init__(self, *, has_content: bool = False) -> None:
        super().__init__()
        self._has_content = has_content

    def words(self, record: logging.LogRecord) -> str:
        """Return what happened, in words."""
        words = record.getMessage()
        # What asyncio adds after its first line is what tasks were about, their errors included.
        return words if self._has_content or record.name != "asyncio" else words.partition("\n")[0]

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - the library's name
        """Return where an error came from and its class, and its words where they may be told."""
        if self._has_content or ei[1] is None:
            return super().formatException(ei)
        return "".join(_places(ei[1], set())).rstrip("\n")


class JsonFormatter(Formatter):
    """One JSON object for each line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": self.words(record),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainFormatter(Formatter):
    """Time, level, words, then the fields as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, and a traceback below it if there is one."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        shown = [f"{name}={_short(value)}" for name, value in fields_of(record).items()]
        line = " ".join([time, record.levelname.lower().ljust(7), self.words(record), *shown])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _places(error: BaseException, known: set[int]) -> Iterator[str]:
    """Yield a traceback without words: first what an error came from, last those that it holds."""
    known.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before and id(before) not in known:
        yield from _places(before, known)
        yield "\nThen:\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    kind = type(error)
    # PyTorch has seen no words, and what it says of memory and devices is needed.
    words = error if kind.__module__ == "torch" else WITHHELD
    yield f"{kind.__module__}.{kind.__qualname__}: {words}\n"
    for each in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield "\nIn it:\n\n"
        yield from _places(each, known)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    # A path may hold line breaks, and a line must stay one.
    return str(value) if str(value).isprintable() else repr(value)


def hush() -> None:
    """Let libraries that warn without need tell errors alone."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def configure(
    form: Literal["plain", "json"], level: str, stream: TextIO | None = None, *, has_content: bool = False
) -> None:
    """Send every logger's lines to one stream, standard error unless told otherwise.

    Args:
        form: For people or for machines.
        level: The least that we log; other libraries log warnings at least.
        stream: Where to.
        has_content: Whether the words of errors are told.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    kind = JsonFormatter if form == "json" else PlainFormatter
    handler.setFormatter(kind(has_content=has_content))
    least = logging.getLevelNamesMapping()[level.upper()]
    # At lower levels some libraries log what they read: a picture's metadata, an address, a body.
    logging.basicConfig(level=max(least, logging.WARNING), handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(least)
    hush()
    logging.getLogger("uvicorn").setLevel(max(least, logging.INFO))
    # Ours says the same with a request id.
    logging.getLogger("uvicorn.access").disabled = True
