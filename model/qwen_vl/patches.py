"""Pictures cut into what the vision tower reads.

Shapes: H and W pixels, P patches, E values of a patch.
"""

import math

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from model.errors import InvalidImage
from model.qwen_vl.config import VisionConfig
from model.qwen_vl.token_prompt import ImagePatches

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_ASPECT = 200


def cut(image: Image, config: VisionConfig) -> ImagePatches:
    """Resize an RGB picture to whole tokens, normalise it and cut it.

    Raises:
        InvalidImage: It is more than 200 times as long as it is wide.
    """
    width, height = fitted_size(image.width, image.height, config)
    if (width, height) != image.size:
        image = image.resize((width, height), Resampling.BICUBIC)
    pixels_HW3 = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)
    normal_HW3 = (pixels_HW3 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    return ImagePatches(
        patches_PE=_patches(normal_HW3, config),
        rows=height // config.merged_size,
        columns=width // config.merged_size,
    )


def fitted_size(width: int, height: int, config: VisionConfig) -> tuple[int, int]:
    """Return the nearest width and height in whole tokens within the pixel limits.

    Raises:
        InvalidImage: It is more than 200 times as long as it is wide.

    Source: Qwen2-VL, Wang et al. 2024, arXiv:2409.12191, section 2.1, as its released preprocessor does it.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImage(f"a picture of {width}x{height} is too long for its width", param="images")
    step = config.merged_size
    sides = [round(side / step) * step for side in (width, height)]
    if math.prod(sides) > config.max_pixels:
        shrink = math.sqrt(width * height / config.max_pixels)
        sides = [max(step, math.floor(side / shrink / step) * step) for side in (width, height)]
    elif math.prod(sides) < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (width * height))
        sides = [math.ceil(side * grow / step) * step for side in (width, height)]
    return sides[0], sides[1]


def _patches(pixels_HW3: Tensor, config: VisionConfig) -> Tensor:
    merge, side = config.spatial_merge_size, config.patch_size
    cells = pixels_HW3.view(-1, merge, side, pixels_HW3.shape[1] // (merge * side), merge, side, 3)
    ordered = cells.permute(0, 3, 1, 4, 6, 2, 5).flatten(0, 3)
    frames = ordered[:, :, None].expand(-1, -1, config.temporal_patch_size, -1, -1)
    return frames.flatten(1)
