"""What hbridge checkpoints call their tensors: the experts' published names under a word each."""

from model.latents import AUTOENCODER
from model.names import Names
from model.omnigen2.names import TRANSFORMER
from model.qwen_vl.names import QWEN_VL

HBRIDGE = Names(
    parts={"und": QWEN_VL, "gen": TRANSFORMER, "vae": AUTOENCODER},
    optional=("srt_proj", "vae"),
)
