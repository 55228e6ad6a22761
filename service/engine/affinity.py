"""Which replica of an engine a job goes to: where its context is kept, unless the queue there is too long.

Every replica keeps contexts of its own, so a prompt or an image is read once only if all that need it meet at
one place. Each key has a home among the replicas, by rendezvous hashing: whoever chooses finds the same one
without asking anybody, and when a replica goes only its own keys move. A job stays at home unless a rival,
drawn at random, has a queue that is shorter by more than patience: the power of two choices, which keeps
queues short with one look at two of them.

Source: Thaler and Ravishankar 1998, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions
on Networking 6(1), for rendezvous hashing; Mitzenmacher 2001, "The power of two choices in randomized load
balancing", IEEE Transactions on Parallel and Distributed Systems 12(10).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

from PIL.Image import Image

from model.drawing import Drawing
from model.family import Capabilities
from model.prompt import Prompt
from model.question import Question
from service.engine.job import Job

KEY_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What a router has to know of a job.

    Attributes:
        key: Jobs with equal keys read the same beginning.
        seconds: What the job is expected to need on the device.
        weights_hash: The weights that it was planned for.
    """

    key: bytes
    seconds: float
    weights_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a replica says of itself.

    Attributes:
        is_up: It takes jobs.
        num_taken: Jobs that it has taken in since its start.
        queued_seconds: What all jobs that are in still need on its device.
    """

    is_up: bool
    weights_hash: str
    num_taken: int
    queued_seconds: float


def affinity_key(job: Job) -> bytes:
    """Return what a job's context begins with: its tenant's first image, or else all of the words.

    Contexts are kept up to where an image ends, and for one tenant only.
    """
    work = job.work
    turns = Prompt.draw(work.prompt, work.images).turns if isinstance(work, Drawing) else work.turns
    parts = [part for turn in turns for part in turn.parts]
    images = [part for part in parts if isinstance(part, Image)]
    digest = blake2b(job.tenant.encode() + b"\0", digest_size=KEY_BYTES)
    if images:
        digest.update(f"{images[0].mode} {images[0].size}".encode())
        digest.update(images[0].tobytes())
    else:
        digest.update("\0".join(str(part) for part in parts).encode())
    return digest.digest()


def amount_of(job: Job, can: Capabilities) -> float:
    """Return how much work a job is, in a unit of its task's own: pixels at each step, or words at most."""
    if isinstance(job.work, Question):
        return max(1, job.work.max_tokens)
    size = job.work.size or can.default_size
    steps = job.work.num_inference_steps or can.num_inference_steps
    return max(1, job.work.n * steps * size.width * size.height)


class Loads:
    """What each replica has to do: what it said last, and what was sent there since and has not ended."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._sent: dict[str, dict[str, float]] = {}

    def report(self, name: str, report: Report) -> None:
        """Take up what a replica says; when that is new, what was sent there before is part of it."""
        if self._reports.get(name) != report:
            self._reports[name] = report
            self._sent.pop(name, None)

    def send(self, name: str, job_id: str, seconds: float) -> None:
        """Count a job that goes there."""
        self._sent.setdefault(name, {})[job_id] = seconds

    def end(self, name: str, job_id: str) -> None:
        """Count a job no more, if it still is."""
        self._sent.get(name, {}).pop(job_id, None)

    def retain(self, names: Collection[str]) -> None:
        """Forget all replicas but these."""
        self._reports = {name: report for name, report in self._reports.items() if name in names}
        self._sent = {name: sent for name, sent in self._sent.items() if name in names}

    def of(self, names: Collection[str], weights_hash: str) -> dict[str, float]:
        """Return the device-seconds of those that take a job for these weights; of all if none is known to.

        Who has said nothing yet is new, and takes jobs.
        """
        fit = [name for name in names if self._fits(name, weights_hash)]
        return {name: self._seconds(name) for name in fit or names}

    def _fits(self, name: str, weights_hash: str) -> bool:
        report = self._reports.get(name)
        return report is None or (report.is_up and report.weights_hash == weights_hash)

    def _seconds(self, name: str) -> float:
        report = self._reports.get(name)
        return (report.queued_seconds if report else 0.0) + sum(self._sent.get(name, {}).values())


def home_of(key: bytes, names: Collection[str]) -> str:
    """Return the replica where a key's context is kept, the same for everybody who asks."""
    return max(names, key=lambda name: blake2b(name.encode(), key=key, digest_size=8).digest())


def choose_by_affinity(
    key: bytes, loads: Mapping[str, float], *, patience_seconds: float, rng: Random
) -> str:
    """Return the replica that a job goes to.

    Args:
        loads: Device-seconds that are queued at each replica.
        patience_seconds: How much longer a queue at home may be than the rival's.
    """
    home = home_of(key, loads)
    others = [name for name in sorted(loads) if name != home]
    if not others:
        return home
    rival = rng.choice(others)
    return home if loads[home] <= loads[rival] + patience_seconds else rival


def choose_at_random(loads: Mapping[str, float], *, rng: Random) -> str:
    """Return any replica: what affinity is measured against."""
    return rng.choice(sorted(loads))
