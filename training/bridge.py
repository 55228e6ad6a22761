"""Stage "bridge": bridge, diffusion transformer and learned tokens; the understanding expert stays frozen.

Flow matching with the semantic reconstruction loss: the learned tokens, projected, point where the frozen
vision tower's features of the target point. Where samples come from is the source's business: the shapes
world for the small model (shapes.py), datasets on disk at full size (corpus.py).

Shapes: R rows, C latent channels, Y and X latent rows and columns, N learned tokens, h generation width,
W understanding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.utils.checkpoint import checkpoint

from model.attention import Backend
from model.hbridge.contexts import PackedContexts
from model.hbridge.network import HBridgeNetwork
from model.prompt import Task
from training.noised import Noised
from training.schedule import MicroBatch
from training.team import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A micro-batch as the frozen side gives it.

    Attributes:
        task: Of all its samples.
        latents: Pictures to make, [C, Y, X] each, of any sizes.
        references: Latents of each sample's references.
        contexts: What the understanding expert says of the prompts.
        seen_RNW: Vision features of the pictures to make, one for each learned token.
        figures: To log.
    """

    task: Task
    latents: Sequence[Tensor]
    references: Sequence[tuple[Tensor, ...]]
    contexts: PackedContexts
    seen_RNW: Tensor
    figures: Mapping[str, float]


class Source(Protocol):
    """Where samples come from."""

    def draw(self, batch: MicroBatch, drop: float) -> Given:
        """Return a micro-batch; all micro-batches of a step whose weights are split have one task.

        Args:
            batch: Which one.
            drop: Share of samples whose prompt loses its words, for guidance.
        """
        ...

    def look(self, stage: "BridgeStage", folder: Path, step: int) -> Figures:
        """Evaluate the network as it is."""
        ...


class Objective(nn.Module):
    """What is lowered: a module, so that weights that are split over processes are gathered around it.

    Attributes:
        backend: Of the attention.
    """

    def __init__(self, network: HBridgeNetwork, backend: Backend) -> None:
        super().__init__()
        self.network = network
        self.backend: Backend = backend

    def forward(self, noised: Noised, contexts: PackedContexts, seen_RNW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flow loss and the semantic reconstruction loss.

        The latter is the cosine distance of the learned tokens, projected, to the frozen vision features.

        Source: HBridge, arXiv:2511.20520, semantic reconstruction tokens.
        """
        output = self.network(noised.rows, contexts=contexts, backend=self.backend)
        projected_RNW = self.network.srt_proj(output.srt_RNh).float()
        return noised.loss(output.velocities), (1 - cosine_similarity(projected_RNW, seen_RNW, dim=-1)).mean()


class BridgeStage:
    """What is learnt of a source's samples.

    Attributes:
        time_mean: Of the law of times, as in draw_times.
        drop: Share of samples whose prompt loses its words, for guidance.
        srt_weight: Weight of the semantic reconstruction loss.
    """

    name = "bridge"

    def __init__(
        self,
        network: HBridgeNetwork,
        source: Source,
        *,
        time_mean: float,
        drop: float,
        srt_weight: float,
        backend: Backend,
    ) -> None:
        self.module: nn.Module = network
        self.objective, self.source = Objective(network, backend), source
        self.time_mean, self.drop, self.srt_weight = time_mean, drop, srt_weight

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """Flow matching, and the semantic reconstruction loss."""
        return self.judge(self.source.draw(batch, self.drop), batch)

    def judge(self, given: Given, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """Return the loss on samples, with noise and times drawn for the micro-batch."""
        noised = Noised.of(given.latents, given.references, batch.generator(), self.time_mean)
        flow, srt = self.objective(noised, given.contexts, given.seen_RNW)
        figures = {f"flow_{given.task}": flow.item(), "srt": srt.item(), **given.figures}
        return flow + self.srt_weight * srt, figures

    def look(self, folder: Path, step: int) -> Figures:
        """Evaluate as the source does."""
        return self.source.look(self, folder, step)


def parts(network: HBridgeNetwork) -> list[nn.Module]:
    """Return what `Shards` gathers one at a time; what is left is small."""
    gen = network.gen
    return [*gen.noise_refiner, *gen.ref_image_refiner, *gen.layers, *network.bridge.values()]


def checkpoint_layers(network: HBridgeNetwork) -> None:
    """Keep only what enters each layer, and compute the layer again on the way back.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    gen = network.gen
    for layer in (*gen.noise_refiner, *gen.ref_image_refiner, *gen.layers):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


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
