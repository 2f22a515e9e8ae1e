"""The published systems and first stages at widths that a repository can hold: `tests/data/parity`'s case of each."""

from pathlib import Path

import names
from systems import config, folder_of, resized, resized_stage

# Of each system: the UNet's sizes, latents' height and width, and whether the checkpoint is whole, with averages (of pruned
# ones only the weights to run with are left). Systems that differ by their training alone (ffhq256, lsun_beds256) or by their native size
# (semantic_synthesis512, sd-v2-base) stand beside one of these.
SYSTEMS = {
    "celeba256": (dict(channels=4, groups=2, head_channels=2), (8, 8), True),
    "lsun_churches256": (dict(channels=4, groups=2, heads=2), (16, 16), False),
    "cin256": (dict(channels=4, groups=2, head_channels=2, context=12, blocks=1), (8, 8), False),
    "cin256-v2": (dict(channels=4, groups=2, context=10, blocks=1), (8, 8), False),
    "text2img256": (dict(channels=4, groups=2, head_channels=2, context=20, blocks=1, layers=1, vocab=100), (8, 8), False),
    "txt2img-1p4B": (dict(channels=4, groups=2, heads=2, context=16, blocks=1, layers=2, vocab=100), (8, 8), False),
    "bsr_sr": (dict(channels=4, groups=2, head_channels=2, blocks=1), (16, 8), True),
    "inpainting_big": (dict(channels=4, groups=2, heads=4), (8, 8), True),
    "semantic_synthesis256": (dict(channels=4, groups=2, heads=8, blocks=1), (8, 4), False),
    "layout2img-openimages256": (dict(channels=4, groups=2, head_channels=2, context=16, blocks=1, layers=1, vocab=120), (8, 8), False),
    "rdm768": (dict(channels=4, groups=2, head_channels=2, context=14, blocks=1), (8, 8), False),
    "sd-v1": (dict(channels=4, groups=2, heads=2, context=12, blocks=1, layers=1, vocab=100), (8, 8), False),
    "sd-v1-inpainting": (dict(channels=4, groups=2, heads=2, context=12, blocks=1, layers=1, vocab=100), (8, 8), False),
    "sd-v2": (dict(channels=4, groups=2, head_channels=2, context=16, blocks=1, layers=2, vocab=100), (8, 8), False),
}
# Of each first stage: its sizes, and latents' height and width.
STAGES = {
    "kl-f4": (dict(channels=2, groups=1, blocks=1), (4, 6)),
    "kl-f8": (dict(channels=2, groups=2), (2, 3)),
    "kl-f16": (dict(channels=4, groups=2), (2, 1)),
    "kl-f32": (dict(channels=2, groups=1, blocks=1), (1, 2)),
    "vq-f4": (dict(channels=4, groups=2, codes=512), (4, 6)),
    "vq-f4-noattn": (dict(channels=4, groups=2, blocks=1, codes=512), (6, 4)),
    "vq-f8": (dict(channels=4, groups=2, codes=1024), (3, 4)),
    "vq-f8-n256": (dict(channels=4, groups=2, blocks=1), (4, 3)),
    "vq-f16": (dict(channels=4, groups=2, blocks=1, codes=512), (2, 2)),
}
# A system's own first stage is compared where no other case has its like inside a diffusion model; elsewhere it is as narrow as can be.
WITH_STAGE = ("celeba256", "cin256", "inpainting_big")


def system(name: str, seed: int):
    unet, size, whole = SYSTEMS[name]
    compared = name in WITH_STAGE
    parts = ("unet", "condition", "sampler") + (("decode", "encode") if compared else ())
    stage = dict(channels=4 if compared else 2, groups=2 if compared else 1, blocks=1, codes=64)

    def write(folder: Path) -> None:
        described = resized_stage(resized(config(name), **unet), **stage)
        folder_of(described, folder, size, seed, whole=whole, parts=parts, stage_size=(2, 3), nodes=names.blocks)
    return write


def first_stage(name: str, seed: int):
    sizes, size = STAGES[name]
    return lambda folder: folder_of(resized_stage(config(name), **sizes), folder, size, seed)


def adm(folder: Path) -> None:
    """What the UNet's code has and no published system uses: class labels added to the timestep, and attention's new order."""
    described = resized_stage(resized(config("lsun_churches256"), channels=4, groups=2, heads=2), channels=2, groups=1, blocks=1)
    params = described["model"]["params"]
    params |= dict(conditioning_key="adm", cond_stage_config=dict(target="torch.nn.Identity"))
    params["unet_config"]["params"] |= dict(channel_mult=[1, 2], num_classes=10, use_new_attention_order=True)
    folder_of(described, folder, (4, 6), 5900, whole=False, parts=("unet", "sampler"), nodes=names.blocks)


# So narrow a network is as sensitive as its few weights make it; with these seeds PyTorch's own halves stay within 0.7 % of its floats.
CASES = {name: system(name, 5000 + 10 * i) for i, name in enumerate(SYSTEMS)}
CASES |= {name: first_stage(name, 2000 + 10 * i) for i, name in enumerate(STAGES)} | {"adm": adm}
