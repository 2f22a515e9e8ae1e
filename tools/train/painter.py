"""Procedural painter: captioned landscapes in numpy, the training data of the demo model.

A scene is a handful of attributes (`Scene`); `paint` turns one into an anti-aliased image of any size and
`caption` into one of many phrasings. Everything follows from a seed. Some attribute combinations are never
drawn for training (`withheld`), so that composition can be tested on them.

    python tools/train/painter.py --out scenes.png          # a contact sheet, captions on standard output
"""

import argparse
from dataclasses import dataclass

import numpy as np

TIMES = ["dawn", "noon", "sunset", "night"]
TERRAINS = ["mountains", "hills", "desert", "sea"]
COLOURS = ["none", "red", "yellow", "green", "blue", "purple", "white"]

# Sky at the top, half way and at the horizon; the light that multiplies the ground; how much of it snow takes.
SKY = {
    "dawn": ((0.56, 0.66, 0.90), (0.86, 0.76, 0.90), (1.00, 0.80, 0.78)),
    "noon": ((0.16, 0.46, 0.93), (0.40, 0.68, 0.98), (0.72, 0.90, 1.00)),
    "sunset": ((0.32, 0.13, 0.42), (0.84, 0.27, 0.22), (1.00, 0.64, 0.14)),
    "night": ((0.01, 0.02, 0.10), (0.03, 0.05, 0.18), (0.07, 0.11, 0.29)),
}
LIGHT = {"dawn": (0.88, 0.72, 0.84), "noon": (1.0, 1.0, 1.0), "sunset": (0.92, 0.52, 0.36), "night": (0.25, 0.30, 0.52)}
SNOW = {"dawn": (0.97, 0.88, 0.96), "noon": (0.97, 0.98, 1.0), "sunset": (1.0, 0.85, 0.80), "night": (0.42, 0.48, 0.74)}
BALLOON = {
    "red": (0.90, 0.08, 0.08), "yellow": (1.00, 0.86, 0.05), "green": (0.08, 0.66, 0.16),
    "blue": (0.06, 0.20, 0.84), "purple": (0.55, 0.10, 0.72), "white": (0.98, 0.98, 0.98),
}
BALLOON_LIGHT = {"dawn": 0.97, "noon": 1.0, "sunset": 0.92, "night": 0.80}


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `seed` decides everything the attributes leave open."""

    time: str
    terrain: str
    snow: bool
    balloon: str
    trees: bool
    lake: bool
    house: bool
    orb: bool
    autumn: bool
    seed: int


def withheld(scene: Scene) -> bool:
    """Combinations of hour, ground and balloon (13 of 168) that no training picture shows."""
    ground = TERRAINS.index(scene.terrain) + (4 if scene.snow else 0)
    key = 3 * TIMES.index(scene.time) + 5 * ground + 2 * COLOURS.index(scene.balloon)
    return scene.balloon != "none" and key % 13 == 7


def draw_scene(rng: np.random.Generator, seed: int) -> Scene:
    terrain = TERRAINS[rng.choice(4, p=[0.34, 0.28, 0.19, 0.19])]
    land = terrain in ("mountains", "hills")
    snow = bool(land and rng.random() < 0.45)
    balloon = COLOURS[rng.choice(7, p=[0.19] + [0.135] * 6)]
    return Scene(
        time=TIMES[rng.integers(4)], terrain=terrain, snow=snow, balloon=balloon,
        trees=bool(terrain != "sea" and rng.random() < 0.35), lake=bool(land and rng.random() < 0.22),
        house=bool(land and rng.random() < 0.22), orb=bool(rng.random() < 0.75),
        autumn=bool(land and not snow and rng.random() < 0.2), seed=seed)


def scene_for(seed: int, held_out: bool = False) -> Scene:
    """The scene of a seed: outside the withheld combinations, or (`held_out`) inside them."""
    rng = np.random.default_rng([seed, 0])
    while True:
        scene = draw_scene(rng, seed)
        if withheld(scene) == held_out:
            return scene


# --- painting -------------------------------------------------------------------------------------------


class Canvas:
    """An RGB picture in 0..1 with soft-edged shapes; lengths are fractions of the side, edges one pixel wide."""

    def __init__(self, size: int):
        self.size = size
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = axis[None, :], axis[:, None]
        self.pixels = np.zeros((size, size, 3), np.float32)

    def over(self, alpha, colour):
        self.pixels += alpha[..., None] * (np.asarray(colour, np.float32) - self.pixels)

    def cover(self, distance):
        """Coverage of the region where `distance` (in sides) is positive."""
        return np.clip(distance * self.size + 0.5, 0.0, 1.0)

    def ellipse(self, cx, cy, rx, ry, colour, opacity=1.0):
        r = np.sqrt(((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2)
        self.over(self.cover((1.0 - r) * min(rx, ry)) * opacity, colour)

    def box(self, x0, y0, x1, y1, colour):
        self.over(self.cover(self.x - x0) * self.cover(x1 - self.x) * self.cover(self.y - y0) * self.cover(y1 - self.y), colour)

    def triangle(self, cx, top, half, bottom, colour):
        slope = half / (bottom - top)
        inside = ((self.y - top) * slope - abs(self.x - cx)) / np.sqrt(1 + slope * slope)
        self.over(self.cover(inside) * self.cover(bottom - self.y), colour)

    def glow(self, cx, cy, radius, colour, opacity):
        r2 = ((self.x - cx) ** 2 + (self.y - cy) ** 2) / radius**2
        self.over(opacity * np.exp(-r2), colour)


def waves(x, rng, roughness, octaves):
    """A smooth random profile of the horizontal position, about -1..1."""
    total = np.zeros_like(x)
    for k in range(octaves):
        frequency = (0.7 + 0.6 * rng.random()) * 1.7**k
        total += roughness**k * np.sin(2 * np.pi * (frequency * x + rng.random()))
    return total / sum(roughness**k for k in range(octaves))


def paint_sky(c: Canvas, scene: Scene, rng, horizon):
    top, middle, low = (np.array(v, np.float32) for v in SKY[scene.time])
    u = np.clip(c.y / horizon, 0, 1)[..., None]
    column = np.where(u < 0.5, top + (middle - top) * u * 2, middle + (low - middle) * (u * 2 - 1))
    c.pixels[:] = column
    if scene.time == "night":
        for _ in range(rng.integers(8, 14)):
            c.glow(rng.random(), rng.random() * horizon * 0.85, 0.013, (1.0, 1.0, 0.92), 0.45 + 0.4 * rng.random())
    sx = rng.uniform(0.12, 0.88)
    if scene.orb:
        if scene.time == "night":
            sy = rng.uniform(0.10, 0.22)
            c.glow(sx, sy, 0.13, (0.45, 0.52, 0.75), 0.5)
            c.ellipse(sx, sy, 0.058, 0.058, (0.96, 0.95, 0.84))
        elif scene.time == "noon":
            sy = rng.uniform(0.08, 0.18)
            c.glow(sx, sy, 0.16, (1.0, 1.0, 0.9), 0.6)
            c.ellipse(sx, sy, 0.060, 0.060, (1.0, 0.98, 0.72))
        elif scene.time == "sunset":
            sy = horizon - rng.uniform(0.06, 0.14)
            c.glow(sx, sy, 0.22, (1.0, 0.72, 0.20), 0.8)
            c.ellipse(sx, sy, 0.080, 0.080, (1.0, 0.88, 0.34))
        else:
            sy = horizon - rng.uniform(0.10, 0.18)
            c.glow(sx, sy, 0.20, (1.0, 0.92, 0.82), 0.8)
            c.ellipse(sx, sy, 0.064, 0.064, (1.0, 0.97, 0.86))
    cloud = {"dawn": (1.0, 0.88, 0.90), "noon": (1.0, 1.0, 1.0), "sunset": (0.98, 0.50, 0.36), "night": (0.14, 0.17, 0.32)}
    for _ in range(rng.integers(0, 3)):
        cx, cy = rng.random(), rng.uniform(0.08, 0.7) * horizon
        for _ in range(3):
            px, py = cx + rng.uniform(-0.08, 0.08), cy + rng.uniform(-0.012, 0.012)
            r2 = ((c.x - px) / rng.uniform(0.07, 0.12)) ** 2 + ((c.y - py) / rng.uniform(0.022, 0.04)) ** 2
            c.over(0.55 * np.exp(-r2), cloud[scene.time])
    return sx


def ground(c: Canvas, height, colour, fade=0.0, toward=None):
    """Fills below a profile (`height`: y of the edge for each column), optionally mixed toward the sky."""
    colour = np.asarray(colour, np.float32)
    if toward is not None:
        colour = colour + fade * (np.asarray(toward, np.float32) - colour)
    c.over(c.cover(c.y - height), colour)


def paint_terrain(c: Canvas, scene: Scene, rng, horizon, sun_x):
    light = np.array(LIGHT[scene.time], np.float32)
    haze = np.array(SKY[scene.time][2], np.float32)
    white = np.array(SNOW[scene.time], np.float32)
    grass = np.array((0.62, 0.50, 0.16) if scene.autumn else (0.30, 0.60, 0.18), np.float32)

    def lit(colour, amount=1.0):
        return np.clip((white if scene.snow else np.array(colour, np.float32) * light) * amount, 0, 1)

    if scene.terrain == "mountains":
        for layer, fade in ((0, 0.45), (1, 0.0)):
            count = int(rng.integers(3, 5))
            centres = (np.arange(count) + rng.uniform(0.25, 0.75, count)) / count
            tops = horizon - rng.uniform(0.20, 0.34, count) + (0.10 * layer)
            for cx, top in sorted(zip(centres, tops), key=lambda p: p[1], reverse=layer == 0):
                slope = rng.uniform(0.55, 0.80)
                inside = (c.y - top) * slope - abs(c.x - cx)
                side = np.clip((c.x - cx - 0.06 * np.sin(c.y * 40 + cx * 9) * (c.y - top)) * c.size + 0.5, 0, 1)[..., None]
                bright, dark = lit((0.52, 0.46, 0.44), 1.0), lit((0.34, 0.30, 0.32), 0.70 if scene.snow else 1.0)
                if sun_x < cx:
                    face = bright + (dark - bright) * side
                else:
                    face = dark + (bright - dark) * side
                face = face + fade * (haze - face)
                c.over(c.cover(inside / np.sqrt(1 + slope * slope)), face)
        edge = horizon + 0.12 + 0.03 * waves(c.x, rng, 0.5, 2)
        ground(c, edge, lit(grass))
        ground(c, edge + 0.14 + 0.02 * waves(c.x, rng, 0.5, 2), lit(grass, 0.88))
    elif scene.terrain == "hills":
        for layer in range(4):
            edge = horizon - 0.04 + 0.12 * layer + (0.065 - 0.008 * layer) * waves(c.x, rng, 0.45, 2)
            shade = (0.80, 1.0, 0.86, 1.0)[layer] if not scene.snow else (0.84, 0.97, 0.88, 1.0)[layer]
            ground(c, edge, lit(grass, shade), (0.35, 0.12, 0.0, 0.0)[layer], haze)
    elif scene.terrain == "desert":
        sand = (0.93, 0.74, 0.42)
        for layer in range(3):
            u = (1.0 + 0.5 * rng.random()) * c.x + rng.random()
            saw = u - np.floor(u)
            skew = rng.uniform(0.55, 0.75)
            crest = np.where(saw < skew, saw / skew, (1 - saw) / (1 - skew))
            base = horizon + 0.02 + 0.15 * layer
            edge = base - (0.05 + 0.03 * layer) * np.sin(crest * np.pi / 2) ** 2
            depth = c.y - edge
            lee = np.clip((saw - skew - 0.9 * depth) * c.size * 0.7 + 0.5, 0, 1) * np.clip((1 - saw) / 0.2, 0, 1)
            colour = lit(sand, 1.0 - 0.05 * layer) * (1 - 0.30 * (lee * np.clip(1 - depth / 0.25, 0, 1))[..., None])
            c.over(c.cover(c.y - edge), colour)
    else:
        deep = np.array((0.04, 0.26, 0.48), np.float32) * (0.35 + 0.65 * light) * (0.55 if scene.time == "night" else 1.0)
        near = np.array((0.10, 0.46, 0.58), np.float32) * (0.35 + 0.65 * light) * (0.45 if scene.time == "night" else 1.0)
        u = np.clip((c.y - horizon) / (1 - horizon), 0, 1)[..., None]
        water = (haze * 0.35 + near * 0.65) * (1 - u) + deep * u
        water = water * (1 + 0.035 * np.sin(c.y * 70 + 2.0 * np.sin(c.x * 9 + rng.random() * 6))[..., None])
        c.over(c.cover(c.y - horizon + 0 * c.x), water)
        if scene.orb:
            glint = np.exp(-(((c.x - sun_x) / (0.035 + 0.10 * u[..., 0])) ** 2)) * c.cover(c.y - horizon)
            c.over(0.55 * glint, (0.75, 0.8, 0.9) if scene.time == "night" else haze * 0.5 + 0.5)
        if rng.random() < 0.6:
            edge = rng.uniform(0.86, 0.93) + 0.03 * waves(c.x, rng, 0.5, 2)
            ground(c, edge - 0.018, np.clip(near * 0.4 + 0.6 * light, 0, 1))
            ground(c, edge, np.array((0.90, 0.78, 0.55)) * light)


def paint_things(c: Canvas, scene: Scene, rng, horizon):
    light = np.array(LIGHT[scene.time], np.float32)
    white = np.array(SNOW[scene.time], np.float32)
    if scene.lake:
        cx, cy = rng.uniform(0.3, 0.7), horizon + rng.uniform(0.26, 0.31)
        haze = np.array(SKY[scene.time][1], np.float32)
        c.ellipse(cx, cy, rng.uniform(0.20, 0.30), 0.050, 0.55 * haze + 0.45 * np.array((0.2, 0.5, 0.75)) * light)
    if scene.trees:
        leaf = np.array((0.80, 0.36, 0.08) if scene.autumn else (0.10, 0.34, 0.12), np.float32) * light
        for base in sorted(rng.uniform(horizon + 0.22, 0.93, rng.integers(2, 5))):
            cx, h = rng.uniform(0.04, 0.96), rng.uniform(0.13, 0.17) * (0.65 + 0.5 * base)
            if scene.terrain == "desert":
                green = np.array((0.20, 0.45, 0.18), np.float32) * light
                c.box(cx - 0.018, base - h, cx + 0.018, base, green)
                c.box(cx - 0.060, base - 0.75 * h, cx - 0.030, base - 0.35 * h, green)
                c.box(cx - 0.060, base - 0.45 * h, cx, base - 0.30 * h, green)
                c.box(cx + 0.030, base - 0.85 * h, cx + 0.060, base - 0.45 * h, green)
                c.box(cx, base - 0.55 * h, cx + 0.060, base - 0.40 * h, green)
            elif scene.terrain == "mountains" or scene.snow:
                c.box(cx - 0.012, base - 0.03, cx + 0.012, base, np.array((0.30, 0.20, 0.12)) * light)
                c.triangle(cx, base - h, 0.055, base - 0.02, leaf)
                if scene.snow:
                    c.triangle(cx, base - h, 0.026, base - 0.6 * h, white)
            else:
                c.box(cx - 0.012, base - 0.05, cx + 0.012, base, np.array((0.35, 0.22, 0.12)) * light)
                c.ellipse(cx, base - 0.6 * h, 0.052, 0.45 * h, leaf)
    if scene.house:
        cx, base = rng.uniform(0.15, 0.85), horizon + rng.uniform(0.26, 0.36)
        wall = np.array((0.86, 0.78, 0.66), np.float32) * (0.15 + 0.85 * light)
        roof = white if scene.snow else np.array((0.62, 0.22, 0.16), np.float32) * light
        c.box(cx - 0.075, base - 0.095, cx + 0.075, base, wall)
        c.triangle(cx, base - 0.18, 0.105, base - 0.085, roof)
        window = (1.0, 0.85, 0.35) if scene.time in ("night", "sunset") else np.array((0.35, 0.42, 0.52)) * light
        c.box(cx - 0.028, base - 0.070, cx + 0.028, base - 0.025, window)


def balloon_place(rng) -> tuple[float, float, float]:
    """Centre and radius of the envelope."""
    r = rng.uniform(0.135, 0.185)
    return rng.uniform(r + 0.06, 0.94 - r), rng.uniform(r + 0.04, 0.36), r


def paint_balloon(c: Canvas, scene: Scene, place: tuple[float, float, float]):
    cx, cy, r = place
    colour = np.array(BALLOON[scene.balloon], np.float32) * BALLOON_LIGHT[scene.time]
    dx, dy = (c.x - cx) / r, (c.y - cy) / r
    half = np.where(dy < 0.35, np.sqrt(np.clip(1 - dy * dy, 0, 1)), 0.937 - 0.68 * (dy - 0.35))
    inside = np.minimum(half - abs(dx), np.minimum(1.28 - dy, 1.0 + dy)) * r
    across = dx / np.maximum(half, 0.05)
    shade = (1.0 - 0.30 * np.clip(across, -1, 1) ** 2 - 0.10 * (np.cos(across * 7.5) > 0.2)) * (1.0 - 0.08 * dy)
    basket = np.array((0.42, 0.26, 0.12), np.float32) * (0.45 + 0.55 * np.array(LIGHT[scene.time]))
    for side in (-1, 1):
        c.box(cx + side * 0.26 * r - 0.006, cy + 1.2 * r, cx + side * 0.26 * r + 0.006, cy + 1.62 * r, basket)
    c.box(cx - 0.30 * r, cy + 1.55 * r, cx + 0.30 * r, cy + 1.90 * r, basket)
    c.over(c.cover(inside), np.clip(colour * np.clip(shade, 0, 1.05)[..., None], 0, 1))


def paint(scene: Scene, size: int = 64) -> np.ndarray:
    """The picture of a scene: uint8 `[size, size, 3]`."""
    rng = np.random.default_rng([scene.seed, 1])
    c = Canvas(size)
    horizon = rng.uniform(0.50, 0.58)
    sun_x = paint_sky(c, scene, rng, horizon)
    paint_terrain(c, scene, rng, horizon, sun_x)
    paint_things(c, scene, rng, horizon)
    if scene.balloon != "none":
        paint_balloon(c, scene, balloon_place(rng))
    return (np.clip(c.pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def main():
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="PNG to write")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from captions import caption

    scenes = [scene_for(args.seed + i) for i in range(args.rows * 8)]
    pictures = [paint(s, args.size) for s in scenes]
    rows = [np.concatenate(pictures[8 * r : 8 * r + 8], axis=1) for r in range(args.rows)]
    Image.fromarray(np.concatenate(rows)).save(args.out)
    for s in scenes:
        print(caption(s))


if __name__ == "__main__":
    main()
