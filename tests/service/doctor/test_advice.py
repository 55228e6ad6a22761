from typing import Any

import pytest

from model.registry import PUBLISHED, LoadableFamily
from service.doctor.advice import CHANGES, changes_that_fit
from service.doctor.weights import held_bytes, read
from service.settings import Settings

NEEDED = 4_000_000_000
BFLOAT16 = Settings(device="cuda", dtype="bfloat16")


@pytest.fixture(scope="module")
def family() -> LoadableFamily:
    return read(PUBLISHED / "hbridge")[0]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a GPU that is not here be of any kind."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def options(family: LoadableFamily, settings: Settings, free_gb: float) -> dict[str, int]:
    free = int(free_gb * 1e9)
    return dict(changes_that_fit(family, settings, needed_bytes=NEEDED, free_bytes=free))


@pytest.mark.parametrize("free_gb", [8, 16, 20, 24, 30, 60])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whatever_is_advised_fits(family: LoadableFamily, dtype: Any, free_gb: float) -> None:
    settings = BFLOAT16.model_copy(update={"dtype": dtype})
    for together, needed in options(family, settings, free_gb).items():
        fields = {CHANGES[change][0]: CHANGES[change][1] for change in CHANGES if change in together}
        assert held_bytes(family, settings.model_copy(update=fields)) + NEEDED == needed <= free_gb * 1e9


def test_less_memory_leaves_fewer_ways(family: LoadableFamily) -> None:
    ways = [set(options(family, BFLOAT16, free_gb)) for free_gb in (5, 8, 20)]
    assert ways == [
        set(),
        {"--offload layers"},
        {"--quantization int8", "--quantization fp8", "--offload layers"},
    ]


def test_two_changes_come_only_where_one_is_not_enough(family: LoadableFamily) -> None:
    settings = Settings(device="cuda", dtype="float32")
    assert "--dtype bfloat16" in options(family, settings, 30)
    assert not [ways for ways in options(family, settings, 30) if ways.startswith("--dtype bfloat16 ")]
    assert "--dtype bfloat16 --quantization int8" in options(family, settings, 20)


def test_a_processor_is_told_nothing_that_is_not_for_it(family: LoadableFamily) -> None:
    told = options(family, Settings(dtype="bfloat16"), 20)
    assert set(told) == {"--quantization int8"}
