from random import Random

import pytest
import torch

from model.hbridge.family import HBridge
from model.prompt import Prompt
from model.qwen_vl.context import KVContext
from training.canvas import Canvas
from training.captions import CAPTIONS, Caption
from training.probe import exchange, probe, read_off
from training.world import SHAPES

RNG = Random(0)
CASES = [CAPTIONS["colours"](RNG, Canvas()) for _ in range(90)]


def context_of(case: Caption, *, tells: bool) -> KVContext:
    """A context whose last token tells the shape, or nothing at all."""
    k_LKD = torch.zeros(2, 1, len(SHAPES))
    k_LKD[-1, 0, SHAPES.index(case.scene.things[0].shape)] = float(tells)
    ids_L3 = torch.arange(2)[:, None].expand(-1, 3)
    return KVContext(layers=(0,), keys=(k_LKD,), values=(k_LKD,), ids_L3=ids_L3, next_id=2)


@pytest.mark.parametrize("tells", [True, False])
def test_what_a_context_holds_is_read_off_and_nothing_else(tells: bool) -> None:
    figures = read_off([context_of(case, tells=tells) for case in CASES], CASES, 0, "shape")
    assert (figures["share"] == 1) == tells
    assert figures["share"] <= figures["guess"] or tells


def test_the_same_prompt_in_exchange_costs_nothing(bridged: HBridge) -> None:
    torch.nn.init.normal_(bridged.network.gen.norm_out.linear_2.weight)
    cases = [CASES[0]] * 3
    contexts = bridged.prefill([Prompt.draw(CASES[0].text)] * 3)
    costs = exchange(bridged, cases, contexts)
    assert costs.keys() == set(bridged.config.pairs)
    assert all(cost["mean"] == pytest.approx(0, abs=1e-4) for cost in costs.values())


def test_a_probe_speaks_of_every_bridged_pair(bridged: HBridge) -> None:
    report = probe(bridged, prompts=12, drawings=3)
    assert report.keys() == {str(pair) for pair in bridged.config.pairs}
    assert all({"shape", "colour", "attention", "loss_of_exchange"} == set(each) for each in report.values())
    assert all(0 < each["attention"] < 1 for each in report.values())
