"""Scores against steps and guidance, from which a checkpoint's defaults are chosen.

python -m benchmarks.sampler
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from model.checkpoint import load, weights_hash
from model.drawing import Drawing
from model.family import Family
from training.evaluation import Checkpoint, evaluate
from training.record import invoked, write_record

STEPS = (10, 20, 40)
TEXT_SCALES = (1.0, 2.0, 3.0, 5.0)
IMAGE_SCALES = (1.0, 1.5)
OUTPUT = Path("benchmarks/results/sampler.json")

screen = Console()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a drawing is made with."""

    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float = 1.0


class Tuned(Checkpoint):
    """A checkpoint that draws with other settings than its defaults."""

    def __init__(self, family: Family, setting: Setting) -> None:
        super().__init__(family)
        self.setting = setting

    def draw(self, drawings: Sequence[Drawing]) -> list[Image.Image]:
        """Paint all drawings packed."""
        given = asdict(self.setting)
        return super().draw([replace(drawing, **given) for drawing in drawings])


def settings(suite: str) -> Iterator[Setting]:
    """Return what is tried: every number of steps at the middle scale, every scale at the middle number."""
    images = IMAGE_SCALES if suite == "edit" else IMAGE_SCALES[:1]
    for steps, text, image in product(STEPS, TEXT_SCALES, images):
        is_scales = steps == STEPS[1] and not (text == 1 and image > 1)
        if is_scales or (text == TEXT_SCALES[2] and image == 1):
            yield Setting(num_inference_steps=steps, guidance_scale=text, image_guidance_scale=image)


def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder or short name.")] = "hbridge-tiny",
    per_kind: Annotated[int, typer.Option(min=1, help="Cases of each kind.")] = 40,
    suite: Annotated[list[str] | None, typer.Option(help="generate, edit; both when left out.")] = None,
    output: Annotated[Path, typer.Option(help="JSON file.")] = OUTPUT,
) -> None:
    """Score a checkpoint with other steps and guidance than its defaults."""
    family = load(model)
    rows: list[dict[str, Any]] = []
    table = Table("suite", "steps", "guidance", "image guidance", "overall")
    for name in suite or ("generate", "edit"):
        for setting in settings(name):
            scores: Any = evaluate(Tuned(family, setting), per_kind=per_kind, suites=(name,))[name]
            kinds = {kind: report["share"] for kind, report in scores["kinds"].items()}
            rows.append({"suite": name, **asdict(setting), "overall": scores["overall"], "kinds": kinds})
            table.add_row(name, *map(str, asdict(setting).values()), f"{scores['overall']:.3f}")
    about = {"model": Path(model).name, "weights_hash": weights_hash(model), "per_kind": per_kind}
    write_record(output, invoked(), {**about, "rows": rows})
    screen.print(table, f"written to {output}", sep="\n")


if __name__ == "__main__":
    typer.run(main)
