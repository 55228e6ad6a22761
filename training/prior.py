"""Stage "prior": the diffusion transformer learns pictures of nothing in particular, before it is bridged.

Shapes: R rows, C latent channels, Y and X latent rows and columns.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor, nn

from model.family import Row
from model.flow import euler_step, time_grid
from model.hbridge.config import HBridgeConfig
from model.hbridge.contexts import PackedContexts
from model.hbridge.family import HBridge
from model.hbridge.network import HBridgeNetwork
from model.images import to_pictures
from training.bridge import initialise
from training.drawings import Shelf
from training.noised import NoContext, Noised
from training.schedule import MicroBatch
from training.sheets import Sheet
from training.team import Figures


class PriorStage:
    """The diffusion transformer alone: no bridge, no text, no references."""

    name = "prior"

    def __init__(self, family: HBridge, shelves: Sequence[Shelf], *, time_mean: float) -> None:
        self.family = family
        self.network = HBridgeNetwork(unbridged(family.config))
        initialise(self.network)
        self.module: nn.Module = self.network
        for part in (self.network.srt_proj, self.network.gen.ref_image_refiner):
            part.requires_grad_(False)
        self.shelves = [shelf for shelf in shelves if not shelf.group.is_edit]
        self.time_mean = time_mean

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """Flow matching without any condition."""
        rng = batch.rng()
        shelf = rng.choices(self.shelves, [s.group.count for s in self.shelves])[0]
        latents = shelf.after([rng.randrange(shelf.group.count) for _ in range(batch.size)])
        noised = Noised.of(list(latents), [()] * batch.size, batch.generator(), self.time_mean)
        flow = noised.loss(self._velocities(noised.rows))
        return flow, {"flow": flow.item()}

    def look(self, folder: Path, step: int) -> Figures:
        """Measure the flow loss on one fixed batch, and dream some pictures."""
        with torch.autocast("cpu", torch.bfloat16):
            flow, _ = self.loss(MicroBatch(run=1, size=256))
        sheet = Sheet()
        for picture in self.dream(torch.Generator().manual_seed(1), 24):
            sheet.add((picture,), "")
        sheet.write(folder / f"sheet-{step:07d}.png", columns=8)
        return {"flow": flow.item()}

    def dream(self, generator: torch.Generator, count: int, *, steps: int = 20) -> list[Image]:
        """Draw pictures of nothing in particular, of the first group's size."""
        latent_RCYX = torch.randn(count, *self.shelves[0].after([0]).shape[1:], generator=generator)
        for t, t_next in pairwise(time_grid(steps, *latent_RCYX.shape[2:], name="linear")):
            rows = [Row(latent_CYX=latent, time=t, context=NoContext()) for latent in latent_RCYX]
            latent_RCYX = euler_step(latent_RCYX, torch.stack(self._velocities(rows)), t, t_next)
        return to_pictures(self.family.decode(list(latent_RCYX)))

    def _velocities(self, rows: Sequence[Row]) -> list[Tensor]:
        nothing = (0,) * len(rows)
        empty = PackedContexts(lengths=nothing, next_ids=nothing, keys=(), values=())
        velocities: list[Tensor] = self.network(rows, contexts=empty, backend="plain").velocities
        return velocities


def unbridged(config: HBridgeConfig) -> HBridgeConfig:
    """Return the config with no bridged pair: the plain diffusion transformer."""
    return replace(config, skip_first=config.understanding.num_hidden_layers, skip_last=0)
