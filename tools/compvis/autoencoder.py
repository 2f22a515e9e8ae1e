"""First stages with the state-dict names of CompVis (ldm/models/autoencoder.py): regularised by KL, or vector-quantised.

Facts that the numbers depend on: GroupNorm eps 1e-6, downsampling pads right and bottom only, the middle
attention has one head, the decoder has one residual block per level more than the encoder, and attention
per level is chosen by the nominal `resolution`, never by the size of the input. Inside a diffusion model, a
vector-quantised first stage encodes without quantising, and its decoder quantises first.
"""

import torch
import torch.nn.functional as F
from torch import nn


def normalize(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, groups: int):
        super().__init__()
        self.norm1 = normalize(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = normalize(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class AttnBlock(nn.Module):
    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = normalize(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        n, c, height, width = x.shape
        h = self.norm(x)
        q, k, v = (f(h).reshape(n, 1, c, height * width).transpose(2, 3) for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.transpose(2, 3).reshape(n, c, height, width))


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def middle(channels: int, groups: int, attention: bool) -> nn.Module:
    mid = nn.Module()
    mid.block_1 = ResnetBlock(channels, channels, groups)
    mid.attn_1 = AttnBlock(channels, groups) if attention else nn.Identity()
    mid.block_2 = ResnetBlock(channels, channels, groups)
    return mid


def run_middle(mid: nn.Module, h):
    return mid.block_2(mid.attn_1(mid.block_1(h)))


class Encoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, attn_resolutions, in_channels, resolution, z_channels,
                 double_z, groups, attention):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        width = ch
        for i, mult in enumerate(ch_mult):
            level = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks):
                level.block.append(ResnetBlock(width, ch * mult, groups))
                width = ch * mult
                if attention and resolution in attn_resolutions:
                    level.attn.append(AttnBlock(width, groups))
            if i != len(ch_mult) - 1:
                level.downsample = Downsample(width)
                resolution //= 2
            self.down.append(level)
        self.mid = middle(width, groups, attention)
        self.norm_out = normalize(width, groups)
        self.conv_out = nn.Conv2d(width, 2 * z_channels if double_z else z_channels, 3, padding=1)

    def forward(self, x):
        h = self.conv_in(x)
        for level in self.down:
            for i, block in enumerate(level.block):
                h = block(h)
                if len(level.attn):
                    h = level.attn[i](h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        h = run_middle(self.mid, h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, attn_resolutions, out_ch, resolution, z_channels, groups,
                 attention):
        super().__init__()
        width = ch * ch_mult[-1]
        resolution //= 2 ** (len(ch_mult) - 1)
        self.conv_in = nn.Conv2d(z_channels, width, 3, padding=1)
        self.mid = middle(width, groups, attention)
        levels = []
        for i in reversed(range(len(ch_mult))):
            level = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.block.append(ResnetBlock(width, ch * ch_mult[i], groups))
                width = ch * ch_mult[i]
                if attention and resolution in attn_resolutions:
                    level.attn.append(AttnBlock(width, groups))
            if i != 0:
                level.upsample = Upsample(width)
                resolution *= 2
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = normalize(width, groups)
        self.conv_out = nn.Conv2d(width, out_ch, 3, padding=1)

    def forward(self, z):
        h = run_middle(self.mid, self.conv_in(z))
        for level in reversed(self.up):
            for i, block in enumerate(level.block):
                h = block(h)
                if len(level.attn):
                    h = level.attn[i](h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


def halves(ddconfig: dict) -> tuple[Encoder, Decoder]:
    """Encoder and decoder of a `ddconfig`; `num_groups` is a key of ours."""
    d = ddconfig
    shared = dict(ch=d["ch"], ch_mult=d["ch_mult"], num_res_blocks=d["num_res_blocks"],
                  attn_resolutions=d["attn_resolutions"], resolution=d["resolution"], z_channels=d["z_channels"],
                  groups=d.get("num_groups", 32), attention=d.get("attn_type", "vanilla") != "none")
    return Encoder(in_channels=d["in_channels"], double_z=d["double_z"], **shared), Decoder(out_ch=d["out_ch"], **shared)


class AutoencoderKL(nn.Module):
    """Image in -1..1 <-> latent. `encode` gives the mean and the clamped log variance; `decode` is not clamped."""

    def __init__(self, ddconfig: dict, embed_dim: int):
        super().__init__()
        self.encoder, self.decoder = halves(ddconfig)
        self.quant_conv = nn.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)

    def encode(self, image):
        mean, logvar = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, latent):
        return self.decoder(self.post_quant_conv(latent))


class VectorQuantizer(nn.Module):
    """Puts the nearest code, by Euclidean distance, in the place of every pixel's vector; the first of equally near ones."""

    def __init__(self, n_embed: int, embed_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)

    def forward(self, latent):
        """The quantised latent and the indices `[N, h, w]`."""
        codes = self.embedding.weight
        vectors = latent.movedim(1, -1)
        distances = (vectors**2).sum(-1, keepdim=True) + (codes**2).sum(-1) - 2 * vectors @ codes.T
        indices = distances.argmin(-1)
        return codes[indices].movedim(-1, 1), indices


class VQModel(nn.Module):
    """A vector-quantised first stage alone: `encode` gives the quantised latent and its indices, which `decode` is given."""

    def __init__(self, ddconfig: dict, n_embed: int, embed_dim: int):
        super().__init__()
        self.encoder, self.decoder = halves(ddconfig)
        self.quantize = VectorQuantizer(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)

    def encode(self, image):
        return self.quantize(self.quant_conv(self.encoder(image)))

    def decode(self, quantised):
        return self.decoder(self.post_quant_conv(quantised))


class VQModelInterface(VQModel):
    """The same inside a diffusion model: latents stay as they are until the decoder quantises them."""

    def encode(self, image):
        return self.quant_conv(self.encoder(image))

    def decode(self, latent):
        return super().decode(self.quantize(latent)[0])
