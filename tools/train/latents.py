"""What stage 2 reads of stage 1: the pictures encoded once, and the autoencoder with its latents standardised."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common import save_checkpoint, to_tensor
from compvis import VQModel, built
from masks import hidden


def encode_range(job):
    """Mean and deviation of the latents of a range of pictures, some of them under masks; one process's share."""
    pictures, first_stage, state, (first, last), masks = job
    torch.set_num_threads(1)
    model = built(first_stage)
    model.load_state_dict(state)
    parts = []
    with torch.inference_mode():
        for i in range(first, last, 32):
            part = slice(i, min(i + 32, last))
            image = to_tensor(np.load(pictures, mmap_mode="r")[part])
            found = model.encode(image if masks is None else hidden(image, masks[i - first : part.stop - first]))
            # A codebook's latents are one point each.
            mean, logvar = found if isinstance(found, tuple) else (found, None)
            parts.append((mean, torch.zeros_like(mean) if logvar is None else (0.5 * logvar).exp()))
    return [torch.cat(p).numpy() for p in zip(*parts)]


def encode(pictures: Path, first_stage: dict, state: dict, count: int, workers: int, masks=None):
    """Mean and deviation of the latents of the first `count` pictures, each under its mask if there are `masks`."""
    ranges = [(i, min(i + 960, count)) for i in range(0, count, 960)]
    jobs = [(pictures, first_stage, state, (i, j), None if masks is None else masks[i:j]) for i, j in ranges]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = list(tqdm(pool.map(encode_range, jobs), total=len(jobs), desc="encoding", disable=None))
    return [torch.from_numpy(np.concatenate(p)) for p in zip(*parts)]


@torch.no_grad()
def standardise(model, mean, deviation):
    """Folds an affine map of the latents into the model, after which they have mean 0 and deviation 1; returns them.

    Each channel has its own factor, except before a codebook: there one factor keeps the order of the distances.
    """
    centre = mean.mean(dim=(0, 2, 3))
    spread = (mean.var(dim=(0, 2, 3)) + deviation.pow(2).mean(dim=(0, 2, 3))).sqrt()
    print("latent mean and deviation per channel:", centre.tolist(), spread.tolist())
    quant, post, channels = model.quant_conv, model.post_quant_conv, len(centre)
    if isinstance(model, VQModel):
        spread = spread.pow(2).mean().sqrt().expand(channels)
        codes = model.quantize.embedding.weight
        codes.copy_((codes - centre) / spread)
    else:
        quant.bias[channels:] -= 2 * spread.log()
    quant.weight[:channels] /= spread[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - centre) / spread
    post.bias += post.weight[:, :, 0, 0] @ centre
    post.weight *= spread[None, :, None, None]
    shape = (1, -1, 1, 1)
    return (mean - centre.view(shape)) / spread.view(shape), deviation / spread.view(shape)


def freeze_first_stage(run: Path, config: dict, pictures: Path, count: int, workers: int):
    """Stores the averaged autoencoder with standardised latents, its scale factor, and the encoded pictures."""
    first_stage = config["model"]["params"]["first_stage_config"]
    state = torch.load(run / "stage1.pt", weights_only=True)["average"]
    model = built(first_stage)
    model.load_state_dict(state)
    mean, deviation = standardise(model, *encode(pictures, first_stage, state, count, workers))
    scale = 1.0 / (mean.var() + deviation.pow(2).mean()).sqrt().item()
    save_checkpoint(run / "first_stage.pt", {
        "model": model.state_dict(), "scale_factor": scale, "mean": mean.half(), "deviation": deviation.half()})
