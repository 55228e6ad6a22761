from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.omnigen2.blocks import ModulatedBlock, OutputNorm, PlainBlock, Stream
from model.omnigen2.config import OmniGen2Config
from model.omnigen2.layout import text_ids

LENGTHS = (3, 5)


@pytest.fixture
def x_Th(config: OmniGen2Config) -> Tensor:  # noqa: N802
    return torch.randn(sum(LENGTHS), config.hidden_size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def condition_Me(config: OmniGen2Config) -> Tensor:  # noqa: N802
    return torch.randn(len(LENGTHS), config.time_width, generator=torch.Generator().manual_seed(1))


def stream(config: OmniGen2Config, lengths: tuple[int, ...]) -> Stream:
    ids_T3 = torch.cat([text_ids(0, length) for length in lengths])
    return Stream.of(lengths, ids_T3, config, "sdpa")


@pytest.mark.parametrize("lengths", [(3, 5), (4, 4)])
def test_every_token_is_scaled_by_its_segment(
    config: OmniGen2Config, x_Th: Tensor, lengths: tuple[int, ...]
) -> None:
    factor_Bh = torch.randn(2, config.hidden_size)
    scaled = stream(config, lengths).scale(x_Th, factor_Bh)
    first, second = scaled.split(lengths)
    torch.testing.assert_close(first, x_Th[: lengths[0]] * factor_Bh[0])
    torch.testing.assert_close(second, x_Th[lengths[0] :] * factor_Bh[1])


@pytest.mark.parametrize(("places", "lengths"), [((0, 0), (3, 5)), ((1, 0), (4, 4)), ((0, 0, 1), (2, 3, 3))])
def test_segments_of_one_time_share_its_factor(
    config: OmniGen2Config, x_Th: Tensor, places: tuple[int, ...], lengths: tuple[int, ...]
) -> None:
    factor_Mh = torch.randn(max(places) + 1, config.hidden_size)
    ids_T3 = torch.cat([text_ids(0, length) for length in lengths])
    scaled = Stream.of(lengths, ids_T3, config, "sdpa", places=places).scale(x_Th, factor_Mh)
    whole = zip(scaled.split(lengths), x_Th.split(lengths), places, strict=True)
    for part, before, place in whole:
        torch.testing.assert_close(part, before * factor_Mh[place])


def test_queries_and_keys_are_normalised_with_an_eps_of_their_own(config: OmniGen2Config) -> None:
    attention = ModulatedBlock(replace(config, norm_eps=0.5)).attn
    assert attention.norm_q.eps == attention.norm_k.eps == 1e-5


def test_closed_gates_let_tokens_pass_unchanged(
    config: OmniGen2Config, x_Th: Tensor, condition_Me: Tensor
) -> None:
    block = ModulatedBlock(config)
    torch.nn.init.zeros_(block.norm1.linear.weight)
    torch.nn.init.zeros_(block.norm1.linear.bias)
    assert torch.equal(block(x_Th, condition_Me, stream(config, LENGTHS)), x_Th)


def test_without_scales_and_with_open_gates_a_modulated_block_is_a_plain_one(
    config: OmniGen2Config, x_Th: Tensor, condition_Me: Tensor
) -> None:
    modulated, plain = ModulatedBlock(config), PlainBlock(config)
    shared = {name: weight for name, weight in modulated.state_dict().items() if "norm1.linear" not in name}
    plain.load_state_dict({name.replace("norm1.norm", "norm1"): weight for name, weight in shared.items()})
    torch.nn.init.zeros_(modulated.norm1.linear.weight)
    modulated.norm1.linear.bias.data = torch.tensor([0.0, 99.0, 0.0, 99.0]).repeat_interleave(
        config.hidden_size
    )
    streams = stream(config, LENGTHS)
    torch.testing.assert_close(modulated(x_Th, condition_Me, streams), plain(x_Th, streams))


def test_a_segment_does_not_see_the_others(
    config: OmniGen2Config, x_Th: Tensor, condition_Me: Tensor
) -> None:
    block = ModulatedBlock(config)
    both = block(x_Th, condition_Me, stream(config, LENGTHS))
    alone = block(x_Th[:3], condition_Me[:1], stream(config, (3,)))
    torch.testing.assert_close(both[:3], alone, atol=1e-6, rtol=1e-5)


def test_what_mixes_tokens_can_be_replaced(
    config: OmniGen2Config, x_Th: Tensor, condition_Me: Tensor
) -> None:
    block, streams = ModulatedBlock(config), stream(config, LENGTHS)
    own = block(x_Th, condition_Me, streams)
    same = block(x_Th, condition_Me, streams, lambda attention, u_Th: attention(u_Th, streams))
    other = block(x_Th, condition_Me, streams, lambda attention, u_Th: u_Th)
    assert torch.equal(own, same)
    assert not torch.allclose(own, other)


def test_the_output_does_not_depend_on_the_size_of_its_input(
    config: OmniGen2Config, x_Th: Tensor, condition_Me: Tensor
) -> None:
    head, streams = OutputNorm(config), stream(config, LENGTHS)
    torch.testing.assert_close(
        head(x_Th, condition_Me, streams), head(9 * x_Th + 1, condition_Me, streams), atol=1e-4, rtol=1e-4
    )
