"""Weights in fewer bits, of a finished model from outside: lossy, so whoever serves it says so.

Only matrices inside the repeated layers are changed: they are most of the weights and of the arithmetic, and
what one of them rounds, the next norm and residual bound. All else stays as it is, because little is gained
there, or much depends on it: embedders and the head touch every token once, modulation multiplies all of them
by what a single row says, norms are vectors, the vision tower and the autoencoder run once for a picture.

Shapes: T tokens, I input features, O output features.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from model.errors import UnusableQuantization

Scheme = Literal["none", "int8", "fp8"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

QUANTIZED = (
    r"attn\.to_(q|k|v|out\.0)",
    r"feed_forward\.linear_[123]",
    r"bridge\.\d+\.[qkvo]_linear",
    r"model\.layers\.\d+\.self_attn\.[qkvo]_proj",
    r"model\.layers\.\d+\.mlp\.(gate|up|down)_proj",
)
"""Ends of the names of the linear layers that are quantized: transformer, bridge, language network."""
FP8_MULTIPLE = 16
"""What the fp8 kernels want both widths to be a multiple of; OmniGen2's 2520 and 840 are not."""
FP8_CAPABILITY = (8, 9)
INT8_ROW_BYTES = 1
"""Beside a row's scale: its zero point."""
FP8_SCALE_BYTES = 4


class PaddedLinear(nn.Module):
    """A linear layer filled up with zeros to widths that a kernel takes; its results are the same.

    Attributes:
        linear: The wider layer.
    """

    def __init__(self, linear: nn.Linear, multiple: int) -> None:
        super().__init__()
        self.out_features = linear.out_features
        weight_OI, bias_O = linear.weight.detach(), linear.bias
        wide, high = _missing(linear.in_features, multiple), _missing(linear.out_features, multiple)
        with torch.device("meta"):
            self.linear = nn.Linear(
                linear.in_features + wide, linear.out_features + high, bias=bias_O is not None
            )
        self.linear.weight = nn.Parameter(pad(weight_OI, (0, wide, 0, high)), requires_grad=False)
        if bias_O is not None:
            self.linear.bias = nn.Parameter(pad(bias_O.detach(), (0, high)), requires_grad=False)

    def forward(self, x_TI: Tensor) -> Tensor:
        """Return [T, O]."""
        out_TO: Tensor = self.linear(pad(x_TI, (0, self.linear.in_features - x_TI.shape[-1])))
        return out_TO[..., : self.out_features]


def check_scheme(scheme: str, device: str | torch.device, dtype: torch.dtype) -> None:
    """Refuse what cannot run here.

    Raises:
        UnusableQuantization: Says what is missing, and what to take instead.
    """
    device = torch.device(device)
    if scheme not in SCHEMES:
        raise UnusableQuantization(f"quantization {scheme!r} must be one of {', '.join(SCHEMES)}")
    if scheme == "none":
        return
    if find_spec("torchao") is None:
        raise UnusableQuantization(f"quantization {scheme} needs torchao: install hbridge[memory]")
    if scheme == "fp8":
        needed = "quantization fp8 needs a CUDA device of compute capability 8.9 or more"
        if device.type != "cuda":
            raise UnusableQuantization(f"{needed}, which {device} is not; take int8 or none")
        if (capability := torch.cuda.get_device_capability(device)) < FP8_CAPABILITY:
            has = ".".join(map(str, capability))
            raise UnusableQuantization(f"{needed}, and {device} has {has}; take int8 or none")
        if dtype != torch.bfloat16:
            raise UnusableQuantization(f"quantization fp8 needs dtype bfloat16, not {str(dtype)[6:]}")


def quantize(module: nn.Module, scheme: Scheme, device: str | torch.device | None = None) -> None:
    """Quantize the weights of a loaded model in place, a layer at a time; each stays where it was.

    "int8" rounds weights to 8 bits with a scale for each row, and computes in the type that there was. "fp8"
    rounds weights and, as they come, tokens to float8 (e4m3) with a scale for each row, and multiplies those.

    Args:
        module: All weights of a family, under the checkpoint's names.
        scheme: What to do; check_scheme says whether it can be done.
        device: Where to compute; where each layer is when left out.

    Source: Dettmers et al. 2022, arXiv:2208.07339, section 2, for scales by row; Micikevicius et al. 2022,
    arXiv:2209.05433, for float8. The arithmetic is torchao's.
    """
    if scheme == "none":
        return
    from torchao.quantization import quantize_  # noqa: PLC0415 - an extra

    config = _config(scheme)
    for name, linear in list(quantized(module)):
        home = linear.weight.device
        layer = _padded(linear) if scheme == "fp8" else linear
        if layer is not linear:
            module.set_submodule(name, layer)
        quantize_(layer, config, device=device)
        layer.to(home)


def quantized(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the layers that a scheme changes, with their names."""
    ends = re.compile(rf"(.*\.)?({'|'.join(QUANTIZED)})")
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and ends.fullmatch(name):
            yield name, layer


def foretell_bytes(module: nn.Module, scheme: Scheme, dtype: torch.dtype) -> dict[str, int]:
    """Foretell what each weight will take in memory, by name; the module may be on the meta device."""
    foretold: dict[str, int] = {}
    chosen = dict(quantized(module)) if scheme != "none" else {}
    for name, weight in module.named_parameters():
        layer = name.removesuffix(".weight")
        is_chosen = layer != name and layer in chosen
        num_bytes = _matrix_bytes(weight, scheme, dtype) if is_chosen else weight.numel() * dtype.itemsize
        if scheme == "fp8" and name.endswith(".bias") and name.removesuffix(".bias") in chosen:
            num_bytes += _missing(weight.numel(), FP8_MULTIPLE) * dtype.itemsize
        foretold[name] = num_bytes
    return foretold


def stored_bytes(module: nn.Module) -> int:
    """Count the memory that weights take, quantized or not."""
    return sum(sum(tensor.nbytes for tensor in _plain(weight)) for weight in module.parameters())


def _config(scheme: Scheme) -> Any:
    from torchao.quantization import (  # noqa: PLC0415 - an extra
        Float8DynamicActivationFloat8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
    )

    # What torchao would set in the compiler holds for the whole process: that is not its to say here.
    if scheme == "int8":
        return Int8WeightOnlyConfig(set_inductor_config=False)
    return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)


def _padded(linear: nn.Linear) -> nn.Module:
    widths = linear.in_features, linear.out_features
    fits = not any(_missing(width, FP8_MULTIPLE) for width in widths)
    return linear if fits else PaddedLinear(linear, FP8_MULTIPLE)


def _missing(width: int, multiple: int) -> int:
    return -width % multiple


def _matrix_bytes(weight_OI: Tensor, scheme: Scheme, dtype: torch.dtype) -> int:
    rows, columns = weight_OI.shape
    if scheme == "int8":
        return rows * (columns + dtype.itemsize + INT8_ROW_BYTES)
    rows, columns = (width + _missing(width, FP8_MULTIPLE) for width in (rows, columns))
    return rows * (columns + FP8_SCALE_BYTES)


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that a quantized one consists of; a plain one consists of itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain(getattr(tensor, name))
