"""Writes the parity dumps that the tests compare the engine with, and the small random models they belong to.

    pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 safetensors pyyaml
    python tools/dumps/make.py                              # tests/data/parity, all cases
    python tools/dumps/make.py --demo assets/demo --out DIR # dumps of the demo model, from its PyTorch twin
    python tools/dumps/make.py --diffusers MODEL --out DIR  # dumps of any Stable Diffusion 1 or 2 in diffusers' layout
    python tools/dumps/make.py --compvis MODEL --out DIR    # dumps of any folder in CompVis's layout, a published checkpoint for example
    python tools/dumps/make.py --system celeba256 --width 1/4 --format ckpt --out DIR
                                                            # a published system at any width, with random weights, and its dumps
    python tools/dumps/make.py --count                      # parameters of every published network

Each case is a folder: `model/` is what `ldm parity --model` is given, each `*.safetensors` beside it is a dump. Seeded:
the same versions write the same tensors (the order of a file's metadata may differ).
"""

import argparse
import shutil
from fractions import Fraction
from pathlib import Path

import systems
import torch
from cases import CASES as SMALL
from demo import demo
from folder import folder
from zoo import CASES as ZOO

ROOT = Path(__file__).resolve().parents[2]
CASES = SMALL | ZOO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/parity", help="folder to write into")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES), help="cases to write")
    parser.add_argument("--demo", type=Path, metavar="MODEL", help="write dumps of this demo folder instead")
    parser.add_argument("--diffusers", type=Path, metavar="MODEL", help="write dumps of this diffusers folder instead")
    parser.add_argument("--compvis", type=Path, metavar="MODEL", help="write dumps of this folder in CompVis's layout instead")
    parser.add_argument("--side", type=int, help="side of the latents; default: 32 with --diffusers, or else the model's own")
    parser.add_argument("--steps", type=int, default=20, help="steps of the trajectory, with --diffusers")
    parser.add_argument("--system", choices=systems.SYSTEMS, metavar="NAME",
                        help=f"write this system or first stage at random weights, with its dumps: {', '.join(systems.SYSTEMS)}")
    parser.add_argument("--width", type=Fraction, default=Fraction(1), help="share of the published channels, with --system")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and inputs, with --system")
    parser.add_argument("--format", choices=("safetensors", "ckpt"), default="safetensors", help="of the weights, with --system")
    parser.add_argument("--count", action="store_true", help="print the parameters of every published network instead")
    arguments = parser.parse_args()
    if arguments.count:
        systems.count()
        return
    # One thread sums in one order: the same values on every machine of one kind.
    torch.set_num_threads(1)
    with torch.no_grad():
        if arguments.demo:
            demo(arguments.demo, arguments.out)
            return
        if arguments.diffusers:
            folder(arguments.diffusers, arguments.out, arguments.side or 32, arguments.steps)
            return
        if arguments.compvis:
            systems.dumps_of(arguments.compvis, arguments.out, arguments.side)
            return
        if arguments.system:
            described = systems.narrowed(systems.config(arguments.system), arguments.width)
            params = described["model"]["params"]
            side = arguments.side or params.get("image_size") or 256 // systems.factor(params)
            systems.folder_of(described, arguments.out / arguments.system, (side, side), arguments.seed, arguments.format)
            return
        for name in arguments.only:
            shutil.rmtree(arguments.out / name, ignore_errors=True)
            CASES[name](arguments.out / name)
            size = sum(file.stat().st_size for file in (arguments.out / name).rglob("*") if file.is_file())
            print(f"{name}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
