"""Without a GPU the kernels run in Triton's interpreter; with one, ../test_check.py runs them as they are."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _interpreter() -> None:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled here, not interpreted")
