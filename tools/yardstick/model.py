"""Writes a model of Stable Diffusion 1's shape at random weights: a diffusers folder in f16, for timing only."""

import json
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from words import write_tokenizer


def write(folder: Path, tiny: bool) -> None:
    """SD 1's networks; `tiny` ones have the same blocks and narrow ones, to try the yardstick out."""
    widths = (32, 64, 64, 64) if tiny else (320, 640, 1280, 1280)
    vae_widths = (32, 32, 64, 64) if tiny else (128, 256, 512, 512)
    text = dict(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_hidden_layers=2) if tiny else dict(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12)
    torch.manual_seed(0)
    networks = {
        "unet": diffusers.UNet2DConditionModel(
            sample_size=64, block_out_channels=widths, attention_head_dim=8, cross_attention_dim=text["hidden_size"]),
        "vae": diffusers.AutoencoderKL(
            sample_size=512, block_out_channels=vae_widths, latent_channels=4, layers_per_block=2, scaling_factor=0.18215,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(
            vocab_size=49408, max_position_embeddings=77, hidden_act="quick_gelu", **text)),
    }
    for name, network in networks.items():
        network.half().save_pretrained(folder / name)
    diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading",
    ).save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None], "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    # Last, so that a folder with an index is whole.
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    write(Path(sys.argv[1]), "--tiny" in sys.argv)
