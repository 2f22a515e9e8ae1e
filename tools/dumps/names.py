"""From the modules of diffusers and transformers to the paths that CompVis's checkpoints have."""

from torch import nn

RES_BLOCK = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}
AUTOENCODER_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet(model: nn.Module) -> dict:
    """The modules of a UNet2DConditionModel by their CompVis paths."""
    blocks = {"conv_in": "input_blocks.0.0"}
    n = 1
    for i, down in enumerate(model.down_blocks):
        for j in range(len(down.resnets)):
            blocks[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{n}.0"
            blocks[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{n}.1"
            n += 1
        if down.downsamplers:
            blocks[f"down_blocks.{i}.downsamplers.0"] = f"input_blocks.{n}.0"
            n += 1
    blocks |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
               "mid_block.resnets.1": "middle_block.2"}
    n = 0
    for i, up in enumerate(model.up_blocks):
        for j in range(len(up.resnets)):
            blocks[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{n}.0"
            blocks[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{n}.1"
            n += 1
        last = 2 if getattr(up, "attentions", None) else 1
        blocks[f"up_blocks.{i}.upsamplers.0"] = f"output_blocks.{n - 1}.{last}"
    blocks |= {"time_embedding": "time_embed", "time_embedding.linear_1": "time_embed.0",
               "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0", "conv_out": "out.2"}
    for name in [name for name in blocks if ".resnets." in name]:
        blocks |= {f"{name}.{inner}": f"{blocks[name]}.{original}" for inner, original in RES_BLOCK.items()}
    for name in [name for name in blocks if ".downsamplers." in name]:
        blocks[f"{name}.conv"] = f"{blocks[name]}.op"
    return _translate(model, blocks)


def autoencoder(model: nn.Module) -> dict:
    """The modules of an AutoencoderKL by their CompVis paths."""
    blocks = {}
    levels = len(model.decoder.up_blocks)
    for half, name, after, step in (("encoder", "down", "downsample", 1), ("decoder", "up", "upsample", -1)):
        for i in range(levels):
            ours, theirs = f"{half}.{name}_blocks.{i}", f"{half}.{name}.{i if step == 1 else levels - 1 - i}"
            blocks |= {f"{ours}.resnets.{j}": f"{theirs}.block.{j}" for j in range(model.config.layers_per_block + 1)}
            blocks[f"{ours}.{after}rs.0"] = f"{theirs}.{after}"
        blocks |= {f"{half}.mid_block.resnets.0": f"{half}.mid.block_1", f"{half}.mid_block.resnets.1": f"{half}.mid.block_2",
                   f"{half}.mid_block.attentions.0": f"{half}.mid.attn_1", f"{half}.conv_norm_out": f"{half}.norm_out"}
    for name in [name for name in blocks if ".resnets." in name]:
        blocks[f"{name}.conv_shortcut"] = f"{blocks[name]}.nin_shortcut"
    for name in [name for name in blocks if ".attentions." in name]:
        blocks |= {f"{name}.{inner}": f"{blocks[name]}.{original}" for inner, original in AUTOENCODER_ATTENTION.items()}
    return _translate(model, blocks)


def clip(model: nn.Module) -> dict:
    """The modules of a CLIPTextModel by their CompVis paths, which have a `text_model.` that transformers 5 has not."""
    return {name if name.startswith("text_model.") else f"text_model.{name}": module
            for name, module in model.named_modules() if name and name != "text_model"}


def _translate(model: nn.Module, blocks: dict) -> dict:
    """Every module below one of `blocks`, its path's longest known beginning replaced."""
    translated = {}
    for name, module in model.named_modules():
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            head, tail = ".".join(parts[:length]), parts[length:]
            if head in blocks:
                translated[".".join([blocks[head], *tail])] = module
                break
        else:
            if name and name.split(".")[-1] in ("quant_conv", "post_quant_conv", "conv_in", "conv_out"):
                translated[name] = module
    return translated


# What a dump of moderate size records: the answers of whole layers, not of their parts.
LAYERS = ("ResBlock", "ResnetBlock", "ResnetBlock2D", "AttentionBlock", "SpatialTransformer", "Transformer2DModel", "CrossAttention",
          "Attention", "AttnBlock", "FeedForward", "BasicTransformerBlock", "CLIPAttention", "CLIPMLP", "CLIPEncoderLayer", "Layer", "Mlp")
EDGES = ("time_embed", "input_blocks.0.0", "out.2", "conv_in", "conv_out", "upsample", "downsample", "op", "conv", "norm_out",
         "final_layer_norm", "quant_conv")


def layers(modules: dict) -> dict:
    """Those of `modules` that are whole layers, or the network's edges."""
    return {path: module for path, module in modules.items()
            if type(module).__name__ in LAYERS or path in EDGES or path.split(".")[-1] in EDGES}


def blocks(modules: dict) -> dict:
    """Those of `modules` that are whole blocks of a UNet: enough to tell where an answer begins to differ."""
    return {path: module for path, module in modules.items()
            if type(module).__name__ in ("ResBlock", "AttentionBlock", "SpatialTransformer")}
