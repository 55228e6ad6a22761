"""What the compiler makes of our kernels for a Hopper GPU: needs no GPU, only Triton with its own assembler.

A kernel that spills registers to memory, loads single numbers where it could load 16 bytes, or multiplies
without the tensor cores is slow, and its machine code says so. Run it as `python -m benchmarks.machine_code`.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.kernels.programs import head_rotation, modulated_norm, segment_attention, swiglu

HOPPER = GPUTarget("cuda", 90, 32)
TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
B16, F32, I32, I64 = "*bf16", "*fp32", "*i32", "*i64"
SHARED = {"out": B16, "eps": "fp32", "x": B16, "weight": B16}


@dataclass(frozen=True, slots=True)
class MachineCode:
    """What one kernel became.

    Attributes:
        registers: Of a thread.
        stack_bytes: What a thread puts into memory because it has no register for it.
        num_wide_loads: Instructions that load or copy 16 bytes at once.
        num_tensor_core_products: Of warp groups, as Hopper has them.
    """

    name: str
    registers: int
    stack_bytes: int
    num_wide_loads: int
    num_tensor_core_products: int


def compile_all() -> list[MachineCode]:
    """Compile the kernels in bfloat16, at the widths of the published models."""
    norm = {**SHARED, "factor": B16, "place": I64, "around": B16, "num_rows": "i32", "rows_per_factor": "i32"}
    wide = {"HAS_FACTOR": True, "HAS_PLACE": True, "HAS_AROUND": True}
    narrow = dict.fromkeys(wide, False)
    pairs, half = {**SHARED, "cos": F32, "sin": F32}, {**SHARED, "cos": B16, "sin": B16}
    gate = {"a": B16, "b": B16, "out": B16, "num_elements": "i32"}
    starts = dict.fromkeys(("q_starts", "kv_starts", "before_starts"), I32)
    attend = dict.fromkeys(("q", "k", "v", "before_k", "before_v", "out"), B16) | starts
    attend |= {"num_segments": "i32", "scale": "fp32"}
    own = {"HEADS": 21, "KEY_HEADS": 7, "WIDTH": 120, "HAS_BEFORE": False, "CAUSAL": False}
    bridged = {"HEADS": 28, "KEY_HEADS": 4, "WIDTH": 128, "HAS_BEFORE": True, "CAUSAL": False}
    tile = {"BLOCK": 128, "SEGMENTS": 4, "QUERIES": 128, "KEYS": 64}
    heads = {"HEADS": 21, "WIDTH": 120, "HEAD_BLOCK": 32, "BLOCK": 128, "TABLE": 60, "HAS_NORM": True}
    und = {"HEADS": 28, "WIDTH": 128, "HEAD_BLOCK": 32, "BLOCK": 128, "TABLE": 128, "HAS_NORM": False}
    eight, attending = {"num_warps": 8}, {"num_warps": 8, "num_stages": 3}
    one, many = {"WIDTH": 2520, "BLOCK": 4096, "ROWS": 1}, {"WIDTH": 120, "BLOCK": 128, "ROWS": 32}
    return [
        _compile("norm 2520", modulated_norm._norm, norm, one | wide, eight),
        _compile("norm 120", modulated_norm._norm, norm, many | narrow, eight),
        _compile("rotate pairs 21x120", head_rotation._rotate_pairs, pairs, heads, {"num_warps": 4}),
        _compile("rotate half 28x128", head_rotation._rotate_half, half, und, {"num_warps": 4}),
        _compile("gate", swiglu._gate, gate, {"ELEMENTS": 4096}, eight),
        _compile("attend 21/7x120", segment_attention._attend, attend, tile | own, attending),
        _compile("attend joined 28/4x128", segment_attention._attend, attend, tile | bridged, attending),
    ]


def _compile(
    name: str, kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, int]
) -> MachineCode:
    names = kernel.arg_names
    signature = {each: types.get(each, "constexpr") for each in names}
    # Tensors begin at 16 bytes, and all sizes that a launch is told are multiples of 16 in practice.
    aligned = {(i,): [["tt.divisibility", 16]] for i, each in enumerate(names) if _is_aligned(each, types)}
    places = {(names.index(each),): value for each, value in constants.items()}
    code = triton.compile(ASTSource(kernel, signature, places, aligned), target=HOPPER, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOL, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    ptx = code.asm["ptx"]
    return MachineCode(
        name=name,
        registers=int(_found(r"REG:(\d+)", usage)),
        stack_bytes=int(_found(r"STACK:(\d+)", usage)) + int(_found(r"LOCAL:(\d+)", usage)),
        num_wide_loads=len(re.findall(r"ld\.global[\w.:]*\.v4\.b32|cp\.async\.c[ag]\.\S+ .*, 0x10", ptx)),
        num_tensor_core_products=len(re.findall(r"wgmma\.mma", ptx)),
    )


def _is_aligned(name: str, types: dict[str, str]) -> bool:
    return types.get(name, "").startswith("*") or name == "num_elements"


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "0"


def main() -> None:
    """Print a table."""
    print("| kernel | registers | stack bytes | wide loads | tensor core products |")
    print("|---|---:|---:|---:|---:|")
    for code in compile_all():
        print(
            f"| {code.name} | {code.registers} | {code.stack_bytes} | {code.num_wide_loads} "
            f"| {code.num_tensor_core_products} |"
        )


if __name__ == "__main__":
    main()
