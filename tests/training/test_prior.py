from pathlib import Path

import torch

from model.hbridge.contexts import PackedContexts
from model.hbridge.family import HBridge
from model.hbridge.network import HBridgeNetwork
from training.drawings import Shelf
from training.noised import Noised
from training.prior import PriorStage, unbridged
from training.schedule import MicroBatch


def test_an_unbridged_network_ignores_its_context(bridged: HBridge, shelves: list[Shelf]) -> None:
    config = unbridged(bridged.config)
    network = HBridgeNetwork(config)
    drawn = Noised.of(list(shelves[0].after([0, 1, 2])), [()] * 3, torch.Generator().manual_seed(0), 0.0)
    torch.nn.init.normal_(network.gen.norm_out.linear_2.weight)
    outputs = [
        network(drawn.rows, contexts=PackedContexts(lengths=n, next_ids=n, keys=(), values=()))
        for n in ((0, 0, 0), (4, 9, 2))
    ]
    assert not config.pairs
    torch.testing.assert_close(*(torch.stack(output.velocities) for output in outputs))


def test_the_prior_learns_from_pictures_without_words(bridged: HBridge, shelves: list[Shelf]) -> None:
    stage = PriorStage(bridged, shelves, time_mean=0.0)
    loss, figures = stage.loss(MicroBatch(size=2))
    assert figures == {"flow": loss.item()}
    assert all(not shelf.group.is_edit for shelf in stage.shelves)


def test_the_prior_dreams_pictures_to_look_at(bridged: HBridge, shelves: list[Shelf], tmp_path: Path) -> None:
    stage = PriorStage(bridged, shelves, time_mean=0.0)
    dreams = [stage.dream(torch.Generator().manual_seed(seed), 2, steps=2) for seed in (0, 0, 1)]
    assert dreams[0] == dreams[1] != dreams[2]
    assert all(picture.size == (64, 64) for picture in dreams[0])
