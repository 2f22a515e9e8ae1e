"""Compares inpainted pictures of held-out scenes with the paintings, inside the masks and across their edges.

    pip install torch numpy pillow pyyaml safetensors tqdm
    python tools/train/score_inpaint.py --engine target/release/ldm --grid inpainted.png
    python tools/train/score_inpaint.py --torch          # the PyTorch twin, to steer training

What is hidden can often not be known (a balloon, the moon), so that the error beside a fill with the mean colour says
whether the picture was continued, and the step across the mask's edge whether it shows.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import yaml
from PIL import Image

from common import psnr, render_range, save_grid, to_tensor, to_uint8
from compvis import load
from diffusion import ddim
from masks import beside, hidden, masks
from score import FIRST_SEED, read_pictures, run_engine


@torch.no_grad()
def paint_torch(folder: Path, pictures, holes):
    """The twin's pictures with the folder's own number of steps, composited, and what its first stage makes of the whole ones."""
    model, config = load(folder), yaml.safe_load((folder / "config.yaml").read_text())
    painted, decoded = [], []
    for i in range(0, len(pictures), 32):
        image, hole = pictures[i : i + 32], holes[i : i + 32]
        latent = model.first_stage_model.encode(hidden(image, hole))
        given = torch.cat([latent, beside(hole, latent.shape[-1])], dim=1)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(i))
        found = ddim(lambda x, t: model.apply_model(x, t, concat=given), model.alphas_cumprod(), noise, config["sampling"]["steps"])
        painted.append(model.first_stage_model.decode(found / model.scale_factor))
        decoded.append(model.first_stage_model.decode(model.first_stage_model.encode(image)))
    painted, decoded = (to_tensor(to_uint8(torch.cat(part))) for part in (painted, decoded))
    return torch.where(torch.from_numpy(holes)[:, None], painted, pictures), decoded


def paint_engine(engine: str, folder: Path, pictures, holes, extra: list[str]):
    """The program's pictures, from pairs of files as the original inpainting script reads them."""
    with tempfile.TemporaryDirectory() as scratch:
        pairs = Path(scratch) / "pairs"
        pairs.mkdir()
        for i, (picture, hole) in enumerate(zip(to_uint8(pictures), holes)):
            Image.fromarray(picture).save(pairs / f"{i:04}.png")
            Image.fromarray(hole).convert("L").save(pairs / f"{i:04}_mask.png")
        return read_pictures(run_engine([engine, "inpaint", "--model", folder, "--indir", pairs, "--outdir", Path(scratch) / "out", *extra]))


def filled(pictures, hole, nearest: bool):
    """Pictures with the hole filled by the mean of what is seen, or by the closest seen pixel."""
    side, result = pictures.shape[-1], pictures.clone()
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    for picture, covered in zip(result, hole[:, 0]):
        flat, covered = picture.flatten(1), covered.flatten()
        seen = flat[:, ~covered]
        if nearest:
            flat[:, covered] = seen[:, torch.cdist(places[covered], places[~covered]).argmin(1)]
        else:
            flat[:, covered] = seen.mean(1, keepdim=True)
    return result


def seam(images, hole) -> float:
    """Mean absolute step between neighbours of which the mask covers one, in 1/255."""
    steps = []
    for axis in (2, 3):
        first, second = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        edge = (hole[first] != hole[second]).expand(-1, 3, -1, -1)
        steps.append((images[first] - images[second]).abs()[edge])
    return 127.5 * torch.cat(steps).mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[2] / "assets/inpaint")
    parser.add_argument("--engine", help="the ldm program; arguments after -- are passed to `ldm inpaint`")
    parser.add_argument("--torch", action="store_true", help="paint with the PyTorch twin instead")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--grid", type=Path, help="write painting, hole and result of the first pictures here")
    parser.add_argument("extra", nargs="*", default=[])
    args = parser.parse_args()
    config = yaml.safe_load((args.model / "config.yaml").read_text())
    size = config["model"]["params"]["first_stage_config"]["params"]["ddconfig"]["resolution"]
    pictures = to_tensor(render_range((FIRST_SEED, FIRST_SEED + args.count, size)))
    holes = masks(FIRST_SEED, args.count, size)
    hole = torch.from_numpy(holes)[:, None]
    rows = {"mean colour of what is seen": filled(pictures, hole, False), "closest pixel that is seen": filled(pictures, hole, True)}
    if args.torch:
        rows["inpainted (PyTorch twin)"], decoded = paint_torch(args.model, pictures, holes)
        print(f"first stage on {args.count} held-out scenes: {psnr(decoded, pictures).mean():.2f} dB")
        rows["first stage, given the whole"] = torch.where(hole, decoded, pictures)
    elif args.engine:
        rows["inpainted"] = paint_engine(args.engine, args.model, pictures, holes, args.extra)
    else:
        raise SystemExit("--engine or --torch is needed")
    print(f"\n| {args.count} held-out scenes, {100 * holes.mean():.0f} % hidden | PSNR inside | L1 inside, of 255 | step across the edge, of 255 |")
    print("|---|---|---|---|")
    for name, images in (rows | {"the painting": pictures}).items():
        share = hole.float().mean()
        error = images - pictures
        inside = 10 * torch.log10(4.0 * share / error.pow(2).mean()) if error.any() else torch.tensor(torch.inf)
        print(f"| {name} | {inside:.2f} dB | {127.5 * (error.abs().mean() / share):.1f} | {seam(images, hole):.1f} |")
    if args.grid:
        shown = next(images for name, images in rows.items() if name.startswith("inpainted"))
        save_grid(args.grid, torch.stack([pictures, hidden(pictures, holes), shown], 1)[:32].flatten(0, 1), 12)


if __name__ == "__main__":
    main()
