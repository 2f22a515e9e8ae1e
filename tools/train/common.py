"""What the training scripts share: the rendered data set, the wall-clock schedule, checkpoints, plots and grids."""

import math
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from painter import paint, scene_for  # noqa: E402

VALIDATION_SEED = 10_000_000
"""Scenes from here on are never trained on."""


def render_range(job) -> np.ndarray:
    first, last, size = job
    return np.stack([paint(scene_for(seed), size) for seed in range(first, last)])


def render(first: int, count: int, size: int) -> np.ndarray:
    """The pictures of `count` consecutive seeds, uint8 NHWC."""
    jobs = [(i, min(i + 500, first + count), size) for i in range(first, first + count, 500)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(render_range, jobs)))


def dataset(run: Path, count: int, size: int) -> Path:
    """The file of the training pictures, rendered once per run folder."""
    path = run / f"pictures-{size}-{count}.npy"
    if not path.exists():
        print(f"rendering {count} pictures", file=sys.stderr)
        np.save(path, render(0, count, size))
    return path


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 NHWC to -1..1 NCHW."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_uint8(images: torch.Tensor) -> np.ndarray:
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def save_grid(path: Path, images: torch.Tensor, columns: int):
    pictures = to_uint8(images.float())
    rows = [np.concatenate(pictures[i : i + columns], axis=1) for i in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(rows)).save(path)


def save_curve(path: Path, series: dict[str, list[tuple[float, float]]]):
    """Loss curves (step, value) as a PNG with a logarithmic vertical axis."""
    width, height, margin = 900, 420, 50
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    points = [p for line in series.values() for p in line if p[1] > 0]
    if len(points) < 2:
        return
    x_max = max(p[0] for p in points)
    low, high = math.log10(min(p[1] for p in points)), math.log10(max(p[1] for p in points))
    high = max(high, low + 0.1)
    place = lambda p: (margin + (width - 2 * margin) * p[0] / max(x_max, 1),
                       height - margin - (height - 2 * margin) * (math.log10(p[1]) - low) / (high - low))
    colours = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b"]
    for i, (name, line) in enumerate(series.items()):
        line = [place(p) for p in line if p[1] > 0]
        if len(line) > 1:
            draw.line(line, fill=colours[i % 5], width=2)
        draw.text((margin + 130 * i, 10), name, fill=colours[i % 5])
    draw.rectangle((margin, margin, width - margin, height - margin), outline="black")
    draw.text((5, margin), f"{10**high:.3g}", fill="black")
    draw.text((5, height - margin - 10), f"{10**low:.3g}", fill="black")
    draw.text((width - margin - 60, height - margin + 5), f"{x_max:.0f} steps", fill="black")
    image.save(path)


def learning_rate(base: float, step: int, warmup: int, progress: float, flat: float) -> float:
    """Linear warm-up by step, then flat until `flat` of the time budget, then cosine to 1 %."""
    if progress > flat:
        base *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((progress - flat) / (1 - flat), 1.0)))
    return base * min(1.0, (step + 1) / warmup)


class Clock:
    """The share of a budget of wall-clock minutes that is spent; survives a resume."""

    def __init__(self, minutes: float, spent: float = 0.0):
        self.budget, self.start = minutes * 60, time.monotonic() - spent

    def spent(self) -> float:
        return time.monotonic() - self.start

    def progress(self) -> float:
        return self.spent() / self.budget


def ema_update(average: list[torch.Tensor], current: list[torch.Tensor], step: int, limit: float):
    decay = min(limit, (1 + step) / (10 + step))
    torch._foreach_lerp_(average, current, 1 - decay)


def save_checkpoint(path: Path, state: dict):
    """Writes beside the target and renames, so that a stop never leaves half a file."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Per image, in dB, for images in -1..1 after clamping."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).pow(2).mean(dim=(1, 2, 3))
    return 10 * torch.log10(4.0 / error.clamp_min(1e-10))
