"""Known answers for the tokens of layouts, and the names of the layout model's classes.

    python tools/layouts.py                                              # tests/data/layouts.json
    python tools/layouts.py --descriptions CSV --helper PY > classes.json

The first computes tokens from their definition (`ObjectsBoundingBoxConditionalBuilder` of CompVis/taming-transformers), in
Python's own arithmetic. The second writes the names that `ldm layout2img` reads beside a model, from two files which are not part
of this repository: OpenImages' `class-descriptions-boxable.csv`, and `taming/data/open_images_helper.py` of taming-transformers,
which says what classes were trained on. Classes that were unified with another have no number. The tokens of an object's
properties are counted by all the names of the list, unified ones included, as CompVis's data loader did.
"""

import argparse
import ast
import csv
import json
import random
from pathlib import Path

VOCAB, OBJECTS, SECTIONS = 8192, 30, 90
LAST = "/m/01s55n"


def point(x, y):
    return round(y * (SECTIONS - 1)) * SECTIONS + round(x * (SECTIONS - 1))


def corners(x, y, width, height):
    return [point(x, y), point(x + width, y + height)]


def tokens(boxes, crop, stride):
    ids = []
    for box in boxes:
        x, y, width, height = box["box"]
        across = min(x + width, crop[0] + crop[2]) - max(x, crop[0])
        down = min(y + height, crop[1] + crop[3]) - max(y, crop[1])
        if across > 0 and down > 0:
            modifier = sum(bit * box.get(name, False) for bit, name in ((1, "group"), (2, "occluded"), (4, "depiction"), (8, "inside")))
            ids += [box["class"] + stride * modifier, *corners(x, y, min(width, 1 - x), min(height, 1 - y))]
    return ids + [VOCAB - 1] * (3 * OBJECTS - len(ids)) + corners(*crop)


def interval(rng):
    """Where something begins, and its size; halves of the grid's steps often, where rounding is decided."""
    if rng.random() < 0.5:
        begin, end = sorted(rng.sample(range(179), 2))
        return begin / 178, (end - begin) / 178
    begin = rng.random()
    return begin, rng.uniform(1e-3, 1) * (1 - begin)


def area(rng):
    (x, width), (y, height) = interval(rng), interval(rng)
    return [x, y, width, height]


def layout(rng, stride):
    boxes = []
    for _ in range(rng.choice([0, 1, 3, 30])):
        properties = {name: True for name in ("group", "occluded", "depiction", "inside") if rng.random() < 0.2}
        boxes.append({"class": rng.randrange(stride), "box": area(rng)} | properties)
    return {"boxes": boxes} | ({"crop": area(rng)} if rng.random() < 0.3 else {})


def known_answers(path):
    rng, stride, cases = random.Random(1), 352, []
    for _ in range(24):
        given = layout(rng, stride)
        cases.append({"layout": given, "ids": tokens(given["boxes"], given.get("crop", [0.0, 0.0, 1.0, 1.0]), stride)})
    path.write_text(json.dumps({"stride": stride, "cases": cases}) + "\n")


def names(descriptions, helper):
    lists = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(helper.read_text()).body
             if isinstance(node, ast.Assign)}
    listed = {name for name, _ in lists["top_300_classes_plus_coco_compatibility"]}
    unified = lists["open_images_unify_categories_for_coco"]
    with descriptions.open(newline="", encoding="utf-8") as file:
        known = {row[0]: row[1] for row in csv.reader(file) if row[1] in listed and row[0] not in unified}
    order = sorted(known, key=lambda label: (label == LAST, label))
    print(json.dumps({"names": [known[label] for label in order], "stride": len(listed)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/data/layouts.json"))
    parser.add_argument("--descriptions", type=Path, metavar="CSV", help="write names instead, from these")
    parser.add_argument("--helper", type=Path, metavar="PY", help="and from this list of what was trained on")
    arguments = parser.parse_args()
    if arguments.descriptions:
        names(arguments.descriptions, arguments.helper)
    else:
        known_answers(arguments.out)


if __name__ == "__main__":
    main()
