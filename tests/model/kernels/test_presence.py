from importlib.util import find_spec

import torch

from model.kernels.presence import has_triton, takes


def test_a_processor_runs_the_plain_twins() -> None:
    with torch.inference_mode():
        assert not takes(torch.ones(1))


def test_triton_is_found_where_it_is_installed() -> None:
    assert has_triton() == (find_spec("triton") is not None)
