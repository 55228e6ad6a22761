import pytest
import torch
from torch import Tensor

from model.omnigen2.blocks import ModulatedBlock, Stream
from model.omnigen2.config import OmniGen2Config
from model.omnigen2.layout import text_ids
from model.omnigen2.stack import Bucket, Stack, StackInputs, run_as_is

LENGTHS = (3, 5)


@pytest.fixture
def inputs(config: OmniGen2Config) -> StackInputs:
    ids_T3 = torch.cat([text_ids(0, length) for length in LENGTHS])
    return StackInputs(
        x_Th=torch.randn(8, config.hidden_size),
        condition_Me=torch.randn(2, config.time_width),
        stream=Stream.of(LENGTHS, ids_T3, config, "sdpa"),
    )


def test_blocks_are_passed_in_their_order(config: OmniGen2Config, inputs: StackInputs) -> None:
    first, second = ModulatedBlock(config), ModulatedBlock(config)
    given = inputs.condition_Me, inputs.stream
    expected = second(first(inputs.x_Th, *given), *given)
    assert torch.equal(run_as_is(Stack("two", [first, second]), inputs), expected)


def test_inputs_over_buffers_of_their_own_tensors_give_the_same(
    config: OmniGen2Config, inputs: StackInputs
) -> None:
    stack, bucket = Stack("one", [ModulatedBlock(config)]), Bucket(tokens=8, rows=2, before=0)
    over = inputs.over(inputs.tensors(bucket), bucket, "plain")
    torch.testing.assert_close(stack(over), stack(inputs), atol=1e-5, rtol=1e-5)


def test_tokens_without_a_place_get_one(config: OmniGen2Config, inputs: StackInputs) -> None:
    ids_T3 = text_ids(0, 8)
    even = StackInputs(
        x_Th=inputs.x_Th,
        condition_Me=inputs.condition_Me,
        stream=Stream.of((4, 4), ids_T3, config, "sdpa"),
    )
    assert even.stream.place_T is None
    place_T: Tensor = even.tensors(Bucket(tokens=8, rows=2, before=0))["place"]
    assert place_T.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(("tokens", "rows", "reason"), [(8, 2, ""), (7, 2, "tokens"), (8, 1, "rows")])
def test_what_does_not_fit_says_what(inputs: StackInputs, tokens: int, rows: int, reason: str) -> None:
    assert inputs.misfit(Bucket(tokens=tokens, rows=rows, before=0)) == reason
