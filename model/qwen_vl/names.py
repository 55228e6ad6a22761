"""What Qwen2.5-VL checkpoints call their tensors, as the networks' own names.

The releases say `model.layers` and `visual`; transformers saves `model.language_model.layers` and
`model.visual` since 4.52, and leaves the first word out when the language head is not saved along.
"""

from model.names import PartNames

QWEN_VL = PartNames(
    renamed=(
        (r"^(model\.)?language_model\.", "model."),
        (r"^model\.visual\.", "visual."),
    ),
    # A head that is tied is not ours, and tables of rotations are made anew.
    spare=r"^lm_head\.weight$|\.(rotary_emb|rotary_pos_emb)\.inv_freq$",
)
