"""Does the prompt reach the pictures, pair by pair?

Three probes of each bridged pair. What the understanding side offers: a linear probe reads shape and colour
off the keys and values of the prompt's last token. Where the generation side looks: the share of its
attention on the prompt. What it takes: the flow loss with the pair's keys and values exchanged for another
prompt's, less the loss with its own, on the same noise and times.

Shapes: R rows, F features of one prompt, V values of an attribute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from model.family import Row
from model.hbridge.family import HBridge
from model.prompt import Prompt
from model.qwen_vl.context import KVContext
from training.canvas import Canvas
from training.captions import CAPTIONS, Caption
from training.drawings import encode
from training.evaluation import Z
from training.world import COLOURS, SHAPES, render

ATTRIBUTES: Mapping[str, Sequence[str]] = {"shape": SHAPES, "colour": COLOURS}
RIDGE = 1.0


def probe(family: HBridge, *, prompts: int = 600, drawings: int = 512) -> dict[str, object]:
    """Return, for each bridged pair, what can be read off it and what it is worth.

    Args:
        family: With an autoencoder.
        prompts: For the linear probes; a third of them tests.
        drawings: For the exchange of keys and values.
    """
    rng = Random("probe")
    cases = [CAPTIONS["colours"](rng, Canvas()) for _ in range(prompts)]
    contexts = _prefill(family, cases)
    exchanged = exchange(family, cases[:drawings], contexts[:drawings])
    attended = attention(family, cases[:drawings], contexts[:drawings])
    return {
        str(pair): {
            **{name: read_off(contexts, cases, place, name) for name in ATTRIBUTES},
            "attention": attended[pair],
            "loss_of_exchange": exchanged[pair],
        }
        for place, pair in enumerate(family.config.pairs)
    }


def _prefill(family: HBridge, cases: Sequence[Caption]) -> list[KVContext]:
    contexts = family.prefill([Prompt.draw(case.text) for case in cases])
    return [context for context in contexts if isinstance(context, KVContext)]


def read_off(
    contexts: Sequence[KVContext], cases: Sequence[Caption], place: int, attribute: str
) -> dict[str, float]:
    """Fit a ridge regression to one-hot values on two thirds of the prompts, and score it on the rest."""
    values = ATTRIBUTES[attribute]
    features_RF = torch.stack(
        [torch.cat([c.keys[place][-1].flatten(), c.values[place][-1].flatten()]) for c in contexts]
    ).double()
    labels_R = torch.tensor([values.index(getattr(case.scene.things[0], attribute)) for case in cases])
    cut = 2 * len(cases) // 3
    centred_RF = features_RF - features_RF[:cut].mean(0)
    scaled_RF = centred_RF / (centred_RF[:cut].std(0) + 1e-6)
    targets_RV = torch.nn.functional.one_hot(labels_R, len(values)).double() - 1 / len(values)
    gram_FF = scaled_RF[:cut].T @ scaled_RF[:cut] + RIDGE * torch.eye(scaled_RF.shape[1]).double()
    weights_FV = torch.linalg.solve(gram_FF, scaled_RF[:cut].T @ targets_RV[:cut])
    right = (scaled_RF[cut:] @ weights_FV).argmax(-1) == labels_R[cut:]
    most_common = torch.bincount(labels_R[cut:]).max() / len(right)
    return {"share": round(right.double().mean().item(), 4), "guess": round(most_common.item(), 4)}


@torch.inference_mode()
def exchange(
    family: HBridge, cases: Sequence[Caption], contexts: Sequence[KVContext]
) -> dict[int, dict[str, float]]:
    """Return by how much the flow loss rises when one pair reads another prompt, with a 95 % interval."""
    rows, target_RCYX = _noised(family, cases, contexts)

    def losses(read: Sequence[KVContext]) -> Tensor:
        reading = [replace(row, context=context) for row, context in zip(rows, read, strict=True)]
        return (torch.stack(family.velocity(reading)) - target_RCYX).square().mean((1, 2, 3))

    own_R = losses(contexts)
    risen = {}
    for place, pair in enumerate(family.config.pairs):
        rise_R = losses([_with_layer(contexts, i, place) for i in range(len(contexts))]) - own_R
        half = Z * rise_R.std().item() / len(cases) ** 0.5
        mean = rise_R.mean().item()
        risen[pair] = {"mean": round(mean, 5), "low": round(mean - half, 5), "high": round(mean + half, 5)}
    return risen


@torch.inference_mode()
def attention(family: HBridge, cases: Sequence[Caption], contexts: Sequence[KVContext]) -> dict[int, float]:
    """Return the share of attention on the prompt, as a mean over rows, queries and heads."""
    rows, _ = _noised(family, cases, contexts)
    masses = family.network(rows, record_attention=True).attention
    return {pair: round(mass.item(), 4) for pair, mass in masses.items()}


def _noised(
    family: HBridge, cases: Sequence[Caption], contexts: Sequence[KVContext]
) -> tuple[list[Row], Tensor]:
    """Return rows at times below 0.6, where a picture's content is decided, and where they flow."""
    data_RCYX = encode(family.vae, [render(case.scene) for case in cases])
    generator = torch.Generator().manual_seed(0)
    noise_RCYX = torch.randn(data_RCYX.shape, generator=generator)
    times_R = torch.rand(len(cases), generator=generator) * 0.6
    latent_RCYX = noise_RCYX + times_R[:, None, None, None] * (data_RCYX - noise_RCYX)
    rows = [
        Row(latent_CYX=latent, time=time, context=context)
        for latent, time, context in zip(latent_RCYX, times_R.tolist(), contexts, strict=True)
    ]
    return rows, data_RCYX - noise_RCYX


def _with_layer(contexts: Sequence[KVContext], index: int, place: int) -> KVContext:
    """Give a context another prompt's keys and values in one layer, repeated or cut to its own length."""
    own, other = contexts[index], contexts[(index + 1) % len(contexts)]
    take = torch.arange(own.num_tokens).clamp(max=other.num_tokens - 1)
    keys, values = list(own.keys), list(own.values)
    keys[place], values[place] = other.keys[place][take], other.values[place][take]
    return replace(own, keys=tuple(keys), values=tuple(values))
