"""The recipe at full size: only the bridge stage, from a folder that `hbridge convert` wrote.

runs/<recipe>/start     that folder, or a link to it
runs/<recipe>/data      datasets
runs/<recipe>/bridge    states, log and TensorBoard events
runs/<recipe>/keep      what `hbridge serve --model` loads
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from model.checkpoint import load, save
from model.convert import COPIED
from model.hbridge.family import HBridge
from training.bridge import BridgeStage, checkpoint_layers, parts
from training.corpus import Corpus
from training.errors import TrainingRefused
from training.records import Columns, Records
from training.runs import Runs
from training.schedule import Schedule
from training.team import CPU, Shards, Team
from training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Full(Runs):
    """The bridge between two experts that are there already."""

    STAGES: ClassVar[tuple[str, ...]] = ("bridge", "keep")

    def bridge(self) -> None:
        """Train bridge, transformer and learned tokens; weights are split over the processes."""
        config = self.read("bridge")
        schedule = Schedule(**config["schedule"])
        team = Shards.join()
        family = self.start(team.device, schedule)
        family.network.requires_grad_(True)
        corpus = self.corpus(family, config, team.size)
        if config["gradient_checkpointing"]:
            checkpoint_layers(family.network)
        stage = BridgeStage(family.network, corpus, **config["options"])
        team.shard(stage.objective, parts(family.network), bfloat16=schedule.bfloat16)
        try:
            Trainer(stage, schedule, self.folder("bridge"), team).run()
        finally:
            corpus.close()

    def keep(self) -> None:
        """Write the averaged weights beside the frozen ones, in a folder to serve; one process is enough."""
        if Team.join().rank:
            return
        family = self.start(CPU, Schedule(**self.read("bridge")["schedule"]))
        average = self.average("bridge")
        weights = dict(family.network.named_parameters())
        if average.keys() != weights.keys():
            raise TrainingRefused(f"{self.folder('bridge')} was not trained from {self._start}")
        with torch.no_grad():
            for name, p in weights.items():
                p.copy_(average[name])
        folder = self.folder("keep")
        save(family, folder)
        for name in COPIED:
            if (self._start / name).is_file():
                shutil.copyfile(self._start / name, folder / name)

    def start(self, device: torch.device, schedule: Schedule) -> HBridge:
        """Load what training starts from; learned tokens get a projection if it has none.

        Raises:
            BadCheckpoint: It is no hbridge folder.
            TrainingRefused: It cannot be trained.
        """
        dtype = torch.bfloat16 if schedule.bfloat16 else torch.float32
        family = load(self._start, device=device, dtype=dtype)
        if not isinstance(family, HBridge):
            raise TrainingRefused(f"{self._start} is {family.capabilities.family}, no hbridge")
        if family.vae is None or family.config.understanding.vision is None:
            raise TrainingRefused(f"{self._start} lacks an autoencoder or a vision tower, and needs both")
        if family.module.srt_proj is None:
            family.module.srt_proj = family.network.srt_proj = _projection(family, schedule.seed)
        return family

    def corpus(self, family: HBridge, config: dict[str, Any], team_size: int) -> Corpus:
        """Open the datasets."""
        source = dict(config["source"])
        skip, seed = source.pop("skip_broken"), config["schedule"]["seed"]
        root = self._start.parent
        datasets = []
        for each in config["datasets"]:
            columns = Columns(**{**each, "path": str(root / each["path"])})
            datasets.append(Records(columns, cache=root / "cache", seed=seed, skip=skip))
        return Corpus(family, datasets, team_size=team_size, **source)

    @property
    def _start(self) -> Path:
        return self.folder("start")


def _projection(family: HBridge, seed: int) -> nn.Linear:
    """Return the projection of the learned tokens as PyTorch begins it, from the seed."""
    place = family.network.srt_tokens
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(family.config.generation.hidden_size, family.config.understanding.hidden_size)
    return linear.to(place.device, place.dtype)
