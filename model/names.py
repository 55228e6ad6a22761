"""What checkpoints call tensors, as data: how a published name becomes ours.

A name is a part, a dot and the rest, such as "vae.encoder.conv_in.weight"; each part has a table of its own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PartNames:
    """One part's table.

    Attributes:
        renamed: Regular expressions and what takes their place, all applied, in order.
        spare: Regular expression of names that nobody needs; they may be left over.
    """

    renamed: tuple[tuple[str, str], ...] = ()
    spare: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """A family's tables.

    Attributes:
        parts: By the first word of a name.
        optional: Parts that may be absent as a whole.
    """

    parts: Mapping[str, PartNames] = field(default_factory=dict)
    optional: tuple[str, ...] = ()

    def ours(self, published: str) -> str:
        """Return our name of a tensor; one that is ours already stays as it is."""
        part, dot, rest = published.partition(".")
        for pattern, replacement in self._of(part).renamed:
            rest = re.sub(pattern, replacement, rest)
        return part + dot + rest

    def is_spare(self, name: str) -> bool:
        """Whether a tensor may be left over, by our name."""
        part, _, rest = name.partition(".")
        spare = self._of(part).spare
        return spare is not None and re.search(spare, rest) is not None

    def _of(self, part: str) -> PartNames:
        return self.parts.get(part, PartNames())
