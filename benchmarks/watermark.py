"""Whether the watermark survives, what it does to a picture, and how often it is seen where there is none.

Run by `python -m benchmarks.watermark`; writes benchmarks/results/watermark.json.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.clock import seconds
from model.checkpoint import load
from model.drawing import Drawing
from service.watermark import CELLS, SMALL_STEP, STEP, STEP_SIDE, THRESHOLD, mark, read
from training.canvas import Canvas
from training.captions import single
from training.painting import paint
from training.record import write_record
from training.world import random_scene, render

OUTPUT = Path("benchmarks/results/watermark.json")
MODEL = "hbridge-tiny"
SIDES = (64, 80, 96, 128, 256, 512, 1024)
OF_EACH_KIND = 25
UNMARKED = 2000
Resampling = Image.Resampling
screen = Console(stderr=True)

Picture = Image.Image
Damage = Callable[[Picture], Picture]


def main() -> None:
    """Measure everything and write the record."""
    with screen.status(f"drawing with {MODEL}"):
        drawn = drawn_pictures(OF_EACH_KIND)
    sizes = {}
    for side in SIDES:
        with screen.status(f"{side} pixels"):
            sizes[str(side)] = survival(list(pictures(side, OF_EACH_KIND, drawn)))
    with screen.status("pictures without a mark"):
        alarms = false_alarms(UNMARKED)
    about = {
        "cells": CELLS,
        "step_grey_levels": {f"below_{STEP_SIDE}": SMALL_STEP, "else": STEP},
        "threshold": THRESHOLD,
        "pictures": {
            "noise": "smooth noise of random spectrum",
            "shapes": "drawn scenes of training.world, rendered at the size",
            "photograph": "random crops of matplotlib's sample photograph grace_hopper.jpg, resized",
            "model": f"pictures of {MODEL} at 64 pixels, enlarged where the size is larger",
        },
        "of_each_kind": OF_EACH_KIND,
    }
    write_record(
        OUTPUT, "python -m benchmarks.watermark", {**about, "by_side": sizes, "without_a_mark": alarms}
    )
    screen.print(f"written to {OUTPUT}")


def drawn_pictures(count: int) -> list[Picture]:
    """Draw with the shipped model."""
    prompts = [single(Random(seed), Canvas()).text for seed in range(count)]
    return paint(load(MODEL), [Drawing(prompt=prompt, seed=seed) for seed, prompt in enumerate(prompts)])


def pictures(side: int, count: int, drawn: Sequence[Picture]) -> Iterator[Picture]:
    """Yield as many square pictures of each kind."""
    folder = Path(mpl.get_data_path()) / "sample_data"
    with Image.open(folder / "grace_hopper.jpg") as file:
        photograph = file.convert("RGB")
    for seed in range(count):
        yield smooth_noise(side, np.random.default_rng(seed))
        yield render(random_scene(Random(seed), side, side))
        yield crop(photograph, side, Random(seed))
    for picture in drawn:
        yield picture.resize((side, side), Resampling.BICUBIC)


def smooth_noise(side: int, rng: np.random.Generator) -> Picture:
    """Draw noise whose power falls with frequency as photographs' does, or faster, or more slowly."""
    frequency_HW1 = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))[..., None]
    frequency_HW1[0, 0] = 1 / side
    rough_HW3 = rng.normal(size=(side, side, 1)) + 0.6 * rng.normal(size=(side, side, 3))
    spectrum_HW3 = np.fft.fft2(rough_HW3, axes=(0, 1)) / frequency_HW1 ** rng.uniform(0.7, 1.3)
    smooth_HW3 = np.fft.ifft2(spectrum_HW3, axes=(0, 1)).real
    centred_HW3 = (smooth_HW3 - smooth_HW3.mean((0, 1))) / smooth_HW3.std()
    return Image.fromarray((128 + 45 * centred_HW3).clip(0, 255).astype(np.uint8))


def crop(picture: Picture, side: int, rng: Random) -> Picture:
    """Cut a random square out of a picture and bring it to a size."""
    width = rng.randint(150, min(picture.size))
    left, top = (rng.randint(0, each - width) for each in picture.size)
    box = (left, top, left + width, top + width)
    return picture.crop(box).resize((side, side), Resampling.LANCZOS)


def saved(picture: Picture, image_format: str = "JPEG", quality: int = 80) -> Picture:
    """Save a picture with losses and open it."""
    file = BytesIO()
    picture.save(file, image_format, quality=quality)
    return Image.open(file).convert("RGB")


def halved(picture: Picture, how: Resampling) -> Picture:
    """Reduce a picture to half of its sides."""
    return picture.resize((picture.width // 2, picture.height // 2), how)


DAMAGES: Mapping[str, Damage] = {
    "none": lambda picture: picture,
    "jpeg_80": saved,
    "webp_80": partial(saved, image_format="WEBP"),
    "half_lanczos": partial(halved, how=Resampling.LANCZOS),
    "half_bicubic": partial(halved, how=Resampling.BICUBIC),
    "half_bilinear": partial(halved, how=Resampling.BILINEAR),
    "half_lanczos_then_jpeg_80": lambda picture: saved(halved(picture, Resampling.LANCZOS)),
    "half_bicubic_then_jpeg_80": lambda picture: saved(halved(picture, Resampling.BICUBIC)),
}


def survival(originals: Sequence[Picture]) -> dict[str, Any]:
    """Mark pictures, damage them, and look for the mark."""
    marked = [mark(picture) for picture in originals]
    found = {name: [read(damage(picture)).is_found for picture in marked] for name, damage in DAMAGES.items()}
    ratios = [psnr(*pair) for pair in zip(originals, marked, strict=True)]
    return {
        "num_pictures": len(originals),
        "survived_share": {name: round(sum(each) / len(each), 4) for name, each in found.items()},
        "psnr_db": {"mean": round(float(np.mean(ratios)), 1), "least": round(min(ratios), 1)},
        "mark_seconds": seconds(lambda: mark(originals[0])),
        "read_seconds": seconds(lambda: read(marked[0])),
    }


def psnr(original: Picture, changed: Picture) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    difference_HW3 = np.asarray(original, float) - np.asarray(changed, float)
    return 10 * math.log10(255**2 / float(np.mean(difference_HW3**2)))


def false_alarms(count: int) -> dict[str, Any]:
    """Read pictures that have no mark, of the kinds that can be drawn without end."""
    scores = []
    for seed in range(count // 2):
        side = SIDES[seed % 4]
        for picture in (
            smooth_noise(side, np.random.default_rng(seed)),
            render(random_scene(Random(seed), side, side)),
        ):
            scores.append(read(picture).score)
    return {
        "num_pictures": len(scores),
        "found": sum(score >= THRESHOLD for score in scores),
        "score": {"mean": round(float(np.mean(scores)), 3), "deviation": round(float(np.std(scores)), 3)},
        "highest_score": round(max(scores), 2),
    }


if __name__ == "__main__":
    main()
