import torch
from torch import Tensor

from model.attention import Segments
from model.qwen_vl.config import QwenVLConfig
from model.qwen_vl.decoder import Decoder

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 10}


def decoder() -> Decoder:
    config = QwenVLConfig(
        **SIZES, num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1e4,
        mrope_section=(2, 1, 1), eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return Decoder(config)


def ids(length: int) -> Tensor:
    return torch.arange(length)[:, None].expand(-1, 3)


def test_no_token_sees_a_later_one() -> None:
    network, hidden_TC = decoder(), torch.randn(5, 48)
    changed_TC = hidden_TC.clone()
    changed_TC[3:] = 1
    segments = Segments.own((5,), causal=True)
    before_TC, after_TC = network(hidden_TC, ids(5), segments), network(changed_TC, ids(5), segments)
    torch.testing.assert_close(before_TC[:3], after_TC[:3])
    assert not torch.allclose(before_TC[3:], after_TC[3:])


def test_moving_all_positions_together_changes_nothing() -> None:
    network, hidden_TC = decoder(), torch.randn(5, 48)
    segments = Segments.own((5,), causal=True)
    moved_TC = network(hidden_TC, ids(5) + 11, segments)
    torch.testing.assert_close(network(hidden_TC, ids(5), segments), moved_TC, rtol=0, atol=1e-5)


def test_reading_nothing_new_is_up_to_the_reader() -> None:
    network, hidden_TC = decoder(), torch.randn(4, 48)
    seen: list[int] = []

    def read(layer: int, k_TKD: Tensor, v_TKD: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(layer)
        return k_TKD[:1], v_TKD[:1]

    network(hidden_TC, ids(4), Segments((4,), (1,)), read)
    assert seen == [0, 1]
