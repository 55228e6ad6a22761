from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.engine import memory
from service.engine.cost import Load
from service.engine.memory import MARGIN, MIB, MemoryModel, Meter, free_bytes

BLOCK = 4 * 1000
"""Bytes of a thousand float32."""


def keep_all() -> list[Tensor]:
    return [torch.zeros(1000) for _ in range(5)]


def keep_none() -> None:
    for _ in range(5):
        torch.zeros(1000)


def look_again() -> None:
    block = torch.zeros(1000)
    for _ in range(5):
        block.view(10, 100).T.add_(1)


def build_up() -> None:
    first = torch.zeros(1000)
    second = first + 1
    third = first * second
    del first, second
    third.sum()


@pytest.mark.parametrize(("work", "blocks"), [(keep_all, 5), (keep_none, 1), (look_again, 1), (build_up, 3)])
def test_a_meter_counts_what_is_alive_at_one_time(work: Callable[[], Any], blocks: int) -> None:
    with torch.inference_mode(), Meter() as meter:
        work()
    assert (blocks - 1) * BLOCK < meter.peak_bytes <= blocks * BLOCK


def test_what_was_there_before_is_not_counted() -> None:
    before = torch.zeros(1000)
    with Meter() as meter:
        before.add_(1)
        before[10:].view(-1)
    assert meter.peak_bytes == 0


def test_a_peak_is_foretold_with_a_margin_from_what_was_measured(tmp_path: Path) -> None:
    model = MemoryModel()
    assert model.bytes("denoise", Load(rows=1, tokens=64, pairs=4096)) == 0
    for rows in (1, 2, 4, 8) * 4:
        load = Load(rows=rows, tokens=64 * rows, pairs=4096 * rows)
        model.observe("denoise", load, 10 * MIB * rows)
    model.to_file(tmp_path / "memory.json")
    for each in (model, MemoryModel.from_file(tmp_path / "memory.json")):
        foretold = each.bytes("denoise", Load(rows=6, tokens=384, pairs=6 * 4096))
        assert foretold == pytest.approx(MARGIN * 60 * MIB, rel=0.05)
        assert each.bytes("decode", load) == 0


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    machine = free_bytes("cpu")
    assert machine > 0
    (tmp_path / "memory.current").write_text("700\n")
    for limit, free in (("max\n", None), ("1000\n", 300), ("500\n", 0)):
        (tmp_path / "memory.max").write_text(limit)
        if free is None:
            assert free_bytes("cpu") == pytest.approx(machine, rel=0.5)
        else:
            assert free_bytes("cpu") == free
