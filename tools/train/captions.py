"""Phrasings of a painted scene. Balloon and snow are always named when shown; hour and terrain nearly always."""

import numpy as np

from painter import Scene

TIME = {
    "dawn": ["at dawn", "at sunrise", "at daybreak", "in the early morning"],
    "noon": ["at noon", "at midday", "by day", "in daylight", "in the daytime"],
    "sunset": ["at sunset", "at sunset", "at dusk", "in the evening"],
    "night": ["at night", "at midnight", "by night", "in the dark night"],
}
PLACE = {
    "mountains": ["mountains", "high mountains", "rocky mountains", "the mountains", "mountain peaks"],
    "hills": ["hills", "rolling hills", "green hills", "grassy hills", "the hills"],
    "desert": ["the desert", "a desert", "sand dunes", "desert dunes", "a sandy desert"],
    "sea": ["the sea", "the ocean", "a calm sea", "the water of the sea", "the blue ocean"],
}
SNOWY = {
    "mountains": ["snowy mountains", "snow covered mountains", "mountains in winter", "mountains in the snow", "white snowy mountains"],
    "hills": ["snowy hills", "snow covered hills", "hills in winter", "hills in the snow", "white snowy hills"],
}
AUTUMN = {
    "mountains": ["mountains in autumn", "autumn mountains", "mountains in fall"],
    "hills": ["hills in autumn", "autumn hills", "golden autumn hills"],
}
ABOVE = ["over", "over", "above", "flying over", "floating over", "floating above", "drifting over", "high above", "in the sky over"]
OPENING = ["", "", "", "", "a painting of ", "a picture of ", "a landscape with ", "a view of "]


def things(scene: Scene, pick, chance) -> list[str]:
    """The small things that a caption may name, those it leaves out among them."""
    named = []
    if scene.trees and chance() < 0.75:
        tree = {"desert": ["a cactus", "cactuses"], "hills": ["trees", "a few trees"], "mountains": ["trees", "pine trees"]}
        named.append(pick(tree[scene.terrain]))
    if scene.lake and chance() < 0.75:
        named.append(pick(["a lake", "a small lake", "water"]))
    if scene.house and chance() < 0.75:
        named.append(pick(["a house", "a small house", "a cottage"]))
    if scene.orb and chance() < 0.25:
        named.append(pick(["a full moon", "the moon", "a bright moon"] if scene.time == "night" else ["the sun", "a bright sun"]))
    return named


def caption(scene: Scene, variant: int = 0, terse: bool = True) -> str:
    """One phrasing, decided by the scene's seed and `variant`; `terse` lets it leave out the hour or the place."""
    rng = np.random.default_rng([scene.seed, 2, variant])
    pick = lambda options: options[rng.integers(len(options))]
    if scene.snow:
        place = pick(SNOWY[scene.terrain])
    elif scene.autumn and rng.random() < 0.8:
        place = pick(AUTUMN[scene.terrain])
    else:
        place = pick(PLACE[scene.terrain])
        if scene.terrain == "hills" and scene.autumn:
            place = "hills"
        elif scene.terrain != "sea" and rng.random() < 0.12:
            place += " in summer"
    hour = pick(TIME[scene.time])
    named = things(scene, pick, rng.random)
    extra = (" with " + " and ".join(named)) if named else ""
    cut = rng.random() if terse else 1.0
    if scene.balloon != "none":
        balloon = pick(["a {} balloon", "a {} balloon", "a {} hot air balloon", "one {} balloon", "a big {} balloon"]).format(scene.balloon)
        above = pick(ABOVE)
        if cut < 0.03 and not scene.snow:
            return f"{balloon} {hour}"
        if cut < 0.06:
            return f"{balloon} {above} {place}"
        form = rng.integers(6)
        if form <= 1:
            text = f"{balloon} {above} {place}{extra} {hour}"
        elif form == 2:
            text = f"{hour}, {balloon} {above} {place}{extra}"
        elif form == 3:
            text = f"{place}{extra} {hour}, {balloon} in the sky"
        elif form == 4:
            text = f"{balloon}, {place}{extra}, {hour}"
        else:
            text = f"{place} {hour} with {' and '.join([balloon] + named)}"
    else:
        if cut < 0.05:
            return place
        form = rng.integers(5)
        if form <= 1:
            text = f"{place}{extra} {hour}"
        elif form == 2:
            text = f"{hour}, {place}{extra}"
        elif form == 3:
            text = f"an empty sky over {place}{extra} {hour}"
        else:
            text = f"{place}, {hour}{extra}"
    return pick(OPENING) + text if not text.startswith(("at ", "in ", "by ")) else text
