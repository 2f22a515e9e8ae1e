"""Known answers for the samplers: whole trajectories of diffusers' schedulers and of CompVis's formulas.

    pip install diffusers==0.42.1 torch numpy
    python tools/trajectories.py tests/data/samplers/trajectories.json

The network is a fixed function of state and time, and the noise a fixed sequence, so that tests/samplers.rs can repeat
both exactly. diffusers is run in double precision (its modules see a `torch` and a `numpy` whose float32 is float64):
what is compared is the algorithm, not its rounding. CompVis's DDIM and PLMS are written here from their papers and
from the timestep rule in its make_ddim_timesteps.

A case records the last state, and the sums over all calls of the network of its input and of its timestep.
"""

import argparse
import importlib
import json
import math

import numpy as np
import torch

SIZE = 3
BETAS = {
    "sd": dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "linear": dict(beta_schedule="linear", beta_start=0.0015, beta_end=0.0195),
    "cosine": dict(beta_schedule="squaredcos_cap_v2", beta_start=0.0001, beta_end=0.02),
}
PREDICTION = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}


class Doubled:
    """A module whose float32 is float64."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


def scheduler_class(module_name, class_name):
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{module_name}")
    module.np, module.torch = Doubled(np), Doubled(torch)
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = lambda shape, **_: NOISE.draw()
    return getattr(module, class_name)


class FixedNoise:
    """Element i of draw k is 1.4 sin(1 + 0.7 i + 1.3 k)."""

    def __init__(self):
        self.draws = 0

    def draw(self):
        values = [1.4 * math.sin(1 + 0.7 * i + 1.3 * self.draws) for i in range(SIZE)]
        self.draws += 1
        return torch.tensor([values])


NOISE = FixedNoise()
FIRST_NOISE = torch.tensor([[0.8, -1.1, 0.3]], dtype=torch.float64)
LATENT = torch.tensor([[0.5, 0.9, -0.4]], dtype=torch.float64)


class Network:
    """0.5 x + 0.4 sin(1.5 x + 0.002 t + i), and a record of what it was asked."""

    def __init__(self):
        self.calls, self.times, self.inputs = 0, 0.0, torch.zeros(1, SIZE)

    def __call__(self, x, t):
        self.calls, self.times, self.inputs = self.calls + 1, self.times + float(t), self.inputs + x
        return 0.5 * x + 0.4 * torch.sin(1.5 * x + 0.002 * float(t) + torch.arange(SIZE))


SCHEDULERS = {
    "DDPM": ("ddpm", "DDPMScheduler", dict(clip_sample=False)),
    "DDIM": ("ddim", "DDIMScheduler", dict(clip_sample=False, set_alpha_to_one=False)),
    "PLMS": ("pndm", "PNDMScheduler", dict(skip_prk_steps=True)),
    "Euler": ("euler_discrete", "EulerDiscreteScheduler", {}),
    "Euler a": ("euler_ancestral_discrete", "EulerAncestralDiscreteScheduler", {}),
    "Heun": ("heun_discrete", "HeunDiscreteScheduler", {}),
    "DPM++ 2M": ("dpmsolver_multistep", "DPMSolverMultistepScheduler", {}),
    "DPM++ 2M SDE": (
        "dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        dict(algorithm_type="sde-dpmsolver++"),
    ),
    "UniPC": ("unipc_multistep", "UniPCMultistepScheduler", {}),
    "LCM": ("lcm", "LCMScheduler", {}),
}


def published(sampler, betas, prediction, spacing, steps, sigmas=None, eta=0.0,
              large_variance=0.0, strength=None, zero_terminal_snr=False):
    """The case of a scheduler of diffusers."""
    module, name, extra = SCHEDULERS[sampler]
    config = dict(BETAS[betas], prediction_type=PREDICTION[prediction], **extra)
    config.update(timestep_spacing=spacing, steps_offset=1)
    if sigmas:
        config[f"use_{sigmas.lower()}_sigmas"] = True
    if zero_terminal_snr:
        config["rescale_betas_zero_snr"] = True
    if large_variance:
        config["variance_type"] = "fixed_large"
    scheduler = scheduler_class(module, name)(**config)
    network, NOISE.draws = Network(), 0
    if sampler == "LCM" and strength is not None:
        scheduler.set_timesteps(steps, strength=strength)
    else:
        scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    if strength is None:
        x = FIRST_NOISE * scheduler.init_noise_sigma
    else:
        if sampler != "LCM":
            begin = (steps - min(int(steps * strength), steps)) * scheduler.order
            timesteps = timesteps[begin:]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(begin)
        x = scheduler.add_noise(LATENT, FIRST_NOISE, timesteps[:1])
    options = dict(eta=eta) if sampler == "DDIM" else {}
    for t in timesteps:
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **options).prev_sample
    return case(network, x, sampler=sampler, betas=betas, prediction=prediction, spacing=spacing,
                steps=steps, sigmas=sigmas, eta=eta, large_variance=large_variance,
                strength=strength, zero_terminal_snr=zero_terminal_snr)


def compvis(sampler, betas, steps, eta=0.0):
    """The case of CompVis's DDIM or PLMS, epsilon prediction."""
    config = BETAS[betas]
    roots = [b**0.5 for b in (config["beta_start"], config["beta_end"])]
    alpha_bar = np.cumprod(1 - np.linspace(*roots, 1000) ** 2)
    timesteps = np.arange(0, 1000, 1000 // steps) + 1
    now = alpha_bar[timesteps]
    before = np.concatenate([alpha_bar[:1], alpha_bar[timesteps[:-1]]])
    network, NOISE.draws = Network(), 0

    def ddim(x, noise, i):
        variance = eta**2 * (1 - before[i]) / (1 - now[i]) * (1 - now[i] / before[i])
        image = (x - math.sqrt(1 - now[i]) * noise) / math.sqrt(now[i])
        x = math.sqrt(before[i]) * image + math.sqrt(1 - before[i] - variance) * noise
        return x + math.sqrt(variance) * NOISE.draw()

    x, earlier = FIRST_NOISE, []
    for i in reversed(range(len(timesteps))):
        noise = network(x, timesteps[i])
        if sampler == "DDIM":
            x = ddim(x, noise, i)
            continue
        if not earlier:
            guess = ddim(x, noise, i)
            blended = (noise + network(guess, timesteps[max(i - 1, 0)])) / 2
        elif len(earlier) == 1:
            blended = (3 * noise - earlier[-1]) / 2
        elif len(earlier) == 2:
            blended = (23 * noise - 16 * earlier[-1] + 5 * earlier[-2]) / 12
        else:
            blended = (55 * noise - 59 * earlier[-1] + 37 * earlier[-2] - 9 * earlier[-3]) / 24
        x, earlier = ddim(x, blended, i), earlier[-2:] + [noise]
    return case(network, x, sampler=sampler, betas=betas, prediction="epsilon", spacing="leading",
                steps=steps, eta=eta, compvis=True)


def case(network, x, **settings):
    """What tests/samplers.rs reads; settings left at nothing are left out."""
    settings = {key: value for key, value in settings.items() if value}
    digits = lambda values: [float(f"{v:.13g}") for v in values]
    return dict(settings, calls=network.calls, times=digits([network.times])[0],
                inputs=digits(network.inputs[0].tolist()), final=digits(x[0].tolist()))


def all_cases():
    step_counts = (1, 2, 3, 10, 20, 37)
    for sampler in ("DDPM", "DDIM", "Euler", "Euler a", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "UniPC"):
        for spacing in ("leading", "linspace", "trailing"):
            for steps in step_counts:
                # One step of numpy's linspace is timestep 0: see Schedule::timesteps.
                if steps > 1 or spacing != "linspace" or sampler in ("DPM++ 2M", "DPM++ 2M SDE", "UniPC"):
                    yield published(sampler, "sd", "epsilon", spacing, steps)
        for prediction, betas in (("v", "sd"), ("v", "linear"), ("epsilon", "linear"), ("epsilon", "cosine")):
            yield published(sampler, betas, prediction, "trailing", 10)
        yield published(sampler, "linear", "epsilon", "leading", 10, strength=0.65)
        yield published(sampler, "sd", "v", "trailing", 20, strength=1.0)
    for sampler in ("Euler", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "UniPC"):
        for sigmas in ("Karras", "Exponential"):
            for steps in step_counts:
                yield published(sampler, "sd", "epsilon", "leading", steps, sigmas=sigmas)
            yield published(sampler, "linear", "v", "trailing", 10, sigmas=sigmas)
    for sampler in ("DDPM", "DDIM", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "UniPC", "LCM"):
        for steps in (1, 2, 20, 37):
            yield published(sampler, "sd", "v", "trailing", steps, zero_terminal_snr=True)
    for sampler in ("DDPM", "DDIM", "Euler", "Heun", "DPM++ 2M", "UniPC"):
        yield published(sampler, "sd", "sample", "trailing", 10)
    for eta in (0.3, 1.0):
        yield published("DDIM", "sd", "epsilon", "leading", 20, eta=eta)
        yield published("DDIM", "sd", "v", "trailing", 20, eta=eta, zero_terminal_snr=True)
        yield compvis("DDIM", "sd", 20, eta=eta)
    for steps in (10, 1000):
        yield published("DDPM", "sd", "epsilon", "trailing", steps, large_variance=1.0)
        yield published("DDPM", "sd", "epsilon", "trailing", steps)
    for steps in step_counts:
        yield published("PLMS", "sd", "epsilon", "leading", steps)
        yield published("PLMS", "sd", "v", "leading", steps)
        for spacing in ("linspace", "trailing") if steps > 1 else ():
            # Strides that are fixed and timesteps that are not apart by them: the warm-up's second step is another one.
            yield published("PLMS", "sd", "epsilon", spacing, steps)
            yield published("PLMS", "linear", "v", spacing, steps)
    for steps in (1, 2, 4, 8, 37):
        for prediction in ("epsilon", "v"):
            yield published("LCM", "sd", prediction, "leading", steps)
    yield published("LCM", "sd", "epsilon", "leading", 4, strength=0.5)
    for steps in (1, 2, 10, 20, 28, 50, 60, 200):
        yield compvis("DDIM", "sd", steps)
        yield compvis("DDIM", "sd", steps, eta=0.5)
        if steps > 1:
            yield compvis("PLMS", "sd", steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("output", help="JSON file to write")
    output = parser.parse_args().output
    torch.set_default_dtype(torch.float64)
    with open(output, "w") as file:
        lines = [json.dumps(c) for c in all_cases()]
        file.write("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{len(lines)} cases")


if __name__ == "__main__":
    main()
