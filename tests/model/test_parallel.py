import gc
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoint import build_random
from model.family import Row
from model.hbridge.config import HBridgeConfig
from model.omnigen2.family import TextContext
from model.parallel import Receiver, Sender, share_out
from tests.model.omnigen2.goldens import described
from tests.model.parallel_run import Case

ROOT = Path(__file__).parents[2]
SIX_HEADS = {"num_attention_heads": 6, "num_kv_heads": 3, "axes_dim_rope": [2, 2, 4]}


@pytest.fixture(scope="module")
def cases(golden_config: dict[str, Any], make_row: Callable[..., Row]) -> list[Case]:
    """Families whose heads divide among two processes, three, or neither, and rows of every kind."""
    config = HBridgeConfig.from_dict(golden_config)
    text = make_row(config, 1, (8, 8), 5)
    edit = make_row(config, 2, (6, 8), 9, (8, 4), (4, 4))
    small = make_row(config, 3, (2, 2), 3)
    branches = [text, replace(text, context=small.context)]
    steps = [[text], branches, [text, edit, small], [small], branches * 3, [*branches, edit, small]]
    six = golden_config | {"generation": golden_config["generation"] | SIX_HEADS}
    transformer = described("fwd_t2i")["config"] | {"in_channels": 4}
    generator = torch.Generator().manual_seed(0)

    def with_text(row: Row) -> Row:
        features = torch.randn(7, transformer["hidden_size"], generator=generator)
        return replace(row, context=TextContext(features))

    return [
        (golden_config, steps),
        (six, steps),
        (
            {"family": "omnigen2", "transformer": transformer},
            [[with_text(row) for row in rows] for rows in steps],
        ),
    ]


@pytest.fixture(scope="module")
def alone(cases: list[Case]) -> list[list[list[Tensor]]]:
    """What each family computes by itself."""
    return [[build_random(config).velocity(rows) for rows in steps] for config, steps in cases]


@pytest.mark.parametrize("num", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_compute_what_one_does(
    num: int, cases: list[Case], alone: list[list[list[Tensor]]], tmp_path: Path
) -> None:
    torch.save(cases, tmp_path / "cases.pt")
    command = [sys.executable, "-m", "tests.model.parallel_run", str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank), str(num)], cwd=ROOT) for rank in range(num)]
    assert [process.wait(timeout=120) for process in processes] == [0] * num
    together = torch.load(tmp_path / f"found-{num}.pt")
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("loads", "num", "shares"),
    [
        ([5, 5], 2, ((0,), (1,))),
        ([5], 2, ((0,),)),
        ([5, 5, 5], 2, ((0, 1, 2),)),
        ([2, 1, 1], 2, ((0,), (1, 2))),
        ([5, 5], 4, ((0,), (1,))),
        ([5, 5], 3, ((0, 1),)),
        ([100, 101], 2, ((1,), (0,))),
        ([7, 6, 5, 4], 4, ((0, 3), (1, 2))),
    ],
)
def test_rows_are_shared_out_evenly_or_cut(loads: list[int], num: int, shares: Any) -> None:
    assert share_out(loads, num) == shares


@pytest.mark.parametrize("num", range(1, 9))
def test_every_row_is_computed_once_and_no_process_idles_for_long(num: int) -> None:
    generator = torch.Generator().manual_seed(num)
    for count in range(1, 12):
        loads = (1 + torch.rand(count, generator=generator)).tolist()
        shares = share_out(loads, num)
        assert sorted(row for share in shares for row in share) == list(range(count))
        assert num % len(shares) == 0
        busiest = max(sum(loads[row] for row in share) for share in shares)
        assert busiest * len(shares) <= 1.05 * sum(loads)


def take(tensors: list[Tensor]) -> Callable[..., Tensor]:
    """Return what hands out tensors in their order."""
    left = iter(tensors)

    def each(shape: torch.Size, dtype: torch.dtype, kind: str) -> Tensor:
        tensor = next(left)
        assert (tensor.shape, tensor.dtype, tensor.device.type) == (shape, dtype, kind)
        return tensor.clone()

    return each


def test_a_tensor_travels_once_and_is_forgotten_when_nobody_has_it() -> None:
    sender, receiver = Sender(), Receiver()
    kept, passing = torch.arange(3), torch.ones(2, dtype=torch.bfloat16)
    message, tensors = sender.pack({"kept": kept, "twice": [passing, passing]})
    assert len(tensors) == 2
    found = receiver.unpack(message, take(tensors))
    assert found["kept"].equal(kept)
    assert found["twice"][0].equal(passing)
    assert found["twice"][0] is found["twice"][1]

    del passing, tensors
    gc.collect()
    message, tensors = sender.pack((kept, torch.zeros(1)))
    assert (len(tensors), len(message.forgotten)) == (1, 1)
    again, new = receiver.unpack(message, take(tensors))
    assert again is found["kept"]
    assert new.equal(torch.zeros(1))
    with pytest.raises(KeyError):
        receiver.unpack(replace(message, layouts=()), take([]))
