"""What OmniGen2 checkpoints call their tensors; parts are the folders of the release."""

from model.latents import AUTOENCODER
from model.names import Names, PartNames
from model.qwen_vl.names import QWEN_VL

TRANSFORMER = PartNames()
OMNIGEN2 = Names(
    parts={"transformer": TRANSFORMER, "mllm": QWEN_VL, "vae": AUTOENCODER},
    optional=("vae",),
)
