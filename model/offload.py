"""Weights that stay in the host's memory, of a finished model from outside: layers visit the device in turn.

For cards that cannot hold the weights. Results are those of the same device without it, bit for bit; what it
costs is copying every layer in every call. The hooks are accelerate's: between calls a layer's weights are on
the meta device, so nothing can read them there by mistake.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn

LAYERS = (r"(layers|noise_refiner|ref_image_refiner|context_refiner|bridge|visual\.blocks)\.\d+", "lm_head")
"""Ends of the names of what visits the device as a whole. The rest stays there: some of it is read beside its
module's own call, and all of it together is little but for the table of token embeddings."""


class Visit(AlignDevicesHook):  # type: ignore[misc]
    """Brings a layer's weights before its call and takes them away after.

    Outside inference mode, in which quantized weights cannot be copied; nothing is recorded all the same.
    """

    def pre_forward(self, module: nn.Module, *values: Any, **named: Any) -> Any:
        """Bring them."""
        with torch.inference_mode(False), torch.no_grad():
            return super().pre_forward(module, *values, **named)

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Take them away."""
        with torch.inference_mode(False), torch.no_grad():
            return super().post_forward(module, output)


def offload_layers(module: nn.Module, device: str | torch.device) -> None:
    """Let layers visit a device, each for the time of its call, and move the rest there.

    Args:
        module: All weights of a family, under the checkpoint's names, in the host's memory.
        device: Where to compute.
    """
    device = torch.device(device)
    for _, layer in list(layers(module)):
        weights = {name: _held(weight.detach(), device) for name, weight in layer.named_parameters()}
        visit = Visit(execution_device=device, offload=True, weights_map=weights, place_submodules=True)
        add_hook_to_module(layer, visit)
    for name, weight in list(module.named_parameters()):
        if weight.device.type != "meta":
            set_module_tensor_to_device(module, name, device)


def layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield what visits the device as a whole, with its name."""
    ends = re.compile(rf"(.*\.)?({'|'.join(LAYERS)})")
    for name, layer in module.named_modules():
        if ends.fullmatch(name) and any(True for _ in layer.parameters()):
            yield name, layer


def _held(weight: Tensor, device: torch.device) -> Tensor:
    """Return a weight in memory that a device reads fast, where there is such."""
    is_plain = type(weight) in (Tensor, nn.Parameter)
    return weight.pin_memory() if device.type == "cuda" and is_plain else weight
