"""Stage 2: latent diffusion by equation (2) of arXiv:2112.10752, on captions, on classes, or on the surroundings of a hole.

The latents are encoded once (mean and deviation, drawn afresh at every use), standardised per channel by an affine
map folded into quant_conv and post_quant_conv, and rescaled to unit deviation (scale_factor). The network predicts
velocity on a schedule with zero terminal SNR: at the last step the picture must come from the words alone, which is
what makes it heed the hour (arXiv:2305.08891). A table of losses for right and wrong conditions is printed as it goes.

    python tools/train/stage2.py --run runs/demo --minutes 75       # after stage1.py; again to resume
    python tools/train/stage2.py --run runs/inpaint --config tools/train/inpaint.yaml --minutes 60
"""

import argparse
import os
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from tqdm import tqdm

import common
from common import Clock, dataset, ema_update, learning_rate, render_range, save_checkpoint, save_curve, save_grid, to_tensor
from compvis import LatentDiffusion
from conditions import kind_of
from diffusion import ddim, guided, noised
from latents import freeze_first_stage
from parallel import agreed, average_gradients, launch, rank
from painter import scene_for


def prepare(args):
    """Makes what every worker reads: encoded pictures, and the condition's own. Once per run."""
    config = yaml.safe_load(args.config.read_text())
    pictures = dataset(args.run, args.pictures, config["model"]["params"]["first_stage_config"]["params"]["ddconfig"]["resolution"])
    if not (args.run / "first_stage.pt").exists():
        freeze_first_stage(args.run, config, pictures, args.pictures, args.threads)
    kind_of(config).prepare(args, config, pictures)


def diagnose(model, alphas, latents, given: dict) -> str:
    """Velocity loss on held-out scenes under each of the embedded conditions, at three noise levels."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    lines = [f"{'t':>6}" + "".join(f"{name:>15}" for name in given)]
    with torch.no_grad():
        for t in (999, 700, 400):
            steps = torch.full((len(latents),), t)
            x, v = noised(latents, noise, steps, alphas)
            losses = [F.mse_loss(model.apply_model(x, steps, **condition), v).item() for condition in given.values()]
            lines.append(f"{t:>6}" + "".join(f"{loss:>15.5f}" for loss in losses))
    return "\n".join(lines)


def train(args):
    torch.manual_seed(args.seed)
    config = yaml.safe_load(args.config.read_text())
    first = torch.load(args.run / "first_stage.pt", weights_only=True)
    mean, deviation, scale = first["mean"], first["deviation"], first["scale_factor"]

    model = LatentDiffusion(config)
    average = LatentDiffusion(config).requires_grad_(False)
    model.first_stage_model.load_state_dict(first["model"])
    average.load_state_dict(model.state_dict())
    alphas, autoencoder = model.alphas_cumprod(), average.first_stage_model
    kind = kind_of(config)
    condition = kind(args.run, config, model)
    parts = lambda m: [m.unet] if condition.network is None else [m.unet, m.cond_stage_model]
    trained = [p for part in parts(model) for p in part.parameters()]
    averaged = [p for part in parts(average) for p in part.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    step, curves, clock = 0, {"velocity loss": []}, Clock(args.minutes)
    path = args.run / "stage2.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        for one, key in ((model, "raw"), (average, "average")):
            for part, saved in zip(parts(one), state[key]):
                part.load_state_dict(saved)
        optimizer.load_state_dict(state["optimizer"])
        step, curves, clock = state["step"], state["curves"], Clock(args.minutes, state["spent"])

    held_out = [scene_for(common.VALIDATION_SEED + i) for i in range(32)]
    size = config["model"]["params"]["first_stage_config"]["params"]["ddconfig"]["resolution"]
    with torch.no_grad():
        found = autoencoder.encode(to_tensor(render_range((common.VALIDATION_SEED, common.VALIDATION_SEED + 32, size))))
    held_latents = scale * (found[0] if isinstance(found, tuple) else found)

    def report():
        torch.set_num_threads(args.threads)
        tqdm.write(f"step {step}, {clock.spent() / 60:.1f} min, {step * args.batch * args.workers} samples, loss {running:.4f}")
        with torch.no_grad():
            table = {name: condition.embed(average, raw) for name, raw in condition.table(held_out).items()}
            tqdm.write(diagnose(average, alphas, held_latents, table))
            given = condition.embed(average, condition.wishes())
            noise = torch.randn(16, *held_latents.shape[1:], generator=torch.Generator().manual_seed(7))
            if condition.nothing is None:
                velocity = lambda x, t: average.apply_model(x, t, **given)
            else:
                velocity = guided(average, given["context"], condition.embed(average, condition.nothing)["context"], 3.0)
            images = autoencoder.decode(ddim(velocity, alphas, noise, steps=10) / scale)
        save_grid(args.run / "stage2.png", condition.show(images), 8)
        save_checkpoint(path, {
            "average": [part.state_dict() for part in parts(average)], "raw": [part.state_dict() for part in parts(model)],
            "optimizer": optimizer.state_dict(), "step": step, "curves": curves, "spent": clock.spent()})
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
        given = condition.draw(rows, args.drop, generator)
        latent = scale * (mean[rows].float() + deviation[rows].float() * draw(args.batch, *mean.shape[1:]))
        uniform = torch.randint(1000, (args.batch,), generator=generator)
        decisive = torch.randint(500, 950, (args.batch,), generator=generator)
        t = torch.where(torch.rand(args.batch, generator=generator) < args.focus, decisive, uniform)
        x, v = noised(latent, draw(*latent.shape), t, alphas)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            predicted = model.apply_model(x, t, **condition.embed(model, given))
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
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a lone worker; processes that encode")
    parser.add_argument("--masks", type=int, default=3, help="masks that each picture is encoded under, for inpainting")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--drop", type=float, default=0.1, help="share of conditions replaced by the empty one, where there is one")
    parser.add_argument("--focus", type=float, default=0.5, help="share of timesteps drawn from 500..950, where the condition decides most")
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16, where the processor gains by it")
    parser.add_argument("--report", type=float, default=6, help="minutes between checkpoints, tables and grids")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    prepare(args)
    launch(train, args)


if __name__ == "__main__":
    main()
