"""Random masks to train and to test inpainting with: rectangles, strokes and half planes, 10 to 60 % of the picture."""

import numpy as np
import torch

LEAST, MOST = 0.10, 0.60


def rectangles(rng, x, y):
    covered = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    for _ in range(rng.integers(1, 4)):
        width, height = rng.uniform(0.2, 0.7, 2)
        left, top = rng.uniform(-0.1, 1.1 - width), rng.uniform(-0.1, 1.1 - height)
        covered |= (x > left) & (x < left + width) & (y > top) & (y < top + height)
    return covered


def strokes(rng, x, y):
    """A broad line through a few random points."""
    covered = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    points, radius = rng.random((rng.integers(2, 6), 2)), rng.uniform(0.06, 0.16)
    for (ax, ay), (bx, by) in zip(points, points[1:]):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        covered |= (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2 < radius**2
    return covered


def half_plane(rng, x, y):
    angle = 0.5 * np.pi * rng.integers(4) if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    return (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) > rng.uniform(-0.1, 0.4)


def mask(rng: np.random.Generator, size: int) -> np.ndarray:
    """One mask [size, size]: true is what is to be painted."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    while True:
        covered = (rectangles, strokes, half_plane)[rng.integers(3)](rng, axis[None, :], axis[:, None])
        if LEAST <= covered.mean() <= MOST:
            return covered


def masks(seed: int, count: int, size: int) -> np.ndarray:
    """Masks [count, size, size] that follow from the seed."""
    rng = np.random.default_rng([seed, 6])
    return np.stack([mask(rng, size) for _ in range(count)])


def hidden(image: torch.Tensor, masks: np.ndarray) -> torch.Tensor:
    """Pictures in -1..1 with what the masks cover made black, as the original inpainting script has it."""
    return torch.where(torch.from_numpy(masks)[:, None], -1.0, image)


def beside(masks: np.ndarray, side: int) -> torch.Tensor:
    """Masks as the UNet sees them: -1 or 1, every few pixels of theirs, as nearest resizing picks them, [N, 1, side, side]."""
    step = masks.shape[-1] // side
    return 2.0 * torch.from_numpy(masks[:, None, ::step, ::step]).float() - 1.0
