"""The bridge stage of the shapes world: beside making a picture, the generation side tells what it holds.

A part that is thrown away later asks the noise tokens, as they leave the last bridged layer, what stands in
their cells. The flow loss alone is slow to teach which words belong together: a thing of the wrong shape, in
the right colour and place, costs it little.

Shapes: R rows, T tokens, h generation width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from model.attention import Backend
from model.hbridge.network import HBridgeNetwork
from training.bridge import BridgeStage, Given, Source
from training.cells import Cells, leaving
from training.schedule import MicroBatch
from training.team import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(Given):
    """Pictures of one size, edited from references of one size or from nothing.

    Attributes:
        cells: What stands in the cells of the pictures to make, row by row, as cell_labels says it.
    """

    cells: Mapping[str, Tensor]


class TellingStage(BridgeStage):
    """The bridge stage, whose noise tokens also tell what their cells will show.

    Attributes:
        cells_weight: Weight of that loss.
    """

    def __init__(
        self,
        network: HBridgeNetwork,
        source: Source,
        *,
        cells_weight: float,
        backend: Backend,
        **options: Any,
    ) -> None:
        super().__init__(network, source, backend=backend, **options)
        self.cells, self.cells_weight = Cells(network.config.generation.hidden_size), cells_weight
        network.add_module("cells", self.cells)
        last = network.config.prefix_layers + max(network.config.pairs)
        self._told = network.gen.layers[last]

    def judge(self, given: Given, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """Add what is told wrongly to the loss."""
        with leaving(self._told) as passed:
            loss, figures = super().judge(given, batch)
        cells = cast(Drawn, given).cells
        x_RTh = torch.unflatten(passed[0], 0, (len(given.latents), -1))
        num_cells = len(cells["shape"]) // len(given.latents)
        told: Tensor = self.cells(x_RTh[:, -num_cells:].flatten(0, 1), cells)
        return loss + self.cells_weight * told, {**figures, "cells": told.item()}
