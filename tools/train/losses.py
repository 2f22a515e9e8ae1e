"""The adversarial and perceptual parts of the autoencoder's objective (arXiv:2112.10752, section G; arXiv:2012.09841)."""

import torch
import torch.nn.functional as F
from torch import nn


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches; `forward` also returns its features, which can serve as a perceptual space."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.layers = nn.ModuleList([
            nn.Conv2d(3, width, 4, 2, 1),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.Conv2d(2 * width, 4 * width, 4, 1, 1, bias=False),
        ])
        self.norms = nn.ModuleList([nn.Identity(), nn.GroupNorm(8, 2 * width), nn.GroupNorm(8, 4 * width)])
        self.judge = nn.Conv2d(4 * width, 1, 4, 1, 1)

    def forward(self, x):
        features = []
        for layer, norm in zip(self.layers, self.norms):
            x = F.leaky_relu(norm(layer(x)), 0.2)
            features.append(x)
        return self.judge(x), features


def hinge_discriminator(real, fake):
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def feature_distance(ours, theirs):
    """L1 between feature maps, each scaled by the mean size of the reference."""
    return sum(F.l1_loss(a, b.detach()) / b.detach().abs().mean().clamp_min(1e-3) for a, b in zip(ours, theirs)) / len(ours)


def adaptive_weight(reconstruction, adversarial, last_layer):
    """Ratio of the two gradients at the decoder's last layer: equal pull, whatever the losses' scales."""
    (g_rec,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (g_adv,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (g_rec.norm() / (g_adv.norm() + 1e-4)).clamp(0, 1e4).detach()


class Vgg16(nn.Module):
    """Feature distance in VGG16 (torchvision's key names, `features.N.weight`), channels normalised to unit length."""

    PLAN = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]

    def __init__(self, weights: str):
        super().__init__()
        if weights.endswith(".safetensors"):
            from safetensors.torch import load_file
            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        self.blocks = nn.ModuleList()
        index, width = 0, 3
        for channels, count in self.PLAN:
            block = nn.ModuleList()
            for _ in range(count):
                conv = nn.Conv2d(width, channels, 3, padding=1)
                conv.weight.data.copy_(state[f"features.{index}.weight"])
                conv.bias.data.copy_(state[f"features.{index}.bias"])
                block.append(conv)
                width, index = channels, index + 2
            index += 1
            self.blocks.append(block)
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def features(self, x):
        x = ((x + 1) / 2 - self.mean) / self.std
        for i, block in enumerate(self.blocks):
            if i:
                x = F.max_pool2d(x, 2)
            for conv in block:
                x = F.relu(conv(x))
            yield x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-8)

    def forward(self, ours, theirs):
        with torch.no_grad():
            reference = list(self.features(theirs))
        return sum((a - b).pow(2).sum(1).mean() for a, b in zip(self.features(ours), reference))
