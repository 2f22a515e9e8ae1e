"""The same work in PyTorch eager f32, each as a process of its own.

    peer.py sample FOLDER PROMPT STEPS SIDE OUT   a whole run of diffusers, from start to PNG
    peer.py time unet|decode FOLDER SIDE REPEAT   seconds of the fastest of REPEAT forward passes, on standard output
"""

import sys
import time

import diffusers
import torch


def sample(folder: str, prompt: str, steps: str, side: str, out: str) -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipeline(
        prompt, num_inference_steps=int(steps), guidance_scale=1.0, width=int(side), height=int(side), generator=generator).images
    images[0].save(out)


def timed(what: str, folder: str, side: str, repeat: str) -> None:
    latent = int(side) // 8
    x = torch.randn(1, 4, latent, latent)
    if what == "unet":
        unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet", dtype=torch.float32).eval()
        context = torch.randn(1, 77, unet.config.cross_attention_dim)
        run = lambda: unet(x, torch.tensor(500), context)
    else:
        vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32).eval()
        run = lambda: vae.decode(x)
    run()
    times = []
    for _ in range(int(repeat)):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    print(min(times))


if __name__ == "__main__":
    with torch.inference_mode():
        {"sample": sample, "time": timed}[sys.argv[1]](*sys.argv[2:])
