"""Writes a trained run as a model folder: model.safetensors (f16, CompVis names), config.yaml, vocab.json, merges.txt.

    python tools/train/export.py --run runs/demo --out assets/demo
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


def export(model: LatentDiffusion, config_text: str, tokenizer: Path, out: Path) -> int:
    """Writes the folder and returns the size of the weights in bytes."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise SystemExit(f"not finite in f16: {bad}")
    save_file(state, out / "model.safetensors")
    (out / "config.yaml").write_text(re.sub(r"scale_factor: \S+", f"scale_factor: {model.scale_factor:.6f}", config_text))
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(tokenizer / name, out / name)
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
    model.scale_factor = first_stage["scale_factor"]
    model.model.diffusion_model.load_state_dict(stage2["unet"])
    model.cond_stage_model.load_state_dict(stage2["text"])
    size = export(model, text, args.run, args.out)
    print(f"{args.out}: {size / 1e6:.2f} MB of weights, {stage2['step']} steps")


if __name__ == "__main__":
    main()
