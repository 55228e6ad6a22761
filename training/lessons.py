"""Lessons of the understanding expert, as tokens: in the very templates that serving uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from model.prompt import Prompt
from model.qwen_vl.processor import Processor
from model.qwen_vl.token_prompt import TokenPrompt
from model.qwen_vl.tokenizer import Tokenizer
from training.canvas import Canvas
from training.captions import taught
from training.edits import EDITS
from training.english import parse
from training.mentions import Mention, ends
from training.questions import Query, question
from training.scenes import any_scene
from training.world import Scene, Thing, render

ASSISTANT = "<|im_start|>assistant\n"
END = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Pointer:
    """A token at which words end that mean a thing.

    Attributes:
        branch: In which continuation it lies; None is the prompt.
        token: Its place there.
        scene: What the picture shows.
        thing: What is meant; None where there is no such thing.
    """

    branch: int | None
    token: int
    scene: Scene
    thing: Thing | None


@dataclass(frozen=True, slots=True)
class Lesson:
    """A beginning and its continuations, which do not see each other.

    Attributes:
        branches: Tokens that ask, and tokens that answer; only the answer is learnt.
        pointers: Tokens at which words end that mean a thing of the picture.
    """

    prompt: TokenPrompt
    branches: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    pointers: tuple[Pointer, ...] = ()

    @property
    def num_learnt(self) -> int:
        """Tokens that are learnt."""
        return sum(len(answer) for _, answer in self.branches)


class Lessons:
    """Makes lessons out of scenes.

    Attributes:
        odd: Share of pictures with questions that may hold things without a name, as in any_scene.
    """

    def __init__(
        self, processor: Processor, tokenizer: Tokenizer, question_weights: Mapping[str, float], odd: float
    ) -> None:
        self.processor, self.tokenizer, self.odd = processor, tokenizer, odd
        self.kinds, self.weights = list(question_weights), list(question_weights.values())

    def questions(self, rng: Random, count: int) -> Lesson:
        """Several questions about one picture."""
        scene = any_scene(rng, odd=self.odd)
        queries: list[Query] = []
        while len(queries) < count:
            query = question(rng, scene, rng.choices(self.kinds, self.weights)[0])
            if query is not None:
                queries.append(query)
        pairs = ((f"{query.text}{END}\n{ASSISTANT}", query.answer) for query in queries)
        branches = tuple(self._branch(*pair) for pair in pairs)
        pointers = [
            Pointer(i, token, scene, mention.thing)
            for i, query in enumerate(queries)
            for token, mention in zip(self._ends(query.text, query.mentions), query.mentions, strict=True)
        ]
        return Lesson(self._about(scene), branches, tuple(pointers))

    def description(self, rng: Random) -> Lesson:
        """All that one picture shows."""
        scene = any_scene(rng)
        query = question(rng, scene, "description")
        assert query is not None, "every scene can be described"
        return Lesson(self._about(scene), (self._branch(f"{query.text}{END}\n{ASSISTANT}", query.answer),))

    def meaning(self, rng: Random) -> Lesson:
        """What a prompt demands, told without a picture."""
        caption = taught(rng, Canvas())
        prompt = self.processor.encode(Prompt.draw(caption.text))
        return Lesson(prompt, (self._branch(ASSISTANT, parse(caption.wish)),))

    def outcome(self, rng: Random) -> Lesson:
        """What an instruction makes of a picture, as far as it decides."""
        edit = rng.choice(list(EDITS.values()))(rng, Canvas(lattice=rng.random() < 0.6))
        prompt = self.processor.encode(Prompt.draw(edit.text, (render(edit.before),)))
        tail = len(self.tokenizer.encode(f"{edit.text}{END}\n", []))
        start = len(prompt.tokens) - tail
        pointers = [
            Pointer(None, start + token, edit.before, mention.thing)
            for token, mention in zip(self._ends(edit.text, edit.mentions), edit.mentions, strict=True)
        ]
        return Lesson(prompt, (self._branch(ASSISTANT, parse(edit.wish)),), tuple(pointers))

    def _ends(self, text: str, mentions: Sequence[Mention]) -> list[int]:
        """Return the last token of each mention in a text."""
        return [len(self.tokenizer.encode(text[:end], [])) - 1 for end in ends(text, mentions)]

    def _about(self, scene: Scene) -> TokenPrompt:
        whole = self.processor.encode(Prompt.ask("", (render(scene),)))
        tail = len(self.tokenizer.encode(f"{END}\n{ASSISTANT}", []))
        return TokenPrompt(tokens=whole.tokens[:-tail], images=whole.images)

    def _branch(self, ask: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(self.tokenizer.encode(ask, [])), tuple(self.tokenizer.encode(answer + END, []))


def learnt_places(lessons: Sequence[Lesson]) -> tuple[list[int], list[int]]:
    """Return where in the packed branches an answer's token comes next, and that token."""
    places: list[int] = []
    targets: list[int] = []
    end = 0
    for lesson in lessons:
        for ask, answer in lesson.branches:
            end += len(ask) + len(answer) - 1
            places += range(end - len(answer), end)
            targets += answer
    return places, targets


def pointed(lessons: Sequence[Lesson]) -> tuple[list[int], list[tuple[Scene, Thing | None]]]:
    """Return where pointers lie among the packed prompts and, after them, branches; and what they mean."""
    places: list[int] = []
    things: list[tuple[Scene, Thing | None]] = []
    start, end = 0, sum(len(lesson.prompt.tokens) for lesson in lessons)
    for lesson in lessons:
        starts = [end]
        for ask, answer in lesson.branches:
            starts.append(starts[-1] + len(ask) + len(answer) - 1)
        for pointer in lesson.pointers:
            first = start if pointer.branch is None else starts[pointer.branch]
            places.append(first + pointer.token)
            things.append((pointer.scene, pointer.thing))
        start, end = start + len(lesson.prompt.tokens), starts[-1]
    return places, things
