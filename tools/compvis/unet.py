"""The UNet with the state-dict names of CompVis (ldm/modules/diffusionmodules/openaimodel.py).

Facts that the numbers depend on: GroupNorm eps 1e-5 in residual blocks, attention blocks and the output, 1e-6 in the
spatial transformer; LayerNorm eps 1e-5; the timestep embedding has cosines first; downsampling pads 1 on every side;
skips are concatenated after the stream; GEGLU's value comes first and its gate (exact GELU) second; an attention
block's projection is (query, key, value) head by head, unless the new order is asked for; of a block's projected
embedding the scale comes first and the shift second; a block that resamples does so after its first normalisation.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def timestep_embedding(timesteps, width: int):
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def halve(x):
    return F.avg_pool2d(x, 2)


def double(x):
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResBlock(nn.Module):
    """`scale_shift` applies the embedding to the second normalisation; `resample` is `halve` or `double`, or None."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int, groups: int, scale_shift: bool = False, resample=None):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(nn.GroupNorm(groups, out_channels), nn.SiLU(), nn.Identity(),
                                        nn.Conv2d(out_channels, out_channels, 3, padding=1))
        nn.init.zeros_(self.out_layers[3].weight)
        nn.init.zeros_(self.out_layers[3].bias)
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x, emb):
        h = self.in_layers[:2](x)
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        embedded = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = embedded.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + embedded)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over pixels, of the UNets without spatial transformers."""

    def __init__(self, channels: int, heads: int, groups: int, new_order: bool):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x):
        pixels = x.flatten(2)
        h = self.qkv(self.norm(pixels))
        # Rows are (part, head, feature) in the new order, (head, part, feature) in the old.
        if self.new_order:
            parts = h.unflatten(1, (3, self.heads, -1)).unbind(1)
        else:
            parts = h.unflatten(1, (self.heads, 3, -1)).unbind(2)
        q, k, v = (part.transpose(2, 3) for part in parts)
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        return (pixels + self.proj_out(h)).view_as(x)


class CrossAttention(nn.Module):
    def __init__(self, query_dim: int, context_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(query_dim, query_dim, bias=False)
        self.to_k = nn.Linear(context_dim, query_dim, bias=False)
        self.to_v = nn.Linear(context_dim, query_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(query_dim, query_dim), nn.Identity())

    def forward(self, x, context=None):
        context = x if context is None else context
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        h = F.scaled_dot_product_attention(split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context)))
        return self.to_out(h.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int, context_dim: int | None):
        super().__init__()
        self.attn1 = CrossAttention(dim, dim, heads)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim or dim, heads)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x, context):
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    def __init__(self, channels: int, heads: int, depth: int, context_dim: int | None, groups: int, linear: bool):
        super().__init__()
        self.linear = linear
        projection = (lambda: nn.Linear(channels, channels)) if linear else (lambda: nn.Conv2d(channels, channels, 1))
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = projection()
        self.transformer_blocks = nn.ModuleList(BasicTransformerBlock(channels, heads, context_dim) for _ in range(depth))
        self.proj_out = projection()
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x, context):
        height, width = x.shape[2:]
        tokens = lambda t: t.flatten(2).transpose(1, 2)
        image = lambda t: t.transpose(1, 2).unflatten(2, (height, width))
        h = self.norm(x)
        h = self.proj_in(tokens(h)) if self.linear else tokens(self.proj_in(h))
        for block in self.transformer_blocks:
            h = block(h, context)
        h = image(self.proj_out(h)) if self.linear else self.proj_out(image(h))
        return h + x


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(double(x))


class TimestepSequential(nn.Sequential):
    """A sequence whose members take what they need of (embedding, context)."""

    def forward(self, x, emb, context):
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNetModel(nn.Module):
    """Predicts noise or velocity from a noisy latent, its timesteps, and what conditions it: a context or class labels `y`."""

    def __init__(self, in_channels: int, out_channels: int, model_channels: int, attention_resolutions, num_res_blocks: int,
                 channel_mult, use_spatial_transformer: bool = False, context_dim: int | None = None, num_heads: int = -1,
                 num_head_channels: int = -1, transformer_depth: int = 1, use_linear_in_transformer: bool = False,
                 use_scale_shift_norm: bool = False, resblock_updown: bool = False, use_new_attention_order: bool = False,
                 num_classes: int | None = None, num_groups: int = 32, image_size: int = 0, legacy: bool = True):
        super().__init__()
        self.model_channels = model_channels
        emb = 4 * model_channels
        self.time_embed = nn.Sequential(nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb)

        def attention(width):
            heads = num_heads if num_head_channels == -1 else width // num_head_channels
            if use_spatial_transformer:
                return SpatialTransformer(width, heads, transformer_depth, context_dim, num_groups, use_linear_in_transformer)
            return AttentionBlock(width, heads, num_groups, use_new_attention_order)

        def block(width, out, resample=None):
            return ResBlock(width, emb, out, num_groups, use_scale_shift_norm, resample)

        width, scale, skips = model_channels, 1, [model_channels]
        self.input_blocks = nn.ModuleList([TimestepSequential(nn.Conv2d(in_channels, width, 3, padding=1))])
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = [block(width, mult * model_channels)]
                width = mult * model_channels
                if scale in attention_resolutions:
                    layers.append(attention(width))
                self.input_blocks.append(TimestepSequential(*layers))
                skips.append(width)
            if level != len(channel_mult) - 1:
                self.input_blocks.append(TimestepSequential(block(width, width, halve) if resblock_updown else Downsample(width)))
                skips.append(width)
                scale *= 2
        self.middle_block = TimestepSequential(block(width, width), attention(width), block(width, width))
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                layers = [block(width + skips.pop(), mult * model_channels)]
                width = mult * model_channels
                if scale in attention_resolutions:
                    layers.append(attention(width))
                if level and i == num_res_blocks:
                    layers.append(block(width, width, double) if resblock_updown else Upsample(width))
                    scale //= 2
                self.output_blocks.append(TimestepSequential(*layers))
        self.out = nn.Sequential(nn.GroupNorm(num_groups, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))
        nn.init.zeros_(self.out[2].weight)
        nn.init.zeros_(self.out[2].bias)

    def forward(self, x, timesteps, context=None, y=None):
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        skips = []
        for block in self.input_blocks:
            x = block(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb, context)
        return self.out(x)
