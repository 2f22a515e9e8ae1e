"""PyTorch twins of the CompVis modules, under the original state-dict names: the reference of the parity dumps and the demos.

    from compvis import load
    model = load("assets/demo")          # a folder with config.yaml and model.safetensors, model.ckpt or last.ckpt
    context = model.cond_stage_model(ids)
    velocity = model.unet(latent, timesteps, context)
    image = model.first_stage_model.decode(latent / model.scale_factor)

Needs torch, pyyaml and safetensors; put this folder's parent (`tools`) on PYTHONPATH.
"""

from pathlib import Path

import torch
import yaml
from torch import nn

from . import checkpoint
from .autoencoder import AutoencoderKL, VQModel, VQModelInterface
from .bert import BERTEmbedder
from .clip import FrozenCLIPEmbedder
from .conditions import ClassEmbedder, SpatialRescaler
from .openclip import FrozenOpenCLIPEmbedder
from .unet import UNetModel

CLASSES = {kind.__name__: kind for kind in (
    AutoencoderKL, VQModel, VQModelInterface, BERTEmbedder, FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder, ClassEmbedder,
    SpatialRescaler, UNetModel, nn.Identity)}


def built(section: dict) -> nn.Module:
    """The module that a section's `target` and `params` describe."""
    return CLASSES[section["target"].split(".")[-1]](**section.get("params", {}))


class LatentDiffusion(nn.Module):
    """The networks of one config.yaml, at random weights; `model.diffusion_model` is the UNet.

    `conditioning_key` says what reaches the UNet, and how: `concat` beside the latent, `crossattn` as its context, `hybrid`
    both, `adm` as class labels; None is nothing.
    """

    def __init__(self, config: dict):
        super().__init__()
        params = config["model"]["params"]
        self.params = params
        self.use_ema = params.get("use_ema", True)
        if params.get("scale_by_std"):
            # Measured in training, so that only a checkpoint has it.
            self.register_buffer("scale_factor", torch.tensor(1.0))
        else:
            self.scale_factor = params.get("scale_factor", 1.0)
        self.model = nn.Module()
        self.model.diffusion_model = built(params["unet_config"])
        self.first_stage_model = built(params["first_stage_config"])
        stage = params.get("cond_stage_config", "__is_unconditional__")
        self.conditioning_key = params.get("conditioning_key", "concat" if params.get("concat_mode", True) else "crossattn")
        if stage == "__is_unconditional__":
            self.cond_stage_model = self.conditioning_key = None
        elif stage == "__is_first_stage__":
            # The same module by a second name: checkpoints hold its weights twice.
            self.cond_stage_model = self.first_stage_model
        else:
            self.cond_stage_model = built(stage)

    @property
    def unet(self) -> UNetModel:
        return self.model.diffusion_model

    def apply_model(self, latent, timesteps, concat=None, context=None, class_labels=None):
        """What the UNet predicts for a latent under its condition."""
        given = [key for key, value in (("concat", concat), ("context", context), ("class_labels", class_labels)) if value is not None]
        taken = {None: [], "concat": ["concat"], "crossattn": ["context"], "hybrid": ["concat", "context"], "adm": ["class_labels"]}
        if given != taken[self.conditioning_key]:
            raise ValueError(f"conditioning by {self.conditioning_key} takes {taken[self.conditioning_key]}, not {given}")
        whole = latent if concat is None else torch.cat([latent, concat], dim=1)
        return self.unet(whole, timesteps, context, class_labels)

    def alphas_cumprod(self) -> torch.Tensor:
        """Product of 1 - beta per timestep, f64: the "linear" schedule of CompVis, rescaled where the config says so."""
        p = self.params
        betas = torch.linspace(p["linear_start"] ** 0.5, p["linear_end"] ** 0.5, p["timesteps"], dtype=torch.float64) ** 2
        signal = (1 - betas).cumprod(0).sqrt()
        if p.get("rescale_betas_zero_snr"):
            signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
        return signal**2


def build_from_config(path: str | Path) -> nn.Module:
    """What a config.yaml (or the folder that holds one) describes, at PyTorch's initial weights: a `LatentDiffusion`, or a
    first stage alone."""
    path = Path(path)
    path = path / "config.yaml" if path.is_dir() else path
    config = yaml.safe_load(path.read_text())
    alone = config["model"]["target"].split(".")[-1] in CLASSES
    return built(config["model"]) if alone else LatentDiffusion(config)


def load(folder: str | Path) -> nn.Module:
    """The networks of a folder with their weights, in f32 and evaluation mode."""
    folder = Path(folder)
    model = build_from_config(folder)
    names = ("model.safetensors", "model.ckpt", "last.ckpt")
    path = next(path for path in (folder / name for name in names) if path.exists())
    checkpoint.fill(model, checkpoint.read(path), getattr(model, "use_ema", False))
    return model.eval().requires_grad_(False)
