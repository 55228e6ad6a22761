"""The networks at their published sizes, without weights: names, shapes and counts of the specification.

The tables are written from the published descriptions of the checkpoints, not from our networks. In a name,
{a,b} is either and {0..3} is each of 0 to 3.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from model.checkpoint import build, count_weights, read_config
from model.registry import resolve

Shape = tuple[int, ...]
Table = Mapping[str, Shape]

WIDTH, TIME, KV, FFN = 2520, 1024, 840, 10240
BLOCK: Table = {
    "attn.to_q.weight": (WIDTH, WIDTH),
    "attn.{to_k,to_v}.weight": (KV, WIDTH),
    "attn.to_out.0.weight": (WIDTH, WIDTH),
    "attn.{norm_q,norm_k}.weight": (120,),
    "feed_forward.{linear_1,linear_3}.weight": (FFN, WIDTH),
    "feed_forward.linear_2.weight": (WIDTH, FFN),
    "{norm2,ffn_norm1,ffn_norm2}.weight": (WIDTH,),
}
MODULATED: Table = {
    **BLOCK,
    "norm1.linear.weight": (4 * WIDTH, TIME),
    "norm1.linear.bias": (4 * WIDTH,),
    "norm1.norm.weight": (WIDTH,),
}
UNMODULATED: Table = {**BLOCK, "norm1.weight": (WIDTH,)}
TEXT_SIDE: Table = {
    "time_caption_embed.caption_embedder.0.weight": (2048,),
    "time_caption_embed.caption_embedder.1.weight": (WIDTH, 2048),
    "time_caption_embed.caption_embedder.1.bias": (WIDTH,),
    **{f"context_refiner.{{0,1}}.{name}": shape for name, shape in UNMODULATED.items()},
}
IMAGE_SIDE: Table = {
    "image_index_embedding": (5, WIDTH),
    "{x_embedder,ref_image_patch_embedder}.weight": (WIDTH, 64),
    "{x_embedder,ref_image_patch_embedder}.bias": (WIDTH,),
    "time_caption_embed.timestep_embedder.linear_1.weight": (TIME, 256),
    "time_caption_embed.timestep_embedder.linear_2.weight": (TIME, TIME),
    "time_caption_embed.timestep_embedder.{linear_1,linear_2}.bias": (TIME,),
    "norm_out.linear_1.weight": (WIDTH, TIME),
    "norm_out.linear_1.bias": (WIDTH,),
    "norm_out.linear_2.weight": (64, WIDTH),
    "norm_out.linear_2.bias": (64,),
    **{f"{{noise_refiner,ref_image_refiner}}.{{0,1}}.{name}": shape for name, shape in MODULATED.items()},
    **{f"layers.{{0..31}}.{name}": shape for name, shape in MODULATED.items()},
}
BRIDGE: Table = {
    "bridge.{6..21}.q_linear.weight": (3584, 2520),
    "bridge.{6..21}.{k,v}_linear.weight": (512, 840),
    "bridge.{6..21}.o_linear.weight": (2520, 3584),
    "srt_tokens": (16, 2520),
    "srt_proj.weight": (3584, 2520),
    "srt_proj.bias": (3584,),
}


def qwen(*, hidden: int, layers: int, key_width: int, ffn: int, vocabulary: int, tied: bool) -> Table:
    layer = f"model.layers.{{0..{layers - 1}}}"
    head: Table = {} if tied else {"lm_head.weight": (vocabulary, hidden)}
    return {
        **head,
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        f"{layer}.{{input_layernorm,post_attention_layernorm}}.weight": (hidden,),
        f"{layer}.self_attn.{{q,o}}_proj.weight": (hidden, hidden),
        f"{layer}.self_attn.q_proj.bias": (hidden,),
        f"{layer}.self_attn.{{k,v}}_proj.weight": (key_width, hidden),
        f"{layer}.self_attn.{{k,v}}_proj.bias": (key_width,),
        f"{layer}.mlp.{{gate,up}}_proj.weight": (ffn, hidden),
        f"{layer}.mlp.down_proj.weight": (hidden, ffn),
    }


def tower(out: int) -> Table:
    return {
        "visual.patch_embed.proj.weight": (1280, 3, 2, 14, 14),
        "visual.blocks.{0..31}.{norm1,norm2}.weight": (1280,),
        "visual.blocks.{0..31}.attn.qkv.weight": (3840, 1280),
        "visual.blocks.{0..31}.attn.qkv.bias": (3840,),
        "visual.blocks.{0..31}.attn.proj.weight": (1280, 1280),
        "visual.blocks.{0..31}.{attn.proj,mlp.down_proj}.bias": (1280,),
        "visual.blocks.{0..31}.mlp.{gate,up}_proj.weight": (3420, 1280),
        "visual.blocks.{0..31}.mlp.{gate,up}_proj.bias": (3420,),
        "visual.blocks.{0..31}.mlp.down_proj.weight": (1280, 3420),
        "visual.merger.ln_q.weight": (1280,),
        "visual.merger.mlp.0.weight": (5120, 5120),
        "visual.merger.mlp.0.bias": (5120,),
        "visual.merger.mlp.2.weight": (out, 5120),
        "visual.merger.mlp.2.bias": (out,),
    }


def conv(name: str, out: int, into: int, side: int = 3) -> Table:
    return {f"{name}.weight": (out, into, side, side), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Table:
    return {f"{name}.{{weight,bias}}": (width,)}


def resnet(name: str, into: int, out: int) -> Table:
    shortcut = conv(f"{name}.conv_shortcut", out, into, 1) if into != out else {}
    return {
        **norm(f"{name}.norm1", into),
        **conv(f"{name}.conv1", out, into),
        **norm(f"{name}.norm2", out),
        **conv(f"{name}.conv2", out, out),
        **shortcut,
    }


def middle(side: str) -> Table:
    attention = f"{side}.mid_block.attentions.0"
    return {
        **resnet(f"{side}.mid_block.resnets.{{0,1}}", 512, 512),
        **norm(f"{attention}.group_norm", 512),
        f"{attention}.{{to_q,to_k,to_v,to_out.0}}.weight": (512, 512),
        f"{attention}.{{to_q,to_k,to_v,to_out.0}}.bias": (512,),
    }


AUTOENCODER: Table = {
    **conv("encoder.conv_in", 128, 3),
    **resnet("encoder.down_blocks.0.resnets.{0,1}", 128, 128),
    **conv("encoder.down_blocks.0.downsamplers.0.conv", 128, 128),
    **resnet("encoder.down_blocks.1.resnets.0", 128, 256),
    **resnet("encoder.down_blocks.1.resnets.1", 256, 256),
    **conv("encoder.down_blocks.1.downsamplers.0.conv", 256, 256),
    **resnet("encoder.down_blocks.2.resnets.0", 256, 512),
    **resnet("encoder.down_blocks.2.resnets.1", 512, 512),
    **conv("encoder.down_blocks.2.downsamplers.0.conv", 512, 512),
    **resnet("encoder.down_blocks.3.resnets.{0,1}", 512, 512),
    **middle("encoder"),
    **norm("encoder.conv_norm_out", 512),
    **conv("encoder.conv_out", 32, 512),
    **conv("decoder.conv_in", 512, 16),
    **middle("decoder"),
    **resnet("decoder.up_blocks.{0,1}.resnets.{0,1,2}", 512, 512),
    **conv("decoder.up_blocks.{0,1}.upsamplers.0.conv", 512, 512),
    **resnet("decoder.up_blocks.2.resnets.0", 512, 256),
    **resnet("decoder.up_blocks.2.resnets.{1,2}", 256, 256),
    **conv("decoder.up_blocks.2.upsamplers.0.conv", 256, 256),
    **resnet("decoder.up_blocks.3.resnets.0", 256, 128),
    **resnet("decoder.up_blocks.3.resnets.{1,2}", 128, 128),
    **norm("decoder.conv_norm_out", 128),
    **conv("decoder.conv_out", 3, 128),
}
QWEN_3B: Table = {
    **qwen(hidden=2048, layers=36, key_width=256, ffn=11008, vocabulary=151936, tied=True),
    **tower(2048),
}
QWEN_7B: Table = {
    **qwen(hidden=3584, layers=28, key_width=512, ffn=18944, vocabulary=152064, tied=False),
    **tower(3584),
}


@dataclass(frozen=True)
class Published:
    """A model of full size: which tables its parts have, and how many weights in all."""

    tables: Mapping[str, Table]
    counts: Mapping[str, int]


MODELS = {
    "omnigen2": Published(
        {"transformer": {**IMAGE_SIDE, **TEXT_SIDE}, "mllm": QWEN_3B, "vae": AUTOENCODER},
        {"transformer": 3_967_161_400, "mllm": 3_754_622_976, "vae": 83_819_683},
    ),
    "hbridge": Published(
        {"und": QWEN_7B, "gen": IMAGE_SIDE, "vae": AUTOENCODER, "": BRIDGE},
        {"und": 8_292_166_656, "vae": 83_819_683, "bridge": 302_776_320},
    ),
}


def expand(name: str) -> Iterator[str]:
    """Write a table's name out."""
    found = re.search(r"\{([^{}]*)\}", name)
    if not found:
        yield name
        return
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    choices = map(str, range(int(bounds[1]), int(bounds[2]) + 1)) if bounds else found[1].split(",")
    for choice in choices:
        yield from expand(name[: found.start()] + choice + name[found.end() :])


def expected(published: Published) -> dict[str, Shape]:
    return {
        f"{part}.{each}" if part else each: shape
        for part, table in published.tables.items()
        for name, shape in table.items()
        for each in expand(name)
    }


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_those_of_the_specification(name: str) -> None:
    module: nn.Module = build(read_config(resolve(name))).module
    assert {each: tuple(tensor.shape) for each, tensor in module.state_dict().items()} == expected(
        MODELS[name]
    )
    assert not list(module.buffers())


@pytest.mark.parametrize("name", MODELS)
def test_there_are_as_many_weights_as_published(name: str) -> None:
    counts = count_weights(read_config(resolve(name)))
    published = MODELS[name].counts
    assert {part: counts[part] for part in published} == published


def test_the_transformers_weights_are_where_the_specification_puts_them() -> None:
    module = build(read_config(resolve("omnigen2"))).module
    weights = {
        name: weight.numel() for name, weight in module.get_submodule("transformer").named_parameters()
    }
    millions = {
        "layers": 3350.1,
        "noise_refiner": 209.4,
        "ref_image_refiner": 209.4,
        "context_refiner": 188.7,
        "time_caption_embed": 6.5,
        "norm_out": 2.7,
        "x_embedder": 0.16,
        "ref_image_patch_embedder": 0.16,
    }
    for part, count in millions.items():
        own = sum(size for name, size in weights.items() if name.startswith(f"{part}."))
        assert own / 1e6 == pytest.approx(count, abs=0.06)
    modulation = sum(size for name, size in weights.items() if ".norm1.linear." in name)
    assert modulation / 1e6 == pytest.approx(371.95, abs=0.006)


def test_a_bridge_to_the_smallest_expert_has_the_size_of_the_specification() -> None:
    small: dict[str, Any] = {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "mrope_section": [8, 12, 12],
        "eos_token_id": 151645,
        "tie_word_embeddings": True,
    }
    config = {"family": "hbridge", "understanding": small, "prefix_layers": 8}
    module = build(config).module
    bridge = {name: weight for name, weight in module.named_parameters() if name.startswith("bridge.")}
    assert {name.split(".")[1] for name in bridge} == {str(pair) for pair in range(6, 18)}
    assert tuple(bridge["bridge.6.q_linear.weight"].shape) == (896, 2520)
    assert tuple(bridge["bridge.6.k_linear.weight"].shape) == (128, 840)
    assert tuple(bridge["bridge.6.o_linear.weight"].shape) == (2520, 896)
    assert sum(weight.numel() for weight in bridge.values()) / 12e6 == pytest.approx(4.73, abs=0.005)
    assert count_weights(config)["und"] == 494_032_768
