"""Log lines for people or for machines: an event's words and its fields. Never prompts, images or answers."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what was given as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object for each line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainFormatter(logging.Formatter):
    """Time, level, words, then the fields as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, and a traceback below it if there is one."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        shown = [f"{name}={_short(value)}" for name, value in fields_of(record).items()]
        line = " ".join([time, record.levelname.lower().ljust(7), record.getMessage(), *shown])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    # A path may hold line breaks, and a line must stay one.
    return str(value) if str(value).isprintable() else repr(value)


def configure(form: Literal["plain", "json"], level: str, stream: TextIO | None = None) -> None:
    """Send every logger's lines to one stream, standard error unless told otherwise."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It would write down every statement with its values: prompts, hashes.
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)
    # Ours says the same with a request id.
    logging.getLogger("uvicorn.access").disabled = True
