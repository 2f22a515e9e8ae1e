"""Writes what diffusers calls each weight of CompVis's networks: the oracle of the engine's name maps.

    pip install torch diffusers transformers accelerate pyyaml
    python tools/names.py tests/data/names

The networks are the twins in tools/compvis, at widths as small as they go. Every weight is filled with a number of its own
and sent through diffusers' converter of single files; a number then tells which weight ended up under which name. The
result must load into diffusers' own network without a name missing or left over.

Writes config.yaml (CompVis's description of the networks), unet/config.json and vae/config.json (diffusers'), and for
each network a list `name-in-CompVis name-in-diffusers shape-in-diffusers`, one weight a line.
"""

import argparse
import json
from pathlib import Path

import torch
import yaml
from compvis import build_from_config
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

UNET = dict(
    image_size=8, in_channels=4, out_channels=4, model_channels=8, num_res_blocks=2, channel_mult=[1, 2, 3],
    attention_resolutions=[1, 2], num_heads=2, use_spatial_transformer=True, transformer_depth=1, context_dim=6,
    legacy=False, num_groups=4,
)
AUTOENCODER = dict(
    double_z=True, z_channels=4, resolution=32, in_channels=3, out_ch=3, ch=8, ch_mult=[1, 2, 2], num_res_blocks=2,
    attn_resolutions=[], dropout=0.0, num_groups=4,
)
TEXT = dict(
    vocab_size=16, hidden_size=6, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=5, hidden_act="quick_gelu", layer_norm_eps=1e-5, bos_token_id=14, eos_token_id=15,
    pad_token_id=15,
)
CONFIG = {
    "model": {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            "linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000, "image_size": 8, "scale_factor": 0.18215,
            "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": UNET},
            "first_stage_config": {
                "target": "ldm.models.autoencoder.AutoencoderKL",
                "params": {"embed_dim": 4, "ddconfig": AUTOENCODER},
            },
            "cond_stage_config": {
                "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
                "params": {"text_config": TEXT},
            },
        },
    }
}


def diffusers_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16, 24), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2, cross_attention_dim=6, norm_num_groups=4,
    )


def diffusers_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=32, block_out_channels=(8, 16, 16), layers_per_block=2, latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )


def numbered(network: torch.nn.Module, prefix: str) -> tuple[dict, list]:
    """A state dict in which every weight is filled with its place in the list of names."""
    state = network.state_dict()
    names = list(state)
    return {prefix + name: torch.full_like(state[name], float(i)) for i, name in enumerate(names)}, names


def pairs(converted: dict, names: list, network: torch.nn.Module) -> list:
    """(CompVis's name, diffusers' name, shape there) for every weight, checked against diffusers' own network."""
    expected = network.state_dict()
    assert expected.keys() == converted.keys(), expected.keys() ^ converted.keys()
    found = []
    for name, tensor in converted.items():
        # 1x1 convolutions of the old attention are linear layers now, and may keep their trailing ones in a file.
        assert tensor.numel() == expected[name].numel(), name
        found.append((names[int(tensor.flatten()[0])], name, list(expected[name].shape)))
    assert len({ours for ours, _, _ in found}) == len(names) == len(found)
    return sorted(found)


def write(folder: Path, network: torch.nn.Module, found: list) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in network.config.items() if not key.startswith("_") or key == "_class_name"}
    config["_class_name"] = type(network).__name__
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    lines = [f"{ours} {theirs} {'x'.join(map(str, shape))}\n" for ours, theirs, shape in found]
    (folder / "names.txt").write_text("".join(lines))
    print(f"{folder}: {len(found)} names")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    model = build_from_config(out / "config.yaml")

    unet = diffusers_unet()
    state, names = numbered(model.unet, "model.diffusion_model.")
    write(out / "unet", unet, pairs(convert_ldm_unet_checkpoint(state, dict(unet.config)), names, unet))

    autoencoder = diffusers_autoencoder()
    state, names = numbered(model.first_stage_model, "first_stage_model.")
    converted = convert_ldm_vae_checkpoint(state, dict(autoencoder.config))
    write(out / "vae", autoencoder, pairs(converted, names, autoencoder))


if __name__ == "__main__":
    main()
