"""Golden vectors of the reference implementation, and the network that they were made with."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from model.drawing import Drawing, Easel, Plan
from model.family import Row, Size
from model.flow import Walk
from model.guidance import Branch, Guidance
from model.omnigen2.config import OmniGen2CheckpointConfig, OmniGen2Config
from model.omnigen2.family import OmniGen2, TextContext

FOLDER = Path(__file__).parents[2] / "goldens/omnigen2"
WEIGHTS = ("weights-layers", "weights-refiners-a", "weights-refiners-b")
FORWARDS = ("fwd_t2i", "fwd_ref1", "fwd_batch2_samesize")
LOOPS = ("loop_t2i_nocfg", "loop_t2i_textcfg", "loop_edit_text_image_cfg")


def described(name: str) -> dict[str, Any]:
    """Return the description of a golden vector."""
    description: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return description


def tensors(name: str) -> dict[str, Tensor]:
    """Return the tensors of a golden vector."""
    return load_file(FOLDER / f"{name}.safetensors")


def golden_family() -> OmniGen2:
    """Build the transformer of the golden vectors, alone."""
    config = OmniGen2CheckpointConfig(transformer=OmniGen2Config.from_dict(described("fwd_t2i")["config"]))
    family = OmniGen2(config, None)
    weights = {name: weight for file in WEIGHTS for name, weight in tensors(file).items()}
    family.transformer.load_state_dict(weights)
    family.module.requires_grad_(False).eval()
    return family


def features(case: dict[str, Tensor], sample: int, side: str = "") -> Tensor:
    """Return a sample's text features [L, F] without their padding."""
    states_LF = case[f"in.{side}text_hidden_states"][sample]
    return states_LF[case[f"in.{side}text_attention_mask"][sample].bool()]


def references(case: dict[str, Tensor], sample: int) -> tuple[Tensor, ...]:
    """Return a sample's reference latents."""
    return tuple(case[name] for name in sorted(case) if name.startswith(f"in.ref_latents.{sample}."))


def context(family: OmniGen2, features_LF: Tensor) -> TextContext:
    """Refine text features, as prefill does."""
    return TextContext(*family.transformer.refine_texts([features_LF]))


def forward_rows(family: OmniGen2, case: dict[str, Tensor]) -> list[Row]:
    """Return the rows of a golden forward."""
    return [
        Row(
            latent_CYX=case[f"in.latents.{i}"],
            time=float(time),
            context=context(family, features(case, i)),
            references=references(case, i),
        )
        for i, time in enumerate(case["in.timestep"])
    ]


def begin_loop(family: OmniGen2, name: str) -> Easel:
    """Return a golden loop before its first step."""
    told, case = described(name), tensors(name)
    rows, columns = told["latent_size"]
    low, high = told["cfg_range"]
    guidance = Guidance(
        text=told["text_guidance_scale"], image=told["image_guidance_scale"], interval=(low, high)
    )
    plan = Plan(
        size=Size(8 * columns, 8 * rows), seeds=(0,), num_steps=told["num_inference_steps"], guidance=guidance
    )
    full = context(family, features(case, 0))
    contexts = {Branch.FULL: full}
    if "in.negative_text_hidden_states" in case:
        negative = context(family, features(case, 0, "negative_"))
        contexts |= {Branch.NO_TEXT: negative, Branch.NO_IMAGE: negative}
    easel = Easel(family, Drawing(prompt=""), plan, contexts, references(case, 0))
    easel.walks = [Walk(case["in.latents"][0], easel.walks[0].times, told["scheduler"])]
    return easel
