"""What conditions a model other than text (ldm/modules/encoders/modules.py): class labels and segmentation maps."""

import torch.nn.functional as F
from torch import nn


class ClassEmbedder(nn.Module):
    """Labels `[N]` to a context of one token."""

    def __init__(self, embed_dim: int, n_classes: int = 1000, key: str = "class"):
        super().__init__()
        self.embedding = nn.Embedding(n_classes, embed_dim)

    def forward(self, labels):
        return self.embedding(labels)[:, None]


class SpatialRescaler(nn.Module):
    """A map `[N, K, H, W]`, halved `n_stages` times, to as many channels as are concatenated with the latent."""

    def __init__(self, n_stages: int, in_channels: int, out_channels: int, method: str = "bilinear", multiplier: float = 0.5):
        super().__init__()
        self.n_stages, self.method, self.multiplier = n_stages, method, multiplier
        self.channel_mapper = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, labels):
        for _ in range(self.n_stages):
            labels = F.interpolate(labels, scale_factor=self.multiplier, mode=self.method)
        return self.channel_mapper(labels)
