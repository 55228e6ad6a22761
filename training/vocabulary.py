"""Stage "tokenizer": a byte-level BPE of the shapes world's English, with Qwen's special tokens.

Every word of the world is a token or two; any other text falls apart into bytes, so nothing is unreadable.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from service.about import WORD
from training.canvas import Canvas
from training.captions import CAPTIONS
from training.edits import EDITS
from training.english import describe, parse
from training.questions import QUESTIONS, question
from training.world import random_scene

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits text before byte pairs are joined."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
"""Qwen's chat template without its default system turn."""


def train_tokenizer(folder: Path, *, vocab_size: int, sentences: int, seed: int) -> dict[str, int]:
    """Write tokenizer.json and tokenizer_config.json; return the ids of the special tokens."""
    words = Tokenizer(models.BPE())
    words.normalizer = normalizers.NFC()
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(_sentences(Random(seed), sentences), trainer)
    words.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return {token: words.get_vocab()[token] for token in SPECIAL}


def known_words(*, sentences: int, seed: int) -> list[str]:
    """Return the words of the shapes world, in lower case and in order; names of chat roles are none."""
    texts = [text for text in _sentences(Random(seed), sentences) if not text.endswith("\n")]
    return sorted({word.lower() for text in texts for word in WORD.findall(text)})


def _sentences(rng: Random, count: int) -> Iterator[str]:
    canvas = Canvas()
    for _ in range(count // 4):
        caption = rng.choice(list(CAPTIONS.values()))(rng, canvas)
        yield from (caption.text, parse(caption.wish))
        edit = rng.choice(list(EDITS.values()))(rng, canvas)
        yield from (edit.text, describe(edit.after))
        scene = random_scene(rng, 64, 64)
        for kind in QUESTIONS:
            query = question(rng, scene, kind)
            if query is not None:
                yield from (query.text, query.answer)
        yield from ("user\n", "assistant\n", "\n")
