import pytest
import torch
from PIL import Image
from torch import Tensor

from model.errors import InvalidImage
from model.qwen_vl.config import QwenVLConfig, VisionConfig
from model.qwen_vl.patches import cut, fitted_size


@pytest.fixture
def vision(config: QwenVLConfig) -> VisionConfig:
    assert config.vision is not None
    return config.vision


def test_patches_are_the_golden_ones(vision: VisionConfig, image_golden: dict[str, Tensor]) -> None:
    patches = cut(Image.fromarray(image_golden["in.image.0.u8"].numpy()), vision)
    assert (patches.rows, patches.columns) == (3, 4)
    torch.testing.assert_close(patches.patches_PE, image_golden["in.image.0.patches"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "fitted"),
    [
        ((64, 64), (56, 56)),
        ((10, 10), (56, 56)),
        ((112, 84), (112, 84)),
        ((4000, 3000), (1148, 840)),
        ((1500, 30), (1512, 28)),
    ],
)
def test_sizes_are_whole_tokens_within_the_limits(
    vision: VisionConfig, given: tuple[int, int], fitted: tuple[int, int]
) -> None:
    assert fitted_size(*given, vision) == fitted


def test_a_thread_of_a_picture_is_refused(vision: VisionConfig) -> None:
    with pytest.raises(InvalidImage):
        cut(Image.new("RGB", (2010, 10)), vision)


def test_a_resized_picture_fills_its_tokens(vision: VisionConfig) -> None:
    patches = cut(Image.new("RGB", (100, 60), (255, 255, 255)), vision)
    assert patches.num_tokens == patches.rows * patches.columns == 8
    assert patches.patches_PE.shape == (32, 1176)
