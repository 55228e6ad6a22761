"""Samples of the shapes world, whose latents and prefills were computed once."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from model.drawing import Drawing
from model.family import Family
from training.bridge import BridgeStage
from training.canvas import Canvas
from training.captions import CAPTIONS
from training.detector import detect
from training.drawings import Shelf
from training.edits import EDITS
from training.painting import paint
from training.prefills import Prefills, packed
from training.schedule import MicroBatch
from training.sheets import Sheet
from training.team import Figures
from training.telling import Drawn
from training.world import render


class Shapes:
    """Prompts and edits with all that the frozen side says of them.

    Attributes:
        edit_share: Share of micro-batches that edit.
    """

    def __init__(
        self, family: Family, shelves: Sequence[Shelf], prefills: Sequence[Prefills], *, edit_share: float
    ) -> None:
        self.family = family
        self.samples = list(zip(shelves, prefills, strict=True))
        self.edit_share = edit_share

    def draw(self, batch: MicroBatch, drop: float) -> Drawn:
        """Draw samples of one task and one size."""
        rng = batch.rng()
        is_edit = rng.random() < self.edit_share
        samples = [each for each in self.samples if each[0].group.is_edit == is_edit]
        shelf, prefills = rng.choices(samples, [shelf.group.count for shelf, _ in samples])[0]
        indices = [rng.randrange(shelf.group.count) for _ in range(batch.size)]
        before = [(latent,) for latent in shelf.before(indices)] if is_edit else [()] * batch.size
        return Drawn(
            task="edit" if is_edit else "generate",
            latents=list(shelf.after(indices)),
            references=before,
            contexts=packed([prefills.prompt(index, blank=rng.random() < drop) for index in indices]),
            seen_RNW=prefills.seen(indices),
            cells=shelf.cells(indices),
            figures={},
        )

    def look(self, stage: BridgeStage, folder: Path, step: int) -> Figures:
        """Draw and edit fixed cases; score them strictly; write a contact sheet."""
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
