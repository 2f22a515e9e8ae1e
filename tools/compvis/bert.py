"""The text transformer of the first latent diffusion models (ldm/modules/x_transformer.py under BERTEmbedder).

Only its tokenizer is BERT's. Pre-norm, no mask, eight heads of 64 whatever the width is, exact GELU, a final LayerNorm;
queries, keys and values have no bias. `to_logits` is in every checkpoint and plays no part.
"""

import torch
import torch.nn.functional as F
from torch import nn

HEADS, HEAD_WIDTH = 8, 64


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, width)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(nn.Sequential(nn.Linear(width, 4 * width), nn.GELU()), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class Positions(nn.Module):
    def __init__(self, length: int, width: int):
        super().__init__()
        self.emb = nn.Embedding(length, width)

    def forward(self, ids):
        return self.emb(torch.arange(ids.shape[1], device=ids.device))


class TransformerWrapper(nn.Module):
    """Token ids to states, after the final normalisation."""

    def __init__(self, vocab: int, length: int, width: int, depth: int):
        super().__init__()
        self.token_emb = nn.Embedding(vocab, width)
        self.pos_emb = Positions(length, width)
        self.attn_layers = nn.Module()
        # Attention and feed-forward by turns, each beside its normalisation.
        self.attn_layers.layers = nn.ModuleList(
            nn.ModuleList([nn.LayerNorm(width), part(width)]) for _ in range(depth) for part in (Attention, FeedForward))
        self.norm = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, vocab)

    def forward(self, ids):
        x = self.token_emb(ids) + self.pos_emb(ids)
        for norm, part in self.attn_layers.layers:
            x = x + part(norm(x))
        return self.norm(x)


class BERTEmbedder(nn.Module):
    """Token ids to a context: words through BERT's tokenizer, or the tokens of a layout."""

    def __init__(self, n_embed: int, n_layer: int, vocab_size: int = 30522, max_seq_len: int = 77, use_tokenizer: bool = True):
        super().__init__()
        self.transformer = TransformerWrapper(vocab_size, max_seq_len, n_embed, n_layer)

    def forward(self, ids):
        return self.transformer(ids)
