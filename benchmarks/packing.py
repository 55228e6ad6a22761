"""OmniGen2's packed steps against the release's shape of work, on the same random weights, in one run.

Run by `hbridge bench packing`; writes benchmarks/results/packing.json. A step of a 512x512 picture with all
its guidance branches: packed in one call, and by the padded twin in a pass for each branch, in turns. The
floor is what the ratio would be if both spent all their time on the operations that they need, at one rate.

Shapes: L text tokens, F text feature width.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.clock import in_turns, ratios, seconds, spread
from benchmarks.cpu import matrix_rate
from benchmarks.figure import Figure
from benchmarks.padded_twin import PaddedTwin
from model.checkpoint import build_random
from model.family import Row
from model.flops import per_token
from model.guidance import Branch, Guidance
from model.omnigen2.family import OmniGen2, TextContext
from model.omnigen2.layout import Images

NUM_STEPS = 50
TIME = 0.5
MOST_OPERATORS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A picture to be stepped.

    Attributes:
        bar: How many times the packed step has to be faster.
        side: Latent pixels on a side, of the picture and of each reference.
        num_prompt: Tokens of the prompt, template included.
        num_negative: Tokens of the negative prompt, template included.
    """

    name: str
    title: str
    bar: float
    guidance: Guidance
    num_references: int = 0
    side: int = 64
    num_prompt: int = 128
    num_negative: int = 32


REQUESTS = (
    Request(name="text_to_image", title="text to image", bar=1.5, guidance=Guidance(text=4.0)),
    Request(
        name="edit",
        title="edit, both guidances",
        bar=2.0,
        guidance=Guidance(text=5.0, image=2.0),
        num_references=1,
    ),
)


class Pair:
    """One request's step, packed and by the twin."""

    def __init__(self, family: OmniGen2, request: Request) -> None:
        self._family, self._twin, self._guidance = family, PaddedTwin(family.transformer), request.guidance
        config = family.config.transformer
        generator = torch.Generator().manual_seed(0)
        latent, *references = torch.randn(
            1 + request.num_references, config.in_channels, request.side, request.side, generator=generator
        )
        texts = [
            torch.randn(length, config.text_feat_dim, generator=generator)
            for length in (request.num_prompt, request.num_negative)
        ]
        refined = [TextContext(text_Lh) for text_Lh in self.refine(texts)]
        self.texts = texts
        self.rows: dict[Branch, Row] = {}
        self._features: dict[Branch, Tensor] = {}
        for branch in request.guidance.branches(0.0, has_references=bool(references)):
            place = 0 if branch is Branch.FULL else 1
            self._features[branch] = texts[place]
            self.rows[branch] = Row(
                latent_CYX=latent,
                time=TIME,
                context=refined[place],
                references=() if branch is Branch.NO_IMAGE else tuple(references),
            )

    @torch.inference_mode()
    def refine(self, texts: Sequence[Tensor]) -> list[Tensor]:
        """Do what the packed path does once for a request, and the twin at every pass."""
        return self._family.transformer.refine_texts(texts)

    @torch.inference_mode()
    def packed(self) -> Tensor:
        """Take all branches' velocities in one call and join them."""
        velocities = self._family.velocity(list(self.rows.values()))
        return self._guidance.combine(dict(zip(self.rows, velocities, strict=True)))

    @torch.inference_mode()
    def by_twin(self) -> Tensor:
        """Take them in a pass for each branch."""
        velocities = {}
        for branch, row in self.rows.items():
            features_BLF = self._features[branch][None]
            is_text_BL = torch.ones(features_BLF.shape[:2], dtype=torch.bool)
            (velocities[branch],) = self._twin([row], features_BLF, is_text_BL)
        return self._guidance.combine(velocities)

    def operations(self) -> dict[str, int]:
        """Count what a step needs each way; the packed one a share of what is done once for all steps."""
        count, rows = self._family.flops, list(self.rows.values())
        once = count.refine([len(text_LF) for text_LF in self.texts])
        passes = sum(count.velocity([row]) + count.refine([row.context.num_tokens]) for row in rows)
        network = self._family.transformer
        images = Images.of(rows, network.config.patch_size)
        unread = sum(row.context.num_tokens for row in rows) + sum(images.reference_lengths)
        passes += per_token(network.norm_out.linear_2) * unread  # the twin's head reads all tokens
        return {"packed": count.velocity(rows) + once // NUM_STEPS, "twin": passes}


def measure_packing(
    config: Mapping[str, Any], requests: Sequence[Request] = REQUESTS, *, repeats: int = 5
) -> Iterator[Figure]:
    """Compare the two ways for each request."""
    family = cast(OmniGen2, build_random(config))
    for request in requests:
        yield _compare(Pair(family, request), request, repeats)


def _compare(pair: Pair, request: Request, repeats: int) -> Figure:
    operations = pair.operations()
    once = seconds(partial(pair.refine, pair.texts), repeats=3, warm_up=1)["median"]
    ways: dict[str, Callable[[], Tensor]] = {"packed": pair.packed, "twin": pair.by_twin}
    taken = in_turns(ways, repeats=repeats)
    taken["packed"] = [each + once / NUM_STEPS for each in taken["packed"]]
    gains = ratios(taken["twin"], taken["packed"])
    floor = operations["twin"] / operations["packed"]
    return Figure(
        name=request.name,
        title=f"{request.title}: the twin over packed, time of a step",
        value=statistics.median(gains),
        wanted="at least",
        bar=request.bar,
        details={
            "spread": spread(gains),
            "floor_ratio": round(floor, 4),
            "measured_over_floor": round(statistics.median(gains) / floor, 4),
            "seconds": {name: spread(values) for name, values in taken.items()},
            "operations": operations,
            "operations_per_second": {
                name: round(operations[name] / statistics.median(values)) for name, values in taken.items()
            },
            "matrix_operations_per_second": round(matrix_rate()),
            "tokens": {
                "prompt": request.num_prompt,
                "negative_prompt": request.num_negative,
                "picture": (request.side // 2) ** 2,
                "references": request.num_references * (request.side // 2) ** 2,
            },
            "largest_difference": float((pair.packed() - pair.by_twin()).abs().max()),
            "share_of_time": {name: shares(way) for name, way in ways.items()},
        },
    )


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Return the operators that take most time of their own, and their shares of it."""
    with profile(activities=[ProfilerActivity.CPU]) as taken:
        work()
    own = {each.key: each.self_cpu_time_total for each in taken.key_averages()}
    most = sorted(own, key=lambda name: -own[name])[:MOST_OPERATORS]
    return {name: round(own[name] / sum(own.values()), 4) for name in most}
