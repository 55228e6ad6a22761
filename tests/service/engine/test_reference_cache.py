from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from service.engine.reference_cache import ReferenceCache

BYTES = 3 * 2 * 2 * 4


class Encoder:
    """Counts what it encodes."""

    def __init__(self) -> None:
        self.encoded: list[Image.Image] = []

    def encode(self, images: list[Image.Image]) -> list[Tensor]:
        self.encoded += images
        return [torch.full((3, 2, 2), float(image.getpixel((0, 0))[0])) for image in images]  # type: ignore[index]


def plain(shade: int, size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new("RGB", size, (shade, 0, 0))


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def own(*images: Image.Image, tenant: str = "") -> list[tuple[str, Image.Image]]:
    return [(tenant, image) for image in images]


def cache(encoder: Any, num: float) -> ReferenceCache:
    return ReferenceCache(encoder, max_bytes=int(num * BYTES))


def test_an_image_is_encoded_once_and_every_answer_is_in_order(encoder: Encoder) -> None:
    kept = cache(encoder, 9)
    first = kept.encode(own(plain(1), plain(2), plain(1)))
    again = kept.encode(own(plain(2), plain(3)))
    assert [latent[0, 0, 0].item() for latent in first + again] == [1, 2, 1, 2, 3]
    assert len(encoder.encoded) == 3
    assert kept.num_bytes == 3 * BYTES


def test_tenants_are_encoded_apart(encoder: Encoder) -> None:
    kept = cache(encoder, 9)
    kept.encode(own(plain(1), tenant="a") + own(plain(1), tenant="b"))
    kept.encode(own(plain(1), tenant="a"))
    assert len(encoder.encoded) == 2


def test_equal_bytes_of_another_shape_are_another_image(encoder: Encoder) -> None:
    cache(encoder, 9).encode(own(plain(1, (2, 8)), plain(1, (8, 2))))
    assert len(encoder.encoded) == 2


def test_the_least_recently_used_goes_first(encoder: Encoder) -> None:
    kept = cache(encoder, 2)
    for shade in (1, 2, 1, 3, 1, 2):
        kept.encode(own(plain(shade)))
    assert [image.getpixel((0, 0))[0] for image in encoder.encoded] == [1, 2, 3, 2]  # type: ignore[index]
    assert kept.num_bytes <= 2 * BYTES


@pytest.mark.parametrize("num", [0, 0.5])
def test_what_is_larger_than_the_budget_is_encoded_and_not_kept(encoder: Encoder, num: float) -> None:
    kept = cache(encoder, num)
    assert len(kept.encode(own(plain(1))) + kept.encode(own(plain(1)))) == 2
    assert len(encoder.encoded) == 2
    assert kept.num_bytes == 0
