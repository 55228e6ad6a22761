import pytest
import torch
from torch import Tensor

from model.errors import BadRequest
from model.qwen_vl.token_prompt import ImagePatches, TokenPrompt, image_ends, position_ids

PAD = 506


def image(rows: int, columns: int) -> ImagePatches:
    return ImagePatches(patches_PE=torch.zeros(4 * rows * columns, 1), rows=rows, columns=columns)


def test_text_counts_up_and_an_image_stands_still_in_time() -> None:
    ids_L3, next_id = position_ids((1, 2, 3, 504, PAD, PAD, PAD, PAD, 505, 4, 5), (image(2, 2),), PAD)
    text = [[i, i, i] for i in range(4)]
    cells = [[4, 4, 4], [4, 4, 5], [4, 5, 4], [4, 5, 5]]
    assert ids_L3.tolist() == [*text, *cells, [6, 6, 6], [7, 7, 7], [8, 8, 8]]
    assert next_id == 9


def test_the_next_id_follows_the_longest_side() -> None:
    ids_L3, next_id = position_ids((PAD,) * 3 + (7,) + (PAD,) * 2, (image(1, 3), image(2, 1)), PAD)
    assert ids_L3.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [3, 3, 3], [4, 4, 4], [4, 5, 4]]
    assert next_id == 6


def test_ids_are_those_of_the_golden_prompt(
    image_prompt: TokenPrompt, image_golden: dict[str, Tensor]
) -> None:
    ids_L3, next_id = position_ids(image_prompt.tokens, image_prompt.images, PAD)
    assert torch.equal(ids_L3, image_golden["ctx.position_ids"])
    assert next_id == image_golden["ctx.next_id"]


def test_placeholders_without_images_are_refused() -> None:
    with pytest.raises(BadRequest, match="1 image placeholders for images of 0 tokens"):
        position_ids((1, PAD), (), PAD)


def test_images_without_placeholders_are_refused() -> None:
    with pytest.raises(BadRequest):
        position_ids((1, 2), (image(1, 1),), PAD)


def test_an_image_ends_with_its_last_placeholder() -> None:
    images = image(1, 3), image(2, 1)
    assert image_ends((7, PAD, PAD, PAD, PAD, PAD, 8), images, PAD) == (4, 6)


def test_an_image_torn_apart_is_refused() -> None:
    with pytest.raises(BadRequest, match="follow each other"):
        image_ends((PAD, 1, PAD), (image(1, 2),), PAD)


def test_what_follows_has_its_own_images() -> None:
    images = image(1, 1), image(1, 2)
    rest = TokenPrompt(tokens=(1, PAD, 2, PAD, PAD, 3), images=images).after(2, PAD)
    assert rest.tokens == (2, PAD, PAD, 3)
    assert rest.images == images[1:]


def test_the_key_of_an_image_is_what_it_shows_in_its_shape() -> None:
    patches_PE = torch.rand(8, 3)
    first, same = (ImagePatches(patches_PE=patches_PE.clone(), rows=1, columns=2) for _ in range(2))
    assert first.key == same.key
    others = [
        ImagePatches(patches_PE=patches_PE, rows=2, columns=1),
        ImagePatches(patches_PE=patches_PE.flip(0), rows=1, columns=2),
    ]
    assert len({first.key, *(other.key for other in others)}) == 3
