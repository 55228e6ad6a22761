"""Stages "prior" and "bridge": the diffusion transformer learns pictures, then to draw what the bridge tells.

Flow matching with the semantic reconstruction loss: the learned tokens, projected, point where the frozen
vision tower's features of the target point.

Shapes: R rows, C latent channels, Y and X latent rows and columns, N learned tokens, h generation width,
W understanding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from model.drawing import Drawing
from model.family import Family, Row
from model.flow import euler_step, time_grid
from model.hbridge.config import HBridgeConfig
from model.hbridge.contexts import PackedContexts
from model.hbridge.family import HBridge
from model.hbridge.network import HBridgeNetwork
from model.images import to_pictures
from training.canvas import Canvas
from training.captions import CAPTIONS
from training.detector import detect
from training.drawings import Shelf
from training.edits import EDITS
from training.painting import paint
from training.prefills import Prefills, packed
from training.sheets import Sheet
from training.world import render


def draw_times(generator: torch.Generator, count: int, mean: float) -> Tensor:
    """Draw flow times in (0, 1), logit-normal of deviation 1.

    Args:
        mean: Below 0 leans to noise, where a picture's content is decided.

    Source: Esser et al. 2024, arXiv:2403.03206, section 3.1.
    """
    return torch.sigmoid(torch.randn(count, generator=generator) + mean)


class Batch:
    """One group's samples of one step, noised."""

    def __init__(self, shelf: Shelf, rng: Random, generator: torch.Generator, size: int, mean: float) -> None:
        self.indices = [rng.randrange(shelf.group.count) for _ in range(size)]
        data_RCYX = shelf.after(self.indices)
        noise_RCYX = torch.randn(data_RCYX.shape, generator=generator)
        self.times_R = draw_times(generator, size, mean)
        self.target_RCYX = data_RCYX - noise_RCYX
        self.latent_RCYX = noise_RCYX + self.times_R[:, None, None, None] * self.target_RCYX
        self.references: list[tuple[Tensor, ...]] = [()] * size
        if shelf.group.is_edit:
            self.references = [(latent,) for latent in shelf.before(self.indices)]

    def rows(self) -> list[Row]:
        """Return the rows of a velocity call; their contexts travel packed, beside them."""
        return [
            Row(latent_CYX=latent, time=time, context=NoContext(), references=references)
            for latent, time, references in zip(
                self.latent_RCYX, self.times_R.tolist(), self.references, strict=True
            )
        ]


class NoContext:
    """A context that covers nothing."""

    num_tokens = 0
    num_bytes = 0


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

    def loss(self, rng: Random, generator: torch.Generator, batch: int) -> tuple[Tensor, dict[str, float]]:
        """Flow matching without any condition."""
        shelf = rng.choices(self.shelves, [s.group.count for s in self.shelves])[0]
        drawn = Batch(shelf, rng, generator, batch, self.time_mean)
        flow = (self._velocity(drawn.rows()) - drawn.target_RCYX).square().mean()
        return flow, {"flow": flow.item()}

    def look(self, folder: Path, step: int) -> dict[str, float]:
        """Measure the flow loss on one fixed batch, and dream some pictures."""
        generator = torch.Generator().manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            flow, _ = self.loss(Random(1), generator, 256)
        sheet = Sheet()
        for picture in self.dream(generator, 24):
            sheet.add((picture,), "")
        sheet.write(folder / f"sheet-{step:07d}.png", columns=8)
        return {"flow": flow.item()}

    def dream(self, generator: torch.Generator, count: int, *, steps: int = 20) -> list[Image]:
        """Draw pictures of nothing in particular, of the first group's size."""
        latent_RCYX = torch.randn(count, *self.shelves[0].after([0]).shape[1:], generator=generator)
        for t, t_next in pairwise(time_grid(steps, *latent_RCYX.shape[2:], name="linear")):
            rows = [Row(latent_CYX=latent, time=t, context=NoContext()) for latent in latent_RCYX]
            latent_RCYX = euler_step(latent_RCYX, self._velocity(rows), t, t_next)
        return to_pictures(self.family.decode(list(latent_RCYX)))

    def _velocity(self, rows: Sequence[Row]) -> Tensor:
        nothing = (0,) * len(rows)
        empty = PackedContexts(lengths=nothing, next_ids=nothing, keys=(), values=())
        return torch.stack(self.network(rows, contexts=empty, backend="plain").velocities)


def unbridged(config: HBridgeConfig) -> HBridgeConfig:
    """Return the config with no bridged pair: the plain diffusion transformer."""
    return replace(config, skip_first=config.understanding.num_hidden_layers, skip_last=0)


class BridgeStage:
    """Bridge, diffusion transformer and learned tokens; what the frozen understanding side says is given.

    Attributes:
        drop: Share of rows whose context is the empty prompt's, for guidance.
        srt_weight: Weight of the semantic reconstruction loss.
        edit_share: Share of steps that edit.
    """

    name = "bridge"

    def __init__(
        self,
        family: Family,
        network: HBridgeNetwork,
        shelves: Sequence[Shelf],
        prefills: Sequence[Prefills],
        *,
        time_mean: float,
        drop: float,
        srt_weight: float,
        edit_share: float,
    ) -> None:
        self.family, self.network = family, network
        self.module: nn.Module = network
        self.samples = list(zip(shelves, prefills, strict=True))
        self.time_mean, self.drop, self.srt_weight, self.edit_share = time_mean, drop, srt_weight, edit_share

    def loss(self, rng: Random, generator: torch.Generator, batch: int) -> tuple[Tensor, dict[str, float]]:
        """Flow matching on prompts or on edits, and the semantic reconstruction loss."""
        is_edit = rng.random() < self.edit_share
        samples = [each for each in self.samples if each[0].group.is_edit == is_edit]
        shelf, prefills = rng.choices(samples, [shelf.group.count for shelf, _ in samples])[0]
        drawn = Batch(shelf, rng, generator, batch, self.time_mean)
        contexts = packed([prefills.prompt(i, blank=rng.random() < self.drop) for i in drawn.indices])
        output = self.network(drawn.rows(), contexts=contexts, backend="plain")
        flow = (torch.stack(output.velocities) - drawn.target_RCYX).square().mean()
        srt = self.srt_loss(output.srt_RNh, prefills.seen(drawn.indices))
        task = "edit" if is_edit else "generate"
        return flow + self.srt_weight * srt, {f"flow_{task}": flow.item(), "srt": srt.item()}

    def srt_loss(self, srt_RNh: Tensor, seen_RNW: Tensor) -> Tensor:
        """Return the cosine distance of the learned tokens, projected, to the frozen vision features.

        Source: HBridge, arXiv:2511.20520, semantic reconstruction tokens.
        """
        return (1 - cosine_similarity(self.network.srt_proj(srt_RNh).float(), seen_RNW, dim=-1)).mean()

    def look(self, folder: Path, step: int) -> dict[str, float]:
        """Draw and edit fixed cases with averaged weights; score them strictly; write a contact sheet."""
        rng, sheet = Random(3), Sheet()
        figures = self._look_at_captions(rng, sheet) | self._look_at_edits(rng, sheet)
        sheet.write(folder / f"sheet-{step:07d}.png")
        return figures

    def _look_at_captions(self, rng: Random, sheet: Sheet) -> dict[str, float]:
        asked = {
            kind: [make(rng, Canvas(held_out=i % 2 == 1)) for i in range(16)]
            for kind, make in CAPTIONS.items()
        }
        drawings = [Drawing(prompt=c.text, seed=i) for cases in asked.values() for i, c in enumerate(cases)]
        pictures = iter(paint(self.family, drawings))
        figures: dict[str, float] = {}
        for kind, cases in asked.items():
            painted = [next(pictures) for _ in cases]
            read = [(case, detect(picture)) for case, picture in zip(cases, painted, strict=True)]
            right = [case.wish.is_met(scene) for case, scene in read]
            ground = [case.wish.background in (None, scene.background) for case, scene in read]
            figures[kind] = sum(right) / len(right)
            figures[f"{kind}/background"] = sum(ground) / len(ground)
            for i in range(4):
                sheet.add((painted[i],), cases[i].text, right=right[i])
        return figures

    def _look_at_edits(self, rng: Random, sheet: Sheet) -> dict[str, float]:
        edits = [make(rng, Canvas()) for make in EDITS.values() for _ in range(8)]
        befores = [render(edit.before) for edit in edits]
        drawings = [
            Drawing(prompt=edit.text, images=(before,), seed=i)
            for i, (edit, before) in enumerate(zip(edits, befores, strict=True))
        ]
        painted = paint(self.family, drawings)
        right = [edit.is_met(detect(picture)) for edit, picture in zip(edits, painted, strict=True)]
        for i in range(0, len(edits), 4):
            sheet.add((befores[i], painted[i]), edits[i].text, right=right[i])
        return {"edits": sum(right) / len(right)}


def initialise(network: HBridgeNetwork) -> None:
    """Start open: Xavier linears, half-open gates, no output, bridges whose values pass on.

    The bridges' queries and keys are mixed at random: near the identity, a token's own key drowns the
    prompt's, and pairs that start so never look at it.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in network.named_parameters():
        if name.endswith("norm1.linear.weight") or name.endswith("norm_out.linear_1.weight"):
            nn.init.normal_(parameter, std=0.02)
        if name.endswith("norm1.linear.bias"):
            gates = parameter.data.view(4, -1)
            gates[1] = gates[3] = 0.5
        if name.endswith("norm_out.linear_2.weight"):
            nn.init.zeros_(parameter)
        if name.startswith("bridge.") and name.endswith(("v_linear.weight", "o_linear.weight")):
            nn.init.eye_(parameter)
            parameter.data += 0.02 * torch.randn_like(parameter)


def load_prior(network: HBridgeNetwork, average: Mapping[str, Tensor]) -> None:
    """Start the bridged network from the prior's averaged weights.

    Raises:
        ValueError: The prior has weights that the network lacks.
    """
    unknown = average.keys() - network.state_dict().keys()
    if unknown:
        raise ValueError(f"the prior is of another shape: {sorted(unknown)}")
    state: dict[str, Any] = {**network.state_dict(), **average}
    network.load_state_dict(state)
