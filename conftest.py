"""Before any other module of the tests: Triton reads how its kernels run as it is imported."""

import pytest
import torch

if not torch.cuda.is_available():
    pytest.MonkeyPatch().setenv("TRITON_INTERPRET", "1")
