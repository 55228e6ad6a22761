"""Samples at full size: datasets on disk, read ahead, and what the frozen side says of them at each step.

Every step takes its samples from one dataset, in turns that the weights say, so that all processes run the
same layers.

Shapes: C latent channels, Y and X latent rows and columns.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL.Image import Image

from model.hbridge.contexts import PackedContexts
from model.hbridge.family import HBridge
from model.images import resize_reference
from model.latents import encode_references
from model.prompt import Prompt
from model.qwen_vl.token_prompt import TokenPrompt
from training.bridge import BridgeStage, Given
from training.prefills import see
from training.records import Example, Records
from training.schedule import MicroBatch
from training.team import Figures


@dataclass(frozen=True, slots=True)
class Ready:
    """An example that the frozen side can read: sizes are right, the prompt is tokens."""

    prompt: TokenPrompt
    image: Image
    references: tuple[Image, ...]


class Corpus:
    """Several datasets and the frozen parts of a model.

    Attributes:
        max_pixels: Of pictures to make; larger ones are reduced, and none is enlarged.
        look_at: Held-out samples of each dataset in an evaluation.
    """

    def __init__(
        self,
        family: HBridge,
        datasets: Sequence[Records],
        *,
        team_size: int = 1,
        max_pixels: int,
        look_at: int = 0,
        readers: int = 4,
    ) -> None:
        self.family, self.datasets = family, datasets
        self.max_pixels, self.look_at = max_pixels, look_at
        self._turns = [records for records in datasets for _ in range(records.columns.weight)]
        self._team_size = team_size
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="reader")
        self._ahead: dict[MicroBatch, list[Future[Ready]]] = {}

    def close(self) -> None:
        """Stop reading ahead."""
        self._readers.shutdown(cancel_futures=True)

    def whose(self, batch: MicroBatch) -> tuple[Records, int]:
        """Return the dataset of a micro-batch, and the number of its first sample there."""
        rounds, turn = divmod(batch.step, len(self._turns))
        records = self._turns[turn]
        steps = rounds * records.columns.weight + self._turns[:turn].count(records)
        return records, (steps * batch.count + batch.index) * batch.size

    def draw(self, batch: MicroBatch, drop: float) -> Given:
        """Return the samples of a micro-batch; the next one of this process is read meanwhile."""
        futures = self._ahead.pop(batch, None) or self._read(batch, drop)
        after = batch.index + self._team_size
        following = replace(batch, step=batch.step + after // batch.count, index=after % batch.count)
        self._ahead = {following: self._read(following, drop)}
        given = self._given([future.result() for future in futures], self.whose(batch)[0])
        return replace(given, figures={"skipped": float(sum(each.num_skipped for each in self.datasets))})

    def look(self, stage: BridgeStage, folder: Path, step: int) -> Figures:
        """Measure the losses on held-out samples, with the same noise and times whenever it is done."""
        figures: Figures = {}
        for records in self.datasets:
            count = min(self.look_at, records.columns.held_out)
            for index in range(count):
                given = self._given([records.held_out(index, partial(self._ready, blank=False))], records)
                _, found = stage.judge(given, MicroBatch(run=1, step=index, size=1))
                for name, value in found.items():
                    figures[name] = figures.get(name, 0.0) + value / count
        return figures

    def _read(self, batch: MicroBatch, drop: float) -> list[Future[Ready]]:
        records, first = self.whose(batch)
        rng = batch.rng()
        return [
            self._readers.submit(
                records.sample, first + index, partial(self._ready, blank=rng.random() < drop)
            )
            for index in range(batch.size)
        ]

    def _ready(self, example: Example, *, blank: bool) -> Ready:
        """Fit an example to the model.

        Raises:
            ValueError: It is too small, too long or too many for the model.
        """
        limits, step = self.family.config.limits, self.family.config.size_step
        image, *references = (
            resize_reference(picture, max_pixels=max_pixels, max_side=max_side, step=step)
            for picture, max_pixels, max_side in (
                (example.image, self.max_pixels, limits.max_side),
                *((each, self.max_pixels, limits.max_reference_side) for each in example.references),
            )
        )
        if min(*example.image.size, *image.size) < limits.min_side:
            raise ValueError("a picture of {}x{} is too small".format(*example.image.size))
        if len(references) > limits.max_references:
            raise ValueError(f"{len(references)} references, {limits.max_references} at most")
        prompt = self.family.prepare(Prompt.draw("" if blank else example.text, example.references))
        return Ready(prompt.prompt, image, tuple(references))

    @torch.no_grad()
    def _given(self, ready: Sequence[Ready], records: Records) -> Given:
        """Ask the frozen side."""
        family = self.family
        contexts = family.expert.prefill([each.prompt for each in ready], keep=family.config.pairs)
        return Given(
            task="edit" if records.columns.references else "generate",
            latents=encode_references(family.vae, [each.image for each in ready]),
            references=[tuple(encode_references(family.vae, each.references)) for each in ready],
            contexts=PackedContexts.of(contexts, family.config.pairs),
            seen_RNW=see(family, [each.image for each in ready]),
            figures={},
        )
