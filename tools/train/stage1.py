r"""Stage 1: the autoencoder, by the paper's objective (arXiv:2112.10752, section 3.1 and appendix G).

Reconstruction (L1 + MSE) with a perceptual term, a patch discriminator (hinge loss, adaptive weight) switched on
after a warm-up, and a slight KL term; or, where the config's first stage is a VQModel, a codebook with its own two
terms, after a stretch without quantisation (`--quantise-from`). The perceptual network is any VGG16 weights file
(`--vgg16`). Without one, the discriminator's own features serve from the moment it is switched on: weaker, and the
script says so.

    pip install torch numpy pillow pyyaml safetensors tqdm
    python tools/train/stage1.py --run runs/demo --minutes 25     # again to resume
    python tools/train/stage1.py --run runs/inpaint --config tools/train/inpaint.yaml \
        --init assets/demo --minutes 25 --disc-start 1
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from tqdm import tqdm

import common
from codebook import MEMORY, Codebook
from common import Clock, dataset, ema_update, learning_rate, psnr, render_range, save_checkpoint, save_curve, save_grid, to_tensor
from compvis import VQModel, built
from losses import PatchDiscriminator, Vgg16, adaptive_weight, feature_distance, hinge_discriminator
from parallel import agreed, average_gradients, launch, rank


def warm_start(model, folder: Path) -> int:
    """Loads those tensors of a model folder's first stage that have a namesake of equal shape here; how many."""
    prefix, ours = "first_stage_model.", model.state_dict()
    theirs = {name.removeprefix(prefix): t for name, t in load_file(folder / "model.safetensors").items() if name.startswith(prefix)}
    fitting = {name: t.float() for name, t in theirs.items() if name in ours and ours[name].shape == t.shape}
    model.load_state_dict(fitting, strict=False)
    return len(fitting)


def validate(model, pictures, run: Path, step: int) -> float:
    """Mean PSNR over held-out scenes, of the decoded posterior mean or codes; writes a grid of pairs."""
    with torch.no_grad():
        latents = [model.encode(p) for p in pictures.split(32)]
        decoded = torch.cat([model.decode(z[0] if isinstance(z, tuple) else z) for z in latents])
    pairs = torch.stack([pictures[:24], decoded[:24]], 1).flatten(0, 1)
    save_grid(run / "stage1.png", pairs, 12)
    values = psnr(decoded, pictures)
    tqdm.write(f"step {step}: PSNR {values.mean():.2f} dB, worst {values.min():.2f}")
    return values.mean().item()


def posterior(model, image, latents, chosen, bf16: bool):
    """Mean and deviation of the latents: encoded now, or those that stage 2 was trained on. Before a codebook, no deviation."""
    if latents is not None:
        return latents["mean"][chosen].float(), latents["deviation"][chosen].float()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = model.encode(image)
    if isinstance(model, VQModel):
        return found.float(), None
    mean, logvar = (part.float() for part in found)
    return mean, (0.5 * logvar).exp()


def objective(model, critic, vgg, image, latent, args):
    """Reconstruction, perceptual and (with a critic) adversarial terms; also the L1 error and the decoded image."""
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        decoded = model.decoder(model.post_quant_conv(latent))
        if critic is not None:
            fake, fake_features = critic(decoded)
            with torch.no_grad():
                _, real_features = critic(image)
    decoded = decoded.float()
    l1 = F.l1_loss(decoded, image)
    loss = l1 + F.mse_loss(decoded, image)
    if vgg is not None:
        loss = loss + args.perceptual_weight * vgg(decoded, image)
    elif critic is not None:
        floats = lambda features: [f.float() for f in features]
        loss = loss + args.perceptual_weight * feature_distance(floats(fake_features), floats(real_features))
    if critic is not None:
        pull = -fake.float().mean()
        loss = loss + args.disc_weight * adaptive_weight(loss, pull, model.decoder.conv_out.weight) * pull
    return loss, l1, decoded.detach()


def train_critic(critic, optimizer, image, decoded, bf16: bool) -> float:
    """One step of the discriminator on a batch and its reconstruction; the loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        verdict = critic(torch.cat([image, decoded]))[0].float()
    loss = hinge_discriminator(*verdict.chunk(2))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(list(critic.parameters()))
    optimizer.step()
    return loss.item()


def train(args):
    torch.manual_seed(args.seed)

    config = yaml.safe_load(args.config.read_text())
    first_stage = config["model"]["params"]["first_stage_config"]
    size = first_stage["params"]["ddconfig"]["resolution"]
    pictures = np.load(dataset(args.run, args.pictures, size), mmap_mode="r")
    held_out = to_tensor(render_range((common.VALIDATION_SEED, common.VALIDATION_SEED + 128, size)))
    vgg = Vgg16(args.vgg16) if args.vgg16 else None

    model, average, critic = built(first_stage), built(first_stage), PatchDiscriminator()
    if args.init:
        print(f"{warm_start(model, args.init)} of {len(model.state_dict())} tensors from {args.init}", file=sys.stderr)
    average.load_state_dict(model.state_dict())
    average.requires_grad_(False)
    codebook = Codebook(model, average, args.beta) if isinstance(model, VQModel) else None
    latents = None
    if args.decoder_only:
        latents = torch.load(args.run / "first_stage.pt", weights_only=True)
        model.load_state_dict(latents["model"])
        average.load_state_dict(latents["model"])
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
        if codebook:
            model.quantize.requires_grad_(False)
            codebook.on = True
        pictures = pictures[: len(latents["mean"])]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=args.rate / 2, betas=(0.5, 0.9), fused=True)
    step, curves, clock = 0, {"reconstruction": [], "critic": []}, Clock(args.minutes)
    path = args.run / ("decoder.pt" if args.decoder_only else "stage1.pt")
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        critic.load_state_dict(state["critic"])
        optimizer.load_state_dict(state["optimizer"])
        critic_optimizer.load_state_dict(state["critic_optimizer"])
        step, curves, clock = state["step"], state["curves"], Clock(args.minutes, state["spent"])
        if codebook:
            codebook.on = state["quantised"]

    def save():
        save_checkpoint(path, {
            "model": model.state_dict(), "average": average.state_dict(), "critic": critic.state_dict(),
            "optimizer": optimizer.state_dict(), "critic_optimizer": critic_optimizer.state_dict(),
            "step": step, "curves": curves, "spent": clock.spent(), "quantised": codebook is not None and codebook.on})
        save_curve(path.with_name(path.stem + "-loss.png"), curves)

    leader, threads = rank() == 0, torch.get_num_threads()
    bar = tqdm(total=100, unit="%", desc="stage 1", disable=None if leader else True)
    shown, running, seen = 0, None, None
    while (progress := agreed(clock.progress())) < 1:
        rate = learning_rate(args.rate, step, 50, progress, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed((args.seed * 1_000_003 + step) * 64 + rank())
        chosen = torch.randint(len(pictures), (args.batch,), generator=generator)
        image = to_tensor(pictures[chosen.numpy()])
        adversarial = progress > args.disc_start
        if codebook and not codebook.on and progress > args.quantise_from:
            codebook.start(pictures, generator)
        mean, deviation = posterior(model, image, latents, chosen, args.bf16)
        if codebook:
            latent, regular = codebook(mean)
        else:
            latent = mean + deviation * torch.randn(mean.shape, generator=generator)
            kl = 0.5 * (mean.pow(2) + deviation.pow(2) - 1 - 2 * deviation.clamp_min(1e-6).log()).sum(dim=(1, 2, 3)).mean()
            regular = args.kl_weight * kl
        loss, l1, decoded = objective(model, critic if adversarial else None, vgg, image, latent, args)
        optimizer.zero_grad(set_to_none=True)
        (loss + regular).backward()
        average_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if adversarial:
            critic_loss = train_critic(critic, critic_optimizer, image, decoded, args.bf16)
        step += 1
        if codebook and codebook.on and latents is None and step % MEMORY == 0 and progress < 0.8:
            codebook.revive(mean, generator)
        if not leader:
            continue
        ema_update(list(average.parameters()), [p.data for p in model.parameters()], step, 0.998)
        running = l1.item() if running is None else 0.98 * running + 0.02 * l1.item()
        if step % 50 == 0:
            curves["reconstruction"].append((step, running))
            if adversarial:
                curves["critic"].append((step, critic_loss))
            bar.set_postfix(step=step, l1=f"{running:.4f}", regular=f"{regular.item():.4f}", images=step * args.batch * args.workers)
        bar.update(min(100, int(100 * progress)) - shown)
        shown = max(shown, min(100, int(100 * progress)))
        minute = int(clock.spent() // 120)
        if minute != seen:
            seen = minute
            torch.set_num_threads(args.threads)
            validate(average, held_out, args.run, step)
            if codebook:
                tqdm.write(codebook.usage())
            torch.set_num_threads(threads)
            save()
    bar.close()
    if not leader:
        return
    final = validate(average, held_out, args.run, step)
    save()
    print(f"{step} steps of {args.batch * args.workers} in {clock.spent() / 60:.1f} min: held-out PSNR {final:.2f} dB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoints, plots and the data")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("demo.yaml"))
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--batch", type=int, default=8, help="per worker")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each, instead of threads")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a lone worker, and of the validation")
    parser.add_argument("--init", type=Path, help="a model folder whose first stage to start from, where shapes agree")
    parser.add_argument("--quantise-from", type=float, default=0.15, help="share of the time before the codebook is used")
    parser.add_argument("--beta", type=float, default=0.25, help="on the codebook's term against the commitment")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--kl-weight", type=float, default=1e-6, help="on the KL divergence summed over an image")
    parser.add_argument("--disc-start", type=float, default=0.8, help="share of the time before the discriminator")
    parser.add_argument("--disc-weight", type=float, default=0.1, help="on the adversarial term, times the adaptive weight")
    parser.add_argument("--perceptual-weight", type=float, default=0.1)
    parser.add_argument("--vgg16", help="VGG16 weights (torchvision key names), .pth or .safetensors")
    parser.add_argument("--decoder-only", action="store_true", help="after stage 2 has fixed the latents: train the decoder on them")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16, where the processor gains by it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    size = yaml.safe_load(args.config.read_text())["model"]["params"]["first_stage_config"]["params"]["ddconfig"]["resolution"]
    dataset(args.run, args.pictures, size)
    if not args.vgg16:
        print("no --vgg16 file: the discriminator's own features are the perceptual term, once it is switched on", file=sys.stderr)
    launch(train, args)


if __name__ == "__main__":
    main()
