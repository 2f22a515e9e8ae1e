"""PyTorch twins of the CompVis modules, under the original state-dict names; the reference for the demo model.

    from compvis import load
    model = load("assets/demo")          # a folder with config.yaml and model.safetensors
    context = model.cond_stage_model(ids)
    velocity = model.unet(latent, timesteps, context)
    image = model.first_stage_model.decode(latent / model.scale_factor)

Needs torch, pyyaml and safetensors; put this folder's parent (`tools`) on PYTHONPATH.
"""

from pathlib import Path

import torch
import yaml
from torch import nn

from .autoencoder import AutoencoderKL
from .clip import FrozenCLIPEmbedder
from .unet import UNetModel


class LatentDiffusion(nn.Module):
    """The three networks of one config.yaml, at random weights; `model.diffusion_model` is the UNet."""

    def __init__(self, config: dict):
        super().__init__()
        params = config["model"]["params"]
        self.params = params
        self.scale_factor = params["scale_factor"]
        self.model = nn.Module()
        self.model.diffusion_model = UNetModel(**params["unet_config"]["params"])
        self.first_stage_model = AutoencoderKL(**params["first_stage_config"]["params"])
        self.cond_stage_model = FrozenCLIPEmbedder(**params["cond_stage_config"]["params"])

    @property
    def unet(self) -> UNetModel:
        return self.model.diffusion_model

    def alphas_cumprod(self) -> torch.Tensor:
        """Product of 1 - beta per timestep, f64: the "linear" schedule of CompVis, rescaled where the config says so."""
        p = self.params
        betas = torch.linspace(p["linear_start"] ** 0.5, p["linear_end"] ** 0.5, p["timesteps"], dtype=torch.float64) ** 2
        signal = (1 - betas).cumprod(0).sqrt()
        if p.get("rescale_betas_zero_snr"):
            signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
        return signal**2


def build_from_config(path: str | Path) -> LatentDiffusion:
    """The networks that a config.yaml (or the folder that holds one) describes, at PyTorch's initial weights."""
    path = Path(path)
    path = path / "config.yaml" if path.is_dir() else path
    return LatentDiffusion(yaml.safe_load(path.read_text()))


def load(folder: str | Path) -> LatentDiffusion:
    """The networks of a folder with their weights, in f32 and evaluation mode."""
    from safetensors.torch import load_file

    model = build_from_config(folder)
    state = {name: tensor.float() for name, tensor in load_file(Path(folder) / "model.safetensors").items()}
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)
