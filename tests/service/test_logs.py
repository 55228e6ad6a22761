import asyncio
import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest
from sqlalchemy import text

from service.database import Database
from service.logs import configure


@pytest.fixture(autouse=True)
def _untouched_root() -> Iterator[None]:
    root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
    handlers, level, disabled = root.handlers[:], root.level, access.disabled
    yield
    root.handlers[:], root.level, access.disabled = handlers, level, disabled


def test_a_json_line_has_the_words_and_the_fields() -> None:
    stream = StringIO()
    configure("json", "info", stream)
    logging.getLogger("a").info("job %s", "done", extra={"seconds": 0.5, "path": "a\nb"})
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["logger"]) == ("job done", "info", "a")
    assert (line["seconds"], line["path"]) == (0.5, "a\nb")


def test_a_plain_line_stays_one_line() -> None:
    stream = StringIO()
    configure("plain", "info", stream)
    logging.getLogger("a").info("request", extra={"path": "/a\nFAKE", "seconds": 0.5})
    assert stream.getvalue().count("\n") == 1
    assert "seconds=0.500" in stream.getvalue()


@pytest.mark.parametrize("form", ["plain", "json"])
def test_an_error_brings_its_traceback(form: str) -> None:
    stream = StringIO()
    configure(form, "warning", stream)  # type: ignore[arg-type]
    logging.getLogger("a").info("not this")
    try:
        {}["words"]  # type: ignore[index]
    except KeyError:
        logging.getLogger("a").exception("failed")
    assert "KeyError" in stream.getvalue()
    assert "not this" not in stream.getvalue()


def test_what_is_written_to_the_database_is_in_no_log() -> None:
    stream = StringIO()
    configure("plain", "debug", stream)

    async def write() -> None:
        database = Database("sqlite://")
        async with database.session() as session:
            await session.execute(text("SELECT :words"), {"words": "my secret"})
        await database.stop()

    asyncio.run(write())
    logging.getLogger("service").debug("seen")
    assert "seen" in stream.getvalue()
    assert "secret" not in stream.getvalue()
