"""The forward process, the velocity target and DDIM, in PyTorch: for training and for looking at it."""

import torch


def noised(latent, noise, t, alphas):
    """x_t and the velocity v = sqrt(a) eps - sqrt(1 - a) x_0 (arXiv:2202.00512)."""
    a = alphas[t].float().view(-1, 1, 1, 1)
    return a.sqrt() * latent + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * latent


def trailing(steps: int, total: int = 1000) -> list[int]:
    """Timesteps from the last one down, evenly (arXiv:2305.08891, section 3.3)."""
    return [round(total - i * total / steps) - 1 for i in range(steps)]


def guided(model, context, empty, scale: float):
    """A velocity from the latent and its timestep, by classifier-free guidance away from the context `empty`."""
    both = torch.cat([empty.expand_as(context), context])

    def velocity(x, t):
        v_empty, v_given = model.apply_model(torch.cat([x, x]), torch.cat([t, t]), context=both).float().chunk(2)
        return v_empty + scale * (v_given - v_empty)

    return velocity


@torch.no_grad()
def ddim(velocity, alphas, noise, steps: int = 20):
    """Deterministic DDIM on a velocity as a function of latent and timesteps; returns the latent."""
    x, times = noise, trailing(steps)
    for i, t in enumerate(times):
        v = velocity(x, torch.full((len(x),), t))
        a = alphas[t].float()
        before = alphas[times[i + 1]].float() if i + 1 < steps else torch.ones(())
        start = a.sqrt() * x - (1 - a).sqrt() * v
        noise_now = a.sqrt() * v + (1 - a).sqrt() * x
        x = before.sqrt() * start + (1 - before).sqrt() * noise_now
    return x
