"""Contexts kept by what was read, so that nothing is read twice while it is remembered.

A prompt is looked for as a whole, then by its beginnings. Families cut where images end, and images are what
comes back: in the other branches of an edit, in the next question. They are also the dear part, since they
pass the vision tower and outnumber the words. So beginnings up to the last cut are kept too: those that
several prompts of a round need are read first, in a packed call of their own; any other is a part of what
the one call for all the rest leaves.

Tenants are served apart, also where their prompts are equal: how soon an answer comes, and how many of its
tokens were cached, must not tell what others have asked. But the empty prompt, the negative branch of nearly
everybody, tells nothing of anybody: it is read once for all.

Used on the engine's thread only: there are no locks. Knows families by their contract, and no tensors.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from model.errors import ModelError
from model.family import Block, Context, Depth, Family, PreparedPrompt
from model.prompt import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A job's wish for the context of a prompt.

    Attributes:
        tenant: Whose job it is.
    """

    job_id: str
    prompt: PreparedPrompt
    tenant: str = ""


@dataclass(frozen=True)
class OwnPrompt:
    """A prompt that only its tenant's prompts are equal to."""

    prompt: PreparedPrompt
    tenant: str

    @property
    def depth(self) -> Depth:
        """What its context will hold."""
        return self.prompt.depth

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All of it in order, by keys of the tenant's own."""
        suffix = self.tenant.encode()
        blocks = self.prompt.blocks
        return tuple(Block(key=each.key + suffix, num_tokens=each.num_tokens) for each in blocks)

    def beginning(self, num_blocks: int) -> "OwnPrompt":
        """Return its first blocks as a prompt, as the prompt itself does."""
        return OwnPrompt(self.prompt.beginning(num_blocks), self.tenant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """What an ask gets.

    Attributes:
        prefilled_tokens: Tokens that were read for this ask.
        cached_tokens: The prompt's other tokens, read before or for an earlier ask of the round.
    """

    context: Context
    prefilled_tokens: int
    cached_tokens: int


@dataclass(slots=True)
class Entry:
    """A context and the jobs that hold it."""

    context: Context
    num_bytes: int
    holders: set[str] = field(default_factory=set)


class PrefixCache:
    """Contexts of one family in a byte budget; the least recently used goes first.

    What a job holds stays, so the budget is exceeded only by what is held, and during a round by what the
    round reads.

    Attributes:
        num_bytes: Memory of all contexts that are kept.
        num_queries: Prompts asked for.
        num_hits: Prompts of which nothing had to be read.
        num_reused_tokens: Tokens that did not have to be read.
    """

    def __init__(self, family: Family, *, max_bytes: int) -> None:
        self._family = family
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[bytes, Depth], Entry] = OrderedDict()
        self.num_bytes = 0
        self.num_queries = 0
        self.num_hits = 0
        self.num_reused_tokens = 0
        self._empty = _key_of_nothing(family)

    def prefill(self, asks: Sequence[Ask]) -> list[Prefilled]:
        """Return a context for each ask, held for its job until `release`.

        Equal prompts, and prompts that are equal up to their last block, are read once, and counted for
        the first of them. When the family raises, nothing is held for these asks.
        """
        prompts = [
            OwnPrompt(ask.prompt, "" if ask.prompt.blocks[-1].key == self._empty else ask.tenant)
            for ask in asks
        ]
        try:
            cut = [prompt for prompt in self._missing(prompts) if len(prompt.blocks) > 1]
            wanted = Counter(prompt.blocks[-2].key for prompt in cut)
            shared = [_beginning(prompt) for prompt in cut if wanted[prompt.blocks[-2].key] > 1]
            num_read = self._read(shared)
            num_read |= self._read(prompts)
            return [
                self._take(ask.job_id, prompt, num_read) for ask, prompt in zip(asks, prompts, strict=True)
            ]
        finally:
            self._evict()

    def release(self, job_id: str) -> None:
        """Let go of all that a job holds, which until now was in use; unknown ids are left."""
        for key, entry in list(self._entries.items()):
            if job_id in entry.holders:
                entry.holders.remove(job_id)
                self._entries.move_to_end(key)
        self._evict()

    def _read(self, prompts: Sequence[OwnPrompt]) -> dict[bytes, int]:
        """Read and keep what is missing; return how many tokens that took, by the prompt's key."""
        missing = self._missing(prompts)
        if not missing:
            return {}
        known = [self._longest_beginning(prompt) for prompt in missing]
        # Deep enough to be gone on from where the beginning is to be kept too.
        deep = [
            prompt if len(prompt.blocks) - num_blocks == 1 else prompt.beginning(len(prompt.blocks))
            for prompt, (num_blocks, _) in zip(missing, known, strict=True)
        ]
        contexts = self._family.prefill(
            [prompt.prompt for prompt in deep], prefixes=[context for _, context in known]
        )
        num_read = {}
        for prompt, (num_blocks, _), context in zip(missing, known, contexts, strict=True):
            if len(prompt.blocks) - num_blocks > 1:
                self._keep(_beginning(prompt), context)
            self._keep(prompt, context)
            num_read[prompt.blocks[-1].key] = sum(block.num_tokens for block in prompt.blocks[num_blocks:])
        return num_read

    def _keep(self, prompt: OwnPrompt, read: Context) -> None:
        """Keep the context of a prompt that is a part of what was read."""
        num_tokens = sum(block.num_tokens for block in prompt.blocks)
        context = self._family.part(read, num_tokens, prompt.depth)
        self._entries[prompt.blocks[-1].key, prompt.depth] = Entry(context, context.num_bytes)
        self.num_bytes += context.num_bytes

    def _missing(self, prompts: Sequence[OwnPrompt]) -> list[OwnPrompt]:
        """Return the prompts that have to be read; of equal ones the deepest."""
        by_depth = sorted(prompts, key=lambda prompt: prompt.depth)
        deepest = {prompt.blocks[-1].key: prompt for prompt in by_depth}
        return [prompt for key, prompt in deepest.items() if not self._find(key, prompt.depth)]

    def _longest_beginning(self, prompt: OwnPrompt) -> tuple[int, Context | None]:
        """Return the most leading blocks whose context can be gone on from, and that context."""
        depth = max(prompt.depth, Depth.BEGINNING)
        for num_blocks in range(len(prompt.blocks) - 1, 0, -1):
            if entry := self._find(prompt.blocks[num_blocks - 1].key, depth):
                return num_blocks, entry.context
        return 0, None

    def _find(self, key: bytes, depth: Depth) -> Entry | None:
        """Return what serves this depth, now the most recently used."""
        for enough in reversed(Depth):
            if enough >= depth and (entry := self._entries.get((key, enough))):
                self._entries.move_to_end((key, enough))
                return entry
        return None

    def _take(self, job_id: str, prompt: OwnPrompt, num_read: dict[bytes, int]) -> Prefilled:
        """Hold a context for a job; the first to take what was read accounts for it."""
        blocks = prompt.blocks
        entry = self._find(blocks[-1].key, prompt.depth)
        assert entry, "all that was missing has been read"
        entry.holders.add(job_id)
        was_read = blocks[-1].key in num_read
        prefilled = sum(num_read.pop(block.key, 0) for block in blocks[-2:]) if was_read else 0
        cached = sum(block.num_tokens for block in blocks) - prefilled
        self.num_queries += 1
        self.num_hits += not prefilled
        self.num_reused_tokens += cached
        return Prefilled(context=entry.context, prefilled_tokens=prefilled, cached_tokens=cached)

    def _evict(self) -> None:
        for key, entry in list(self._entries.items()):
            if self.num_bytes <= self._max_bytes:
                return
            if not entry.holders:
                del self._entries[key]
                self.num_bytes -= entry.num_bytes


def _key_of_nothing(family: Family) -> bytes | None:
    """Return the key of the empty prompt to draw; None if the family draws nothing."""
    try:
        return family.prepare(Prompt.draw("")).blocks[-1].key
    except ModelError:
        return None


def _beginning(prompt: OwnPrompt) -> OwnPrompt:
    """Return all but the last block."""
    return prompt.beginning(len(prompt.blocks) - 1)
