import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from model.qwen_vl.config import VisionConfig
from model.qwen_vl.vision import build_vision

SIZES = {
    "hidden_size": 32, "depth": 3, "num_heads": 2, "intermediate_size": 64, "patch_size": 14,
    "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 56, "fullatt_block_indexes": (1,),
    "out_hidden_size": 24,
}  # fmt: skip


def test_our_attention_and_rotation_equal_the_library_s() -> None:
    library = Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**SIZES))
    ours = build_vision(VisionConfig(**SIZES))  # type: ignore[arg-type]
    ours.load_state_dict(library.state_dict())
    grid = torch.tensor([[1, 6, 10], [1, 4, 4]])
    patches_PE = torch.randn(76, 1176)
    with torch.no_grad():
        expected_TC: Tensor = library(patches_PE, grid_thw=grid).pooler_output
        found_TC: Tensor = ours(patches_PE, grid_thw=grid).pooler_output
    torch.testing.assert_close(found_TC, expected_TC, rtol=0, atol=1e-5)


def test_images_are_seen_alone() -> None:
    tower = build_vision(VisionConfig(**SIZES))  # type: ignore[arg-type]
    patches_PE = torch.randn(76, 1176)
    with torch.no_grad():
        both_TC = tower(patches_PE, grid_thw=torch.tensor([[1, 6, 10], [1, 4, 4]])).pooler_output
        alone_TC = tower(patches_PE[60:], grid_thw=torch.tensor([[1, 4, 4]])).pooler_output
    torch.testing.assert_close(both_TC[15:], alone_TC, rtol=0, atol=1e-5)


def test_the_tower_holds_no_buffers() -> None:
    assert list(build_vision(VisionConfig(**SIZES)).buffers()) == []  # type: ignore[arg-type]
