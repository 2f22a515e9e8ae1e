"""Stable Diffusion 1.x in PyTorch at random weights, from the CompVis modules of tools/compvis: the other side of every comparison.

Neither diffusers nor a network is needed. That it is the published network is checked by `census`: parameters and FLOPs, counted on the
meta device, are the numbers that diffusers' and CompVis's own modules give.
"""

import json
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS / "yardstick")]

from compvis import LatentDiffusion  # noqa: E402
from words import write_tokenizer  # noqa: E402

# Parameters, and FLOPs (two per multiply-add) at 64 x 64 latents, batch 1.
PUBLISHED = {"unet": (859.52e6, 803.27e9), "decoder": (49.49e6, 2514.52e9)}


def config(tiny: bool) -> dict:
    """What a config.yaml says; `tiny` has the same blocks and narrow ones, to try the script out."""
    unet = dict(in_channels=4, out_channels=4, model_channels=320, attention_resolutions=[4, 2, 1], num_res_blocks=2,
                channel_mult=[1, 2, 4, 4], num_heads=8, use_spatial_transformer=True, transformer_depth=1, context_dim=768)
    first_stage = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4],
                       num_res_blocks=2, attn_resolutions=[], dropout=0.0)
    text = dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    if tiny:
        unet |= dict(model_channels=32, num_res_blocks=1, channel_mult=[1, 2], attention_resolutions=[2], num_heads=2, context_dim=32)
        first_stage |= dict(ch=32, ch_mult=[1, 1], num_res_blocks=1)
        text |= dict(vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    last = text["vocab_size"] - 1
    text |= dict(max_position_embeddings=77, hidden_act="quick_gelu", layer_norm_eps=1e-5, bos_token_id=last - 1, eos_token_id=last,
                 pad_token_id=last)
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": dict(
        linear_start=0.00085, linear_end=0.012, timesteps=1000, image_size=8 if tiny else 64, channels=4, scale_factor=0.18215,
        conditioning_key="crossattn",
        unet_config=dict(target="ldm.modules.diffusionmodules.openaimodel.UNetModel", params=unet),
        first_stage_config=dict(target="ldm.models.autoencoder.AutoencoderKL", params=dict(embed_dim=4, ddconfig=first_stage)),
        cond_stage_config=dict(target="ldm.modules.encoders.modules.FrozenCLIPEmbedder", params=dict(text_config=text)))}}


def factor(params: dict) -> int:
    """Pixels along a side per latent."""
    return 2 ** (len(params["first_stage_config"]["params"]["ddconfig"]["ch_mult"]) - 1)


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights that keep activations near 1, none of them zero, rounded to f16 so that files of f16 hold them exactly."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=generator, device=device)
        if "embedding" in name:
            value *= 0.5
        elif parameter.ndim >= 2:
            value /= parameter[0].numel() ** 0.5
        elif name.endswith("bias"):
            value *= 0.02
        else:
            value = 1 + 0.1 * value
        parameter.data = value.half().float()


def write(folder: Path, device: str, tiny: bool) -> None:
    """The folder that both sides open: config.yaml, model.safetensors in f16, and a tokenizer of single bytes."""
    described = config(tiny)
    with torch.device(device):
        model = LatentDiffusion(described)
    randomise(model, 0)
    folder.mkdir(parents=True, exist_ok=True)
    last = described["model"]["params"]["cond_stage_config"]["params"]["text_config"]["vocab_size"]
    write_tokenizer(folder, last)
    save_file({name: tensor.half().contiguous().cpu() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    # Last, so that a folder with a config is whole.
    (folder / "config.yaml").write_text(yaml.safe_dump(described))


def load(folder: Path, device: str) -> LatentDiffusion:
    """The networks of a folder that `write` made, in f32 and evaluation mode."""
    # Initialising a thousand million parameters would take longer than reading them.
    with torch.device("meta"):
        model = LatentDiffusion(yaml.safe_load((folder / "config.yaml").read_text()))
    state = load_file(folder / "model.safetensors", device=device)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def census(tiny: bool = False) -> dict:
    """Parameters and FLOPs of the networks, counted on the meta device; fails unless they are the published ones."""
    described = config(tiny)
    with torch.device("meta"):
        model = LatentDiffusion(described).eval()
        side = described["model"]["params"]["image_size"]
        width = described["model"]["params"]["unet_config"]["params"]["context_dim"]
        latent, context = torch.empty(1, 4, side, side), torch.empty(1, 77, width)
        time = torch.empty(1)
    counts = {}
    decoder = model.first_stage_model
    for name, modules, run in [("unet", [model.unet], lambda: model.unet(latent, time, context)),
                               ("decoder", [decoder.decoder, decoder.post_quant_conv], lambda: decoder.decode(latent))]:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        parameters = sum(p.numel() for module in modules for p in module.parameters())
        counts[name] = (parameters, counter.get_total_flops())
        for found, published in zip(counts[name], PUBLISHED[name]):
            # They are published to five digits or four.
            if not tiny and abs(found / published - 1) > 2e-4:
                sys.exit(f"the PyTorch {name} is not the published one: {found:.5g}, expected {published:.5g}")
    return {name: {"parameters": p, "flops": f} for name, (p, f) in counts.items()}


def main() -> None:
    """`twin.py FOLDER DEVICE [tiny]`: prints the census, and writes the folder where it is not there yet."""
    folder, device, tiny = Path(sys.argv[1]), sys.argv[2], "tiny" in sys.argv[3:]
    print(json.dumps(census(tiny)))
    if not (folder / "config.yaml").exists():
        write(folder, device, tiny)


if __name__ == "__main__":
    main()
