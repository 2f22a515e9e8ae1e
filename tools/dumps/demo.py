"""Dumps of the demo model, from its PyTorch twin in tools/compvis."""

import sys
from pathlib import Path

import components
import diffusers
import torch
from components import CompVis, noise

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compvis import load  # noqa: E402


def demo(model_folder: Path, out: Path) -> None:
    """Every component at half the model's native side, and 20 guided steps of DDIM with the model's own spacing."""
    model = load(model_folder)
    params = model.params
    channels, side = params["channels"], params["image_size"] // 2
    text = params["cond_stage_config"]["params"]["text_config"]
    length, vocab = text["max_position_embeddings"], text["vocab_size"]
    ids = torch.randint(0, vocab - 2, (2, length), generator=torch.Generator().manual_seed(1))
    nothing = torch.full_like(ids, text["eos_token_id"])
    ids[:, 0] = nothing[:, 0] = text["bos_token_id"]
    context, empty = model.cond_stage_model(ids), model.cond_stage_model(nothing)

    dump = CompVis(out, nodes=lambda modules: {})
    start = noise((2, channels, side, side), 2)
    dump.unet("unet.safetensors", model.unet, start, [999, 400], context)
    dump.decode("decode.safetensors", model.first_stage_model, noise((1, channels, side, side), 3))
    factor = 2 ** (len(params["first_stage_config"]["params"]["ddconfig"]["ch_mult"]) - 1)
    dump.encode("encode.safetensors", model.first_stage_model, noise((1, 3, factor * side, factor * side), 4).clamp(-1, 1))
    dump.text("text.safetensors", model.cond_stage_model, ids)
    ddim = diffusers.DDIMScheduler(
        beta_start=params["linear_start"], beta_end=params["linear_end"], beta_schedule="scaled_linear", clip_sample=False,
        num_train_timesteps=params["timesteps"], rescale_betas_zero_snr=params.get("rescale_betas_zero_snr", False),
        prediction_type={"v": "v_prediction", "eps": "epsilon"}[params.get("parameterization", "eps")],
        timestep_spacing=params.get("sampling", {}).get("timestep_spacing", "trailing"), set_alpha_to_one=False, steps_offset=1)
    components.sampler(out / "sampler.safetensors", model.unet, ddim, start, context, empty, 4.0, 20, sampler="ddim")
