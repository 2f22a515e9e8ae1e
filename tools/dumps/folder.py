"""Dumps of a diffusers folder that the user has, a published checkpoint for example."""

from pathlib import Path

import components
import diffusers
import torch
import transformers
from components import Diffusers, noise


def folder(model_folder: Path, out: Path, side: int, steps: int) -> None:
    """Every component that the folder holds, for latents of `side`, and a guided trajectory of the folder's own scheduler."""
    def component(name, kind):
        if not (model_folder / name).is_dir():
            return None
        variant = "fp16" if any((model_folder / name).glob("*.fp16.safetensors")) else None
        return kind.from_pretrained(model_folder / name, variant=variant, dtype=torch.float32).eval().requires_grad_(False)

    dump = Diffusers(out)
    vae = component("vae", diffusers.AutoencoderKL)
    if vae:
        channels = vae.config.latent_channels
        dump.decode("decode.safetensors", vae, noise((1, channels, side, side), 1))
        pixels = side * 2 ** (len(vae.config.block_out_channels) - 1)
        dump.encode("encode.safetensors", vae, noise((1, 3, pixels, pixels), 2).clamp(-1, 1))
        del vae
    text = component("text_encoder", transformers.CLIPTextModel)
    if text:
        config = text.config
        ids = torch.randint(0, config.vocab_size - 2, (2, config.max_position_embeddings), generator=torch.Generator().manual_seed(3))
        # Begin and end are the last two ids of every CLIP vocabulary.
        ids[:, 0], ids[:, config.max_position_embeddings // 2:] = config.vocab_size - 2, config.vocab_size - 1
        dump.text("text.safetensors", text, ids)
        del text
    unet = component("unet", diffusers.UNet2DConditionModel)
    if unet:
        start = noise((1, unet.config.in_channels, side, side), 4)
        context, other = noise((2, 1, 77, unet.config.cross_attention_dim), 5)
        dump.unet("unet.safetensors", unet, start, [500], context)
        settings = model_folder / "scheduler" / "scheduler_config.json"
        if settings.exists() and unet.config.in_channels == unet.config.out_channels:
            ddim = diffusers.DDIMScheduler.from_config(diffusers.DDIMScheduler.load_config(settings), clip_sample=False)
            components.sampler(out / "sampler.safetensors", lambda x, t, c: unet(x, t, c).sample, ddim, start, context, other,
                               7.5, steps, sampler="ddim")
