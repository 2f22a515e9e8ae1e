"""Prints the known answers of src/image/metrics.rs: PSNR and SSIM by their definitions, window by window.

    pip install numpy
    python tools/metrics.py
"""

import numpy as np

SIZES = [(11, 11), (16, 24), (29, 13)]


def image(number: int, height: int, width: int) -> np.ndarray:
    """Levels `[H, W, 3]` that any language can make; image 1 is image 0 with noise."""
    i = np.arange(height * width * 3, dtype=np.uint64) + 1
    noise = ((i * (i + np.uint64(40 * number)) * np.uint64(2654435761)) % np.uint64(1 << 32) >> np.uint64(24)).astype(np.float64) - 128
    wave = (i * i // 7 % 256).astype(np.float64)
    return np.trunc(np.clip(wave + (noise / 6 if number else 0), 0, 255)).reshape(height, width, 3)


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One channel: Wang et al. (2004), equation 13, the mean over every 11 x 11 window inside the image."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (z[top:top + 11, left:left + 11] for z in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append((2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                          / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


for height, width in SIZES:
    a, b = image(1, height, width), image(0, height, width)
    psnr = float(10 * np.log10(255**2 / np.mean((a - b) ** 2)))
    mean = float(np.mean([ssim(a[..., c], b[..., c]) for c in range(3)]))
    print(f"([{height}, {width}], {psnr!r}, {mean!r}),")
