from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from model.hbridge.config import HBridgeConfig
from model.hbridge.network import HBridgeNetwork
from model.qwen_vl.context import KVContext

FOLDER = Path(__file__).parents[2] / "goldens/hbridge"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """A golden vector's tensors by its name."""
    return lambda name: load_file(FOLDER / f"{name}.safetensors")


@pytest.fixture(scope="session")
def config(golden_config: dict[str, Any]) -> HBridgeConfig:
    return HBridgeConfig.from_dict(golden_config)


@pytest.fixture
def network(config: HBridgeConfig) -> HBridgeNetwork:
    """The golden network, a new one for each test."""
    network = HBridgeNetwork(config)
    network.load_state_dict(load_file(FOLDER / "weights-gen.safetensors"))
    return network.requires_grad_(False)


@pytest.fixture(scope="session")
def context_of(config: HBridgeConfig) -> Callable[..., KVContext]:
    """The context stored in a golden vector."""

    def read(tensors: dict[str, Tensor], prefix: str = "ctx.") -> KVContext:
        return KVContext(
            layers=tuple(config.pairs),
            keys=tuple(tensors[f"{prefix}k.{pair}"] for pair in config.pairs),
            values=tuple(tensors[f"{prefix}v.{pair}"] for pair in config.pairs),
            ids_L3=tensors[f"{prefix}position_ids"],
            next_id=int(tensors[f"{prefix}next_id"]),
        )

    return read
