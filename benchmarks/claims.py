"""The paper's claims tried in small: arms of one recipe that differ in one thing, on several seeds.

Run by `hbridge bench claims`; claims.yaml says what every arm changes. A trial is an arm with a seed: a
recipe of its own, trained by training.recipe as any other, in runs/claims. What trials have in common, such
as an expert or a prior, is trained once. A trial that has ended is not run again, so an interrupted run goes
on.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any, Self

import torch
import yaml
from matplotlib.figure import Figure
from scipy.stats import t as student

from benchmarks.quality import table
from model.hbridge.family import HBridge
from model.prompt import Prompt
from training.average import fill
from training.canvas import Canvas
from training.captions import CAPTIONS, described
from training.drawings import encode
from training.evaluation import Checkpoint, evaluate
from training.noised import Noised
from training.recipe import Recipe
from training.runs import recipe_folder
from training.world import render

CLAIMS = Path(__file__).with_suffix(".yaml")
STAGES = ("tokenizer", "vae", "latents", "vlm", "prior", "prefill", "bridge")
CASES = 64
"""Prompts of each kind whose flow loss is measured."""
SMOOTHED = 20
"""Lines of the log that make one point of a curve."""

Config = Mapping[str, Any]


def changed(base: Config, *changes: Config) -> dict[str, Any]:
    """Return a configuration with changes, which may reach any depth."""
    result = dict(base)
    for change in changes:
        for name, value in change.items():
            old = result.get(name)
            result[name] = changed(old, value) if isinstance(old, Mapping) else value
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One arm with one seed.

    Attributes:
        configs: Of all stages, and of the model, by the names of the recipe's files.
        original: The recipe that was changed; what it has trained is used where nothing of it is changed.
        runs: Holds the trials and what they share.
    """

    arm: str
    seed: int
    configs: Config
    original: Recipe
    runs: Path

    def run(self, per_kind: int) -> dict[str, Any]:
        """Train and score it, unless that is done, and return what came of it.

        Args:
            per_kind: Pictures of each kind that are scored.
        """
        recipe = self._recipe()
        result = recipe.folder("result.json")
        if not result.exists():
            for stage in STAGES:
                if (place := self._place(stage)) and not recipe.folder(stage).exists():
                    place.mkdir(parents=True, exist_ok=True)
                    recipe.folder(stage).parent.mkdir(parents=True, exist_ok=True)
                    recipe.folder(stage).symlink_to(place.resolve())
                if place is None or place.parent == self.runs / "shared":
                    recipe.run(stage)
            family = recipe.assemble()
            fill(family.network.requires_grad_(True), recipe.average("bridge"))
            family.network.requires_grad_(False)
            content = {
                "arm": self.arm,
                "seed": self.seed,
                "score": _score(family, per_kind),
                "flow_loss": flow_loss(family, self.configs["bridge"]["options"]["time_mean"]),
                "curve": _curve(recipe.folder("bridge") / "log.jsonl"),
            }
            result.write_text(json.dumps(content, indent=1) + "\n")
        read: dict[str, Any] = json.loads(result.read_text())
        return read

    def _recipe(self) -> Recipe:
        folder = self.runs / "recipes" / f"{self.arm.replace(' ', '-')}-{self.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, config in self.configs.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        return Recipe(str(folder), self.runs)

    def _place(self, stage: str) -> Path | None:
        """Return where a stage's run lies that others may share; None for a run of the trial's own."""
        if stage == "bridge":
            return None
        if stage in ("tokenizer", "vae") or (stage == "vlm" and self._is_unchanged("vlm")):
            return self.original.folder(stage)
        hbridge = self.configs["hbridge"]
        ends = {name: hbridge[name] for name in ("skip_first", "skip_last")}
        latents = self.configs["latents"]["groups"]
        decides = {
            "latents": latents,
            "vlm": self.configs["vlm"],
            "prior": (self.configs["prior"], latents, {k: v for k, v in hbridge.items() if k not in ends}),
            "prefill": (self.configs["vlm"], latents, ends),
        }[stage]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return self.runs / "shared" / f"{stage}-{digest[:12]}"

    def _is_unchanged(self, stage: str) -> bool:
        return bool(self.configs[stage] == self.original.read(stage))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two arms, and what the paper says of them."""

    better: str
    worse: str
    claim: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All trials, and what they are to show."""

    trials: Sequence[Trial]
    comparisons: Sequence[Comparison]

    @classmethod
    def read(cls, path: Path, trained: Path, runs: Path) -> Self:
        """Read a plan.

        Args:
            path: As claims.yaml.
            trained: Runs of the recipe that is changed.
            runs: Where trials go.
        """
        content = yaml.safe_load(path.read_text())
        original = Recipe(content["recipe"], trained)
        files = sorted(recipe_folder(content["recipe"]).glob("*.yaml"))
        base = {file.stem: yaml.safe_load(file.read_text()) for file in files}
        trials = []
        for seed in content["seeds"]:
            seeded = {stage: {"schedule": {"seed": seed}} for stage in ("prior", "bridge")}
            for arm, changes in content["arms"].items():
                configs = changed(base, content["changes"], seeded, changes)
                trials.append(Trial(arm=arm, seed=seed, configs=configs, original=original, runs=runs))
        comparisons = [
            Comparison(better=better, worse=worse, claim=claim)
            for better, worse, claim in content["comparisons"]
        ]
        return cls(trials=trials, comparisons=comparisons)


def _score(family: HBridge, per_kind: int) -> float:
    scores: Any = evaluate(Checkpoint(family), per_kind=per_kind, suites=("generate",))
    share: float = scores["generate"]["overall"]
    return share


@torch.inference_mode()
def flow_loss(family: HBridge, time_mean: float, count: int = CASES) -> float:
    """Return the flow loss on prompts about held-out pairs, with the same noise and times for all families.

    Args:
        time_mean: Of the law of times, as in draw_times.
        count: Prompts of each kind.
    """
    canvas, losses = Canvas(held_out=True), []
    for number, make in enumerate((*CAPTIONS.values(), described)):
        rng = Random(f"claims {number}")
        cases = [make(rng, canvas) for _ in range(count)]
        latents = list(encode(family.vae, [render(case.scene) for case in cases]))
        noised = Noised.of(latents, [()] * count, torch.Generator().manual_seed(number), time_mean)
        contexts = family.prefill([Prompt.draw(case.text) for case in cases])
        rows = [replace(row, context=context) for row, context in zip(noised.rows, contexts, strict=True)]
        losses.append(noised.loss(family.velocity(rows)).item())
    return mean(losses)


def _curve(log: Path) -> list[tuple[int, float]]:
    """Return the flow loss of training by steps, averaged over stretches of the log."""
    lines = [line for line in map(json.loads, log.read_text().splitlines()) if "flow_generate" in line]
    stretches = [lines[i : i + SMOOTHED] for i in range(0, len(lines), SMOOTHED)]
    return [(each[-1]["step"], round(mean(line["flow_generate"] for line in each), 5)) for each in stretches]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """By how much one arm ends above another, seed by seed, with a 95 % interval (Student's t)."""

    mean: float
    half: float
    count: int

    @classmethod
    def of(cls, first: Mapping[int, float], second: Mapping[int, float]) -> Self:
        """Compare two arms by the seeds that both have.

        Raises:
            ValueError: They share fewer than two.
        """
        apart = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
        if len(apart) < 2:
            raise ValueError("two arms are compared on two seeds at least")
        half = float(student.ppf(0.975, len(apart) - 1)) * stdev(apart) / len(apart) ** 0.5
        return cls(mean=mean(apart), half=half, count=len(apart))

    @property
    def verdict(self) -> str:
        """Say which side of zero the whole interval lies on, if one."""
        if abs(self.mean) <= self.half:
            return "not told apart"
        return "higher" if self.mean > 0 else "lower"

    def __str__(self) -> str:
        """Return it as a table shows it."""
        return f"{self.mean:+.4f} ± {self.half:.4f}, {self.verdict}"


def by_arm(results: Sequence[Mapping[str, Any]], value: str) -> dict[str, dict[int, float]]:
    """Return a value of all results by arm and seed."""
    found: dict[str, dict[int, float]] = {}
    for each in results:
        found.setdefault(each["arm"], {})[each["seed"]] = each[value]
    return found


def page(results: Sequence[Mapping[str, Any]], comparisons: Sequence[Comparison], record: str) -> str:
    """Return the page about all results."""
    losses, scores = by_arm(results, "flow_loss"), by_arm(results, "score")
    arms = [["arm", "seeds", "flow loss", "pictures right"]]
    for arm in losses:
        values = [losses[arm].values(), scores[arm].values()]
        arms.append(
            [arm, str(len(losses[arm])), *(f"{mean(v):.4f} ({min(v):.4f} to {max(v):.4f})" for v in values)]
        )
    rows = [["claim", "arms", "flow loss", "pictures right"]]
    for each in comparisons:
        shown = [str(Difference.of(found[each.better], found[each.worse])) for found in (losses, scores)]
        rows.append([each.claim, f"{each.better} less {each.worse}", *shown])
    parts = [
        "# The paper's claims, tried in small",
        f"`hbridge bench claims` wrote [{record}.json]({record}.json). Flow losses are of prompts about "
        "held-out pairs, with the same noise and times for all; of seeds, means with the least and the "
        "greatest.",
        f"![training losses]({record}.png)",
        "## Arms",
        table(arms),
        "## Differences, seed by seed, with 95 % intervals (Student's t)",
        table(rows),
    ]
    return "\n\n".join(parts) + "\n"


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the training losses of all arms, a thin line for each seed."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    arms = list(dict.fromkeys(each["arm"] for each in results))
    for each in results:
        steps, losses = zip(*each["curve"], strict=True)
        is_first = each["seed"] == min(by_arm(results, "seed")[each["arm"]])
        label = each["arm"] if is_first else None
        axes.plot(steps, losses, color=f"C{arms.index(each['arm'])}", linewidth=1, label=label)
    axes.set(xlabel="steps", ylabel="flow loss in training", yscale="log")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
