"""What stage 2 conditions its network on: captions, classes, or the surroundings of what is to be painted.

Each kind answers the same questions: what a row of the training set is given (`draw`), how that reaches the network
(`embed`), which wrong conditions the loss is compared with (`table`), and what the grid of pictures shows (`wishes`,
`show`). `network` is what is trained beside the UNet, `nothing` the empty condition, where there is one.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import common
import tokenizer
from captions import caption
from common import render_range, save_checkpoint, to_tensor
from latents import encode
from masks import beside, hidden, masks
from painter import COLOURS, TERRAINS, TIMES, scene_for

PHRASINGS = 6
PROMPTS = [
    "a red balloon over snowy mountains at sunset", "a blue balloon over snowy mountains at dawn",
    "a yellow balloon over snowy hills at noon", "a white balloon over snowy hills at night",
    "a green balloon over mountains at dawn", "a purple balloon over mountains at noon",
    "a red balloon over hills at night", "a yellow balloon over hills at sunset",
    "a blue balloon over the desert at noon", "a red balloon over the desert at night",
    "a purple balloon over the sea at sunset", "a green balloon over the sea at noon",
    "the sea at dawn", "snowy hills at sunset", "mountains at night with a lake", "hills in autumn with a house at noon"]


def another(options: list, one, i: int):
    """One of the other options."""
    return options[(options.index(one) + 1 + i % (len(options) - 1)) % len(options)]


def drop(given, nothing, share: float, generator):
    """Replaces a share of the rows by the empty condition, for guidance."""
    keep = torch.rand(len(given), generator=generator) >= share
    return torch.where(keep.view(-1, *[1] * (given.dim() - 1)), given, nothing)


class Captions:
    """Phrasings of each scene, as token ids; the text encoder is trained jointly."""

    def __init__(self, run: Path, config: dict, model):
        self.tokenise, self.network = self.reader(run, config), model.cond_stage_model
        self.captions = torch.from_numpy(np.load(run / "captions.npy")).long()
        self.nothing = self.encode([""])

    @staticmethod
    def reader(run: Path, config: dict) -> tokenizer.Tokenizer:
        text = config["model"]["params"]["cond_stage_config"]["params"]["text_config"]
        return tokenizer.Tokenizer(run, text["max_position_embeddings"])

    @classmethod
    def prepare(cls, args, config: dict, pictures: Path):
        """The tokenizer's files and the tokenised captions."""
        if not (args.run / "vocab.json").exists():
            tokenizer.write(args.run, [caption(scene_for(seed)) for seed in range(6000)])
        if not (args.run / "captions.npy").exists():
            tokenise = cls.reader(args.run, config)
            rows = [[tokenise(caption(scene_for(i), k)) for k in range(PHRASINGS)] for i in range(args.pictures)]
            np.save(args.run / "captions.npy", np.array(rows, np.int16))

    def encode(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([self.tokenise(t) for t in texts])

    def draw(self, rows, share: float, generator):
        ids = self.captions[rows, torch.randint(PHRASINGS, (len(rows),), generator=generator)]
        return drop(ids, self.nothing, share, generator)

    def embed(self, model, ids) -> dict:
        return {"context": model.cond_stage_model(ids)}

    def table(self, scenes) -> dict:
        groups = {
            "right": scenes,
            "wrong time": [replace(s, time=another(TIMES, s.time, i)) for i, s in enumerate(scenes)],
            "wrong balloon": [replace(s, balloon=another(COLOURS, s.balloon, i)) for i, s in enumerate(scenes)]}
        rows = {name: self.encode([caption(s, terse=False) for s in group]) for name, group in groups.items()}
        return rows | {"empty": self.nothing.expand(len(scenes), -1)}

    def wishes(self):
        return self.encode(PROMPTS)

    def show(self, images):
        return images


class Classes:
    """Hour and terrain together as a class; the last class of the table stands for none, as in cin256-v2."""

    def __init__(self, run: Path, config: dict, model):
        self.network = model.cond_stage_model
        self.nothing = torch.tensor([len(self.network.embedding.weight) - 1])
        self.labels = torch.load(run / "labels.pt", weights_only=True)

    @staticmethod
    def label(scene, time=None, terrain=None) -> int:
        return TIMES.index(time or scene.time) * len(TERRAINS) + TERRAINS.index(terrain or scene.terrain)

    @classmethod
    def prepare(cls, args, config: dict, pictures: Path):
        """The class of every scene."""
        if not (args.run / "labels.pt").exists():
            save_checkpoint(args.run / "labels.pt", torch.tensor([cls.label(scene_for(i)) for i in range(args.pictures)]))

    def draw(self, rows, share: float, generator):
        return drop(self.labels[rows], self.nothing, share, generator)

    def embed(self, model, labels) -> dict:
        return {"context": model.cond_stage_model(labels)}

    def table(self, scenes) -> dict:
        groups = {
            "right": [self.label(s) for s in scenes],
            "wrong time": [self.label(s, time=another(TIMES, s.time, i)) for i, s in enumerate(scenes)],
            "wrong terrain": [self.label(s, terrain=another(TERRAINS, s.terrain, i)) for i, s in enumerate(scenes)]}
        return {name: torch.tensor(group) for name, group in groups.items()} | {"none": self.nothing.expand(len(scenes))}

    def wishes(self):
        return torch.arange(len(TIMES) * len(TERRAINS))

    def show(self, images):
        return images


class Surroundings:
    """The encoded picture with a hole, and the hole; the first stage encodes it, so that nothing else is trained.

    Every picture is encoded under a few masks beforehand: an epoch of that costs less than encoding fresh ones would.
    """

    network = nothing = None

    def __init__(self, run: Path, config: dict, model):
        params = config["model"]["params"]
        self.side, size = params["image_size"], params["first_stage_config"]["params"]["ddconfig"]["resolution"]
        self.given = torch.load(run / "surroundings.pt", weights_only=True)
        self.pictures = to_tensor(render_range((common.VALIDATION_SEED, common.VALIDATION_SEED + 32, size)))
        self.masks = masks(common.VALIDATION_SEED, 32, size)
        with torch.no_grad():
            self.held_out = self.concat(model.first_stage_model.encode(hidden(self.pictures, self.masks)), self.masks)

    def concat(self, latent, hole):
        return torch.cat([latent, beside(hole, self.side)], dim=1)

    @classmethod
    def prepare(cls, args, config: dict, pictures: Path):
        """Each picture's latent under `args.masks` masks, beside those masks."""
        if (args.run / "surroundings.pt").exists():
            return
        params = config["model"]["params"]
        state = torch.load(args.run / "first_stage.pt", weights_only=True)["model"]
        size, parts = params["first_stage_config"]["params"]["ddconfig"]["resolution"], []
        for k in range(args.masks):
            holes = masks(k, args.pictures, size)
            latent, _ = encode(pictures, params["first_stage_config"], state, args.pictures, args.threads, holes)
            parts.append(torch.cat([latent, beside(holes, params["image_size"])], dim=1).half())
        save_checkpoint(args.run / "surroundings.pt", torch.stack(parts, 1))

    def draw(self, rows, share: float, generator):
        return self.given[rows, torch.randint(self.given.shape[1], (len(rows),), generator=generator)].float()

    def embed(self, model, given) -> dict:
        return {"concat": given}

    def table(self, scenes) -> dict:
        whole = self.held_out.clone()
        whole[:, -1] = -1.0
        return {"right": self.held_out, "another's": self.held_out.roll(1, 0), "hole not told": whole}

    def wishes(self):
        return self.held_out[:16]

    def show(self, images):
        """Each held-out picture with its hole, and as it is painted."""
        picture, hole = self.pictures[:16], torch.from_numpy(self.masks[:16])[:, None]
        return torch.stack([hidden(picture, self.masks[:16]), torch.where(hole, images, picture)], 1).flatten(0, 1)


def kind_of(config: dict):
    """The kind of condition that a config's `cond_stage_config` asks for."""
    stage = config["model"]["params"]["cond_stage_config"]
    if stage == "__is_first_stage__":
        return Surroundings
    return {"FrozenCLIPEmbedder": Captions, "ClassEmbedder": Classes}[stage["target"].split(".")[-1]]
