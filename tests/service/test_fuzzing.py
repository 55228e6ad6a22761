"""Whatever may come: what the API's document allows and forbids, and bodies that no client sends."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.loading import create_client
from service.settings import Settings

CONFIG = Path(__file__).with_name("schemathesis.toml")
MIN_CASES = 2000
MAX_SECONDS = 2.0
MAX_GROWTH_BYTES = 64 * 2**20

PATHS = (
    *("/v1/generate", "/v1/edit", "/v1/understand", "/v1/jobs", "/v1/verify"),
    *("/v1/images/generations", "/v1/images/edits", "/v1/chat/completions"),
)
NAMES = (
    *("prompt", "image", "images", "mask", "messages", "task", "request", "webhook", "size", "n", "seed"),
    *("stream", "width", "metadata", "stop", "deadline_ms", "response_format", "modalities", "model"),
)
TYPES = (
    "application/json",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "text/plain",
    "",
    "é/\x7f",
)
WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(
        ["", "data:image/png;base64,", "https://127.0.0.1/", "64x64", "\x00", "\ud800", "9" * 400]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), WILD, max_size=6).map(
    lambda body: json.dumps(body).encode("utf-8", "surrogatepass")
)
PARTS = st.lists(
    st.tuples(st.sampled_from((*NAMES, "image[]", "metadata[a]", "a[", "")), st.binary(max_size=60)),
    max_size=5,
).map(
    lambda parts: (
        b"".join(
            b'--x\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n%s\r\n'
            % (name.encode(), data)
            for name, data in parts
        )
        + b"--x--\r\n"
    )
)
NESTED = st.sampled_from(
    [b"[" * 100_000, b'{"a":' * 50_000, b'{"n": ' + b"9" * 50_000 + b"}", b"\xff\xfe", b"NaN"]
)
BODIES = st.one_of(OBJECTS, PARTS, NESTED, st.binary(max_size=200), OBJECTS.map(lambda body: body[:-3]))


@pytest.mark.parametrize(
    "num_bodies",
    [300, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])],
)
def test_no_made_body_is_a_fault_or_takes_long_or_leaves_memory_behind(
    web: TestClient, num_bodies: int
) -> None:
    process = psutil.Process()
    before: list[int] = []

    @settings(
        max_examples=num_bodies,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(path=st.sampled_from(PATHS), kind=st.sampled_from(TYPES), body=BODIES)
    def post(path: str, kind: str, body: bytes) -> None:
        begun = time.process_time()
        answer = web.post(path, content=body, headers={"content-type": kind.encode("utf-8")})
        assert answer.status_code < 500, answer.text
        assert time.process_time() - begun < MAX_SECONDS
        before.append(process.memory_info().rss)

    post()
    settled, last = before[len(before) // 3], before[-1]
    assert last - settled < MAX_GROWTH_BYTES


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_answer_is_a_fault_or_undocumented(run_server: Any, model_folder: Path, tmp_path: Path) -> None:
    settings = Settings(
        port=0,
        model=str(model_folder),
        engine="inline",
        max_body_bytes=200_000,
        max_tokens=8,
        default_max_tokens=4,
        log_level="error",
        data_dir=tmp_path / "data",
    )
    with run_server(settings, create_client(settings)) as server:
        command = ["schemathesis", f"--config-file={CONFIG}", "run", f"{server.url}/openapi.json"]
        options = ["--checks=all", "--max-examples=25", "--seed=1", "--request-timeout=60"]
        limits = ["--max-response-time=60", "--no-color"]
        done = subprocess.run(
            [*command, *options, *limits], capture_output=True, text=True, cwd=tmp_path, check=False
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated
    assert int(generated[1]) >= MIN_CASES
