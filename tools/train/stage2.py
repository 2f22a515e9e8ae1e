"""Stage 2: latent diffusion by equation (2) of arXiv:2112.10752, the text encoder trained jointly.

The latents are encoded once (mean and deviation, drawn afresh at every use), standardised per channel by an affine
map folded into quant_conv and post_quant_conv, and rescaled to unit deviation (scale_factor). The network predicts
velocity on a schedule with zero terminal SNR: at the last step the picture must come from the words alone, which is
what makes it heed the hour (arXiv:2305.08891). A table of losses for right and wrong captions is printed as it goes.

    python tools/train/stage2.py --run runs/demo --minutes 75       # after stage1.py; again to resume
"""

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from tqdm import tqdm

import common
import tokenizer
from captions import caption
from common import Clock, dataset, ema_update, learning_rate, render_range, save_checkpoint, save_curve, save_grid, to_tensor
from compvis import AutoencoderKL, LatentDiffusion
from diffusion import ddim, noised
from parallel import agreed, average_gradients, launch, rank
from painter import COLOURS, TIMES, scene_for

PHRASINGS = 6
PROMPTS = [
    "a red balloon over snowy mountains at sunset", "a blue balloon over snowy mountains at dawn",
    "a yellow balloon over snowy hills at noon", "a white balloon over snowy hills at night",
    "a green balloon over mountains at dawn", "a purple balloon over mountains at noon",
    "a red balloon over hills at night", "a yellow balloon over hills at sunset",
    "a blue balloon over the desert at noon", "a red balloon over the desert at night",
    "a purple balloon over the sea at sunset", "a green balloon over the sea at noon",
    "the sea at dawn", "snowy hills at sunset", "mountains at night with a lake", "hills in autumn with a house at noon"]


def shape_of(config: dict) -> tuple[int, int]:
    """The side of the pictures and the number of text positions."""
    params = config["model"]["params"]
    return (params["first_stage_config"]["params"]["ddconfig"]["resolution"],
            params["cond_stage_config"]["params"]["text_config"]["max_position_embeddings"])


def encode_range(job):
    """Mean and deviation of the latents of a range of pictures; one process's share."""
    pictures, params, state, first, last = job
    torch.set_num_threads(1)
    model = AutoencoderKL(**params)
    model.load_state_dict(state)
    parts = []
    with torch.inference_mode():
        for i in range(first, last, 32):
            mean, logvar = model.encode(to_tensor(np.load(pictures, mmap_mode="r")[i : min(i + 32, last)]))
            parts.append((mean, (0.5 * logvar).exp()))
    mean, deviation = (torch.cat(p).numpy() for p in zip(*parts))
    return mean, deviation


def freeze_first_stage(run: Path, config: dict, pictures: Path, count: int):
    """Stores the averaged autoencoder with standardised latents, its scale factor, and the encoded pictures."""
    params = config["model"]["params"]["first_stage_config"]["params"]
    state = torch.load(run / "stage1.pt", weights_only=True)["average"]
    model = AutoencoderKL(**params)
    model.load_state_dict(state)
    jobs = [(pictures, params, state, i, min(i + 960, count)) for i in range(0, count, 960)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = list(tqdm(pool.map(encode_range, jobs), total=len(jobs), desc="encoding", disable=None))
    mean, deviation = (torch.from_numpy(np.concatenate(p)) for p in zip(*parts))
    centre = mean.mean(dim=(0, 2, 3))
    spread = (mean.var(dim=(0, 2, 3)) + deviation.pow(2).mean(dim=(0, 2, 3))).sqrt()
    print("latent mean and deviation per channel:", centre.tolist(), spread.tolist())
    channels = len(centre)
    with torch.no_grad():
        quant, post = model.quant_conv, model.post_quant_conv
        quant.weight[:channels] /= spread[:, None, None, None]
        quant.bias[:channels] = (quant.bias[:channels] - centre) / spread
        quant.bias[channels:] -= 2 * spread.log()
        post.bias += post.weight[:, :, 0, 0] @ centre
        post.weight *= spread[None, :, None, None]
    shape = (1, -1, 1, 1)
    mean, deviation = (mean - centre.view(shape)) / spread.view(shape), deviation / spread.view(shape)
    scale = 1.0 / (mean.var() + deviation.pow(2).mean()).sqrt().item()
    save_checkpoint(run / "first_stage.pt", {
        "model": model.state_dict(), "scale_factor": scale, "mean": mean.half(), "deviation": deviation.half()})


def prepare(args):
    """Makes what every worker reads: encoded pictures, tokenizer files and tokenised captions. Once per run."""
    config = yaml.safe_load(args.config.read_text())
    size, positions = shape_of(config)
    if not (args.run / "first_stage.pt").exists():
        freeze_first_stage(args.run, config, dataset(args.run, args.pictures, size), args.pictures)
    if not (args.run / "vocab.json").exists():
        tokenizer.write(args.run, [caption(scene_for(seed)) for seed in range(6000)])
    if not (args.run / "captions.npy").exists():
        tokenise = tokenizer.Tokenizer(args.run, positions)
        rows = [[tokenise(caption(scene_for(i), k)) for k in range(PHRASINGS)] for i in range(args.pictures)]
        np.save(args.run / "captions.npy", np.array(rows, np.int16))


def diagnose(unet, text, alphas, latents, scenes, encode) -> str:
    """Velocity loss on held-out scenes with the right, a wrong and no caption, at two noise levels."""
    wrong_time = [replace(s, time=TIMES[(TIMES.index(s.time) + 1 + i % 3) % 4]) for i, s in enumerate(scenes)]
    wrong_balloon = [replace(s, balloon=COLOURS[(COLOURS.index(s.balloon) + 1 + i % 6) % 7]) for i, s in enumerate(scenes)]
    contexts = {"right": scenes, "wrong time": wrong_time, "wrong balloon": wrong_balloon}
    rows = {name: [caption(s, terse=False) for s in group] for name, group in contexts.items()}
    rows["empty"] = [""] * len(scenes)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    lines = [f"{'t':>6}" + "".join(f"{name:>15}" for name in rows)]
    with torch.no_grad():
        embedded = {name: text(encode(group)) for name, group in rows.items()}
        for t in (999, 700):
            steps = torch.full((len(latents),), t)
            x, v = noised(latents, noise, steps, alphas)
            losses = [F.mse_loss(unet(x, steps, context), v).item() for context in embedded.values()]
            lines.append(f"{t:>6}" + "".join(f"{loss:>15.5f}" for loss in losses))
    return "\n".join(lines)


def train(args):
    torch.manual_seed(args.seed)
    config = yaml.safe_load(args.config.read_text())
    size, positions = shape_of(config)
    first = torch.load(args.run / "first_stage.pt", weights_only=True)
    mean, deviation, scale = first["mean"], first["deviation"], first["scale_factor"]
    tokenise = tokenizer.Tokenizer(args.run, positions)
    encode = lambda texts: torch.tensor([tokenise(t) for t in texts])
    captions = torch.from_numpy(np.load(args.run / "captions.npy")).long()
    empty_ids = encode([""])

    model = LatentDiffusion(config)
    average = LatentDiffusion(config).requires_grad_(False)
    average.load_state_dict(model.state_dict())
    model.first_stage_model.load_state_dict(first["model"])
    unet, text, alphas, autoencoder = model.unet, model.cond_stage_model, model.alphas_cumprod(), model.first_stage_model
    trained = [*unet.parameters(), *text.parameters()]
    averaged = [*average.unet.parameters(), *average.cond_stage_model.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    step, curves, clock = 0, {"velocity loss": []}, Clock(args.minutes)
    path = args.run / "stage2.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        unet.load_state_dict(state["raw_unet"])
        text.load_state_dict(state["raw_text"])
        average.unet.load_state_dict(state["unet"])
        average.cond_stage_model.load_state_dict(state["text"])
        optimizer.load_state_dict(state["optimizer"])
        step, curves, clock = state["step"], state["curves"], Clock(args.minutes, state["spent"])

    held_out = [scene_for(common.VALIDATION_SEED + i) for i in range(32)]
    with torch.no_grad():
        held_latents = scale * autoencoder.encode(to_tensor(render_range((common.VALIDATION_SEED, common.VALIDATION_SEED + 32, size))))[0]

    def report():
        torch.set_num_threads(os.cpu_count())
        tqdm.write(f"step {step}, {clock.spent() / 60:.1f} min, {step * args.batch * args.workers} samples, loss {running:.4f}")
        tqdm.write(diagnose(average.unet, average.cond_stage_model, alphas, held_latents, held_out, encode))
        noise = torch.randn(len(PROMPTS), *held_latents.shape[1:], generator=torch.Generator().manual_seed(7))
        embedded, empty = average.cond_stage_model(encode(PROMPTS)), average.cond_stage_model(empty_ids)
        with torch.no_grad():
            images = autoencoder.decode(ddim(average.unet, alphas, embedded, empty, noise, steps=10) / scale)
        save_grid(args.run / "stage2.png", images, 8)
        save_checkpoint(path, {
            "unet": average.unet.state_dict(), "text": average.cond_stage_model.state_dict(), "raw_unet": unet.state_dict(),
            "raw_text": text.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "curves": curves,
            "spent": clock.spent()})
        save_curve(args.run / "stage2-loss.png", curves)
        torch.set_num_threads(threads)

    leader, threads = rank() == 0, torch.get_num_threads()
    bar = tqdm(total=100, unit="%", desc="stage 2", disable=None if leader else True)
    shown, running, reported = 0, None, clock.spent() / 60
    while (progress := agreed(clock.progress())) < 1:
        rate = learning_rate(args.rate, step, 200, progress, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed((args.seed * 1_000_003 + step) * 64 + rank())
        draw = lambda *shape: torch.randn(*shape, generator=generator)
        rows = torch.randint(len(mean), (args.batch,), generator=generator)
        ids = captions[rows, torch.randint(PHRASINGS, (args.batch,), generator=generator)]
        ids = torch.where(torch.rand(args.batch, 1, generator=generator) < args.drop, empty_ids, ids)
        latent = scale * (mean[rows].float() + deviation[rows].float() * draw(args.batch, *mean.shape[1:]))
        uniform = torch.randint(1000, (args.batch,), generator=generator)
        decisive = torch.randint(500, 950, (args.batch,), generator=generator)
        t = torch.where(torch.rand(args.batch, generator=generator) < args.focus, decisive, uniform)
        x, v = noised(latent, draw(*latent.shape), t, alphas)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            predicted = unet(x, t, text(ids))
        loss = F.mse_loss(predicted.float(), v)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        if not leader:
            continue
        ema_update(averaged, [p.data for p in trained], step, args.ema)
        running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()
        if step % 50 == 0:
            curves["velocity loss"].append((step, running))
            bar.set_postfix(step=step, loss=f"{running:.4f}", samples=step * args.batch * args.workers)
        bar.update(min(100, int(100 * progress)) - shown)
        shown = max(shown, min(100, int(100 * progress)))
        minutes = clock.spent() / 60
        if minutes - reported > args.report:
            reported = minutes
            report()
    bar.close()
    if leader:
        report()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the folder stage 1 wrote")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("demo.yaml"))
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--batch", type=int, default=16, help="per worker")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each, instead of threads")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--drop", type=float, default=0.1, help="share of captions replaced by the empty one")
    parser.add_argument("--focus", type=float, default=0.5, help="share of timesteps drawn from 500..950, where words decide most")
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16, where the processor gains by it")
    parser.add_argument("--report", type=float, default=6, help="minutes between checkpoints, tables and grids")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    prepare(args)
    launch(train, args)


if __name__ == "__main__":
    main()
