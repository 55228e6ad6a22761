"""Picture files to tensors and back, and the rules of sizes.

What comes from outside is bounded before it is decoded: bytes first, then pixels. model/image_file.py says
what of a file a decoder gets.

Shapes: H and W pixels.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.errors import BadRequest, ImageTooLarge, InvalidImage
from model.family import Capabilities, Size
from model.image_file import PNG, FileFormat, ImageFile, read_image_file

Format = Literal["png", "jpeg", "webp"]
MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64 * 1024 * 1024
WHITE = (255, 255, 255)
MEDIA_TYPES: Mapping[FileFormat, str] = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}
UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB picture as float32 [3,H,W] in [-1, 1]."""
    pixels_HW3 = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32))
    return (pixels_HW3 / 127.5 - 1).permute(2, 0, 1)


def to_pictures(pixels: Sequence[Tensor]) -> list[Image.Image]:
    """Return float pictures [3,H,W] in [0, 1] as 8-bit RGB; what lies outside is clipped."""
    arrays = [(p.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy() for p in pixels]
    return [Image.fromarray(array) for array in arrays]


def open_image(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    media_type: str | None = None,
) -> Image.Image:
    """Decode a picture from outside into plain 8-bit RGB.

    Turned upright as its EXIF says, metadata dropped, transparency over white, first frame of an animation.

    Args:
        data: A PNG, JPEG, WEBP or GIF file.
        max_bytes: Most bytes of the file.
        max_pixels: Most pixels of the picture.
        media_type: What the file is said to be, such as image/png; None says nothing.

    Raises:
        ImageTooLarge: Too many bytes, or a header that says too many pixels; nothing was decoded.
        InvalidImage: Not one of the formats read, not what it is said to be, or broken.
    """
    return _decode(data, max_bytes, max_pixels, media_type, _plain)


def open_mask(
    data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS, media_type: str | None = None
) -> Image.Image:
    """Decode a mask from outside into mode "1": True where a picture may change.

    That is where it is wholly transparent, or, where nothing of it is transparent, white.

    Args:
        data: A PNG file.
        max_bytes: As in open_image.
        max_pixels: As in open_image.
        media_type: As in open_image.

    Raises:
        ImageTooLarge: As in open_image.
        InvalidImage: As in open_image, or no PNG.
    """
    if not data.startswith(PNG):
        raise InvalidImage("the mask must be a PNG")
    return _decode(data, max_bytes, max_pixels, media_type, _mask)


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


def pixels_hash(image: Image.Image) -> str:
    """Return the SHA-256 over a picture's size and RGB bytes, which no file format changes."""
    size = f"{image.width}x{image.height} RGB\n".encode()
    return hashlib.sha256(size + image.convert("RGB").tobytes()).hexdigest()


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


def _decode(
    data: bytes,
    max_bytes: int,
    max_pixels: int,
    media_type: str | None,
    convert: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    if len(data) > max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes, {max_bytes} at most")
    file = read_image_file(data, max_pixels=max_pixels)
    if media_type not in (None, MEDIA_TYPES[file.format]):
        raise InvalidImage(f"the image is said to be {media_type}, but is {MEDIA_TYPES[file.format]}")
    try:
        picture = convert(_load(file))
    except Exception as error:  # decoders raise all kinds of errors on broken files
        raise InvalidImage(f"the image begins as {file.format}, but is truncated or broken") from error
    picture.info = {}
    turn = UPRIGHT.get(file.orientation)
    return picture if turn is None else picture.transpose(turn)


def _load(file: ImageFile) -> Image.Image:
    with Image.open(BytesIO(file.data), formats=(file.format,)) as image:
        if image.size != (file.width, file.height):
            raise ValueError("the decoder reads another size than was checked")
        image.load()
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of 16-bit greys in 8 bits; every other one as it is."""
    if not image.mode.startswith("I"):
        return image
    values_HW = np.asarray(image)
    greys_HW = np.rint(np.arange(2**16) / 257).astype(np.uint8)[values_HW]
    if "transparency" not in image.info:
        return Image.fromarray(greys_HW)
    opacity_HW = np.where(values_HW == image.info["transparency"], 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(greys_HW), Image.fromarray(opacity_HW)))


def _plain(image: Image.Image) -> Image.Image:
    image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    plain = Image.new("RGB", image.size, WHITE)
    plain.paste(clear, mask=clear)
    return plain


def _mask(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        opacity_HW = np.asarray(_eight_bits(image).convert("RGBA").getchannel("A"))
        if opacity_HW.min() < 255:
            return Image.fromarray(opacity_HW == 0)
    if image.mode.startswith("I"):
        return Image.fromarray(np.asarray(image) == 2**16 - 1)
    return Image.fromarray((np.asarray(image.convert("RGB")) == 255).all(-1))
