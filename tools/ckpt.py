"""Writes checkpoints as PyTorch writes them, and what is in them: the oracle of the engine's reader of `.ckpt` files.

    pip install torch safetensors numpy pyyaml
    python tools/ckpt.py tests/data/ckpt
    python tools/ckpt.py /tmp/large --system assets/systems/celeba256.yaml

zip.ckpt and legacy.ckpt hold one dictionary, as PyTorch Lightning nests it, in the two layouts of `torch.save`: weights in
three precisions and other types, storages that are shared and begun in the middle, tensors whose elements do not lie row
after row, and what training leaves behind. twin.safetensors holds the values of each tensor, packed. bare.bin is a
dictionary without a `state_dict`. attack.ckpt and hidden.ckpt run a command in whoever loads them with Python's pickle.

With --system, instead: config.yaml and model.ckpt of a whole system as training leaves it, in f32 at random weights, with the
moving average of the UNet and the two moments that Adam keeps of each weight: four times what sampling needs, and beyond 4 GiB a
zip archive of 64-bit sizes.
"""

import argparse
import collections
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

import compvis


class ModelCheckpoint:
    """Stands for Lightning's class of that name, a key of `callbacks` in real checkpoints."""

    def __init__(self):
        self.best_model_path = "last.ckpt"


class Attack:
    def __reduce__(self):
        return os.system, ("touch ran",)


def lightning(name):
    """Makes a class look as if it came from where Lightning has it."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    setattr(module, name.__name__, name)
    name.__module__ = module.__name__
    sys.modules[module.__name__] = module
    for parent in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        sys.modules[parent] = types.ModuleType(parent)


def weights():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(5, 6, bias=False))
    state = collections.OrderedDict(module.state_dict(keep_vars=True))
    state["half"] = torch.randn(3, 5).half()
    state["brain"] = torch.randn(7).bfloat16()
    base = torch.randn(4, 6)
    state["shared"] = base
    state["shared.tail"] = base[2:]
    state["shared.row"] = base[1, 2:5]
    state["transposed"] = base.t()
    state["channels_last"] = torch.randn(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    state["expanded"] = torch.randn(1, 4).expand(3, 4)
    state["column"] = base[:, :1][1:2]
    state["scale_factor"] = torch.tensor(0.22765929)
    state["empty"] = torch.empty(0, 3)
    state["double"] = torch.randn(2, dtype=torch.float64)
    state["ids"] = torch.arange(5)
    state["mask"] = torch.tensor([True, False])
    state["complex"] = torch.randn(2, dtype=torch.complex64)
    return module, state


def training(module):
    optimizer = torch.optim.AdamW(module.parameters())
    module[1](torch.randn(2, 5)).sum().backward()
    optimizer.step()
    return dict(
        epoch=3,
        global_step=2**40,
        optimizer_states=[optimizer.state_dict()],
        lr_schedulers=[dict(base_lrs=[1e-4], last=np.float64(0.5))],
        callbacks={ModelCheckpoint: dict(monitor="val/loss", best=torch.tensor(0.5), object=ModelCheckpoint())},
        hyper_parameters=dict(kinds={"a"}, frozen=frozenset([1]), path=Path("x"), raw=b"\xff", big=-(10**30), none=None),
    )


def system(config, folder):
    """A system's checkpoint as its training would leave it. Nothing is zero, so that no layer is skipped unseen."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = compvis.LatentDiffusion(yaml.safe_load(config.read_text()))
    state = {}
    for name, tensor in model.state_dict().items():
        fan_in = max(tensor[0].numel(), 1) if tensor.ndim > 1 else 1
        scale = fan_in**-0.5 if tensor.ndim > 1 else 0.02
        state[name] = torch.randn(tensor.shape) * scale + (1.0 if tensor.ndim == 1 and name.endswith("weight") else 0.0)
    raw = {name: tensor for name, tensor in state.items() if name.startswith("model.")}
    averages = {compvis.checkpoint.averaged(name): tensor * 0.999 for name, tensor in raw.items()}
    moments = {i: dict(step=1, exp_avg=tensor * 1e-3, exp_avg_sq=tensor**2) for i, tensor in enumerate(raw.values())}
    optimizer = dict(state=moments, param_groups=[dict(lr=1e-4, params=list(moments))])
    whole = dict(epoch=1, global_step=1000, optimizer_states=[optimizer], callbacks={ModelCheckpoint: ModelCheckpoint()})
    torch.save(whole | {"state_dict": state | averages}, folder / "model.ckpt")
    shutil.copy(config, folder / "config.yaml")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--system", type=Path, metavar="CONFIG")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    lightning(ModelCheckpoint)
    if arguments.system:
        return system(arguments.system, folder)
    module, state = weights()
    all_of_it = training(module) | {"state_dict": state}
    torch.save(all_of_it, folder / "zip.ckpt")
    # The older layout does not know of types that came after it.
    state = collections.OrderedDict((k, v) for k, v in state.items() if k != "complex")
    torch.save(all_of_it | {"state_dict": state}, folder / "legacy.ckpt", _use_new_zipfile_serialization=False)
    save_file({k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in state.items()}, folder / "twin.safetensors")
    bare = {k: v.detach() for k, v in state.items() if k in ("0.weight", "half")}
    torch.save(bare, folder / "bare.bin", pickle_protocol=4)
    torch.save({"state_dict": bare, "extra": Attack()}, folder / "attack.ckpt")
    torch.save({"state_dict": bare, "extra": [{"a": (Attack(),)}]}, folder / "hidden.ckpt", _use_new_zipfile_serialization=False, pickle_protocol=4)


if __name__ == "__main__":
    main()
