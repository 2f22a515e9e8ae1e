"""Unconditional sampling at half the width of CompVis's celeba256: a folder for the engine, and the same in PyTorch.

    unconditional.py write FOLDER                     config.yaml and the UNet at random weights, in f16
    unconditional.py time FOLDER BATCH SIDE REPEAT    seconds of the fastest of REPEAT DDIM steps, on standard output
"""

import sys
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

TOOLS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOOLS))
from compvis.unet import UNetModel  # noqa: E402

PREFIX = "model.diffusion_model."


def write(folder: str) -> None:
    config = yaml.safe_load((TOOLS.parent / "assets/systems/celeba256.yaml").read_text())
    sizes = config["model"]["params"]["unet_config"]["params"]
    # Groups and heads stay as many as at the full width.
    sizes |= {"model_channels": sizes["model_channels"] // 2, "num_head_channels": sizes["num_head_channels"] // 2, "num_groups": 16}
    torch.manual_seed(0)
    unet = UNetModel(**sizes)
    for parameter in unet.parameters():
        # Of the layers that begin as zeros too.
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file({PREFIX + name: value.half().contiguous() for name, value in unet.state_dict().items()}, f"{folder}/model.safetensors")
    # The first stage takes no part.
    del config["model"]["params"]["first_stage_config"]
    Path(folder, "config.yaml").write_text(yaml.safe_dump(config))


def timed(folder: str, batch: str, side: str, repeat: str) -> None:
    config = yaml.safe_load(Path(folder, "config.yaml").read_text())
    unet = UNetModel(**config["model"]["params"]["unet_config"]["params"]).eval()
    unet.load_state_dict({name.removeprefix(PREFIX): value.float() for name, value in load_file(f"{folder}/model.safetensors").items()})
    x = torch.randn(int(batch), 3, int(side), int(side))
    times = []
    # The first warms up.
    for step in range(1 + int(repeat)):
        start = time.perf_counter()
        noise = unet(x, torch.full((int(batch),), 500 - step))
        predicted = (x - 0.8 * noise) / 0.6
        x = 0.7 * predicted + 0.5 * noise
        if not x.isfinite().all():
            sys.exit("the state is not finite")
        times.append(time.perf_counter() - start)
    print(min(times[1:]))


if __name__ == "__main__":
    with torch.inference_mode():
        {"write": write, "time": timed}[sys.argv[1]](*sys.argv[2:])
