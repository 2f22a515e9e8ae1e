"""OpenCLIP's text transformer under the names that Stable Diffusion 2's checkpoints have (`cond_stage_model.model.*`).

As CLIP's, but for one weight that holds queries, keys and values, exact GELU, and states taken before the last block.
"""

import torch
import torch.nn.functional as F
from torch import nn

VIT_H_14 = dict(vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                max_position_embeddings=77, hidden_act="gelu", layer_norm_eps=1e-5, bos_token_id=49406, eos_token_id=49407,
                pad_token_id=0)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        width, inner = c["hidden_size"], c["intermediate_size"]
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, c["num_attention_heads"], batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, inner), "c_proj": nn.Linear(inner, width)})

    def forward(self, x, mask):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class TextTransformer(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        width = c["hidden_size"]
        self.token_embedding = nn.Embedding(c["vocab_size"], width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(c["max_position_embeddings"], width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(ResidualAttentionBlock(c) for _ in range(c["num_hidden_layers"]))
        self.ln_final = nn.LayerNorm(width)
        # In every checkpoint, and without a part in the context.
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.logit_scale = nn.Parameter(torch.tensor(2.66))

    def forward(self, ids, skipped: int):
        length = ids.shape[1]
        mask = torch.full((length, length), -torch.inf, device=ids.device).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        blocks = self.transformer.resblocks
        for block in blocks[: len(blocks) - skipped]:
            x = block(x, mask)
        return self.ln_final(x)


class FrozenOpenCLIPEmbedder(nn.Module):
    """Token ids to context vectors: the states after the last block, or before it, normalised."""

    def __init__(self, layer: str = "last", text_config: dict = VIT_H_14, arch: str = "ViT-H-14", freeze: bool = True):
        super().__init__()
        self.skipped = {"last": 0, "penultimate": 1}[layer]
        self.model = TextTransformer(text_config)

    def forward(self, ids):
        return self.model(ids, self.skipped)
