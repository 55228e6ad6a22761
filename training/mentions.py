"""Words that mean a thing of a picture, and where they end in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.world import Thing


@dataclass(frozen=True, slots=True)
class Mention:
    """Words in a sentence about a picture, and the one thing that they mean; None is not there."""

    words: str
    thing: Thing | None


def ends(text: str, mentions: Sequence[Mention]) -> list[int]:
    """Return how many characters of a sentence lead to the end of each mention.

    Args:
        mentions: In the order in which they come; a sentence's capital letter aside.

    Raises:
        ValueError: The sentence lacks one.
    """
    plain, found, end = text.lower(), [], 0
    for mention in mentions:
        end = plain.index(mention.words, end) + len(mention.words)
        found.append(end)
    return found
