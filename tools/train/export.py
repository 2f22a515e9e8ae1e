"""Writes a trained run as a model folder: model.safetensors (f16, CompVis names), config.yaml, a tokenizer's files.

    python tools/train/export.py --run runs/demo --out assets/demo
    python tools/train/export.py --run runs/inpaint --config tools/train/inpaint.yaml --out assets/inpaint
"""

import argparse
import re
import shutil
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

import common  # noqa: F401  puts tools/ on the path
from compvis import LatentDiffusion


def export(model: LatentDiffusion, scale_factor: float, config_text: str, run: Path, out: Path) -> int:
    """Writes the folder and returns the size of the weights in bytes."""
    out.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    if model.cond_stage_model is model.first_stage_model:
        # One network under two names: once is enough.
        state = {name: tensor for name, tensor in state.items() if not name.startswith("cond_stage_model.")}
    state = {name: tensor.half().contiguous() for name, tensor in state.items()}
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise SystemExit(f"not finite in f16: {bad}")
    save_file(state, out / "model.safetensors")
    (out / "config.yaml").write_text(re.sub(r"scale_factor: \S+", f"scale_factor: {scale_factor:.6f}", config_text))
    for name in ("vocab.json", "merges.txt"):
        if (run / name).exists():
            shutil.copyfile(run / name, out / name)
    return (out / "model.safetensors").stat().st_size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("demo.yaml"))
    args = parser.parse_args()
    text = args.config.read_text()
    model = LatentDiffusion(yaml.safe_load(text))
    stage2 = torch.load(args.run / "stage2.pt", weights_only=True)
    first_stage = torch.load(args.run / "first_stage.pt", weights_only=True)
    model.first_stage_model.load_state_dict(first_stage["model"])
    if (args.run / "decoder.pt").exists():
        model.first_stage_model.load_state_dict(torch.load(args.run / "decoder.pt", weights_only=True)["average"])
    # The UNet, and what was trained beside it.
    for part, state in zip((model.unet, model.cond_stage_model), stage2["average"]):
        part.load_state_dict(state)
    size = export(model, first_stage["scale_factor"], text, args.run, args.out)
    print(f"{args.out}: {size / 1e6:.2f} MB of weights, {stage2['step']} steps")


if __name__ == "__main__":
    main()
