"""CompVis's checkpoints: which of their weights a model runs with, and files as they were published.

The average over training (`model_ema`) is kept beside the raw UNet, under names without dots. A model that `use_ema` runs
with the average; no other network has one.
"""

import pickle
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch import nn

RAW, AVERAGE = "model.", "model_ema."
# Two of the buffers that every checkpoint of a diffusion model has, computed from its configuration.
SCHEDULE = ("betas", "alphas_cumprod")


def averaged(name: str) -> str | None:
    """The name of the average of the weight `name`; None for a weight that has none."""
    return AVERAGE + name.removeprefix(RAW).replace(".", "") if name.startswith(RAW) else None


class Opaque:
    """Stands for whatever a checkpoint holds besides tensors."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, _):
        pass


class TensorsOnly(pickle.Unpickler):
    """Knows what makes tensors and dictionaries; a class of the framework that trained the model is `Opaque`, and none of its
    code runs."""

    KNOWN = {("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")}

    def find_class(self, module, name):
        known = (module, name) in self.KNOWN or module == "torch" and name.endswith("Storage")
        return super().find_class(module, name) if known else Opaque


def read(path: Path) -> dict:
    """The tensors of a checkpoint."""
    if path.suffix == ".safetensors":
        return load_file(path)
    unpickle = lambda file, **options: TensorsOnly(file, **options).load()
    reader = SimpleNamespace(__name__=__name__, Unpickler=TensorsOnly, load=unpickle)
    content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)
    return content.get("state_dict", content)


def fill(model: nn.Module, state: dict, use_ema: bool) -> None:
    """Loads what the model has a place for, in f32: its average where there is one and the model runs with it."""
    wanted = {}
    for name in model.state_dict():
        average = averaged(name) if use_ema else None
        # A first stage that encodes the condition too has two names, of which a file may hold one.
        source = name if name in state else name.replace("cond_stage_model.", "first_stage_model.", 1)
        wanted[name] = state[average if average in state else source].float()
    model.load_state_dict(wanted)


def published(model: nn.Module, seed: int) -> dict:
    """All tensors of a model's checkpoint: where it runs with an average, the raw weights beside it are others."""
    state = pruned(model)
    if hasattr(model, "alphas_cumprod"):
        signal = model.alphas_cumprod()
        state |= dict(zip(SCHEDULE, (1 - signal / torch.cat([torch.ones(1), signal[:-1]]), signal)))
    if getattr(model, "use_ema", False):
        generator = torch.Generator().manual_seed(seed)
        for name in [name for name in state if averaged(name)]:
            state[averaged(name)] = state[name]
            # Of the same size, so that nothing but a comparison notices which of the two a program took.
            order = torch.randperm(state[name].numel(), generator=generator)
            state[name] = -state[name].flatten()[order].view_as(state[name])
        state |= {f"{AVERAGE}decay": torch.tensor(0.9999), f"{AVERAGE}num_updates": torch.tensor(1000, dtype=torch.int32)}
    return state


def pruned(model: nn.Module) -> dict:
    """The weights that a model runs with, and nothing else."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def save(path: Path, state: dict, half: bool = True) -> None:
    """Writes a checkpoint: `.safetensors`, or `.ckpt` as the training framework does. Weights become f16 where `half`; what was
    computed, and the counters of averages, are f32 everywhere."""
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor = tensor.half() if half and tensor.ndim and name not in SCHEDULE else tensor.float()
        state[name] = tensor.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 1, "global_step": 1000, "pytorch-lightning_version": "1.4.2", "state_dict": state,
                    "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}, path)
