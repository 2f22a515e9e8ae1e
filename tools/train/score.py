"""Judges the engine's pictures for held-out captions, with a classifier trained on paintings.

    pip install torch numpy pillow pyyaml safetensors tqdm
    python tools/train/score.py --run runs/demo --engine target/release/ldm --grid assets/grid.png
    python tools/train/score.py --run runs/demo --images FOLDER      # pictures made from --prompts-only's file, in order
    python tools/train/score.py --run runs/demo --torch assets/demo  # the PyTorch twin, to steer training

The captions belong to scenes that training never saw; a fifth of them ask for combinations of hour, ground and
balloon that training never showed at all.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw, ImageFont

import classifier
import common
from captions import caption
from common import psnr, render_range, to_tensor, to_uint8
from compvis import load
from diffusion import ddim, guided
from painter import scene_for
from tokenizer import Tokenizer

FIRST_SEED = 20_000_000
TARGETS = {"balloon colour or none": 0.90, "terrain": 0.90, "time of day": 0.85, "snow": 0.85}


def scenes_and_captions(count: int):
    """Scenes that training never saw, every fifth a withheld combination, and one caption of each that names everything."""
    scenes = [scene_for(FIRST_SEED + i, held_out=i % 5 == 4) for i in range(count)]
    return scenes, [caption(s, terse=False) for s in scenes]


def run_engine(command: list) -> list[Path]:
    """One run of the program; the files it wrote, in order."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}")
    return [Path(line) for line in done.stdout.splitlines()]


def read_pictures(paths) -> torch.Tensor:
    return to_tensor(np.stack([np.asarray(Image.open(p).convert("RGB")) for p in paths]))


@torch.no_grad()
def sample_torch(folder: Path, texts: list[str], scale: float | None) -> torch.Tensor:
    """Pictures of the PyTorch twin with the folder's own sampling settings."""
    model, config = load(folder), yaml.safe_load((folder / "config.yaml").read_text())
    settings, params = config["sampling"], config["model"]["params"]
    tokenise = Tokenizer(folder, params["cond_stage_config"]["params"]["text_config"]["max_position_embeddings"])
    empty = model.cond_stage_model(torch.tensor([tokenise("")]))
    side, images = params["image_size"], []
    for i in range(0, len(texts), 32):
        context = model.cond_stage_model(torch.tensor([tokenise(t) for t in texts[i : i + 32]]))
        noise = torch.randn(len(context), params["channels"], side, side, generator=torch.Generator().manual_seed(i))
        velocity = guided(model, context, empty, scale or settings["cfg_scale"])
        latent = ddim(velocity, model.alphas_cumprod(), noise, settings["steps"])
        images.append(model.first_stage_model.decode(latent / model.scale_factor))
    return to_tensor(to_uint8(torch.cat(images)))


def table(scenes, found) -> bool:
    """Prints the shares and says whether all targets are met."""
    right = {
        "balloon colour or none": [s.balloon == f["balloon"] for s, f in zip(scenes, found)],
        "terrain": [s.terrain == f["terrain"] for s, f in zip(scenes, found)],
        "time of day": [s.time == f["time"] for s, f in zip(scenes, found)],
        "snow": [s.snow == f["snow"] for s, f in zip(scenes, found)],
    }
    right["all four"] = [all(r) for r in zip(*right.values())]
    unseen = np.array([i % 5 == 4 for i in range(len(scenes))])
    print(f"\n| {len(scenes)} held-out captions | all | combinations seen | combinations withheld | asked |")
    print("|---|---|---|---|---|")
    met = True
    for name, values in right.items():
        values, target = np.array(values), TARGETS.get(name)
        met &= target is None or bool(values.mean() >= target)
        asked = f">= {target:.2f}" if target else ""
        print(f"| {name} | {values.mean():.3f} | {values[~unseen].mean():.3f} | {values[unseen].mean():.3f} | {asked} |")
    two = np.array([f["count"] == 2 for s, f in zip(scenes, found) if s.balloon != "none"])
    print(f"| two balloons where one was asked | {two.mean():.3f} | | | <= 0.05 |")
    snow = np.array([f["snow"] for s, f in zip(scenes, found) if s.snow])
    print(f"| snow shown where asked | {snow.mean():.3f} | | | |")
    return met and two.mean() <= 0.05


def reconstruction(engine: str | None, folder: Path, size: int, count: int) -> float:
    """Mean PSNR of encode and decode over held-out scenes, through the engine or its PyTorch twin."""
    pictures = render_range((common.VALIDATION_SEED + 5000, common.VALIDATION_SEED + 5000 + count, size))
    if engine is None:
        model = load(folder).first_stage_model
        with torch.no_grad():
            decoded = to_tensor(to_uint8(torch.cat([model.decode(model.encode(p)[0]) for p in to_tensor(pictures).split(32)])))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            paths = [Path(scratch) / f"{i:05}.png" for i in range(count)]
            for path, picture in zip(paths, pictures):
                Image.fromarray(picture).save(path)
            latents = run_engine([engine, "encode", *paths, "--model", folder, "--outdir", Path(scratch) / "latents"])
            decoded = read_pictures(run_engine([engine, "decode", *latents, "--model", folder, "--outdir", Path(scratch) / "decoded"]))
    return psnr(decoded, to_tensor(pictures)).mean().item()


def write_grid(path: Path, images: torch.Tensor, texts: list[str], columns: int = 6, rows: int = 4, zoom: int = 2):
    """The first pictures with their captions below, in few enough colours for a small file."""
    pictures, side = to_uint8(images[: columns * rows]), images.shape[-1] * zoom
    cell, font = (side + 8, side + 46), ImageFont.load_default(10)
    sheet = Image.new("RGB", (columns * cell[0] + 8, rows * cell[1] + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(pictures, texts)):
        x, y = 8 + (i % columns) * cell[0], 8 + (i // columns) * cell[1]
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), (x, y))
        lines = [""]
        for word in text.split():
            if draw.textlength(f"{lines[-1]} {word}", font) > side:
                lines.append(word)
            else:
                lines[-1] = f"{lines[-1]} {word}".strip()
        draw.multiline_text((x, y + side + 2), "\n".join(lines[:3]), fill="black", font=font, spacing=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
    if path.stat().st_size > 400_000:
        sheet.quantize(256).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="keeps the judge, the prompts and the pictures")
    parser.add_argument("--engine", help="the ldm program; arguments after -- are passed to `ldm sample`")
    parser.add_argument("--images", type=Path, help="judge this folder's PNG files, sorted by name, instead")
    parser.add_argument("--torch", type=Path, help="sample with the PyTorch twin of this model folder instead")
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[2] / "assets/demo")
    parser.add_argument("--prompts-only", action="store_true", help="write RUN/prompts.jsonl and stop")
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--cfg-scale", type=float, help="with --torch: another guidance scale")
    parser.add_argument("--reconstructions", type=int, default=64, help="scenes for the autoencoder's PSNR; 0 leaves it out")
    parser.add_argument("--grid", type=Path, help="write a sheet of the first pictures and captions here")
    parser.add_argument("extra", nargs="*", default=[])
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    scenes, texts = scenes_and_captions(args.count)
    prompts = args.run / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": t, "seed": i + 1}) + "\n" for i, t in enumerate(texts)))
    if args.prompts_only:
        print(prompts)
        return
    folder = args.torch or args.model
    size = yaml.safe_load((folder / "config.yaml").read_text())["model"]["params"]["first_stage_config"]["params"]["ddconfig"]["resolution"]
    judge = classifier.train(args.run, size)
    if args.torch:
        images = sample_torch(args.torch, texts, args.cfg_scale)
    elif args.images:
        images = read_pictures(sorted(args.images.glob("*.png")))
    elif args.engine:
        out = Path(tempfile.mkdtemp(prefix="pictures-", dir=args.run))
        images = read_pictures(run_engine([args.engine, "sample", "--model", folder, "--from-file", prompts, "--outdir", out, *args.extra]))
    else:
        raise SystemExit("one of --engine, --images and --torch is needed")
    if len(images) != len(scenes):
        raise SystemExit(f"{len(images)} pictures for {len(scenes)} captions")
    met = table(scenes, classifier.judge(judge, images))
    if args.grid:
        write_grid(args.grid, images, texts)
    if args.reconstructions:
        value = reconstruction(None if args.torch or args.images else args.engine, folder, size, args.reconstructions)
        met &= value >= 30
        print(f"| autoencoder PSNR, {args.reconstructions} held-out scenes | {value:.2f} dB | | | >= 30 |")
    print("\nall targets met" if met else "\nshort of a target", file=sys.stderr)


if __name__ == "__main__":
    main()
