"""What a block reads and writes between its matrix products, before and after fusing: bytes, from shapes.

Nothing runs and no weights are made: tensors are of PyTorch's meta device. Every operation that is no view
and no product is taken to read its inputs and to write its outputs once; `python -m benchmarks.passes`.

Shapes: T tokens, h width, F inner width of the feed-forward layer, D head dim.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.kernels.head_rotation import norm_rotate_pairs
from model.kernels.modulated_norm import norm_add, norm_scale
from model.kernels.swiglu import gate
from model.layers import RMSNorm
from model.omnigen2.config import OmniGen2Config

PRODUCTS = ("mm", "addmm", "bmm")


class Passes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of elementwise operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = self.num_calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in PRODUCTS:
            tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor)]
            self.num_bytes += sum(each.numel() * each.element_size() for each in tensors)
            self.num_calls += 1
        return out


def count(call: Callable[..., Any], *values: Any) -> tuple[int, int]:
    """Return the bytes of a call's passes, and how many there are."""
    with torch.inference_mode(), Passes() as passes:
        call(*values)
    return passes.num_bytes, passes.num_calls


def parts(config: OmniGen2Config, lengths: tuple[int, ...]) -> dict[str, tuple[int, int, int]]:
    """Count the parts of one block: bytes and passes of the plain twin, and bytes of the kernel.

    A kernel reads its inputs and writes its output once.
    """
    T, h, D = sum(lengths), config.hidden_size, config.head_dim

    def bf16(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.bfloat16, device="meta")

    x_Th, factor_Mh, inner_TF = bf16(T, h), bf16(1, h), bf16(T, config.ffn_width)
    norm, head_norm = (RMSNorm(width, 1e-5).to("meta", torch.bfloat16) for width in (h, D))
    place_T = torch.empty(T, dtype=torch.long, device="meta")
    table = torch.empty(2, T, D // 2, device="meta")
    scaled = count(norm_scale, norm, x_Th, factor_Mh, place_T)
    added = count(norm_add, norm, x_Th, x_Th, factor_Mh, place_T)
    gated = count(gate, inner_TF, inner_TF)
    counted = {
        "norm_scale, 2 of them": (2, scaled, 2 * x_Th.nbytes),
        "norm_add, 2 of them": (2, added, 3 * x_Th.nbytes),
        "gate": (1, gated, 3 * inner_TF.nbytes),
    }
    for name, num_heads in (("queries", config.num_attention_heads), ("keys", config.num_kv_heads)):
        heads = bf16(T, num_heads, D)
        turned = count(norm_rotate_pairs, head_norm, heads, *table.unbind())
        counted[f"norm_rotate_pairs, {name}"] = (1, turned, 2 * heads.nbytes + table.nbytes)
    return {
        name: (times * num_bytes, times * num_calls, times * fused)
        for name, (times, (num_bytes, num_calls), fused) in counted.items()
    }


def main() -> None:
    """Print a table for two branches of a picture of 1024²."""
    lengths = (4096 + 16, 4096 + 16)
    counted = parts(OmniGen2Config(), lengths)
    print("| part of a block | passes | MB before | MB fused |")
    print("|---|---:|---:|---:|")
    totals: Counter[str] = Counter()
    for name, (num_bytes, num_calls, fused) in counted.items():
        print(f"| {name} | {num_calls} | {num_bytes / 1e6:.0f} | {fused / 1e6:.0f} |")
        totals.update({"calls": num_calls, "bytes": num_bytes, "fused": fused})
    print(f"| all | {totals['calls']} | {totals['bytes'] / 1e6:.0f} | {totals['fused'] / 1e6:.0f} |")


if __name__ == "__main__":
    main()
