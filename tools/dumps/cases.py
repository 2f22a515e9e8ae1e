"""The cases: small models at random weights, each with dumps of its components.

Sizes are odd on purpose: group counts that are not powers of two, latents that are not square, prompts of two lengths,
heads that differ per level. Everything is seeded: a second run writes the same values.
"""

import json
import sys
from pathlib import Path

import components
import diffusers
import torch
import transformers
import yaml
from components import CompVis, Diffusers, noise
from dump import randomise
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compvis import LatentDiffusion  # noqa: E402
from compvis.autoencoder import AutoencoderKL  # noqa: E402

SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


def prompts(count: int, length: int, begin: int, end: int, seed: int) -> torch.Tensor:
    """Token ids that begin and end as a tokenizer's do, filled up with the end."""
    ids = torch.randint(0, begin, (count, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = begin
    for row, text in enumerate(ids):
        text[length // 2 + row:] = end
    return ids


def diffusers_unet(seed: int, **config):
    """A UNet2DConditionModel with two levels, the finer one with cross-attention."""
    defaults = dict(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return randomise(diffusers.UNet2DConditionModel(**defaults | config), seed)


def diffusers_autoencoder(seed: int, **config):
    channels = config["block_out_channels"]
    types = dict(down_block_types=("DownEncoderBlock2D",) * len(channels), up_block_types=("UpDecoderBlock2D",) * len(channels))
    return randomise(diffusers.AutoencoderKL(in_channels=3, out_channels=3, layers_per_block=1, **types, **config), seed)


def clip(seed: int, **config):
    defaults = dict(vocab_size=100, bos_token_id=98, eos_token_id=99, pad_token_id=99, num_hidden_layers=2,
                    max_position_embeddings=16, intermediate_size=64)
    return randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**defaults | config)), seed)


def save_index(folder: Path) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def sd1(folder: Path) -> None:
    """Stable Diffusion 1's features: 1x1-conv projections, one number of heads, quick_gelu; a folder of fp16 variants."""
    unet = diffusers_unet(10, block_out_channels=(16, 32), attention_head_dim=4, cross_attention_dim=24)
    vae = diffusers_autoencoder(11, block_out_channels=(8, 8, 16, 16), norm_num_groups=4, latent_channels=4)
    # 2 stands in every published SD 1 folder, whatever the vocabulary: the pooled token is the largest id then.
    text = clip(12, hidden_size=24, num_attention_heads=3, hidden_act="quick_gelu", eos_token_id=2)
    pndm = diffusers.PNDMScheduler(
        **SCHEDULE, timestep_spacing="leading", skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    # As in the published folders, for the schedulers made from this one: latents are never clipped.
    pndm.register_to_config(clip_sample=False)

    dump = Diffusers(folder)
    ids = prompts(2, 16, 98, 99, 1)
    dump.unet("unet.safetensors", unet, noise((2, 4, 8, 8), 2), [981, 1], noise((2, 16, 24), 3))
    Diffusers(folder, lambda _: {}).unet("unet_wide.safetensors", unet, noise((1, 4, 6, 22), 4), [500], noise((1, 77, 24), 5))
    dump.decode("decode.safetensors", vae, noise((2, 4, 1, 3), 6))
    dump.encode("encode.safetensors", vae, noise((1, 3, 8, 24), 7).clamp(-1, 1))
    dump.text("text.safetensors", text, ids)
    components.condition(folder / "condition.safetensors", lambda i: text(i).last_hidden_state, ids)

    context, other = text(ids).last_hidden_state, text(prompts(2, 16, 98, 99, 9)).last_hidden_state
    euler = diffusers.EulerDiscreteScheduler
    multistep = diffusers.DPMSolverMultistepScheduler
    for name, scheduler, guidance, metadata in (
        ("ddim", diffusers.DDIMScheduler.from_config(pndm.config), 7.5, {"sampler": "ddim"}),
        ("plms", pndm, 7.5, {"sampler": "plms"}),
        ("euler", euler.from_config(pndm.config), 1.0, {"sampler": "EulerDiscreteScheduler"}),
        ("euler_karras", euler.from_config(pndm.config, use_karras_sigmas=True), 4.0,
         {"sampler": "euler", "scheduler": "karras"}),
        ("euler_exponential", euler.from_config(pndm.config, use_exponential_sigmas=True), 4.0,
         {"sampler": "euler", "scheduler": "exponential"}),
        ("heun", diffusers.HeunDiscreteScheduler.from_config(pndm.config), 4.0, {"sampler": "heun"}),
        ("dpmpp_2m", multistep.from_config(pndm.config), 7.5, {"sampler": "dpm++2m"}),
        ("dpmpp_2m_karras", multistep.from_config(pndm.config, use_karras_sigmas=True), 7.5,
         {"sampler": "dpm++2m", "scheduler": dict(multistep.from_config(pndm.config, use_karras_sigmas=True).config)}),
        ("unipc", diffusers.UniPCMultistepScheduler.from_config(pndm.config), 7.5, {"sampler": "unipc"}),
    ):
        components.sampler(folder / f"sampler_{name}.safetensors", lambda x, t, c: unet(x, t, c).sample, scheduler,
                           noise((2, 4, 8, 8), 8), context, other, guidance, 20, **metadata)

    model = folder / "model"
    for part, network in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        network.half().save_pretrained(model / part, variant="fp16")
    pndm.save_pretrained(model / "scheduler")
    save_index(model)


def sd2(folder: Path) -> None:
    """Stable Diffusion 2's features: linear projections, heads per level, v-prediction, gelu; the UNet in two shards."""
    unet = diffusers_unet(
        20, block_out_channels=(12, 24), attention_head_dim=[2, 3], cross_attention_dim=20, norm_num_groups=6,
        use_linear_projection=True, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
    vae = diffusers_autoencoder(21, block_out_channels=(6, 12), norm_num_groups=3, latent_channels=4)
    text = clip(22, hidden_size=20, num_attention_heads=2, hidden_act="gelu", pad_token_id=0)
    ddim = diffusers.DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", timestep_spacing="trailing",
                                   rescale_betas_zero_snr=True, set_alpha_to_one=False, steps_offset=1, clip_sample=False)

    dump = Diffusers(folder)
    dump.unet("unet.safetensors", unet, noise((1, 4, 4, 6), 30), [999], noise((1, 16, 20), 31))
    dump.decode("decode.safetensors", vae, noise((1, 4, 7, 3), 32))
    dump.encode("encode.safetensors", vae, noise((2, 3, 11, 9), 33).clamp(-1, 1))
    dump.text("text.safetensors", text, prompts(3, 16, 98, 99, 34))
    for name, scheduler, metadata in (
        ("ddim", ddim, {"sampler": "ddim"}),
        ("euler", diffusers.EulerDiscreteScheduler.from_config(ddim.config), {"sampler": "euler"}),
    ):
        components.sampler(folder / f"sampler_{name}.safetensors", lambda x, t, c: unet(x, t, c).sample, scheduler,
                           noise((1, 4, 8, 4), 35), noise((1, 16, 20), 36), noise((1, 16, 20), 37), 3.0, 20, **metadata)

    model = folder / "model"
    unet.half().save_pretrained(model / "unet", max_shard_size="200KB")
    for part, network in (("vae", vae), ("text_encoder", text)):
        network.save_pretrained(model / part)
    ddim.save_pretrained(model / "scheduler")
    save_index(model)


def unet_alone(folder: Path) -> None:
    """A UNet's folder and nothing else: 9 channels in, three levels, transformers of depth 2, widths of 10 and 20."""
    unet = diffusers_unet(
        40, in_channels=9, block_out_channels=(10, 10, 20), attention_head_dim=5, cross_attention_dim=7, norm_num_groups=5,
        transformer_layers_per_block=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"))
    Diffusers(folder).unet("unet.safetensors", unet, noise((2, 9, 8, 4), 41), [7, 640], noise((2, 3, 7), 42))
    unet.half().save_pretrained(folder / "model")


def labelled(folder: Path) -> None:
    """A UNet that is told classes beside a context, both twice with guidance, and one timestep for all images; and the edges of diffusers' schedules: one step of evenly spread
    timesteps, which is the first, and exponential ratios, whose first timestep is cut."""
    unet = diffusers_unet(70, block_out_channels=(8, 8), norm_num_groups=2, attention_head_dim=2, cross_attention_dim=6, num_class_embeds=3)
    classes = torch.tensor([2, 0])
    components.unet(folder / "unet.safetensors", lambda x, t, c, y: unet(x, t, c, class_labels=y).sample, {}, noise((2, 4, 4, 2), 74), [500],
                    noise((2, 3, 6), 75), classes)
    ddim = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading")
    even = dict(timestep_spacing="linspace")
    exponential = dict(use_exponential_sigmas=True)
    for name, scheduler, steps in (
        ("ddim", ddim, 20),
        ("ddim_one", diffusers.DDIMScheduler.from_config(ddim.config, **even), 1),
        ("plms_one", diffusers.PNDMScheduler.from_config(ddim.config, skip_prk_steps=True, **even), 1),
        ("euler_one", diffusers.EulerDiscreteScheduler.from_config(ddim.config, **even), 1),
        ("heun_one", diffusers.HeunDiscreteScheduler.from_config(ddim.config, use_karras_sigmas=True, **even), 1),
        ("dpmpp_2m_one", diffusers.DPMSolverMultistepScheduler.from_config(ddim.config, **even), 1),
        ("dpmpp_2m_exponential", diffusers.DPMSolverMultistepScheduler.from_config(ddim.config, **exponential), 20),
        ("unipc_exponential", diffusers.UniPCMultistepScheduler.from_config(ddim.config, **exponential), 7),
    ):
        def predict(x, t, context):
            return unet(x, t, context, class_labels=classes).sample

        components.sampler(folder / f"sampler_{name}.safetensors", predict, scheduler, noise((2, 4, 2, 4), 71), noise((2, 3, 6), 72),
                           noise((2, 3, 6), 73), 2.0, steps, {"class_labels": classes}, sampler=type(scheduler).__name__,
                           scheduler=dict(scheduler.config))
    model = folder / "model"
    unet.half().save_pretrained(model / "unet")
    ddim.save_pretrained(model / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__,
             "scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", "UNet2DConditionModel"]}
    (model / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def super_resolution(folder: Path) -> None:
    """A LDMSuperResolutionPipeline: a UNet without a context, whose attention over pixels has three matrices where CompVis has one, and
    a vector-quantised first stage."""
    model, attended = folder / "model", ("DownBlock2D", "AttnDownBlock2D")
    unet = randomise(diffusers.UNet2DModel(
        sample_size=8, in_channels=6, out_channels=3, layers_per_block=1, norm_num_groups=5, block_out_channels=(10, 20),
        attention_head_dim=5, down_block_types=attended, up_block_types=("AttnUpBlock2D", "UpBlock2D")), 60)
    dump = Diffusers(folder)
    dump.unet("unet.safetensors", unet, noise((2, 6, 8, 4), 61), [7, 640])
    first_stage = randomise(diffusers.VQModel(
        in_channels=3, out_channels=3, latent_channels=3, layers_per_block=1, norm_num_groups=4, block_out_channels=(8, 16),
        num_vq_embeddings=32, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2), 62)
    dump.decode("decode.safetensors", first_stage, noise((1, 3, 6, 4), 63))
    unet.half().save_pretrained(model / "unet")
    first_stage.half().save_pretrained(model / "vqvae")
    diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False).save_pretrained(model / "scheduler")
    index = {
        "_class_name": "LDMSuperResolutionPipeline", "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "VQModel"],
    }
    (model / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


COMPVIS = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 1000
    image_size: 8
    channels: 3
    scale_factor: 0.5
    conditioning_key: {conditioning}
    parameterization: {parameterization}
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {unet}
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params: {autoencoder}
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        text_config: {text}
"""
FLOW = dict(default_flow_style=True, width=10**9)


def compvis_config(unet: dict, autoencoder: dict, text: dict, conditioning: str, parameterization: str) -> str:
    flow = {key: yaml.safe_dump(value, **FLOW).strip() for key, value in
            dict(unet=unet, autoencoder=autoencoder, text=text).items()}
    return COMPVIS.format(conditioning=conditioning, parameterization=parameterization, **flow).lstrip()


def save_compvis(folder: Path, config: str, model, half: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config)
    state = {name: tensor.half() if half else tensor for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def compvis(folder: Path) -> None:
    """CompVis's own layout: inpainting's 9 channels, a depth of 2, channels per head, an f4 autoencoder, quick_gelu."""
    config = compvis_config(
        dict(image_size=8, in_channels=9, out_channels=3, model_channels=12, attention_resolutions=[2], num_res_blocks=1,
             channel_mult=[1, 2], num_head_channels=6, use_spatial_transformer=True, transformer_depth=2, context_dim=16,
             legacy=False, num_groups=6),
        dict(embed_dim=3, ddconfig=dict(
            double_z=True, z_channels=3, resolution=32, in_channels=3, out_ch=3, ch=12, ch_mult=[1, 2, 2], num_res_blocks=1,
            attn_resolutions=[], dropout=0.0, num_groups=6)),
        dict(vocab_size=100, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=16, hidden_act="quick_gelu", layer_norm_eps=1e-5, bos_token_id=98, eos_token_id=99,
             pad_token_id=99),
        conditioning="hybrid", parameterization="eps")
    model = randomise(LatentDiffusion(yaml.safe_load(config)), 50)
    dump = CompVis(folder)
    dump.unet("unet.safetensors", model.unet, noise((2, 9, 4, 6), 51), [321, 999], noise((2, 16, 16), 52))
    dump.decode("decode.safetensors", model.first_stage_model, noise((1, 3, 2, 3), 53))
    dump.encode("encode.safetensors", model.first_stage_model, noise((1, 3, 16, 24), 54).clamp(-1, 1))
    dump.text("text.safetensors", model.cond_stage_model, prompts(2, 16, 98, 99, 55))
    save_compvis(folder / "model", config, model, half=True)


def compvis_v(folder: Path) -> None:
    """CompVis's layout with SD 2's features: linear projections, v-prediction, gelu; and a trajectory. Weights in f32."""
    config = compvis_config(
        dict(image_size=8, in_channels=3, out_channels=3, model_channels=8, attention_resolutions=[2], num_res_blocks=1,
             channel_mult=[1, 2], num_heads=4, use_spatial_transformer=True, transformer_depth=1, context_dim=16,
             use_linear_in_transformer=True, legacy=False, num_groups=4),
        dict(embed_dim=3, ddconfig=dict(
            double_z=True, z_channels=3, resolution=16, in_channels=3, out_ch=3, ch=8, ch_mult=[1, 2], num_res_blocks=1,
            attn_resolutions=[], dropout=0.0, num_groups=4)),
        dict(vocab_size=100, hidden_size=16, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2,
             max_position_embeddings=16, hidden_act="gelu", layer_norm_eps=1e-5, bos_token_id=98, eos_token_id=99,
             pad_token_id=0),
        conditioning="crossattn", parameterization="v")
    model = randomise(LatentDiffusion(yaml.safe_load(config)), 60)
    dump = CompVis(folder)
    dump.unet("unet.safetensors", model.unet, noise((1, 3, 4, 8), 61), [250], noise((1, 16, 16), 62))
    dump.text("text.safetensors", model.cond_stage_model, prompts(1, 16, 98, 99, 63))
    params = model.params
    shared = dict(beta_start=params["linear_start"], beta_end=params["linear_end"], beta_schedule="scaled_linear",
                  prediction_type="v_prediction")
    # The timestep spacing is each class's own, as the model's configuration says nothing about it.
    for name, scheduler in (
        ("ddim", diffusers.DDIMScheduler(steps_offset=1, set_alpha_to_one=False, clip_sample=False, **shared)),
        ("euler", diffusers.EulerDiscreteScheduler(**shared)),
        ("dpmpp_2m", diffusers.DPMSolverMultistepScheduler(**shared)),
    ):
        components.sampler(folder / f"sampler_{name}.safetensors", model.unet, scheduler, noise((1, 3, 8, 8), 64),
                           noise((1, 16, 16), 65), noise((1, 16, 16), 66), 5.0, 20, sampler=name.replace("pp_", "++"))
    save_compvis(folder / "model", config, model, half=False)


def autoencoder_alone(folder: Path) -> None:
    """A CompVis first stage without a prefix: f8, attention at a nominal resolution, an embedding wider than z."""
    config = dict(embed_dim=6, ddconfig=dict(
        double_z=True, z_channels=4, resolution=64, in_channels=3, out_ch=3, ch=8, ch_mult=[1, 1, 2, 2], num_res_blocks=2,
        attn_resolutions=[16], dropout=0.0, num_groups=4))
    model = randomise(AutoencoderKL(**config), 70)
    dump = CompVis(folder)
    dump.decode("decode.safetensors", model, noise((1, 6, 3, 2), 71))
    dump.encode("encode.safetensors", model, noise((2, 3, 16, 8), 72).clamp(-1, 1))
    whole = {"model": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": config}}
    save_compvis(folder / "model", yaml.safe_dump(whole, sort_keys=False), model, half=True)


def text_alone(folder: Path) -> None:
    """A transformers folder and nothing else."""
    text = clip(80, hidden_size=32, num_attention_heads=4, hidden_act="gelu", num_hidden_layers=3)
    Diffusers(folder).text("text.safetensors", text, prompts(2, 11, 98, 99, 81))
    text.save_pretrained(folder / "model")


def clip_projected(folder: Path) -> None:
    """CLIP's text encoder as retrieval asks it: the embedding that texts share with images, of length 1."""
    text_config = transformers.CLIPTextConfig(
        vocab_size=100, bos_token_id=98, eos_token_id=99, pad_token_id=99, num_hidden_layers=2, max_position_embeddings=16,
        hidden_size=24, num_attention_heads=3, intermediate_size=64, projection_dim=20, hidden_act="quick_gelu")
    model = randomise(transformers.CLIPTextModelWithProjection(text_config), 90)

    def embedded(ids):
        embeds = model(ids).text_embeds
        return (embeds / embeds.norm(dim=-1, keepdim=True))[:, None]

    components.condition(folder / "condition.safetensors", embedded, prompts(2, 16, 98, 99, 91))
    model.half().save_pretrained(folder / "model")


CASES = {
    "sd1": sd1, "sd2": sd2, "unet_alone": unet_alone, "compvis": compvis, "compvis_v": compvis_v,
    "autoencoder_alone": autoencoder_alone, "text_alone": text_alone, "clip_projected": clip_projected,
    "labelled": labelled,
    "super_resolution": super_resolution,
}
