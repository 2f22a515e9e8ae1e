"""A small CNN that reads a picture's attributes; trained on paintings, it judges the model's pictures.

Heads: time of day, terrain, snow, balloon colour or none, and the number of balloons (0, 1, 2). The painter never
shows two, so for training a second balloon is painted into some pictures. Inputs are blurred, shifted in colour and
noised at random, so that the judge looks at what is shown and not at how crisp it is.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from common import save_checkpoint, to_tensor
from painter import COLOURS, TERRAINS, TIMES, Canvas, balloon_place, paint, paint_balloon, scene_for

HEADS = {"time": TIMES, "terrain": TERRAINS, "snow": [False, True], "balloon": COLOURS, "count": [0, 1, 2]}


class Classifier(nn.Module):
    def __init__(self, width: int = 24):
        super().__init__()
        layers, channels = [], 3
        for out in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.SiLU(),
                       nn.Conv2d(out, out, 3, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
            channels = out
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * channels, len(values)) for name, values in HEADS.items()})

    def forward(self, x):
        h = self.body(x)
        h = torch.cat([h.mean(dim=(2, 3)), h.amax(dim=(2, 3))], dim=1)
        return {name: head(h) for name, head in self.heads.items()}


def labelled(first: int, count: int, size: int):
    """Pictures of scenes of every combination, a sixth of those with a balloon given a second one; and the labels."""
    pictures, labels = [], []
    for seed in range(first, first + count):
        scene = scene_for(seed, held_out=seed % 7 == 0)
        picture, balloons = paint(scene, size), int(scene.balloon != "none")
        rng = np.random.default_rng([seed, 3])
        if balloons and rng.random() < 0.17:
            here = balloon_place(np.random.default_rng([seed, 4]))
            for k in range(200):
                there = balloon_place(np.random.default_rng([seed, 5, k]))
                if abs(there[0] - here[0]) > 0.9 * (there[2] + here[2]):
                    break
            canvas = Canvas(size)
            canvas.pixels[:] = paint(replace(scene, balloon="none"), size) / 255.0
            paint_balloon(canvas, scene, here)
            paint_balloon(canvas, scene if rng.random() < 0.6 else replace(scene, balloon=COLOURS[rng.integers(1, 7)]), there)
            picture, balloons = (np.clip(canvas.pixels, 0, 1) * 255 + 0.5).astype(np.uint8), 2
        pictures.append(picture)
        labels.append([TIMES.index(scene.time), TERRAINS.index(scene.terrain), int(scene.snow), COLOURS.index(scene.balloon), balloons])
    return np.stack(pictures), torch.tensor(labels)


def disturb(x, generator):
    """Softness, tint and noise such as a generated picture may have."""
    n = len(x)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = torch.rand(n, 1, 1, 1, generator=generator)
    x = x + amount * (soft - x)
    x = x * (1 + 0.15 * torch.randn(n, 1, 1, 1, generator=generator)) + 0.06 * torch.randn(n, 3, 1, 1, generator=generator)
    x = x + 0.05 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
    return torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, x.flip(3), x).clamp(-1, 1)


def accuracy(model: Classifier, x, labels) -> dict[str, float]:
    """Share right per head; the colour of the balloon is asked only where there are not two."""
    found = judge(model, x)
    result = {}
    for i, (name, values) in enumerate(HEADS.items()):
        right = torch.tensor([values.index(f[name]) for f in found]) == labels[:, i]
        result[name] = (right[labels[:, 4] < 2] if name == "balloon" else right).float().mean().item()
    return result


@torch.no_grad()
def judge(model: Classifier, x) -> list[dict]:
    """The attributes read from pictures in -1..1."""
    logits = [model(part) for part in x.split(64)]
    found = {name: torch.cat([part[name] for part in logits]).argmax(1).tolist() for name in HEADS}
    return [{name: HEADS[name][found[name][i]] for name in HEADS} for i in range(len(x))]


def train(run: Path, size: int, steps: int = 1500, batch: int = 32, count: int = 8000) -> Classifier:
    """Loads the judge of a run folder, or trains it there; demands 99 % on held-out paintings."""
    path, model = run / "classifier.pt", Classifier()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    torch.manual_seed(0)
    pictures, labels = labelled(30_000_000, count, size)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="classifier", disable=None):
        rows = torch.randint(count, (batch,), generator=generator)
        logits, target = model(disturb(to_tensor(pictures[rows.numpy()]), generator)), labels[rows]
        one = (target[:, 4] < 2).float()
        loss = sum((F.cross_entropy(logits[name], target[:, i], reduction="none") * (one if name == "balloon" else 1)).mean()
                   for i, name in enumerate(HEADS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    pictures, labels = labelled(40_000_000, 1000, size)
    shares = accuracy(model, to_tensor(pictures), labels)
    print("judge on 1000 held-out paintings:", {k: f"{v:.3f}" for k, v in shares.items()})
    if min(shares.values()) < 0.99:
        raise SystemExit("the judge is below 99 % on paintings: train it longer")
    save_checkpoint(path, model.state_dict())
    return model
