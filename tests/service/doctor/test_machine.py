import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from model import attention
from model.attention import BACKENDS
from service.doctor.machine import EXTRAS, look_at, try_attention

ROOT = Path(__file__).parents[3]


def test_the_processor_runs_every_backend_that_is_there() -> None:
    machine = look_at("cpu")
    assert machine.is_usable
    assert 0 < machine.free_bytes <= machine.memory_bytes
    told = machine.attention_backends
    assert told.keys() == BACKENDS.keys()
    assert (told["sdpa"], told["plain"]) == ("runs", "runs")
    assert "needs a CUDA device" in told["varlen"]
    assert (machine.torch, machine.capability) == (torch.__version__, None)


def test_a_device_that_is_not_here_may_still_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    machine = look_at("cuda:0", 24_000_000_000)
    assert not machine.is_usable
    assert machine.free_bytes == 24_000_000_000
    assert look_at("cuda:0").free_bytes == 0


def test_a_backend_that_fails_or_is_wrong_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> torch.Tensor:
        raise ImportError("no such library\nand more")

    monkeypatch.setitem(attention.BACKENDS, "sdpa", fail)
    assert try_attention("sdpa", "cpu") == "ImportError: no such library"
    monkeypatch.setitem(attention.BACKENDS, "sdpa", lambda q, k, v, segments: q * 0)
    assert try_attention("sdpa", "cpu").startswith("off by 1.0")


def test_every_extra_is_one_that_can_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert {each.extra for each in EXTRAS} == extras.keys() - {"dev", "release"}
    for each in EXTRAS:
        assert any(each.library.replace("_", "-") in line for line in extras[each.extra]), each.library
