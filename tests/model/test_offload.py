from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

from model.checkpoint import build, load, read_config
from model.drawing import Drawing
from model.family import Size
from model.offload import layers, offload_layers
from model.pipeline import answer, draw
from model.prompt import Turn
from model.quantize import quantize, stored_bytes
from model.question import Question
from model.registry import PUBLISHED, LoadableFamily

PICTURE = Image.effect_noise((48, 32), 60).convert("RGB")
WORKS = [
    Drawing(prompt="a circle", seed=3, size=Size(64, 64), num_inference_steps=2),
    Drawing(prompt="bluer", images=(PICTURE,), seed=3, size=Size(64, 64), num_inference_steps=1),
]


def pixels(family: LoadableFamily) -> list[bytes]:
    return [draw(family, work).images[0].tobytes() for work in WORKS]


def present_bytes(module: nn.Module) -> int:
    return sum(weight.nbytes for weight in module.parameters() if weight.device.type != "meta")


@contextmanager
def watched(module: nn.Module) -> Iterator[list[int]]:
    """Note, in the midst of every call of a linear layer, what is present."""
    seen: list[int] = []

    def note(*_: Any) -> None:
        seen.append(present_bytes(module))

    hooks = [each.register_forward_hook(note) for each in module.modules() if isinstance(each, nn.Linear)]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("folder", ["drawing_folder", "omnigen2_folder"])
def test_results_are_the_same_and_few_layers_are_present_at_a_time(
    request: pytest.FixtureRequest, folder: str
) -> None:
    family = load(request.getfixturevalue(folder))
    expected, all_bytes = pixels(family), stored_bytes(family.module)
    sizes = sorted((stored_bytes(layer) for _, layer in layers(family.module)), reverse=True)
    offload_layers(family.module, "cpu")
    resident = present_bytes(family.module)
    assert resident == all_bytes - sum(sizes)
    with watched(family.module) as seen:
        assert pixels(family) == expected
    # A bridge is called within the layer that it belongs to.
    assert resident < max(seen) <= resident + sizes[0] + sizes[1]
    assert present_bytes(family.module) == resident


def test_questions_are_answered_the_same(drawing_folder: Path) -> None:
    question = Question(turns=(Turn("user", (PICTURE, "what is it?")),), max_tokens=4)
    family = load(drawing_folder)
    expected = answer(family, question).text
    offload_layers(family.module, "cpu")
    assert answer(family, question).text == expected


@pytest.mark.parametrize("folder", ["drawing_folder", "omnigen2_folder"])
def test_quantized_layers_visit_too(request: pytest.FixtureRequest, folder: str) -> None:
    family = load(request.getfixturevalue(folder))
    quantize(family.module, "int8")
    expected = pixels(family)
    offload_layers(family.module, "cpu")
    assert pixels(family) == expected
    held = [weight for _, layer in layers(family.module) for weight in layer.parameters()]
    assert {weight.device.type for weight in held} == {"meta"}


@pytest.mark.parametrize("model", ["hbridge", "omnigen2"])
def test_at_full_size_little_stays_but_the_embeddings(model: str) -> None:
    module = build(read_config(PUBLISHED / model)).module
    visiting = {weight for _, layer in layers(module) for weight in layer.parameters()}
    staying = sum(weight.numel() for weight in module.parameters() if weight not in visiting)
    embeddings = next(
        weight.numel() for name, weight in module.named_parameters() if name.endswith("embed_tokens.weight")
    )
    assert staying - embeddings < 0.03 * sum(weight.numel() for weight in module.parameters())


@pytest.mark.gpu
def test_a_gpu_holds_no_more_than_what_stays_and_two_layers(drawing_folder: Path) -> None:
    family = load(drawing_folder, device="cuda")
    expected = pixels(family)
    family = load(drawing_folder)
    sizes = sorted((stored_bytes(layer) for _, layer in layers(family.module)), reverse=True)
    stays = stored_bytes(family.module) - sum(sizes)
    offload_layers(family.module, "cuda")
    with watched(family.module) as seen:
        assert pixels(family) == expected
    assert max(seen) <= stays + sizes[0] + sizes[1]
