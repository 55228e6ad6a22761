"""What an engine does before its first caller: warm up, and learn what steps cost on this device.

Both are jobs like any other. What was learnt is kept on disk, one file for each device and model, so that
only the first start pays.
"""

import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from model.drawing import Drawing
from model.family import Capabilities, Size
from model.prompt import Turn
from model.question import Question
from service.engine.job import Job, ModelCard

STEPS = 3
TOKENS = 8
CROWD = 4
LONG = 40


def warm_up_jobs(can: Capabilities) -> list[Job]:
    """Return the smallest job of every task, so that the first caller does not pay for first-time work."""
    works: dict[str, Drawing | Question] = {
        "generate": Drawing(prompt="warm up", num_inference_steps=1, seed=0),
        "edit": Drawing(prompt="warm up", num_inference_steps=1, seed=0, images=(_blank(can.default_size),)),
        "understand": _question(can, "warm up", max_tokens=1),
    }
    return [Job(id=f"warm-up-{task}", work=works[task]) for task in can.tasks]


def calibration_rounds(can: Capabilities) -> Iterator[list[Job]]:
    """Yield jobs to run together, cheap ones first.

    They differ in pixels, rows, references and prompt lengths, each apart, so that costs can be told apart.
    """
    works: list[list[Drawing | Question]] = []
    if "understand" in can.tasks:
        works += [[_question(can, "what")], [_question(can, "what " * LONG)]]
        works += [[_question(can, f"how many {i}") for i in range(CROWD)]]
    for size in sizes(can):
        if "generate" in can.tasks:
            works += [[_drawing(size)], [_drawing(size, guidance_scale=1.0)], [_drawing(size, n=CROWD)]]
        if "edit" in can.tasks:
            works += [[_drawing(size, images=(_blank(size),))]]
    for i, together in enumerate(works):
        yield [Job(id=f"calibration-{i}-{j}", work=work) for j, work in enumerate(together)]


def sizes(can: Capabilities) -> list[Size]:
    """Return the smallest square, the default and the largest square, rising; equal ones once."""
    steps = range(can.min_side, can.max_side + 1, can.size_step)
    fitting = [side for side in steps if side**2 <= can.max_pixels]
    squares = [Size(side, side) for side in (*fitting[:1], *fitting[-1:])]
    return sorted({*squares, can.default_size}, key=lambda size: size.width * size.height)


def cost_file(folder: Path, card: ModelCard, num_threads: int | None) -> Path:
    """Name the file of what steps cost: a different device, model or library has a file of its own."""
    device = f"{platform.machine()} {platform.processor()} {os.cpu_count()} {num_threads}"
    if card.device.startswith("cuda"):
        device = torch.cuda.get_device_name(card.device)
    weights = card.weights_hash, card.dtype, card.quantization, card.is_offloaded
    parts = (device, card.environment.num_devices, *weights, card.backend, card.compile, torch.__version__)
    return folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"


def _drawing(size: Size, **fields: Any) -> Drawing:
    return Drawing(**{"prompt": "a circle", "seed": 0, "num_inference_steps": STEPS, "size": size, **fields})


def _question(can: Capabilities, text: str, *, max_tokens: int = TOKENS) -> Question:
    seen = (_blank(can.default_size),) if can.max_images else ()
    return Question(turns=(Turn("user", (*seen, text)),), max_tokens=max_tokens)


def _blank(size: Size) -> Image.Image:
    return Image.new("RGB", (size.width, size.height))
