import pytest
import torch

from model.errors import BadRequest
from model.family import Depth
from model.qwen_vl.prepared_tokens import PreparedTokens
from model.qwen_vl.token_prompt import ImagePatches, TokenPrompt

PAD = 506


def image(seed: int) -> ImagePatches:
    patches_PE = torch.rand(8, 3, generator=torch.Generator().manual_seed(seed))
    return ImagePatches(patches_PE=patches_PE, rows=1, columns=2)


def prepared(*tokens: int, images: tuple[int, ...] = (), depth: Depth = Depth.PICTURE) -> PreparedTokens:
    prompt = TokenPrompt(tokens=tokens, images=tuple(map(image, images)))
    return PreparedTokens.of(prompt, depth, PAD)


def lengths(each: PreparedTokens) -> list[int]:
    return [block.num_tokens for block in each.blocks]


def keys(each: PreparedTokens) -> list[bytes]:
    return [block.key for block in each.blocks]


def test_a_prompt_is_cut_after_each_image() -> None:
    assert lengths(prepared(1, 2, 3)) == [3]
    assert lengths(prepared(1, PAD, PAD, 2, images=(0,))) == [3, 1]
    assert lengths(prepared(1, PAD, PAD, PAD, PAD, 2, images=(0, 1))) == [3, 2, 1]
    assert lengths(prepared(1, PAD, PAD, images=(0,))) == [3]


def test_equal_beginnings_have_equal_keys_whatever_they_are_for() -> None:
    first = prepared(1, PAD, PAD, 2, PAD, PAD, 3, images=(0, 1))
    other = prepared(1, PAD, PAD, 2, PAD, PAD, 4, 4, images=(0, 1), depth=Depth.ANSWER)
    assert keys(first)[:2] == keys(other)[:2]
    assert keys(first)[2] != keys(other)[2]


@pytest.mark.parametrize(
    "other",
    [
        prepared(9, PAD, PAD, 2, images=(0,)),
        prepared(1, PAD, PAD, 2, images=(1,)),
        prepared(1, 1, PAD, PAD, 2, images=(0,)),
    ],
    ids=["word", "image", "length"],
)
def test_what_begins_otherwise_shares_no_key(other: PreparedTokens) -> None:
    assert not set(keys(other)) & set(keys(prepared(1, PAD, PAD, 2, images=(0,))))


def test_a_beginning_is_the_prompt_that_ends_there() -> None:
    whole = prepared(1, PAD, PAD, 2, PAD, PAD, 3, images=(0, 1))
    for num_blocks, expected in (
        (1, prepared(1, PAD, PAD, images=(0,))),
        (2, prepared(1, PAD, PAD, 2, PAD, PAD, images=(0, 1))),
    ):
        beginning = whole.beginning(num_blocks)
        assert beginning.prompt.tokens == expected.prompt.tokens
        assert beginning.blocks == expected.blocks == whole.blocks[:num_blocks]


@pytest.mark.parametrize(
    ("whole", "beginning"), [(Depth.PICTURE, Depth.BEGINNING), (Depth.ANSWER, Depth.ANSWER)]
)
def test_a_beginning_is_deep_enough_to_be_gone_on_from(whole: Depth, beginning: Depth) -> None:
    assert prepared(1, PAD, PAD, 2, images=(0,), depth=whole).beginning(1).depth is beginning


def test_images_without_placeholders_are_refused() -> None:
    with pytest.raises(BadRequest):
        prepared(1, 2, images=(0,))


def test_the_tokens_of_images_are_counted() -> None:
    assert prepared(1, PAD, PAD, 2, PAD, PAD, 3, images=(0, 1)).num_image_tokens == 4
    assert prepared(1, 2, 3).num_image_tokens == 0
