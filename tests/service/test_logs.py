import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest

from service.logs import OURS, configure


@pytest.fixture(autouse=True)
def _untouched_root() -> Iterator[None]:
    root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
    handlers, disabled = root.handlers[:], access.disabled
    levels = {name: logging.getLogger(name).level for name in ("", "uvicorn", *OURS)}
    yield
    root.handlers[:], access.disabled = handlers, disabled
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_a_json_line_has_the_words_and_the_fields() -> None:
    stream = StringIO()
    configure("json", "info", stream)
    logging.getLogger("service.a").info("job %s", "done", extra={"seconds": 0.5, "path": "a\nb"})
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["logger"]) == ("job done", "info", "service.a")
    assert (line["seconds"], line["path"]) == (0.5, "a\nb")


def test_a_plain_line_stays_one_line() -> None:
    stream = StringIO()
    configure("plain", "info", stream)
    logging.getLogger("service.a").info("request", extra={"path": "/a\nFAKE", "seconds": 0.5})
    assert stream.getvalue().count("\n") == 1
    assert "seconds=0.500" in stream.getvalue()


@pytest.mark.parametrize("form", ["plain", "json"])
def test_an_error_brings_its_traceback(form: str) -> None:
    stream = StringIO()
    configure(form, "warning", stream)  # type: ignore[arg-type]
    logging.getLogger("service.a").info("not this")
    try:
        {}["words"]  # type: ignore[index]
    except KeyError:
        logging.getLogger("service.a").exception("failed")
    assert "KeyError" in stream.getvalue()
    assert "not this" not in stream.getvalue()
