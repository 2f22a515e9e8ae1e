"""Holds the twins of tools/compvis to CompVis's own code, which is not a part of this repository.

    git clone https://github.com/CompVis/latent-diffusion
    pip install einops omegaconf tqdm
    python tools/dumps/original.py latent-diffusion

Every published system's UNet, first stage and condition is built twice at the widths of tests/data/parity, once by each side. The
weights of one must load into the other, name by name, and the answers must agree to rounding; a line per network says how far. Then
CompVis's DDIM runs the committed models, and must end where the committed trajectories do.
Stable Diffusion 2's networks and velocities are another repository's, and are left out. The group count, which CompVis wrote into its functions,
is replaced there from outside.
"""

import contextlib
import io
import sys
import types
from pathlib import Path

import names  # noqa: F401 (of this folder, before a folder with another of the name is searched)
import systems
import torch
import zoo
from compvis import LatentDiffusion, built, load
from dump import randomise
from safetensors import safe_open

# Two ways of summing the same products in f32.
ROUNDING = 5e-6
# The original prints what it builds.
OUT = sys.stdout


class Original:
    """CompVis's modules, imported from a clone, with `groups` in every group normalisation."""

    def __init__(self, clone: Path):
        sys.path.insert(0, str(clone))
        # Imported by the encoders' file, and used by none of the encoders here.
        for name in ("clip", "kornia"):
            sys.modules[name] = types.ModuleType(name)
        import ldm.modules.attention as attention
        import ldm.modules.diffusionmodules.model as model
        import ldm.modules.diffusionmodules.openaimodel as unet
        import ldm.modules.encoders.modules as encoders
        from ldm.models.diffusion.ddim import DDIMSampler
        from ldm.modules.diffusionmodules.util import GroupNorm32

        self.ddim = DDIMSampler
        # It moves its tables to a GPU.
        DDIMSampler.register_buffer = lambda sampler, name, table: setattr(sampler, name, table)
        self.groups, self.model, self.unets, self.encoders = 32, model, unet, encoders
        unet.normalization = lambda channels: GroupNorm32(self.groups, channels)
        attention.Normalize = model.Normalize = lambda channels: torch.nn.GroupNorm(self.groups, channels, eps=1e-6)
        # Recomputing activations in the backward pass needs gradients.
        unet.checkpoint = attention.checkpoint = lambda run, inputs, parameters, flag: run(*inputs)

    def unet(self, sizes: dict):
        sizes = dict(sizes)
        self.groups = sizes.pop("num_groups")
        return self.unets.UNetModel(**sizes)

    def halves(self, sizes: dict):
        sizes = dict(sizes)
        self.groups = sizes.pop("num_groups")
        return self.model.Encoder(**sizes), self.model.Decoder(**sizes)

    def condition(self, kind: str, sizes: dict):
        offline = {"use_tokenizer": False, "device": "cpu"} if kind == "BERTEmbedder" else {}
        return getattr(self.encoders, kind)(**sizes | offline)


def compare(what: str, twin, original, ask) -> bool:
    """Loads the twin's weights into the original, and prints how far apart the two answer."""
    original.load_state_dict(twin.state_dict())
    ours, theirs = ask(twin.eval()), ask(original.eval())
    error = float((ours - theirs).norm() / theirs.norm())
    print(f"{what:40} {error:.1e}", file=OUT, flush=True)
    return error < ROUNDING


def first_stage(original: Original, name: str, twin, sizes: dict) -> bool:
    encoder, decoder = original.halves(sizes)
    image, latent = systems.noise((1, 3, 64, 32), 1), systems.noise((1, sizes["z_channels"], 4, 2), 2)
    return compare(f"{name} encoder", twin.encoder, encoder, lambda m: m(image)) & compare(
        f"{name} decoder", twin.decoder, decoder, lambda m: m(latent))


def system(original: Original, name: str) -> bool:
    sizes, (height, width), _ = zoo.SYSTEMS[name]
    described = systems.resized_stage(systems.resized(systems.config(name), **sizes), channels=4, groups=2, codes=64)
    twin = randomise(LatentDiffusion(described), 1)
    params = twin.params
    given, _, asked = systems.conditions(twin, params, (2, height, width), 2)
    latent = systems.noise((2, params["channels"], height, width), 3)
    sample, times = torch.cat([latent, *([given["concat"]] if "concat" in given else [])], dim=1), torch.tensor([981, 21])
    unet = original.unet(params["unet_config"]["params"])
    good = compare(f"{name} unet", twin.unet, unet, lambda m: m(sample, times, context=given.get("context")))
    good &= first_stage(original, name, twin.first_stage_model, params["first_stage_config"]["params"]["ddconfig"])
    stage = params["cond_stage_config"]
    kind = "" if isinstance(stage, str) else stage["target"].split(".")[-1]
    if kind in ("BERTEmbedder", "ClassEmbedder", "SpatialRescaler"):
        theirs = original.condition(kind, stage["params"])
        # The original takes labels out of a training batch.
        batch = {theirs.key: asked[1]} if kind == "ClassEmbedder" else asked[1]
        ask = lambda m: m(batch if m is theirs else asked[1])
        good &= compare(f"{name} {kind}", twin.cond_stage_model, theirs, ask)
    return good


def new_attention_order(original: Original) -> bool:
    sizes = systems.resized(systems.config("lsun_churches256"), channels=4, groups=2, heads=2)["model"]["params"]["unet_config"]
    sizes["params"] |= dict(num_classes=10, use_new_attention_order=True)
    twin, sample = randomise(built(sizes), 1), systems.noise((2, 4, 16, 16), 2)
    ask = lambda m: m(sample, torch.tensor([981, 21]), y=torch.tensor([1, 9]))
    return compare("classes and attention's new order", twin, original.unet(sizes["params"]), ask)


class Sampled:
    """What CompVis's sampler asks of a model, answered by a twin; what is concatenated is the same for both halves of guidance."""

    num_timesteps, device = 1000, torch.device("cpu")

    def __init__(self, twin: LatentDiffusion, concat):
        self.twin, self.concat = twin, concat
        signal = twin.alphas_cumprod()
        before = torch.cat([torch.ones(1), signal[:-1]])
        tables = (1 - signal / before).float(), signal.float(), before.float()
        self.betas, self.alphas_cumprod, self.alphas_cumprod_prev = tables

    def apply_model(self, latent, timesteps, context):
        # With guidance the batch is twice as large.
        concat = None if self.concat is None else self.concat.repeat(len(latent) // len(self.concat), 1, 1, 1)
        return self.twin.apply_model(latent, timesteps, concat=concat, context=context)


def trajectory(original: Original, name: str) -> bool:
    """The committed trajectory of a system by CompVis's sampler."""
    folder = systems.ROOT / "tests/data/parity" / name
    with safe_open(folder / "sampler.safetensors", "pt") as file:
        dump = {key: file.get_tensor(key) for key in file.keys()}
        scale = float(file.metadata()["guidance_scale"])
    start, expected = dump["input.noise"], dump["output.latent"]
    sampler = original.ddim(Sampled(load(folder / "model"), dump.get("input.concat")))
    latent, _ = sampler.sample(
        20, len(start), start.shape[1:], conditioning=dump.get("input.context"), eta=0.0, x_T=start, verbose=False,
        unconditional_guidance_scale=scale, unconditional_conditioning=dump.get("input.uncond_context"))
    error = float((latent - expected).norm() / expected.norm())
    print(f"{name + ' trajectory':40} {error:.1e}", file=OUT, flush=True)
    return error < ROUNDING


def main() -> None:
    torch.set_num_threads(1)
    hidden = io.StringIO()
    with torch.no_grad(), contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
        original = Original(Path(sys.argv[1]))
        published = [name for name in zoo.SYSTEMS if name != "sd-v2"]
        good = [system(original, name) for name in published]
        good.append(new_attention_order(original))
        for name, (sizes, _) in zoo.STAGES.items():
            params = systems.resized_stage(systems.config(name), **sizes)["model"]
            good.append(first_stage(original, name, randomise(built(params), 1), params["params"]["ddconfig"]))
        good += [trajectory(original, name) for name in published]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
