"""What can be asked of PyTorch beyond its compiler, before its UNet is compiled: one product for queries, keys and values, and the best of its
attentions for these shapes."""

import contextlib
import statistics
import sys
import time

import baselines
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from twin import TOOLS

sys.path.insert(0, str(TOOLS))

from compvis.unet import BasicTransformerBlock, CrossAttention  # noqa: E402

# Where most of a step's attention is: two samples at 64 x 64, eight heads of 40.
SHAPE = (2, 64 * 64, 8 * 40)
HEADS = 8


class JoinedAttention(nn.Module):
    """`CrossAttention` with one product for queries, keys and values where it looks at `itself`, and one for keys and values elsewhere."""

    def __init__(self, of: CrossAttention, itself: bool):
        super().__init__()
        self.heads, self.to_out, self.itself = of.heads, of.to_out, itself
        self.to_q = nn.Identity() if itself else of.to_q
        parts = [of.to_q, of.to_k, of.to_v] if itself else [of.to_k, of.to_v]
        self.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)

    def forward(self, x, context=None):
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.itself:
            q, k, v = F.linear(x, self.weight).chunk(3, dim=-1)
        else:
            q, (k, v) = self.to_q(x), F.linear(context, self.weight).chunk(2, dim=-1)
        h = F.scaled_dot_product_attention(split(q), split(k), split(v))
        return self.to_out(h.transpose(1, 2).flatten(2))


def join(unet: nn.Module) -> None:
    """Puts joined attentions in the place of all of `unet`'s."""
    for block in [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]:
        block.attn1, block.attn2 = JoinedAttention(block.attn1, True), JoinedAttention(block.attn2, False)


def ranked(device: str) -> list[str]:
    """PyTorch's attentions, the fastest at `SHAPE` first; none where there is no GPU."""
    case = {"attributes": {"heads": HEADS, "causal": False}, "op": "attention", "operands": [{"shape": SHAPE}] * 3}
    seconds = {}
    for way in baselines.BACKENDS if device == "cuda" else []:
        try:
            seconds[way] = timed(baselines.ready(case, way, 20, device, 0))
        except RuntimeError:
            continue  # It does not take these shapes.
    return sorted(seconds, key=seconds.get)


def timed(run) -> float:
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def force(ways: list[str], stack: contextlib.ExitStack) -> None:
    """Until `stack` is closed, attention is by the first of `ways` that takes its shapes."""
    if ways:
        order = [baselines.BACKENDS[way] for way in ways] + [SDPBackend.MATH]
        stack.enter_context(sdpa_kernel(order, set_priority=True))
