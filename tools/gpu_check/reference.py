"""What PyTorch answers in f32: written as dumps for `ldm parity`, so that both sides run the very same inputs and weights, and drawn as a picture
that `ldm sample` draws of the same word and seed."""

import json
import math
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


def psnr(found: torch.Tensor, expected: torch.Tensor, peak: float) -> float | None:
    """Decibels; None where the two are the same."""
    mean = (found.double() - expected.double()).square().mean().item()
    return 10 * math.log10(peak**2 / mean) if mean else None


class Reference:
    def __init__(self, device: str, folder: Path):
        self.device, self.folder = device, folder
        # TensorFloat-32 keeps ten bits: it is no reference.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
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
        predicted, image = unet(self.sample, self.times, self.context), decode(self.latent)
        last = self.sampled(self.sample[:1], self.context, steps, guidance)
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
                "autoencoder.decode": relative(decode(self.latent), image),
                "sampler": relative(self.sampled(self.sample[:1], self.context, steps, guidance), last)}

    def compared(self, picture: str, word: str, seed: int, steps: int, guidance: float) -> dict:
        """How far a picture in a file is from what f32 draws of a word of one letter, in levels of 8 bits, and how far half precision takes PyTorch."""
        import numpy
        from PIL import Image

        ours = torch.from_numpy(numpy.array(Image.open(picture).convert("RGB")))
        expected = self.drawn(word, seed, steps, guidance)
        found = {"psnr": psnr(ours, expected, 255), "largest": (ours.int() - expected.int()).abs().max().item(), "levels": expected.unique().numel()}
        if self.device != "cuda":
            return found
        self.model.half()
        return found | {"torch_f16_psnr": psnr(self.drawn(word, seed, steps, guidance), expected, 255)}

    def drawn(self, word: str, seed: int, steps: int, guidance: float) -> torch.Tensor:
        """[H, W, 3], 8 bits."""
        vocabulary = json.loads((self.folder / "vocab.json").read_text())
        begin, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
        ids = torch.full((2, 77), end, device=self.device)
        ids[:, 0], ids[1, 1] = begin, vocabulary[word + "</w>"]
        context = self.model.cond_stage_model(ids)
        side = self.model.params["image_size"]
        noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed)).to(self.device, context.dtype)
        latent = self.sampled(noise, context, steps, guidance)
        image = self.model.first_stage_model.decode(latent / self.model.scale_factor).float()
        return ((image[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu()

    def sampled(self, x: torch.Tensor, context: torch.Tensor, steps: int, guidance: float) -> torch.Tensor:
        rows = coefficients(self.model, steps).to(self.device)
        for t, row in zip(timesteps(steps), rows):
            times = torch.full((2,), float(t), device=self.device)
            x = guided(guidance, x, self.model.unet(torch.cat([x, x]), times, context), row)
        return x
