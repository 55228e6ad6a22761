"""Whatever the API's document allows or forbids, tried against a live server by Schemathesis."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.loading import create_client
from service.settings import Settings

CONFIG = Path(__file__).with_name("schemathesis.toml")
MIN_CASES = 2000


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
    )
    with run_server(settings, create_client(settings)) as server:
        command = ["schemathesis", f"--config-file={CONFIG}", "run", f"{server.url}/openapi.json"]
        options = [
            "--checks=all",
            "--max-examples=25",
            "--seed=1",
            "--request-timeout=60",
            "--max-response-time=60",
        ]
        done = subprocess.run(
            [*command, *options, "--no-color"], capture_output=True, text=True, cwd=tmp_path, check=False
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated
    assert int(generated[1]) >= MIN_CASES
