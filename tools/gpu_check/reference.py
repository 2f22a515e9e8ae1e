"""What PyTorch answers in f32, written as dumps for `ldm parity`, so that both sides run the very same inputs and weights."""

import sys
from pathlib import Path

import torch
from trajectory import coefficients, guided, timesteps
from twin import TOOLS, load

sys.path.insert(0, str(TOOLS / "dumps"))

from dump import write  # noqa: E402


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 error, summed in f64."""
    found, expected = found.double(), expected.double()
    return ((found - expected).norm() / expected.norm()).item()


class Reference:
    def __init__(self, device: str, folder: Path):
        self.device = device
        self.model = load(folder, device)
        side = self.model.params["image_size"]
        width = self.model.params["unet_config"]["params"]["context_dim"]
        noise = torch.Generator().manual_seed(1)
        draw = lambda *shape: torch.randn(*shape, generator=noise).to(device)
        self.sample, self.latent, self.context = draw(2, 4, side, side), draw(1, 4, side, side), draw(2, 77, width)
        self.times = torch.tensor([999, 400], device=device)

    def write(self, folder: Path, steps: int, guidance: float) -> dict:
        """The dumps of one UNet call, one decode and `steps` steps; answers how far half precision takes PyTorch itself."""
        unet, decode = self.model.unet, self.model.first_stage_model.decode
        # TensorFloat-32 keeps ten bits: it is no reference.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        predicted, image = unet(self.sample, self.times, self.context), decode(self.latent)
        last = self.sampled(steps, guidance)
        write(folder / "unet.safetensors", "unet", {"sample": self.sample, "timestep": self.times, "context": self.context},
              {"sample": predicted})
        write(folder / "decode.safetensors", "autoencoder.decode", {"latent": self.latent}, {"image": image})
        write(folder / "sampler.safetensors", "sampler",
              {"noise": self.sample[:1], "context": self.context[1:], "uncond_context": self.context[:1]}, {"latent": last},
              sampler="ddim", scheduler="leading", steps=steps, guidance_scale=guidance, eta=0.0)
        if self.device != "cuda":
            return {}
        self.model.half()
        self.sample, self.latent, self.context = self.sample.half(), self.latent.half(), self.context.half()
        return {"unet": relative(unet(self.sample, self.times, self.context), predicted),
                "autoencoder.decode": relative(decode(self.latent), image), "sampler": relative(self.sampled(steps, guidance), last)}

    def sampled(self, steps: int, guidance: float) -> torch.Tensor:
        x, rows = self.sample[:1], coefficients(self.model, steps).to(self.device)
        for t, row in zip(timesteps(steps), rows):
            times = torch.full((2,), float(t), device=self.device)
            x = guided(guidance, x, self.model.unet(torch.cat([x, x]), times, self.context), row)
        return x
