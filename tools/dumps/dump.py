"""The dump format: one safetensors file with a component's inputs, what the reference answered, and what its modules answered.

Tensors are `input.NAME`, `output.NAME` and `node.PATH`; floats are f32, ids and timesteps i32; images and latents are NCHW.
Metadata: `component` as it is, every other value JSON-encoded.
"""

import json
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file


def write(path: Path, component: str, inputs: dict, outputs: dict, nodes: dict | None = None, **metadata) -> None:
    """Writes one dump."""
    tensors = {}
    for kind, group in (("input", inputs), ("output", outputs), ("node", nodes or {})):
        for name, tensor in group.items():
            exact = torch.float32 if tensor.is_floating_point() else torch.int32
            # A copy: safetensors refuses tensors that share memory, as modules in a row do.
            tensors[f"{kind}.{name}"] = tensor.detach().to(exact).contiguous().clone()
    encoded = {key: json.dumps(value) for key, value in metadata.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"component": component} | encoded)


@contextmanager
def recorded(modules: dict):
    """Collects what modules answer while the block runs: `modules` maps the path to write to the module."""
    nodes, hooks = {}, []

    def recorder(path):
        def record(module, _, answer):
            answer = answer[0] if isinstance(answer, tuple) else getattr(answer, "sample", answer)
            if not isinstance(answer, torch.Tensor):
                return  # A container's own structure; the modules inside answer for themselves.
            # diffusers normalises the tokens of an autoencoder's attention as [N, C, T]; tokens are [N, T, C] elsewhere.
            channels_first = isinstance(module, torch.nn.GroupNorm) and answer.ndim == 3
            nodes[path] = answer.transpose(1, 2) if channels_first else answer
        return record

    try:
        for path, module in modules.items():
            hooks.append(module.register_forward_hook(recorder(path)))
        yield nodes
    finally:
        for hook in hooks:
            hook.remove()


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Overwrites every parameter with noise that keeps activations near 1, rounded to f16 so that f16 files hold it exactly.

    No parameter is left at its initial value: a zero-initialised layer, or a norm of ones and zeros, would hide faults.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith(("embedding.weight", "emb.weight")):
            value = 0.5 * noise
        elif parameter.ndim >= 2:
            value = noise / parameter[0].numel() ** 0.5
        elif name.endswith("bias"):
            value = 0.1 * noise
        else:
            value = 1 + 0.2 * noise
        parameter.data = value.half().float()
    return model.eval().requires_grad_(False)
