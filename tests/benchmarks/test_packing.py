from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.packing import REQUESTS, Pair, Request, measure_packing, shares
from model.checkpoint import build_random
from model.guidance import Branch
from model.omnigen2.family import OmniGen2

CONFIG = {
    "family": "omnigen2",
    "transformer": {
        "hidden_size": 48,
        "num_layers": 2,
        "num_refiner_layers": 1,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "multiple_of": 16,
        "axes_dim_rope": [4, 4, 4],
        "text_feat_dim": 24,
    },
}
TOY = [replace(request, side=8, num_prompt=7, num_negative=3) for request in REQUESTS]


@pytest.fixture(scope="module")
def family() -> OmniGen2:
    return cast(OmniGen2, build_random(CONFIG))


@pytest.mark.parametrize("request_", TOY, ids=lambda request: request.name)
def test_both_ways_lead_to_the_same_velocity(family: OmniGen2, request_: Request) -> None:
    pair = Pair(family, request_)
    torch.testing.assert_close(pair.packed(), pair.by_twin(), atol=2e-5, rtol=0)


def test_an_edit_has_three_branches_and_the_last_no_reference(family: OmniGen2) -> None:
    rows = Pair(family, TOY[1]).rows
    assert [len(row.references) for row in rows.values()] == [1, 1, 0]
    assert rows[Branch.NO_TEXT].context is rows[Branch.NO_IMAGE].context


@pytest.mark.parametrize("request_", TOY, ids=lambda request: request.name)
def test_operations_are_those_that_are_made(family: OmniGen2, request_: Request) -> None:
    def made(work: Callable[[], object]) -> int:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            work()
        return int(counter.get_total_flops())

    pair = Pair(family, request_)
    counted = pair.operations()
    assert counted["twin"] == made(pair.by_twin)
    assert counted["packed"] == made(pair.packed) + made(lambda: pair.refine(pair.texts)) // 50
    assert counted["packed"] < counted["twin"]


def test_a_figure_says_the_floor_and_where_the_time_goes() -> None:
    first, second = measure_packing(CONFIG, TOY, repeats=1)
    assert [first.bar, second.bar] == [1.5, 2.0]
    for figure in (first, second):
        floor, over = (cast(float, figure.details[name]) for name in ("floor_ratio", "measured_over_floor"))
        assert floor > 1
        assert over == pytest.approx(figure.value / floor, rel=1e-2)
        assert cast(float, figure.details["largest_difference"]) < 2e-5


def test_shares_are_of_the_whole() -> None:
    told = shares(lambda: torch.randn(64, 64) @ torch.randn(64, 64))
    assert "aten::mm" in told
    assert 0 < sum(told.values()) <= 1.001
