"""DDIM with guidance (arXiv:2010.02502, eta 0), as one linear combination a step."""

import torch


def timesteps(steps: int) -> list[int]:
    """CompVis's choice, latest first: every (1000 // steps)-th, one late."""
    every = 1000 // steps
    return [index * every + 1 for index in reversed(range(steps))]


def coefficients(model, steps: int) -> torch.Tensor:
    """[steps, 2] in f32: what the state and the predicted noise are multiplied by."""
    signal = model.alphas_cumprod()
    chosen = timesteps(steps)
    rows = []
    for t, following in zip(chosen, chosen[1:] + [None]):
        now, then = signal[t], signal[0] if following is None else signal[following]
        scale = (then / now).sqrt()
        rows.append([scale, (1 - then).sqrt() - scale * (1 - now).sqrt()])
    return torch.tensor(rows, dtype=torch.float32)


def guided(guidance: float, x, answer, row):
    """The next state from what the network answered for both halves, the unconditional first."""
    without, with_condition = answer.float().chunk(2)
    noise = without + guidance * (with_condition - without)
    return (row[0] * x.float() + row[1] * noise).to(x.dtype)
