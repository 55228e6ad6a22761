"""Stage "vlm": the understanding expert learns to answer, to describe, and to say what prompts mean.

Four kinds of lesson: questions about a picture (several at once, each blind to the others), descriptions of
pictures, the meaning of prompts without a picture, and the outcome of instructions on a picture. Besides,
parts that are thrown away later ask what stands in each cell of a picture: one asks the vision tower, which
at this size finds shapes very late without it; one asks the bridged layers' keys and values as the generation
side will; and one asks the values of image tokens for their place, without which answers about places stay
guesses. A last one asks the words that mean a thing, half-way up, what and where it is: what a question is
about is found before it is answered.

Shapes: T packed tokens or cells, C width, R rows, V vocabulary, P bridged layers, K key heads, D head dim.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.family import TextRow
from model.hbridge.contexts import PackedContexts
from model.prompt import Prompt
from model.qwen_vl.config import QwenVLConfig
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.kv_cache import KVCache
from model.qwen_vl.patches import cut
from model.qwen_vl.processor import Processor
from model.qwen_vl.token_prompt import TokenPrompt
from model.qwen_vl.tokenizer import Tokenizer
from training.canvas import Canvas
from training.captions import taught
from training.cells import PLACES, VALUES, Cells, Reader, cell_labels, leaving, thing_labels
from training.edits import EDITS
from training.lessons import Lesson, Lessons, learnt_places, pointed
from training.questions import SCORED_QUESTIONS, Query, question
from training.scenes import any_scene
from training.schedule import MicroBatch
from training.sheets import Sheet
from training.team import Figures
from training.world import BACKGROUNDS, CELL, Scene, Thing, render


class UnderstandingStage:
    """Next-token loss on the answers; questions weigh twice, every other kind of lesson once.

    Attributes:
        bridged: Layers whose keys and values the generation side will read.
        cell_pictures: Pictures whose cells are asked of the vision tower, for each picture with questions.
        readings: Captions whose pictures the bridged layers must tell, likewise; and half as many edits.
        calm: Weight that keeps the vision features as small as word embeddings; features that grow drown
            what the decoder's layers add to them.
    """

    name = "vlm"

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer_folder: Path,
        *,
        draw_template: str,
        questions: Mapping[str, float],
        questions_per_picture: int,
        bridged: Sequence[int],
        cell_pictures: int,
        readings: int,
        calm: float,
        odd: float,
    ) -> None:
        tokenizer = Tokenizer.from_folder(tokenizer_folder)
        assert tokenizer is not None, f"no tokenizer in {tokenizer_folder}"
        self.expert = QwenVL(QwenVLConfig.from_dict(config))
        initialise(self.expert)
        self.expert.use_backend("plain")
        self.cells = Cells(self.expert.config.hidden_size)
        self.reader = Reader(self.expert.config, bridged)
        width = self.expert.config.num_key_value_heads * self.expert.config.head_dim
        self.places = nn.ModuleList(Cells(width, PLACES) for _ in bridged)
        self.pointers = Cells(self.expert.config.hidden_size, VALUES)
        self.module: nn.Module = nn.ModuleDict(
            {
                "expert": self.expert,
                "cells": self.cells,
                "reader": self.reader,
                "places": self.places,
                "pointers": self.pointers,
            }
        )
        self.cell_pictures, self.readings, self.calm = cell_pictures, readings, calm
        self.tokenizer = tokenizer
        self.processor = Processor(
            self.expert.config, tokenizer, draw_template=draw_template, max_prompt_tokens=1024
        )
        self.lessons = Lessons(self.processor, tokenizer, questions, odd)
        self.questions_per_picture = questions_per_picture

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """Draw a picture with questions for each sample, and half as many of each other kind of lesson."""
        lessons, rng = self.lessons, batch.rng()
        asked = [lessons.questions(rng, self.questions_per_picture) for _ in range(batch.size)]
        told = [
            [make(rng) for _ in range(batch.size // 2)]
            for make in (lessons.description, lessons.meaning, lessons.outcome)
        ]
        names = ("answers", "description", "meaning", "outcome")
        layers = self.expert.model.layers
        with leaving(layers[len(layers) // 2 - 1]) as passed:
            losses = dict(zip(names, (*self.learn(asked), *self.learn(*told)), strict=True))
        lessons_told = [lesson for group in told for lesson in group]
        losses["pointers"] = self._point(zip(passed, (asked, lessons_told), strict=True))
        losses["cells"], size = self._see_cells(rng, self.cell_pictures * batch.size)
        losses["readings"], losses["places"] = self._read_cells(rng, self.readings * batch.size)
        total = sum(losses.values()) + losses["answers"] + self.calm * size
        figures = losses | {"feature_size": size.sqrt()}
        return total, {name: value.item() for name, value in figures.items()}

    def _point(self, calls: Iterable[tuple[Tensor, Sequence[Lesson]]]) -> Tensor:
        """Return the loss on what is meant by the words for things, and where it is to half a cell."""
        features: list[Tensor] = []
        things: list[tuple[Scene, Thing | None]] = []
        for hidden_TC, lessons in calls:
            places, meant = pointed(lessons)
            features.append(hidden_TC[torch.tensor(places, dtype=torch.long)])
            things += meant
        loss: Tensor = self.pointers(torch.cat(features), thing_labels(things, CELL // 2))
        return loss

    def _see_cells(self, rng: Random, count: int) -> tuple[Tensor, Tensor]:
        """Return the loss on what stands in cells, and the mean square of the vision features."""
        vision = self.expert.config.vision
        assert vision is not None, "the expert learns to see"
        scenes = [any_scene(rng, odd=self.lessons.odd) for _ in range(count)]
        features_TC = self.expert.see([cut(render(scene), vision) for scene in scenes])
        loss = self.cells(features_TC, cell_labels(scenes, vision.merged_size))
        return loss, features_TC.float().square().mean()

    def _read_cells(self, rng: Random, count: int) -> tuple[Tensor, Tensor]:
        """Return the loss on what the pictures will show that captions and instructions ask for.

        And the loss on where the cells of the pictures to edit lie.
        """
        prompts: list[Prompt] = []
        scenes: list[Scene] = []
        befores: list[Scene] = []
        for _ in range(count):
            caption = taught(rng, Canvas())
            prompts.append(Prompt.draw(caption.text))
            scenes.append(caption.scene)
        for _ in range(count // 2):
            edit = rng.choice(list(EDITS.values()))(rng, Canvas())
            prompts.append(Prompt.draw(edit.text, (render(edit.before),)))
            scenes.append(edit.after)
            befores.append(edit.before)
        encoded = [self.processor.encode(prompt) for prompt in prompts]
        contexts = self.expert.prefill(encoded, keep=self.reader.layers)
        packed = PackedContexts.of(contexts, self.reader.layers)
        image_token = self.expert.config.image_token_id
        tokens_U = torch.tensor([token for prompt in encoded for token in prompt.tokens])
        labels = cell_labels(befores, CELL)
        places = [
            cells(values_UKD[tokens_U == image_token].flatten(1), labels)
            for cells, values_UKD in zip(self.places, packed.values, strict=True)
        ]
        return self.reader(packed, scenes), torch.stack(places).mean()

    def learn(self, *groups: Sequence[Lesson]) -> list[Tensor]:
        """Read all groups of lessons in one call; return the mean loss over each group's learnt tokens."""
        lessons = [lesson for group in groups for lesson in group]
        branches = [[(*ask, *answer[:-1]) for ask, answer in lesson.branches] for lesson in lessons]
        features_TC = self.expert.branch_features([lesson.prompt for lesson in lessons], branches)
        places, targets = learnt_places(lessons)
        logits_TV = self.expert.head(features_TC[torch.tensor(places)]).float()
        losses_T = cross_entropy(logits_TV, torch.tensor(targets), reduction="none")
        counts = [sum(lesson.num_learnt for lesson in group) for group in groups]
        return [losses.mean() for losses in torch.split(losses_T, counts)]

    def look(self, folder: Path, step: int) -> Figures:
        """Answer fresh questions about pictures that all hold a held-out pair, and some that hold none."""
        sheet = Sheet()
        held_out = self._answered_right(Random(5), 24, sheet, held_out=True)
        seen = self._answered_right(Random(5), 24, sheet, held_out=False)
        sheet.write(folder / f"sheet-{step:07d}.png", columns=8)
        return {
            **{f"held_out/{kind}": share for kind, share in held_out.items()},
            "held_out/vqa": sum(held_out.values()) / len(held_out),
            "seen/vqa": sum(seen.values()) / len(seen),
            "outcome": self._told_right(self.lessons.outcome, Random(9), 24),
            "meaning": self._told_right(self.lessons.meaning, Random(9), 24),
        }

    def _answered_right(
        self, rng: Random, per_kind: int, sheet: Sheet, *, held_out: bool
    ) -> dict[str, float]:
        """Return the share of right answers for each kind of question; show four of each kind."""
        scores = {}
        for kind in SCORED_QUESTIONS:
            cases = [_fresh_question(rng, kind, held_out=held_out) for _ in range(per_kind)]
            pictures = [render(scene) for scene, _ in cases]
            asked = zip(cases, pictures, strict=True)
            prompts = [
                self.processor.encode(Prompt.ask(query.text, (picture,))) for (_, query), picture in asked
            ]
            answers = [self.tokenizer.decode(tokens).strip() for tokens in self.write(prompts)]
            right = [answer == query.answer for answer, (_, query) in zip(answers, cases, strict=True)]
            scores[kind] = sum(right) / per_kind
            for i in range(4):
                sheet.add((pictures[i],), f"{cases[i][1].text} {answers[i]}", right=right[i])
        return scores

    def _told_right(self, make: Callable[[Random], Lesson], rng: Random, count: int) -> float:
        lessons = [make(rng) for _ in range(count)]
        prompts = [
            TokenPrompt(tokens=(*lesson.prompt.tokens, *lesson.branches[0][0]), images=lesson.prompt.images)
            for lesson in lessons
        ]
        end = self.expert.config.eos_token_id
        answers = self.write(prompts, max_tokens=64)
        wanted = [[token for token in lesson.branches[0][1] if token != end] for lesson in lessons]
        return sum(a == w for a, w in zip(answers, wanted, strict=True)) / count

    def write(self, prompts: Sequence[TokenPrompt], *, max_tokens: int = 8) -> list[list[int]]:
        """Answer greedily, all prompts together."""
        layers = range(self.expert.config.num_hidden_layers)
        contexts = self.expert.prefill(prompts, keep=layers, logits=True)
        caches = [KVCache(context) for context in contexts]
        logits_RV = torch.stack([c.logits_V for c in contexts if c.logits_V is not None])
        answers: list[list[int]] = [[] for _ in prompts]
        open_rows = list(range(len(prompts)))
        for _ in range(max_tokens):
            tokens = logits_RV.argmax(-1).tolist()
            going = [
                (row, t)
                for row, t in zip(open_rows, tokens, strict=True)
                if t not in self.processor.end_tokens
            ]
            for row, token in going:
                answers[row].append(token)
            open_rows = [row for row, _ in going]
            if not open_rows:
                break
            logits_RV = self.expert.next_tokens([TextRow(token=t, cache=caches[row]) for row, t in going])
        return answers


def _fresh_question(rng: Random, kind: str, *, held_out: bool) -> tuple[Scene, Query]:
    while True:
        canvas = Canvas(held_out=held_out, lattice=rng.random() < 0.5)
        ground = rng.choice(BACKGROUNDS)
        scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, rng.randint(1, 4)))
        query = question(rng, scene, kind)
        if query is not None:
            return scene, query


def initialise(module: nn.Module) -> None:
    """Draw weights small for their width; biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d):
            nn.init.normal_(part.weight, std=0.6 * part.weight[0].numel() ** -0.5)
        if isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.05)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
