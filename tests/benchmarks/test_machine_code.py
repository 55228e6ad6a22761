import subprocess
import sys

import pytest


@pytest.mark.slow
def test_kernels_compile_for_hopper_without_spilling_and_load_16_bytes_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton")
    # Here Triton interprets: a process of its own compiles.
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    command = [sys.executable, "-m", "benchmarks.machine_code"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert len(rows) == 7
    for name, _, stack_bytes, wide_loads, products in rows:
        assert int(stack_bytes) == 0, name
        assert int(wide_loads) > 0, name
        assert (int(products) > 0) == name.startswith("attend"), name
