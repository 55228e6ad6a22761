from pathlib import Path

import pytest
import torch

from model.compiled import FALLBACKS
from model.drawing import Drawing
from model.errors import MissingCapability
from model.pipeline import draw
from service import metrics
from service.acceleration import bounds_backend, largest_edit
from service.loading import load_model
from service.settings import Settings

CPU = torch.device("cpu")
DRAWING = Drawing(prompt="a circle", seed=1, num_inference_steps=1)


def test_a_processor_takes_pytorchs_attention(model_folder: Path) -> None:
    model = load_model(Settings(model=str(model_folder)))
    assert (model.card.backend, model.card.compile, model.runner) == ("sdpa", "off", None)


def test_a_backend_that_is_asked_for_is_taken_or_refused(model_folder: Path) -> None:
    asked = {"model": str(model_folder)}
    assert load_model(Settings(**asked, attention="plain")).card.backend == "plain"
    with pytest.raises(MissingCapability, match="varlen needs a CUDA device"):
        load_model(Settings(**asked, attention="varlen"))
    with pytest.raises(MissingCapability, match="graphs need a CUDA device"):
        load_model(Settings(**asked, compile="graphs"))


def test_at_prepared_sizes_a_processor_masks() -> None:
    assert bounds_backend("sdpa", CPU, torch.float32) == "plain"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_compiled_steps_draw_the_same_picture(model_folder: Path) -> None:
    plain, compiled = (
        load_model(Settings(model=str(model_folder), compile=each, compile_tokens=200))
        for each in ("off", "on")
    )
    assert compiled.card.compile == "on"
    assert compiled.runner
    images = [draw(each.family, DRAWING).images[0] for each in (plain, compiled)]
    assert compiled.runner.problems == {}
    differences = [abs(a - b) for a, b in zip(*(image.tobytes() for image in images), strict=True)]
    assert max(differences) <= 1


def test_what_is_prepared_holds_an_edit_with_all_branches(model_folder: Path) -> None:
    can = load_model(Settings(model=str(model_folder))).card.capabilities
    tokens = can.default_size.width * can.default_size.height // 256
    assert largest_edit(can) >= 3 * 2 * tokens


def test_every_reason_to_fall_back_has_a_counter() -> None:
    assert metrics.FALLBACKS == FALLBACKS


def test_weights_that_leave_the_device_have_no_prepared_steps(model_folder: Path) -> None:
    with pytest.raises(MissingCapability, match="HBRIDGE_OFFLOAD=none"):
        load_model(Settings(model=str(model_folder), compile="on", offload="layers"))
