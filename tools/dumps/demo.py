"""Dumps of the demo models, from their PyTorch twins in tools/compvis."""

import sys
from pathlib import Path

import components
import diffusers
import systems
import torch
from components import CompVis, noise

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compvis import load  # noqa: E402


def demo(model_folder: Path, out: Path) -> None:
    """Every component at half the model's native side, and 20 steps of DDIM with the model's own spacing, guided where it can be."""
    model = load(model_folder)
    params = model.params
    channels, side = params["channels"], params["image_size"] // 2
    dump = CompVis(out, nodes=lambda modules: {})
    start = noise((2, channels, side, side), 2)
    given, context, empty, scale = {}, None, None, 1.0
    if params["cond_stage_config"] == "__is_first_stage__":
        given, _, _ = systems.conditions(model, params, (2, side, side), 1)
    else:
        text = params["cond_stage_config"]["params"]["text_config"]
        length, vocab = text["max_position_embeddings"], text["vocab_size"]
        ids = torch.randint(0, vocab - 2, (2, length), generator=torch.Generator().manual_seed(1))
        nothing = torch.full_like(ids, text["eos_token_id"])
        ids[:, 0] = nothing[:, 0] = text["bos_token_id"]
        context, empty, scale = model.cond_stage_model(ids), model.cond_stage_model(nothing), 4.0
        dump.text("text.safetensors", model.cond_stage_model, ids)

    dump.unet("unet.safetensors", model.unet, torch.cat([start, *given.values()], dim=1), [999, 400], context)
    dump.decode("decode.safetensors", model.first_stage_model, noise((1, channels, side, side), 3))
    pixels = side * systems.factor(params["first_stage_config"]["params"])
    dump.encode("encode.safetensors", model.first_stage_model, noise((1, 3, pixels, pixels), 4).clamp(-1, 1))
    ddim = diffusers.DDIMScheduler(
        beta_start=params["linear_start"], beta_end=params["linear_end"], beta_schedule="scaled_linear", clip_sample=False,
        num_train_timesteps=params["timesteps"], rescale_betas_zero_snr=params.get("rescale_betas_zero_snr", False),
        prediction_type={"v": "v_prediction", "eps": "epsilon"}[params.get("parameterization", "eps")],
        timestep_spacing=params.get("sampling", {}).get("timestep_spacing", "trailing"), set_alpha_to_one=False, steps_offset=1)
    predict = lambda x, t, c: model.apply_model(x, t, context=c, **given)
    components.sampler(out / "sampler.safetensors", predict, ddim, start, context, empty, scale, 20, given, sampler="ddim")
