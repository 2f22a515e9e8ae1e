"""The codebook of a VQ model while it is trained: straight-through estimation, its two losses, and the care of idle codes.

The codes start on the k-means centres of encoder outputs, after a stretch without quantisation: from random ones most
would never be nearest to anything, and a code that is never chosen gets no gradient. Codes that fall idle later are
moved onto encoder outputs of the current batch for the same reason.
"""

import numpy as np
import torch
import torch.nn.functional as F

from common import to_tensor
from compvis import VQModel
from parallel import from_leader

MEMORY = 200
"""Steps over which the count of a code's uses fades."""


def nearest(points: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Index of the closest code of each point; the points' own lengths cancel."""
    lengths = codes.pow(2).sum(1)
    return torch.cat([(lengths - 2 * part @ codes.T).argmin(1) for part in points.split(8192)])


def vectors(latent: torch.Tensor) -> torch.Tensor:
    """NCHW to one row per position."""
    return latent.permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def centres(points: torch.Tensor, count: int, rounds: int, generator: torch.Generator) -> torch.Tensor:
    """k-means by Lloyd's rounds from `count` of the points; a centre that loses all its points starts anew on one."""
    draw = lambda n: points[torch.randint(len(points), (n,), generator=generator)]
    codes = draw(count).clone()
    for _ in range(rounds):
        indices = nearest(points, codes)
        sizes = torch.bincount(indices, minlength=count)
        codes = torch.zeros_like(codes).index_add_(0, indices, points) / sizes.clamp_min(1)[:, None]
        codes[sizes == 0] = draw(int((sizes == 0).sum()))
    return codes


class Codebook:
    """The bottleneck between encoder and decoder; `on` once it quantises.

    `beta` weighs the codebook's term, as in taming-transformers' VectorQuantizer2 by default (`legacy`), with which
    the published models were trained; arXiv:1711.00937 has it on the commitment instead.
    """

    def __init__(self, model: VQModel, average: VQModel, beta: float):
        self.model, self.beta, self.on = model, beta, False
        self.tables = [m.quantize.embedding.weight.data for m in (model, average)]
        self.share = torch.full((len(self.tables[0]),), 1.0 / len(self.tables[0]))

    def __call__(self, latent):
        """The latent to decode, whose gradient reaches `latent` unchanged; the losses of the codes and the commitment to them."""
        if not self.on:
            return latent, latent.new_zeros(())
        codes = self.model.quantize.embedding.weight
        with torch.no_grad():
            indices = nearest(vectors(latent), codes)
        self.share.lerp_(torch.bincount(indices, minlength=len(codes)) / indices.numel(), 1.0 / MEMORY)
        n, c, h, w = latent.shape
        quantised = F.embedding(indices, codes).view(n, h, w, c).permute(0, 3, 1, 2)
        loss = F.mse_loss(latent, quantised.detach()) + self.beta * F.mse_loss(quantised, latent.detach())
        return latent + (quantised - latent).detach(), loss

    @torch.no_grad()
    def start(self, pictures: np.ndarray, generator: torch.Generator):
        """Puts the codes onto the centres of what the encoder makes of some pictures."""
        rows = torch.randint(len(pictures), (256,), generator=generator).numpy()
        points = torch.cat([vectors(self.model.encode(to_tensor(pictures[part]))) for part in np.split(rows, 8)])
        codes = centres(points, len(self.share), 12, generator)
        for table in self.tables:
            table.copy_(from_leader(codes))
        self.on = True

    def idle(self) -> torch.Tensor:
        """Which codes are chosen less than a twentieth as often as the average one."""
        return self.share < 0.05 / len(self.share)

    @torch.no_grad()
    def revive(self, latent: torch.Tensor, generator: torch.Generator):
        """Moves idle codes onto encoder outputs of this batch."""
        points, idle = vectors(latent), self.idle()
        chosen = points[torch.randint(len(points), (int(idle.sum()),), generator=generator)]
        for table in self.tables:
            table[idle] = chosen
            from_leader(table)
        self.share[idle] = 1.0 / len(self.share)

    def usage(self) -> str:
        """Perplexity: the number of codes that, equally used, would say as much; and how many say next to nothing."""
        p = self.share / self.share.sum()
        perplexity = (-(p * p.clamp_min(1e-12).log()).sum()).exp()
        return f"codes: perplexity {perplexity:.0f} of {len(p)}, {int(self.idle().sum())} idle"
