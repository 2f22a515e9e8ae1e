"""One dump per component: runs a reference network on seeded inputs and writes what it was given and what it answered."""

import sys
from pathlib import Path

import names
import torch
from dump import recorded, write

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compvis import AutoencoderKL, VQModel, VQModelInterface  # noqa: E402


def noise(shape, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unet(path: Path, predict, modules: dict, sample, timestep, context=None, class_labels=None) -> None:
    """`predict(sample, timestep, context[, class_labels])` is the network; `modules` are its modules by their CompVis paths."""
    timestep = torch.tensor(timestep)
    labels = () if class_labels is None else (class_labels,)
    with recorded(modules) as nodes:
        answer = predict(sample, timestep, context, *labels)
    inputs = {"sample": sample, "timestep": timestep, "context": context, "class_labels": class_labels}
    given = {name: tensor for name, tensor in inputs.items() if tensor is not None}
    write(path, "unet", given, {"sample": answer}, nodes)


def decode(path: Path, decoder, modules: dict, latent) -> None:
    with recorded(modules) as nodes:
        image = decoder(latent)
    write(path, "autoencoder.decode", {"latent": latent}, {"image": image}, nodes)


def encode(path: Path, encoder, modules: dict, image) -> None:
    """`encoder(image)` answers its outputs by name: `mean` and `logvar`, `latent`, or `quantised` and `indices`."""
    with recorded(modules) as nodes:
        outputs = encoder(image)
    write(path, "autoencoder.encode", {"image": image}, outputs, nodes)


def text(path: Path, encoder, modules: dict, ids) -> None:
    """`encoder(ids)` answers the last hidden state, after the final normalisation, and the pooled token or None."""
    with recorded(modules) as nodes:
        state, pooled = encoder(ids)
    outputs = {"last_hidden_state": state} | ({} if pooled is None else {"pooled": pooled})
    write(path, "text_encoder", {"input_ids": ids}, outputs, nodes)


def condition(path: Path, encoder, given, name: str = "input_ids", answer: str = "context") -> None:
    write(path, "condition", {name: given}, {answer: encoder(given)})


def sampler(path: Path, predict, driver, start, context, uncond_context, guidance_scale: float, steps: int, more: dict | None = None,
            **metadata) -> None:
    """A whole trajectory of `driver`, a diffusers scheduler, driven as diffusers' pipelines drive it.

    `more` are the inputs besides a context, the same with guidance and without: `predict` knows them already.
    """
    driver.set_timesteps(steps)
    latent = start * driver.init_noise_sigma
    for t in driver.timesteps:
        model_input = driver.scale_model_input(latent, t)
        times = t.expand(len(start))
        answer = predict(model_input, times, context)
        if guidance_scale != 1:
            unconditional = predict(model_input, times, uncond_context)
            answer = unconditional + guidance_scale * (answer - unconditional)
        latent = driver.step(answer, t, latent).prev_sample
    inputs = {"noise": start} | ({} if context is None else {"context": context}) | (more or {})
    if guidance_scale != 1:
        inputs["uncond_context"] = uncond_context
    write(path, "sampler", inputs, {"latent": latent}, steps=steps, guidance_scale=guidance_scale, eta=0.0, **metadata)


class Diffusers:
    """Dumps of the networks of diffusers and transformers."""

    def __init__(self, folder: Path, nodes=names.layers):
        self.folder, self.nodes = folder, nodes

    def unet(self, name: str, model, *inputs) -> None:
        def answer(x, t, context):
            return model(x, t, *(() if context is None else (context,))).sample

        unet(self.folder / name, answer, self.nodes(names.unet(model)), *inputs)

    def decode(self, name: str, model, latent) -> None:
        decode(self.folder / name, lambda z: model.decode(z).sample, self.nodes(names.autoencoder(model)), latent)

    def encode(self, name: str, model, image) -> None:
        def encoder(x):
            posterior = model.encode(x).latent_dist
            return {"mean": posterior.mean, "logvar": posterior.logvar}

        encode(self.folder / name, encoder, self.nodes(names.autoencoder(model)), image)

    def text(self, name: str, model, ids) -> None:
        text(self.folder / name, lambda i: _last_and_pooled(model(i)), self.nodes(names.clip(model)), ids)


def _last_and_pooled(answer):
    return answer.last_hidden_state, answer.pooler_output


class CompVis:
    """Dumps of the networks of tools/compvis, which have CompVis's paths already."""

    def __init__(self, folder: Path, nodes=names.layers):
        self.folder, self.nodes = folder, nodes

    def unet(self, name: str, model, *inputs) -> None:
        unet(self.folder / name, model, self.modules(model), *inputs)

    def decode(self, name: str, model, latent) -> None:
        # Inside a diffusion model the decoder quantises by itself.
        quantises = type(model) is VQModel
        decoder = (lambda z: model.decode(model.quantize(z)[0])) if quantises else model.decode
        decode(self.folder / name, decoder, self.modules(model), latent)

    def encode(self, name: str, model, image) -> None:
        answers = {AutoencoderKL: ("mean", "logvar"), VQModel: ("quantised", "indices"), VQModelInterface: ("latent",)}[type(model)]

        def encoder(x):
            given = model.encode(x)
            return dict(zip(answers, given if len(answers) > 1 else (given,)))

        encode(self.folder / name, encoder, self.modules(model), image)

    def text(self, name: str, model, ids) -> None:
        text(self.folder / name, lambda i: (model(i), None), self.modules(model.transformer), ids)

    def modules(self, model) -> dict:
        return self.nodes({name: module for name, module in model.named_modules() if name})
