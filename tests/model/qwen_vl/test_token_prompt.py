import pytest
import torch
from torch import Tensor

from model.errors import BadRequest
from model.qwen_vl.token_prompt import ImagePatches, TokenPrompt, position_ids

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
