"""Picture files to tensors and back, and the rules of sizes.

Whatever comes from outside is bounded before it is decoded: bytes first, then pixels.

Shapes: H and W pixels.
"""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from model.errors import BadRequest, InvalidImage
from model.family import Capabilities, Size

Format = Literal["png", "jpeg", "webp"]
INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64 * 1024 * 1024
WHITE = (255, 255, 255)


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB picture as float32 [3,H,W] in [-1, 1]."""
    pixels_HW3 = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32))
    return (pixels_HW3 / 127.5 - 1).permute(2, 0, 1)


def to_pictures(pixels: Sequence[Tensor]) -> list[Image.Image]:
    """Return float pictures [3,H,W] in [0, 1] as 8-bit RGB; what lies outside is clipped."""
    arrays = [(p.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy() for p in pixels]
    return [Image.fromarray(array) for array in arrays]


def open_image(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture from outside into plain 8-bit RGB.

    Turned upright as its EXIF says, metadata dropped, transparency over white, first frame of an animation.

    Raises:
        InvalidImage: Too many bytes or pixels, not one of the formats read, or broken.
    """
    if len(data) > max_bytes:
        raise InvalidImage(f"the image has {len(data)} bytes, {max_bytes} at most", param="image")
    try:
        with Image.open(BytesIO(data), formats=INPUT_FORMATS) as image:
            _check_pixels(image, max_pixels)
            return _plain(ImageOps.exif_transpose(image))
    except InvalidImage:
        raise
    except Exception as error:  # decoders raise all kinds of errors on broken files
        names = ", ".join(INPUT_FORMATS)
        raise InvalidImage(f"the image cannot be read as {names}, or is broken", param="image") from error


def encode_image(image: Image.Image, image_format: Format = "png", compression: int | None = None) -> bytes:
    """Write a picture as a file.

    Args:
        image: RGB.
        image_format: Of the file.
        compression: Quality of jpeg and webp, 0 to 100; None takes 95. A png loses nothing and has none.

    Raises:
        BadRequest: The compression is out of range, or does not go with the format.
    """
    if compression is not None and (image_format == "png" or not 0 <= compression <= 100):
        raise BadRequest("output_compression is 0 to 100, for jpeg and webp", param="output_compression")
    file = BytesIO()
    quality = {} if image_format == "png" else {"quality": 95 if compression is None else compression}
    image.save(file, format=image_format.upper(), **quality)
    return file.getvalue()


def fitted_size(size: Size, *, max_pixels: int, max_side: int, step: int) -> Size:
    """Return the largest size of about these proportions within the limits, in whole steps, never enlarged.

    Source: OmniGen2, arXiv:2506.18871, released preprocessor.
    """
    longer = max(size.width, size.height)
    ratio = min(math.sqrt(max_pixels / (size.width * size.height)), max_side / longer, 1.0)
    width, height = (max(step, int(side * ratio) // step * step) for side in (size.width, size.height))
    return Size(width, height)


def resize_reference(image: Image.Image, *, max_pixels: int, max_side: int, step: int) -> Image.Image:
    """Reduce a reference image to the limits, in whole steps."""
    size = fitted_size(Size(*image.size), max_pixels=max_pixels, max_side=max_side, step=step)
    if (size.width, size.height) == image.size:
        return image
    return image.resize((size.width, size.height), Image.Resampling.LANCZOS)


def output_size(references: Sequence[Image.Image], can: Capabilities) -> Size:
    """Return the size of an edit that names none: that of the first image, within the limits."""
    fitted = fitted_size(
        Size(*references[0].size), max_pixels=can.max_pixels, max_side=can.max_side, step=can.size_step
    )
    return Size(max(fitted.width, can.min_side), max(fitted.height, can.min_side))


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise InvalidImage(
            f"the image has {image.width}x{image.height} pixels, {max_pixels} in all at most", param="image"
        )


def _plain(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray(
            (np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        )
    plain = Image.new("RGB", image.size, WHITE)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        plain.paste(image, mask=image.getchannel("A"))
    else:
        plain.paste(image.convert("RGB"))
    return plain
