from model.omnigen2.names import OMNIGEN2


def test_parts_are_the_folders_of_the_release() -> None:
    assert OMNIGEN2.ours("mllm.model.language_model.norm.weight") == "mllm.model.norm.weight"
    assert (
        OMNIGEN2.ours("vae.decoder.up.0.upsample.conv.bias")
        == "vae.decoder.up_blocks.3.upsamplers.0.conv.bias"
    )
    assert OMNIGEN2.ours("transformer.layers.0.norm2.weight") == "transformer.layers.0.norm2.weight"


def test_no_weight_of_the_transformer_is_spare() -> None:
    assert not OMNIGEN2.is_spare("transformer.lm_head.weight")
