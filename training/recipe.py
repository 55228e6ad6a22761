"""The recipe of the shipped checkpoint: its stages in order, a configuration file each, run on from anywhere.

runs/<recipe>/tokenizer, vae, vlm, prior, bridge    states, logs and contact sheets of the stages
runs/<recipe>/latents                               pictures encoded once
runs/<recipe>/prefill                               what the frozen understanding expert says of them
model/checkpoints/hbridge-<recipe>                  what is kept
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.checkpoint import load, read_config, save
from model.hbridge.family import HBridge
from model.qwen_vl.tokenizer import FILES as TOKENIZER_FILES
from training.autoencoder import AutoencoderStage, latent_statistics
from training.bridge import initialise, load_prior
from training.drawings import Group, Shelf, fill_shelf
from training.prefills import Prefills, fill_prefills
from training.prior import PriorStage
from training.runs import Runs
from training.schedule import Schedule
from training.shapes import Shapes
from training.team import Team
from training.telling import TellingStage
from training.trainer import Stage, Trainer
from training.understanding import UnderstandingStage
from training.vocabulary import known_words, train_tokenizer

LOGGED = ("vae", "vlm", "prior", "bridge")


@dataclass(frozen=True, slots=True)
class Recipe(Runs):
    """Every part of a small model is trained, in the shapes world.

    Its stage "unpack" puts a kept checkpoint back, so that "bridge" goes on from it.
    """

    STAGES: ClassVar[tuple[str, ...]] = (
        "tokenizer",
        "vae",
        "vlm",
        "latents",
        "prior",
        "prefill",
        "bridge",
        "keep",
    )
    ASIDE: ClassVar[tuple[str, ...]] = ("unpack",)

    def tokenizer(self) -> None:
        """Train the tokenizer."""
        train_tokenizer(self.folder("tokenizer"), **self.read("vlm")["tokenizer"])

    def vae(self) -> None:
        """Train the autoencoder."""
        config = self.read("vae")
        torch.manual_seed(config["schedule"]["seed"])
        self._train(AutoencoderStage(config["model"], **config["options"]), config)

    def vlm(self) -> None:
        """Train the understanding expert."""
        config = self.read("vlm")
        torch.manual_seed(config["schedule"]["seed"])
        hbridge = self.read("hbridge")
        bridged = range(hbridge["skip_first"], config["model"]["num_hidden_layers"] - hbridge["skip_last"])
        stage = UnderstandingStage(
            config["model"], self.folder("tokenizer"), bridged=bridged, **config["options"]
        )
        self._train(stage, config)

    def latents(self) -> None:
        """Encode the pictures of all groups once."""
        vae = self._autoencoder()
        for group in self._groups():
            fill_shelf(self.folder("latents"), group, vae)

    def prior(self) -> None:
        """Train the diffusion transformer without text."""
        config = self.read("prior")
        torch.manual_seed(config["schedule"]["seed"])
        self._train(PriorStage(self.assemble(), self._shelves(), **config["options"]), config)

    def prefill(self) -> None:
        """Read all prompts and look at all pictures once; a team shares the groups."""
        family, team = self.assemble(), Team.join()
        family.expert.use_backend("plain")
        for group in self._groups()[team.rank :: team.size]:
            fill_prefills(self.folder("prefill"), group, family)

    def bridge(self) -> None:
        """Train bridge and diffusion transformer on prompts and edits, from the prior or what is unpacked."""
        config = self.read("bridge")
        torch.manual_seed(config["schedule"]["seed"])
        family = self.assemble()
        initialise(family.network)
        if config["from_prior"] and not (self.folder("bridge") / "state.pt").exists():
            load_prior(family.network, self.average("prior"))
        family.network.requires_grad_(True)
        prefills = [Prefills(self.folder("prefill"), group) for group in self._groups()]
        shapes = Shapes(family, self._shelves(), prefills, **config["source"])
        self._train(TellingStage(family.network, shapes, backend="plain", **config["options"]), config)

    def keep(self, *, folder: Path | None = None) -> None:
        """Write the averaged weights of all stages in bfloat16, with their loss curves."""
        family = self.assemble()
        _fill(family.network, self.average("bridge"))
        target = folder or Path("model/checkpoints") / f"hbridge-{self.name}"
        family.module.to(torch.bfloat16)
        save(family, target, tokenizer_from=self.folder("tokenizer"))
        self.write_about(target)
        for stage in LOGGED:
            (target / "logs").mkdir(exist_ok=True)
            shutil.copyfile(self.folder(stage) / "log.jsonl", target / "logs" / f"{stage}.jsonl")

    def write_about(self, folder: Path) -> None:
        """Write what a kept checkpoint says of itself for people."""
        config = self.read("about")
        about = {"examples": config["examples"], "words": known_words(**config["words"])}
        (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")

    def unpack(self, *, folder: Path | None = None) -> None:
        """Put a kept checkpoint where its stages would have left their averages; `bridge` then goes on.

        Raises:
            FileExistsError: A run is there already, and would be lost.
        """
        source = folder or Path("model/checkpoints") / f"hbridge-{self.name}"
        if taken := [stage for stage in LOGGED if (self.folder(stage) / "state.pt").exists()]:
            raise FileExistsError(
                f"{self.runs / self.name} has runs of {', '.join(taken)}; move them away first"
            )
        weights = load(source).module.state_dict()
        averages = {
            "vae": _under("vae.", weights),
            "vlm": {f"expert.{name}": weight for name, weight in _under("und.", weights).items()},
            "bridge": {n: w for n, w in weights.items() if not n.startswith(("vae.", "und."))},
        }
        for stage in (*LOGGED, "tokenizer"):
            self.folder(stage).mkdir(parents=True, exist_ok=True)
        for stage, average in averages.items():
            torch.save({"average": average}, self.folder(stage) / "state.pt")
        for stage in LOGGED:
            shutil.copyfile(source / "logs" / f"{stage}.jsonl", self.folder(stage) / "log.jsonl")
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, self.folder("tokenizer") / name)
        vae = read_config(source)["vae"]
        _write_statistics(self.folder("vae") / "latents.json", vae["shift_factor"], vae["scaling_factor"])

    def assemble(self) -> HBridge:
        """Build the family with a trained understanding side and autoencoder, and an untrained bridge."""
        family = HBridge.from_config(self._dict(), self.folder("tokenizer"))
        _fill(family.expert, _under("expert.", self.average("vlm")))
        _fill(family.vae, self.average("vae"))
        family.module.requires_grad_(False).eval()
        return family

    def _train(self, stage: Stage, config: dict[str, Any]) -> None:
        Trainer(stage, Schedule(**config["schedule"]), self.folder(stage.name)).run()

    def _autoencoder(self) -> Any:
        config = self.read("vae")
        module = AutoencoderStage(config["model"], **config["options"]).module
        _fill(module, self.average("vae"))
        shift, scale = self._statistics(module.eval())
        module.register_to_config(shift_factor=shift, scaling_factor=scale)  # type: ignore[operator]
        return module

    def _statistics(self, module: nn.Module | None = None) -> tuple[float, float]:
        """Return the latents' shift and scale, measured once."""
        path = self.folder("vae") / "latents.json"
        if not path.exists():
            if module is None:
                raise FileNotFoundError(f"{path} is not there; run stage latents first")
            shift, scale = latent_statistics(module)
            _write_statistics(path, shift, scale)
        content = json.loads(path.read_text())
        return content["shift"], content["scale"]

    def _dict(self) -> dict[str, Any]:
        shift, scale = self._statistics()
        vae = self.read("vae")["model"] | {"shift_factor": shift, "scaling_factor": scale}
        return self.read("hbridge") | {"understanding": self.read("vlm")["model"], "vae": vae}

    def _groups(self) -> list[Group]:
        return [Group(**group) for group in self.read("latents")["groups"]]

    def _shelves(self) -> list[Shelf]:
        return [Shelf(self.folder("latents"), group) for group in self._groups()]


def _write_statistics(path: Path, shift: float, scale: float) -> None:
    path.write_text(json.dumps({"shift": round(shift, 4), "scale": round(scale, 4)}) + "\n")


def _under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def _fill(module: nn.Module | None, weights: dict[str, Tensor]) -> None:
    assert module is not None, "the part must be there to be filled"
    missing = {name for name, _ in module.named_parameters()} - weights.keys()
    if missing:
        raise ValueError(f"no weights for {sorted(missing)}")
    module.load_state_dict(weights, strict=False)
