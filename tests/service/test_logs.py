import asyncio
import base64
import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sqlalchemy import text
from starlette.testclient import TestClient

from service.app import create_app
from service.database import Database
from service.engine.client import Client
from service.engine.job import LoadedModel
from service.logs import WITHHELD, bind, configure
from service.settings import Settings
from tests.service.collector import Collector
from tests.service.local_client import local_client, make_key

Form = Literal["plain", "json"]
FORMS = pytest.mark.parametrize("form", ["plain", "json"])
WATCHING = (Path(__file__).parents[2] / "docs/watching.md").read_text(encoding="utf-8")
PAGE = re.compile(r"`[\w.]+`")
PROMPT, KEY, INSIDE = "mark-of-a-prompt", "mark-of-a-key", "mark-in-a-picture"
HEADERS = {"X-Api-Key": KEY, "Cookie": KEY, "Webhook-Secret": KEY}
WRONG = [f"Bearer {KEY}", f"Bearer hb-{'0' * 12}-{KEY}", f"Basic {KEY}", KEY]
# Lines about no request: others must say which one they are about.
APART = {"ready", "calibrated", "no costs learnt yet"}


def lines_of(stream: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_the_words_and_the_fields() -> None:
    stream = StringIO()
    configure("json", "info", stream)
    logging.getLogger("service.a").info("job %s", "done", extra={"seconds": 0.5, "path": "a\nb", "_ours": 1})
    (line,) = lines_of(stream)
    assert (line["event"], line["level"], line["logger"]) == ("job done", "info", "service.a")
    assert (line["seconds"], line["path"]) == (0.5, "a\nb")
    assert "_ours" not in line


def test_a_plain_line_stays_one_line() -> None:
    stream = StringIO()
    configure("plain", "info", stream)
    logging.getLogger("service.a").info("request", extra={"path": "/a\nFAKE", "seconds": 0.5})
    assert stream.getvalue().count("\n") == 1
    assert "seconds=0.500" in stream.getvalue()


def fail(error: BaseException) -> None:
    """Log an error that comes from another."""
    error.add_note(PROMPT)
    try:
        try:
            [].index(PROMPT)
        except ValueError as cause:
            raise error from cause
    except BaseException:
        logging.getLogger("service.a").exception("failed")


@FORMS
def test_an_error_brings_its_traceback_without_its_words(form: Form) -> None:
    stream = StringIO()
    configure(form, "warning", stream)
    logging.getLogger("service.a").info("not this")
    fail(KeyError(PROMPT))
    fail(ExceptionGroup(PROMPT, [TypeError(PROMPT)]))
    told = stream.getvalue()
    for kind in ("ValueError", "KeyError", "ExceptionGroup", "TypeError"):
        assert f"builtins.{kind}: {WITHHELD}" in told
    assert "test_logs.py" in told
    assert "raise error from cause" in told
    assert "not this" not in told
    assert PROMPT not in told


def test_an_errors_words_are_told_when_the_operator_asks_and_pytorchs_always() -> None:
    stream = StringIO()
    configure("plain", "info", stream, has_content=True)
    fail(KeyError(PROMPT))
    assert stream.getvalue().count(PROMPT) >= 2
    configure("plain", "info", stream)
    fail(torch.OutOfMemoryError("tried to allocate 9 GiB"))
    assert "9 GiB" in stream.getvalue()


def test_what_asyncio_says_of_lost_tasks_is_cut() -> None:
    async def lose(stream: StringIO) -> None:
        configure("plain", "info", stream)
        future = asyncio.get_running_loop().create_future()
        future.set_exception(ValueError(PROMPT))
        del future

    stream = StringIO()
    asyncio.run(lose(stream))
    assert "exception was never retrieved" in stream.getvalue()
    assert PROMPT not in stream.getvalue()


def test_other_libraries_log_warnings_at_least() -> None:
    stream = StringIO()
    configure("json", "debug", stream)
    for name in ("service.a", "model.b", "PIL.PngImagePlugin", "httpx"):
        logging.getLogger(name).debug("quiet")
        logging.getLogger(name).warning("loud")
    assert [line["logger"] for line in lines_of(stream) if line["event"] == "quiet"] == [
        "service.a",
        "model.b",
    ]
    assert len([line for line in lines_of(stream) if line["event"] == "loud"]) == 4


def test_what_is_bound_is_told_in_tasks_and_threads_begun_there_and_nowhere_else() -> None:
    stream = StringIO()
    configure("json", "info", stream)
    log = logging.getLogger("service.a")

    async def request(name: str) -> None:
        bind(request=name, trace="")
        log.info("here")
        bind(trace=f"trace of {name}")
        await asyncio.gather(asyncio.create_task(deeper()), asyncio.to_thread(log.info, "in a thread"))

    async def deeper() -> None:
        log.info("deeper", extra={"request": "told"})

    async def serve() -> None:
        await asyncio.gather(asyncio.create_task(request("a")), asyncio.create_task(request("b")))
        log.info("after")

    asyncio.run(serve())
    told = [(line["event"], line.get("request"), line.get("trace")) for line in lines_of(stream)]
    assert sorted(map(str, told)) == sorted(
        map(
            str,
            [
                *(("here", name, None) for name in "ab"),
                *(("deeper", "told", f"trace of {name}") for name in "ab"),
                *(("in a thread", name, f"trace of {name}") for name in "ab"),
                ("after", None, None),
            ],
        )
    )


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


def marked_png() -> bytes:
    """A picture of noise, which compresses to nothing that is anywhere else, with words in its metadata."""
    told, file = PngInfo(), BytesIO()
    told.add_text("Comment", INSIDE)
    picture = Image.effect_noise((32, 32), 80).convert("RGB")
    exif = picture.getexif()
    exif[0x010E] = INSIDE
    picture.save(file, "PNG", pnginfo=told, exif=exif, icc_profile=INSIDE.encode() * 9)
    return file.getvalue()


PNG = marked_png()
PNG64 = base64.b64encode(PNG).decode()
DRAW: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": PROMPT,
    "num_inference_steps": 2,
    "metadata": {PROMPT: PROMPT},
}
EDIT = DRAW | {"image": PNG64}
ASK: dict[str, Any] = {"prompt": PROMPT, "image": PNG64, "max_tokens": 2, "stop": [PROMPT]}
TALK = {
    "messages": [
        {"role": "system", "content": PROMPT},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": PROMPT},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG64}"}},
            ],
        },
    ],
    "max_tokens": 2,
}
GOOD = {
    "/v1/generate": [
        DRAW,
        DRAW | {"stream": True, "partial_images": 1},
        {"prompt": PROMPT, "response_format": "binary"},
    ],
    "/v1/edit": [EDIT, EDIT | {"stream": True}],
    "/v1/understand": [ASK, TALK, ASK | {"stream": True}],
    "/v1/images/generations": [{"prompt": PROMPT}, {"prompt": PROMPT, "stream": True, "partial_images": 1}],
    "/v1/chat/completions": [TALK | {"model": "tiny"}, TALK | {"model": "tiny", "stream": True}],
}
BAD: list[dict[str, Any]] = [
    DRAW | {"n": PROMPT},
    DRAW | {PROMPT: PROMPT},
    DRAW | {"size": PROMPT},
    DRAW | {"model": PROMPT},
    DRAW | {"image": PROMPT},
    DRAW | {"deadline_ms": 1},
    DRAW | {"mask": PNG64, "image": PNG64},
    EDIT | {"image": base64.b64encode(PNG[:200]).decode()},
    EDIT | {"image": f"https://{PROMPT}.example/{KEY}.png?signature={KEY}"},
    TALK | {"temperature": PROMPT},
    {"prompt": PROMPT * 999},
    {"task": "generate", "request": DRAW},
]
RAW = [
    (f'{{"prompt": "{PROMPT}", "prompt": "{PROMPT}"}}', "application/json"),
    (f'{{"prompt": "{PROMPT}', "application/json"),
    (f'"{PROMPT}"', "application/json"),
    (f"prompt={PROMPT}", "application/x-www-form-urlencoded"),
    (f"--x\r\n{PROMPT}", "multipart/form-data; boundary=x"),
]


def drive(web: TestClient | httpx.Client, paths: dict[str, Any]) -> tuple[set[int], list[str]]:
    """Ask everything of every endpoint, well and badly; return the statuses and pieces of the pictures."""
    statuses, pictures = set(), [PNG64[200:240]]
    for path, methods in paths.items():
        url = path.replace("{model_id}", "tiny")
        for method in (*methods, "patch"):
            for body in GOOD.get(path, []) if method == "post" else []:
                answer = web.post(url, json=body, headers=HEADERS)
                assert answer.status_code == 200, answer.text
                pictures += re.findall(r'"b64_json":"[^"]{100}([^"]{40})', answer.text)
            for body in BAD:
                statuses.add(web.request(method, url, json=body, headers=HEADERS).status_code)
            for content, kind in RAW:
                told = HEADERS | {"Content-Type": kind}
                statuses.add(web.request(method, url, content=content, headers=told).status_code)
            files, fields = {"image": ("a.png", PNG, "image/png")}, {"prompt": PROMPT, "n": "1"}
            statuses.add(web.request(method, url, files=files, data=fields, headers=HEADERS).status_code)
    return statuses, pictures


@pytest.fixture
def logging_app(
    gated_model: LoadedModel,
    make_client: Callable[..., Client],
    wait_until: Callable[..., None],
    settings: Settings,
) -> Callable[..., Any]:
    """Return a context manager: a client, with a key, of an app that is ready, and the stream of its log."""

    @contextmanager
    def run(form: Form, **given: Any) -> Iterator[tuple[TestClient, StringIO]]:
        stream = StringIO()
        wanted = settings.model_copy(update={"log_level": "debug", "max_prompt_chars": 5000} | given)
        configure(form, wanted.log_level, stream, has_content=wanted.log_content)
        app = create_app(wanted, make_client(gated_model))
        with local_client(app, raise_server_exceptions=False) as web:
            web.headers.update(make_key(web))
            wait_until(lambda: web.get("/readyz").status_code == 200)
            yield web, stream

    return run


@FORMS
def test_no_line_of_any_endpoint_holds_words_pictures_or_keys(
    logging_app: Any, form: Form, capfd: pytest.CaptureFixture[str]
) -> None:
    with logging_app(form) as (web, stream):
        paths = web.get("/openapi.json").json()["paths"] | {"/": {"get"}, "/docs": {"get"}}
        assert paths.keys() >= GOOD.keys()
        statuses, pictures = drive(web, paths)
        for wrong in WRONG:
            told = web.post("/v1/generate", json=DRAW, headers=HEADERS | {"Authorization": wrong})
            assert told.status_code == 401
        secret = web.headers["authorization"].removeprefix("Bearer ")
    assert statuses >= {200, 400, 405, 415, 429}
    told = stream.getvalue() + "".join(capfd.readouterr())
    if form == "json":
        assert {f"`{name}`" for line in lines_of(stream) for name in line} <= set(PAGE.findall(WATCHING))
    assert len(told.splitlines()) > 100
    assert len(pictures) > 4
    for mark in (PROMPT, KEY, secret, INSIDE, *pictures):
        assert mark not in told


@FORMS
def test_no_line_about_a_fault_holds_words_and_all_say_which_request_it_was(
    logging_app: Any, gated: Any, form: Form, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: Any) -> Any:
        raise KeyError(f"{PROMPT} {given}")

    with logging_app(form) as (web, stream):
        ids = []
        for name in ("prepare", "prefill", "velocity", "decode", "encode", "next_tokens"):
            setattr(gated, name, fail)
            for path, bodies in GOOD.items():
                answer = web.post(path, json=bodies[0], headers=HEADERS)
                ids.append(answer.headers["x-request-id"])
                assert answer.status_code in (200, 500)
            delattr(gated, name)
    told = stream.getvalue() + "".join(capfd.readouterr())
    assert told.count("KeyError") >= 9
    for mark in (PROMPT, KEY, PNG64[200:240]):
        assert mark not in told
    if form == "plain":
        return
    lines = [line for line in lines_of(stream) if line["event"] not in APART and line["level"] != "debug"]
    assert {line["event"] for line in lines} >= {"request", "job failed", "internal error"}
    for line in lines:
        # The engine knows jobs; that of a request has its id.
        assert line.get("request", line.get("job")) in ids


def test_prompts_are_told_when_the_operator_asks_and_pictures_and_keys_even_then_not(
    logging_app: Any,
) -> None:
    with logging_app("json", log_content=True) as (web, stream):
        for path, bodies in GOOD.items():
            web.post(path, json=bodies[0], headers=HEADERS)
    asked = [line for line in lines_of(stream) if line["event"] == "asked"]
    assert [line.get("prompt") for line in asked] == [PROMPT, PROMPT, None, PROMPT, None]
    assert asked[1]["images"] == ["image 32x32"]
    assert PROMPT in str(asked[2]["messages"])
    for mark in (KEY, INSIDE, PNG64[200:240]):
        assert mark not in stream.getvalue()


def test_lines_say_the_trace_that_is_recorded(logging_app: Any) -> None:
    with Collector() as collector, logging_app("json", otlp_endpoint=collector.endpoint) as (web, stream):
        web.get("/v1/models")
        web.get("/livez")
    (line,) = (line for line in lines_of(stream) if line.get("path") == "/v1/models")
    assert [line["trace"]] == [span.trace_id for span in collector.spans]
    assert [line for line in lines_of(stream) if line.get("path") == "/livez" and "trace" in line] == []


@pytest.mark.slow
def test_a_server_and_its_engines_process_log_json_and_nothing_of_what_was_asked(
    model_folder: Path, tmp_path: Path
) -> None:
    settings = {"LOG_FORMAT": "json", "LOG_LEVEL": "debug", "PORT": "0", "MODEL": str(model_folder)}
    settings["DATA_DIR"] = str(tmp_path)
    environment = {f"HBRIDGE_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service", "serve"]
    with subprocess.Popen(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr
        told: list[str] = []
        try:
            while "is ready at" not in (line := server.stderr.readline()):
                assert line, "".join(told)
                told.append(line)
            url = re.findall(r"http://[\d.:]+", line)[0]
            with httpx.Client(base_url=url, timeout=60) as web:
                statuses, pictures = drive(web, {path: {"post"} for path in GOOD})
            server.send_signal(signal.SIGTERM)
            told += server.stderr.read().splitlines()
        finally:
            server.kill()
    assert server.returncode == 0
    assert statuses >= {400, 405, 415}
    assert len([json.loads(line) for line in told]) > 20
    for mark in (PROMPT, KEY, INSIDE, *pictures):
        assert mark not in "".join(told)
