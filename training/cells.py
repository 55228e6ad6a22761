"""What stands in each cell of a picture: heads for training only, thrown away with their stage.

Shapes: T packed cells, C width, U packed understanding tokens, H query heads, K key heads, D head dim.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.attention import Segments, attend
from model.hbridge.contexts import PackedContexts
from model.hbridge.positions import bridge_ids
from model.qwen_vl.config import QwenVLConfig
from model.rope import mrope_table, rotate_half
from training.world import CELL, NAMES, REGIONS, Scene, Thing, region

MAX_SIDE = 16
"""Cells along a side of the largest picture."""
SIDE = tuple(map(str, range(MAX_SIDE)))
PLACES = {"region": tuple(name for row in REGIONS for name in row), "row": SIDE, "column": SIDE}
"""Where the thing, and the cell itself, lies. The vision tower cannot know: its positions are relative, and
on a plain ground all that it could compare looks alike. The decoder can, from where the image begins."""
VALUES = NAMES | PLACES
NAMELESS = -100
"""Label of a value without a name."""


class Cells(nn.Module):
    """A linear head for each attribute of what stands in a cell."""

    def __init__(self, width: int, values: Mapping[str, Sequence[str]] = NAMES) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(each) + 1) for name, each in values.items()})

    def forward(self, features_TC: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss; cells with something in them weigh five times as much as empty ones."""
        weight_T = 1 + 4 * (labels["size"] > 0)
        losses = [_loss(head(features_TC).float(), labels[name]) for name, head in self.heads.items()]
        return (torch.stack(losses).mean(0) * weight_T).sum() / weight_T.sum()


def _loss(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    """Return the cross entropy of each; where there is no name, all names should be as likely."""
    named_T = cross_entropy(logits_TV, labels_T, ignore_index=NAMELESS, reduction="none")
    even_T = -logits_TV.log_softmax(-1)[:, 1:].mean(-1)
    return torch.where(labels_T == NAMELESS, even_T, named_T)


@contextmanager
def leaving(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what leaves a layer, call by call, for heads to be asked about it."""
    passed: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *call: passed.append(call[-1]))
    try:
        yield passed
    finally:
        handle.remove()


def cell_labels(scenes: Sequence[Scene], side: int) -> dict[str, Tensor]:
    """Say for each cell, row by row, where it lies and what has its centre there; 0 is nothing.

    Args:
        scenes: Pictures, packed in this order.
        side: Of a cell, in pixels.
    """
    labels: dict[str, list[int]] = {name: [] for name in VALUES}
    for scene in scenes:
        at = {(int(thing.y // side), int(thing.x // side)): thing for thing in scene.things}
        for row, column in product(range(scene.height // side), range(scene.width // side)):
            said = {"row": str(row), "column": str(column)}
            if thing := at.get((row, column)):
                said |= _said_of(thing, scene)
            _add(labels, said)
    return {name: torch.tensor(values) for name, values in labels.items()}


def thing_labels(things: Sequence[tuple[Scene, Thing | None]], side: int) -> dict[str, Tensor]:
    """Say of each thing of a scene what it is and which cell has its centre; 0 all along is no thing.

    Args:
        things: Each with its scene.
        side: Of a cell, in pixels.
    """
    labels: dict[str, list[int]] = {name: [] for name in VALUES}
    for scene, thing in things:
        said = {}
        if thing is not None:
            said = {"row": str(int(thing.y // side)), "column": str(int(thing.x // side))}
            said |= _said_of(thing, scene)
        _add(labels, said)
    return {name: torch.tensor(values) for name, values in labels.items()}


def _said_of(thing: Thing, scene: Scene) -> dict[str, str]:
    where = region(thing, scene.width, scene.height)
    return {"shape": thing.shape, "colour": thing.colour, "size": thing.size, "region": where}


def _add(labels: Mapping[str, list[int]], said: Mapping[str, str]) -> None:
    """Add the place of each value among its like; 0 where none is said, NAMELESS where it has no name."""
    for name, values in VALUES.items():
        known = {value: i + 1 for i, value in enumerate(values)}
        labels[name].append(known.get(said[name], NAMELESS) if name in said else 0)


class Reader(nn.Module):
    """Asks the bridged layers' keys and values what the picture will show, from where its tokens will stand.

    A stand-in for the generation side, without noise and without sight of other cells: what it can read, the
    bridge can. Understanding layers that no one reads so need not keep what a prompt means where attention
    finds it: without this a probe found the shape of a held-out pair in three prompts of ten.
    """

    def __init__(self, config: QwenVLConfig, layers: Sequence[int]) -> None:
        super().__init__()
        width, self.layers = config.hidden_size, tuple(layers)
        self.sections, self.theta, self.head_dim = config.mrope_section, config.rope_theta, config.head_dim
        self.rows, self.columns = nn.Embedding(MAX_SIDE, width), nn.Embedding(MAX_SIDE, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in layers)
        self.queries = nn.ModuleList(nn.Linear(width, width) for _ in layers)
        self.outs = nn.ModuleList(nn.Linear(width, width) for _ in layers)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.RMSNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
            )
            for _ in layers
        )
        self.cells = Cells(width)

    def forward(self, contexts: PackedContexts, scenes: Sequence[Scene]) -> Tensor:
        """Return the mean loss on what the cells of the scenes hold, one scene for each context."""
        grids = [(scene.height // CELL, scene.width // CELL) for scene in scenes]
        ids = [bridge_ids((), grid, 0, "origin") for grid in grids]
        x_TC = torch.cat([self.rows(each[:, 1]) + self.columns(each[:, 2]) for each in ids])
        placed_T3 = torch.cat([each + start for each, start in zip(ids, contexts.next_ids, strict=True)])
        cos_TD, sin_TD = mrope_table(placed_T3, self.sections, self.theta)
        lengths = tuple(len(each) for each in ids)
        segments = Segments(lengths, contexts.lengths, backend="plain")
        places = zip(
            self.norms, self.queries, self.outs, self.mlps, contexts.keys, contexts.values, strict=True
        )
        for norm, query, out, mlp, k_UKD, v_UKD in places:
            q_THD = query(norm(x_TC)).unflatten(-1, (-1, self.head_dim))
            a_THD = attend(rotate_half(q_THD, cos_TD, sin_TD), k_UKD, v_UKD, segments)
            x_TC = x_TC + out(a_THD.flatten(1))
            x_TC = x_TC + mlp(x_TC)
        loss: Tensor = self.cells(x_TC, cell_labels(scenes, CELL))
        return loss
