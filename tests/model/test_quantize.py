from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.checkpoint import build, build_random, load, read_config
from model.drawing import Drawing
from model.errors import UnusableQuantization
from model.family import Row, Size
from model.pipeline import draw
from model.prompt import Prompt
from model.quantize import (
    FP8_MULTIPLE,
    PaddedLinear,
    check_scheme,
    foretell_bytes,
    quantize,
    quantized,
    stored_bytes,
)
from model.registry import PUBLISHED, LoadableFamily


@pytest.fixture
def on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchao make fp8 weights on a processor, which multiplies them as exactly as a GPU does."""
    monkeypatch.setattr("torchao.quantization.quant_api._check_hardware_support", lambda granularity: None)


def velocities(family: LoadableFamily) -> Tensor:
    prompts = [Prompt.of_tokens((500, 21, 22, 23, 501), task="generate"), Prompt.draw("a circle")]
    contexts = family.prefill(prompts)
    sizes = (Size(32, 32), Size(48, 32))
    rows = [
        Row(latent_CYX=family.noise(size, seed=1), time=0.3, context=context)
        for size, context in zip(sizes, contexts, strict=True)
    ]
    return torch.cat([velocity_CYX.flatten() for velocity_CYX in family.velocity(rows)])


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("folder", ["drawing_folder", "omnigen2_folder"])
@pytest.mark.parametrize(
    ("scheme", "dtype", "bound"), [("int8", torch.float32, 0.02), ("fp8", torch.bfloat16, 0.1)]
)
@pytest.mark.usefixtures("on_any_device")
def test_a_quantized_model_is_near_and_as_small_as_foretold(
    request: pytest.FixtureRequest, folder: str, scheme: Any, dtype: torch.dtype, bound: float
) -> None:
    family = load(request.getfixturevalue(folder), dtype=dtype)
    before, num_bytes = velocities(family), stored_bytes(family.module)
    assert num_bytes == sum(foretell_bytes(family.module, "none", dtype).values())
    foretold = foretell_bytes(family.module, scheme, dtype)
    names = [name for name, _ in quantized(family.module)]
    quantize(family.module, scheme)
    assert 0 < distance(velocities(family), before) < bound
    assert stored_bytes(family.module) == sum(foretold.values()) < num_bytes
    for name, weight in family.module.named_parameters():
        layer = name.removesuffix(".weight").removesuffix(".linear")
        assert (type(weight) is not nn.Parameter) == (layer in names and name.endswith("weight")), name


@pytest.mark.parametrize("model", ["hbridge", "omnigen2"])
def test_at_full_size_most_weights_are_chosen_and_none_that_matter_alone(model: str) -> None:
    module = build(read_config(PUBLISHED / model)).module
    chosen = {name: layer.weight.numel() for name, layer in quantized(module)}
    parts = "embed", "norm", "visual", "vae", "lm_head", "srt"
    assert not [name for name in chosen if any(part in name for part in parts)]
    matrices = [name for name, weight in module.named_parameters() if weight.ndim == 2]
    in_layers = [name for name in matrices if ".layers." in name]
    left = {name.removesuffix(".weight") for name in in_layers} - chosen.keys()
    assert all(name.endswith("norm1.linear") for name in left)
    plain, smaller = (foretell_bytes(module, each, torch.bfloat16) for each in ("none", "int8"))
    assert sum(plain.values()) == 2 * sum(weight.numel() for weight in module.parameters())
    assert sum(smaller.values()) < 0.7 * sum(plain.values())


def test_without_a_scheme_nothing_changes(drawing_folder: Path) -> None:
    family = load(drawing_folder)
    before = velocities(family)
    quantize(family.module, "none")
    assert torch.equal(velocities(family), before)


def test_a_quantized_model_draws_and_the_same_again(drawing_folder: Path) -> None:
    drawing = Drawing(prompt="a circle", seed=3, size=Size(64, 64), num_inference_steps=2)
    pictures = []
    for _ in range(2):
        family = load(drawing_folder)
        quantize(family.module, "int8")
        pictures.append(draw(family, drawing).images[0].tobytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("widths", [(2520, 840), (840, 2520), (24, 16), (16, 40), (40, 24)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_padding_changes_no_result(widths: tuple[int, int], *, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    whole: Callable[..., Tensor] = lambda *shape: torch.randint(-8, 9, shape, generator=generator).float()  # noqa: E731
    linear = nn.Linear(*widths, bias=has_bias)
    linear.weight.data = whole(*linear.weight.shape)
    if has_bias:
        linear.bias.data = whole(*linear.bias.shape)
    padded = PaddedLinear(linear, FP8_MULTIPLE)
    x_TI = whole(5, widths[0])
    # Sums of whole numbers are exact in any order, so a kernel may take the zeros in whatever order it likes.
    assert torch.equal(padded(x_TI), linear(x_TI))
    assert not any(width % FP8_MULTIPLE for width in padded.linear.weight.shape)


@pytest.mark.parametrize(
    ("scheme", "dtype", "says"),
    [
        ("int4", torch.float32, "'int4' must be one of none, int8, fp8"),
        ("fp8", torch.bfloat16, "capability 8.9 or more, which cpu is not; take int8"),
    ],
)
def test_what_cannot_run_here_is_refused(scheme: str, dtype: torch.dtype, says: str) -> None:
    with pytest.raises(UnusableQuantization, match=says):
        check_scheme(scheme, "cpu", dtype)


def test_an_older_gpu_or_another_type_is_refused_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 6))
    with pytest.raises(UnusableQuantization, match=r"cuda:1 has 8\.6"):
        check_scheme("fp8", "cuda:1", torch.bfloat16)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    with pytest.raises(UnusableQuantization, match="dtype bfloat16, not float32"):
        check_scheme("fp8", "cuda", torch.float32)
    check_scheme("fp8", "cuda", torch.bfloat16)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.quantize.find_spec", lambda name: None)
    check_scheme("none", "cpu", torch.float32)
    with pytest.raises(UnusableQuantization, match=r"hbridge\[memory\]"):
        check_scheme("int8", "cpu", torch.float32)


@pytest.mark.gpu
def test_fp8_on_a_gpu_is_near_bfloat16(drawing_folder: Path) -> None:
    check_scheme("fp8", "cuda", torch.bfloat16)
    family = load(drawing_folder, device="cuda", dtype=torch.bfloat16)
    before = velocities(family)
    quantize(family.module, "fp8")
    assert 0 < distance(velocities(family), before) < 0.1


@pytest.mark.gpu
def test_fp8_takes_the_widths_of_the_published_transformer_on_a_gpu() -> None:
    config = read_config(PUBLISHED / "omnigen2")
    transformer = {**config["transformer"], "num_layers": 2, "num_refiner_layers": 1}
    family = build_random({**config, "transformer": transformer}, device="cuda", dtype=torch.bfloat16)
    latent_CYX, features_LF = torch.randn(16, 32, 32, device="cuda"), torch.randn(20, 2048, device="cuda")
    network = family.module.get_submodule("transformer")
    row = Row(latent_CYX=latent_CYX, time=0.5, context=None)  # type: ignore[arg-type]
    with torch.inference_mode():
        (before,) = network([row], [features_LF])
        quantize(family.module, "fp8")
        (after,) = network([row], [features_LF])
    assert 0 < distance(after, before) < 0.1
