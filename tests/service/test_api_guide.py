"""The examples of docs/api.md, run one after the other against a live server."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.engine.client import Client
from service.engine.job import LoadedModel
from service.settings import Settings

GUIDE = Path(__file__).parents[2] / "docs/api.md"
ADDRESS = "http://127.0.0.1:8000"
BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # examples leave files and connections open
def test_the_examples_of_the_guide_run(
    loaded: LoadedModel,
    make_client: Callable[..., Client],
    run_server: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = replace(loaded, card=replace(loaded.card, id="hbridge-tiny"))
    blocks = BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    assert len(blocks) >= 14
    names: dict[str, Any] = {}
    with run_server(Settings(port=0), make_client(model)) as running:
        for number, (language, block) in enumerate(blocks, 1):
            code = block.replace(ADDRESS, running.url)
            if language == "sh":
                subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, timeout=60)
            else:
                exec(compile(code, f"docs/api.md, example {number}", "exec"), names)
        names["http"].close()
        names["client"].close()
