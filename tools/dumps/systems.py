"""The published systems of assets/systems, at any width and at random weights, each with dumps of its components.

What makes a system what it is stays as published: channel multiples, where attention is and whose rule gives its heads,
channels in, tokens of context, what is concatenated. Only widths change, and counts of layers.
"""

import copy
import sys
from fractions import Fraction
from pathlib import Path

import components
import diffusers
import torch
import torch.nn.functional as F
import yaml
from components import CompVis, noise
from dump import randomise

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from compvis import LatentDiffusion, build_from_config, built, checkpoint, load  # noqa: E402
from compvis.clip import VIT_L_14  # noqa: E402
from compvis.openclip import VIT_H_14  # noqa: E402

SYSTEMS = {path.stem: path for path in sorted((ROOT / "assets/systems").glob("*.yaml"))}
# Seeds of noise, apart from those of weights.
SAMPLE, LATENT, IMAGE, START, GIVEN, UNCONDITIONAL = range(6)
# Nothing holds the two answers of a random network together: at the published scales, of 3 to 9, twenty steps multiply a rounding error
# by a thousand and more, in PyTorch too, and a trajectory tells nothing any more.
GUIDANCE = 1.5


def config(name: str) -> dict:
    """The description of a system or first stage."""
    return yaml.safe_load(SYSTEMS[name].read_text())


def narrowed(described: dict, width: Fraction) -> dict:
    """The same networks with `width` of their channels, groups and features per head."""
    part = lambda whole, what: _whole(whole * width, f"{width} of the {whole} {what}")
    described = copy.deepcopy(described)
    params = described["model"]["params"]
    unet = params.get("unet_config", {}).get("params")
    if unet:
        resized(described, channels=part(unet["model_channels"], "channels"), groups=part(32, "groups"),
                heads=unet.get("num_heads"), head_channels=part(unet.get("num_head_channels", 0), "features of a head") or None,
                context=part(unet.get("context_dim", 0), "features of a context") or None)
    resized_stage(described, channels=part(128, "channels"), groups=part(32, "groups"))
    return described


def _whole(number: Fraction, what: str) -> int:
    if number.denominator != 1:
        sys.exit(f"{what} are {float(number)}: a width that leaves whole numbers is needed, such as 1/2, 1/4 or 1/8")
    return int(number)


def resized(described: dict, channels: int, groups: int, heads=None, head_channels=None, context=None, blocks=None, layers=None,
            vocab=None) -> dict:
    """Changes a UNet's sizes, and those of the text encoder that makes its context; None leaves a count as it is."""
    params = described["model"]["params"]
    unet = params["unet_config"]["params"]
    unet |= _given(model_channels=channels, num_groups=groups, num_heads=heads, num_head_channels=head_channels,
                   context_dim=context, num_res_blocks=blocks)
    stage = params["cond_stage_config"]
    if context is None or isinstance(stage, str):
        return described
    kind, sizes = stage["target"].split(".")[-1], stage.setdefault("params", {})
    if kind == "ClassEmbedder":
        sizes["embed_dim"] = context
    elif kind == "BERTEmbedder":
        sizes |= _given(n_embed=context, n_layer=layers, vocab_size=vocab)
    elif kind != "Identity":
        whole = VIT_L_14 if kind == "FrozenCLIPEmbedder" else VIT_H_14
        last = (vocab or whole["vocab_size"]) - 1
        heads = next(heads for heads in range(whole["num_attention_heads"], 0, -1) if context % heads == 0)
        sizes["text_config"] = whole | _given(
            hidden_size=context, intermediate_size=4 * context, num_attention_heads=heads, num_hidden_layers=layers,
            vocab_size=vocab, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last if whole["pad_token_id"] else 0)
    return described


def resized_stage(described: dict, channels: int, groups: int, blocks=None, codes=None) -> dict:
    """Changes a first stage's sizes, alone or inside a diffusion model."""
    params = described["model"]["params"]
    stage = params["first_stage_config"]["params"] if "first_stage_config" in params else params
    stage["ddconfig"] |= _given(ch=channels, num_groups=groups, num_res_blocks=blocks)
    if "n_embed" in stage:
        stage |= _given(n_embed=codes)
    return described


def _given(**sizes) -> dict:
    return {name: size for name, size in sizes.items() if size is not None}


def factor(stage: dict) -> int:
    """Pixels along a side per latent of a first stage's `params`."""
    return 2 ** (len(stage["ddconfig"]["ch_mult"]) - 1)


def folder_of(described: dict, folder: Path, size, seed: int, form: str = "safetensors", whole: bool = True,
              parts=("unet", "decode", "encode", "condition", "sampler"), stage_size=None, nodes=lambda modules: {}) -> None:
    """Writes `model/` and the dumps of `parts` for latents of `size`: height and width; those of the first stage have a size of
    their own where it is given."""
    alone = "first_stage_config" not in described["model"]["params"]
    model = randomise(built(described["model"]) if alone else LatentDiffusion(described), seed)
    if "scale_factor" in dict(model.named_buffers()):
        model.scale_factor.fill_(0.625)
    dumps = CompVis(folder, nodes)
    with torch.no_grad():
        first_stage(dumps, described["model"]["params"], model, size, seed) if alone else system(
            dumps, described, model, size, stage_size or size, seed, parts, GUIDANCE)
    state = checkpoint.published(model, seed) if whole else checkpoint.pruned(model)
    checkpoint.save(folder / "model" / f"model.{form}", state)
    (folder / "model" / "config.yaml").write_text(yaml.safe_dump(described, sort_keys=False, default_flow_style=None, width=120))


def dumps_of(model_folder: Path, out: Path, side: int | None) -> None:
    """Every dump of a folder in CompVis's layout, with the weights it holds and the guidance it recommends."""
    described = yaml.safe_load((model_folder / "config.yaml").read_text())
    params, model, dumps = described["model"]["params"], load(model_folder), CompVis(out, lambda modules: {})
    if isinstance(model, LatentDiffusion):
        size = (side or params["image_size"],) * 2
        guidance = described.get("sampling", {}).get("cfg_scale", GUIDANCE)
        system(dumps, described, model, size, size, 0, ("unet", "decode", "encode", "condition", "sampler"), guidance)
    else:
        first_stage(dumps, params, model, (side or 256 // factor(params),) * 2, 0)


def first_stage(dumps: CompVis, params: dict, model, size, seed: int, parts=("decode", "encode")) -> None:
    """Dumps of an autoencoder that is asked with one latent and one image, of sides that differ."""
    height, width = size
    if "decode" in parts:
        dumps.decode("decode.safetensors", model, noise((1, params["embed_dim"], height, width), seed + LATENT))
    if "encode" in parts:
        pixels = factor(params)
        image = noise((1, params["ddconfig"]["in_channels"], height * pixels, width * pixels), seed + IMAGE).clamp(-1, 1)
        dumps.encode("encode.safetensors", model, image)


def system(dumps: CompVis, described: dict, model: LatentDiffusion, size, stage_size, seed: int, parts, guidance: float) -> None:
    """Dumps of a diffusion model: two images with conditions of their own, at timesteps that differ."""
    params, unet = model.params, model.params["unet_config"]["params"]
    height, width = size
    given, unconditional, asked = conditions(model, params, (2, height, width), seed)
    concat = (given["concat"],) if "concat" in given else ()
    start = noise((2, unet["out_channels"], height, width), seed + START)
    if "unet" in parts:
        sample = torch.cat([noise(start.shape, seed + SAMPLE), *concat], dim=1)
        labels = given.get("class_labels")
        dumps.unet("unet.safetensors", model.unet, sample, [981, 21], given.get("context"), labels)
    first_stage(dumps, params["first_stage_config"]["params"], model.first_stage_model, stage_size, seed, parts)
    if "condition" in parts and asked:
        name, value, answer = asked
        components.condition(dumps.folder / "condition.safetensors", model.cond_stage_model, value, name, answer)
    if "sampler" in parts:
        scale = guidance if unconditional is not None else 1.0
        more = {name: tensor for name, tensor in given.items() if name != "context"}
        predict = lambda x, t, c: model.apply_model(x, t, context=c, **more)
        prediction = {"eps": "epsilon", "v": "v_prediction"}[params.get("parameterization", "eps")]
        # As CompVis samples unless the model says otherwise: every 50th timestep, plus one; and the noise of the first timestep is left
        # at the end.
        ddim = diffusers.DDIMScheduler(
            beta_start=params["linear_start"], beta_end=params["linear_end"], beta_schedule="scaled_linear", steps_offset=1,
            set_alpha_to_one=False, clip_sample=False, prediction_type=prediction,
            rescale_betas_zero_snr=params.get("rescale_betas_zero_snr", False),
            timestep_spacing=described.get("sampling", {}).get("timestep_spacing", "leading"))
        components.sampler(dumps.folder / "sampler.safetensors", predict, ddim, start, given.get("context"), unconditional, scale,
                           20, more, sampler="ddim")


def conditions(model: LatentDiffusion, params: dict, size, seed: int):
    """What a user gives, as the UNet is given it: inputs by name, the unconditional context or None, and what the condition's
    own network is asked: the input's name and value, and the answer's name."""
    count, height, width = size
    unet, stage = params["unet_config"]["params"], params["cond_stage_config"]
    kind = stage if isinstance(stage, str) else stage["target"].split(".")[-1]
    sizes = {} if isinstance(stage, str) else stage.get("params", {})
    network = model.cond_stage_model
    given, unconditional, asked = {}, None, None
    if kind == "ClassEmbedder":
        labels = torch.tensor([7, sizes["n_classes"] - 2])[:count]
        given["context"], asked = network(labels), ("class_labels", labels, "context")
        if sizes["n_classes"] == 1001:
            unconditional = network(torch.full_like(labels, 1000))
    elif kind in ("BERTEmbedder", "FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder"):
        ids, nothing = (_tokens(sizes, count, seed + which) for which in (GIVEN, UNCONDITIONAL))
        given["context"], unconditional, asked = network(ids), network(nothing), ("input_ids", ids, "context")
    elif kind == "SpatialRescaler":
        labels = torch.randint(0, sizes["in_channels"], (count, 4 * height, 4 * width), generator=_generator(seed + GIVEN))
        onehot = F.one_hot(labels, sizes["in_channels"]).movedim(-1, 1).float()
        # The dump of the network alone has a side that two halvings cut off.
        given["concat"], asked = network(onehot), ("segmentation", onehot[:1, :, :10, :9], "concat")
    elif kind == "__is_first_stage__":
        given["concat"] = _masked(model, size, seed)
    elif model.conditioning_key == "concat":
        given["concat"] = noise((count, unet["in_channels"] - unet["out_channels"], height, width), seed + GIVEN).clamp(-1, 1)
    elif model.conditioning_key == "crossattn":
        # An embedding of the text and of 20 neighbours, each of length 1; nothing is zeros.
        given["context"] = F.normalize(noise((count, 21, unet["context_dim"]), seed + GIVEN), dim=-1)
        unconditional = torch.zeros_like(given["context"])
    elif model.conditioning_key == "adm":
        given["class_labels"] = torch.tensor([1, unet["num_classes"] - 1])[:count]
    if model.conditioning_key == "hybrid":
        given["concat"] = _masked(model, size, seed)
    return given, unconditional, asked


def _tokens(sizes: dict, count: int, seed: int):
    text = sizes.get("text_config", {})
    vocab = text.get("vocab_size", sizes.get("vocab_size", 30522))
    length = text.get("max_position_embeddings", sizes.get("max_seq_len", 77))
    return torch.randint(0, vocab, (count, length), generator=_generator(seed))


def _masked(model: LatentDiffusion, size, seed: int):
    """The latent of an image without what a mask covers, and the mask: in this order and from -1 to 1 as inpaint.py makes them,
    or for Stable Diffusion the other way about, from 0 to 1, with grey in the place of black."""
    count, height, width = size
    pixels = factor(model.params["first_stage_config"]["params"])
    image = noise((count, 3, height * pixels, width * pixels), seed + GIVEN).clamp(-1, 1)
    mask = (noise((count, 1, height * pixels, width * pixels), seed + UNCONDITIONAL) > 0.5).float()
    small = F.interpolate(mask, size=(height, width))
    if model.conditioning_key == "hybrid":
        mean, _ = model.first_stage_model.encode((1 - mask) * image)
        return torch.cat([small, model.scale_factor * mean], dim=1)
    masked = (1 - mask) * (image + 1) / 2
    return torch.cat([model.first_stage_model.encode(2 * masked - 1), 2 * small - 1], dim=1)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def count() -> None:
    """Prints parameters and tensors of every published network, without memory for any."""
    size = lambda module: f"{sum(p.numel() for p in module.parameters()) / 1e6:9.3f} M in {len(list(module.parameters())):4} tensors"
    for name, path in SYSTEMS.items():
        with torch.device("meta"):
            model = build_from_config(path)
        if isinstance(model, LatentDiffusion):
            print(f"{name:26} unet    {size(model.unet)}")
            if model.cond_stage_model is not None and list(model.cond_stage_model.parameters()):
                print(f"{name:26} {type(model.cond_stage_model).__name__} {size(model.cond_stage_model)}")
        else:
            print(f"{name:26} encoder {size(model.encoder)}, decoder {size(model.decoder)}, all {size(model)}")
