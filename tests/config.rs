//! What the published configurations say, and what is said of configurations that describe nothing.

use latent_diffusion::models::config::{
    Attention, BertConfig, ClipConfig, Condition, ModelConfig, TextConfig, TimestepSpacing,
    from_yaml, unsupported_parts,
};
use latent_diffusion::{Error, Result};
use proptest::prelude::*;
use serde_json::json;
use std::path::Path;

/// A `LatentDiffusion` with these settings of its own, of the UNet, and of the two stages.
fn yaml(own: &str, unet: &str, first_stage: &str, cond_stage: &str) -> String {
    format!(
        "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    {own}\n    unet_config:\n      \
         target: ldm.modules.diffusionmodules.openaimodel.UNetModel\n      params: {{{unet}}}\n    \
         first_stage_config: {first_stage}\n    cond_stage_config: {cond_stage}\n"
    )
}

fn read(text: &str) -> Result<ModelConfig> {
    from_yaml(Path::new("config.yaml"), text)
}

/// The text encoder of a model that has CLIP's.
fn clip_of(config: ModelConfig) -> ClipConfig {
    match config.text {
        Some(TextConfig::Clip(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn component(json: serde_json::Value) -> Result<ModelConfig> {
    let mut config = ModelConfig::default();
    config.read_component(Path::new("config.json"), &json)?;
    Ok(config)
}

fn refusal(result: Result<impl Sized, Error>) -> String {
    let error = result.err().expect("must be refused");
    assert_eq!(error.exit_code(), 3);
    error.to_string()
}

const KL_F8: &str = "{target: ldm.models.autoencoder.AutoencoderKL, params: {embed_dim: 4, monitor: val/rec_loss, ddconfig: \
    {double_z: true, z_channels: 4, resolution: 256, in_channels: 3, out_ch: 3, ch: 128, ch_mult: [1,2,4,4], \
    num_res_blocks: 2, attn_resolutions: [], dropout: 0.0}, lossconfig: {target: torch.nn.Identity}}}";
const VQ_F4: &str = "{target: ldm.models.autoencoder.VQModelInterface, params: {embed_dim: 3, n_embed: 8192, ddconfig: {double_z: false, \
     z_channels: 3, resolution: 256, in_channels: 3, out_ch: 3, ch: 128, ch_mult: [1,2,4], num_res_blocks: 2, attn_resolutions: []}}}";
const SD_OWN: &str = "linear_start: 0.00085\n    linear_end: 0.0120\n    use_ema: False\n    image_size: 64\n    scale_factor: 0.18215";
const SD_UNET: &str = "image_size: 32, in_channels: 4, out_channels: 4, model_channels: 320, attention_resolutions: [4,2,1], \
    num_res_blocks: 2, channel_mult: [1,2,4,4], num_heads: 8, use_spatial_transformer: True, transformer_depth: 1, \
    context_dim: 768, use_checkpoint: True, legacy: False";

/// (channels, heads, depth) of each level that has a spatial transformer.
fn transformers(config: &ModelConfig) -> Vec<(usize, usize, usize)> {
    let unet = config.unet.as_ref().unwrap();
    let transformer = |level: &latent_diffusion::models::config::UNetLevel| match level.attention {
        Attention::Transformer { heads, depth } => Some((level.channels, heads, depth)),
        _ => None,
    };
    unet.levels.iter().filter_map(transformer).collect()
}

#[test]
fn stable_diffusion_1_is_read() {
    let clip = "{target: ldm.modules.encoders.modules.FrozenCLIPEmbedder}";
    let config = read(&yaml(SD_OWN, SD_UNET, KL_F8, clip)).unwrap();
    assert_eq!(config, ModelConfig::stable_diffusion_1());
}

#[test]
fn stable_diffusion_2_is_read() {
    let unet = SD_UNET
        .replace(
            "num_heads: 8",
            "num_head_channels: 64, use_linear_in_transformer: True",
        )
        .replace("768", "1024");
    let clip = "{target: ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder, params: {freeze: True, layer: penultimate}}";
    let own = format!("parameterization: \"v\"\n    {SD_OWN}").replace("64", "96");
    let config = read(&yaml(&own, &unet, KL_F8, clip)).unwrap();
    assert_eq!(config, ModelConfig::stable_diffusion_2());
}

#[test]
fn the_systems_of_the_paper_are_read() {
    let identity = "{target: torch.nn.Identity}";
    // Row of table 1 of the code's model zoo: 6 input channels, attention at resolutions of which one is reached.
    let upscaler = "in_channels: 6, out_channels: 3, model_channels: 160, attention_resolutions: [16,8], num_res_blocks: 2, \
                    channel_mult: [1,2,2,4], num_head_channels: 32";
    let config = read(&yaml("timesteps: 1000", upscaler, VQ_F4, identity)).unwrap();
    assert_eq!(config.autoencoder.unwrap().codebook, Some(8192));
    assert_eq!(config.condition, Condition::LowResolution);
    let unet = config.unet.unwrap();
    let attended: Vec<Attention> = unet.levels.iter().map(|level| level.attention).collect();
    assert_eq!(attended[..3], [Attention::None; 3]);
    assert_eq!(attended[3], Attention::Pixels { heads: 20 });
    assert_eq!(unet.context_dim, None);
    assert_eq!(
        (config.schedule.beta_start, config.schedule.beta_end),
        (1e-4, 2e-2)
    );

    let churches = "in_channels: 4, out_channels: 4, model_channels: 192, attention_resolutions: [1,2,4,8], \
                    num_res_blocks: 2, channel_mult: [1,2,2,4,4], num_heads: 8, use_scale_shift_norm: true, \
                    resblock_updown: true, use_new_attention_order: true";
    let config = read(&yaml(
        "scale_by_std: true",
        churches,
        KL_F8,
        "__is_unconditional__",
    ))
    .unwrap();
    let unet = config.unet.unwrap();
    assert!(unet.scale_shift_norm && unet.res_block_updown && unet.new_attention_order);
    assert_eq!(
        (unet.levels.len(), unet.levels[4].attention),
        (5, Attention::None)
    );

    // One head whatever the width, and three blocks deep.
    let layout = "in_channels: 3, out_channels: 3, model_channels: 128, attention_resolutions: [8,4,2], num_res_blocks: 2, \
                  channel_mult: [1,2,3,4], num_heads: 1, use_spatial_transformer: true, transformer_depth: 3, \
                  context_dim: 512";
    let bert = "{target: ldm.modules.encoders.modules.BERTEmbedder, params: {n_embed: 512, n_layer: 16, vocab_size: 8192, \
                max_seq_len: 92, use_tokenizer: false}}";
    let config = read(&yaml("conditioning_key: crossattn", layout, VQ_F4, bert)).unwrap();
    assert_eq!(
        transformers(&config),
        [(256, 1, 3), (384, 1, 3), (512, 1, 3)]
    );
    assert_eq!(config.condition, Condition::Layout);
    let text = BertConfig {
        vocab: 8192,
        width: 512,
        layers: 16,
        positions: 92,
    };
    assert_eq!(config.text, Some(TextConfig::Bert(text)));
    assert!(config.unsupported.is_empty());
}

#[test]
fn berts_sizes_have_their_defaults_in_both_layouts() {
    let published = BertConfig {
        vocab: 30522,
        width: 1280,
        layers: 32,
        positions: 77,
    };
    let bert =
        "{target: ldm.modules.encoders.modules.BERTEmbedder, params: {n_embed: 1280, n_layer: 32}}";
    let original = read(&yaml("conditioning_key: crossattn", SD_UNET, KL_F8, bert)).unwrap();
    let diffusers = component(json!({"architectures": ["LDMBertModel"]})).unwrap();
    for config in [original, diffusers] {
        assert_eq!(config.text, Some(TextConfig::Bert(published.clone())));
        assert_eq!(config.condition, Condition::Text);
    }
    let other = component(json!({"architectures": ["LDMBertModel"], "head_dim": 32}));
    let error = other.unwrap_err().to_string();
    assert!(error.contains("`head_dim` is 32"), "{error}");
}

#[test]
fn the_demo_models_own_keys_are_read() {
    let clip = "{target: ldm.modules.encoders.modules.FrozenCLIPEmbedder, params: {text_config: {vocab_size: 512, \
                hidden_size: 128, intermediate_size: 512, num_hidden_layers: 4, num_attention_heads: 4, \
                max_position_embeddings: 32, eos_token_id: 511, pad_token_id: 511}}}";
    let own = format!("rescale_betas_zero_snr: true\n    {SD_OWN}");
    let unet = format!("{SD_UNET}, num_groups: 16");
    let sampling =
        "sampling: {sampler: ddim, steps: 20, cfg_scale: 4, timestep_spacing: trailing}\n";
    let config = read(&(yaml(&own, &unet, KL_F8, clip) + sampling)).unwrap();
    let text = clip_of(config.clone());
    assert_eq!(
        (text.vocab, text.positions, text.eos_token),
        (512, 32, Some(511))
    );
    assert_eq!(config.unet.unwrap().norm_groups, 16);
    assert!(config.schedule.zero_terminal_snr);
    assert_eq!(
        config.schedule.timestep_spacing,
        Some(TimestepSpacing::Trailing)
    );
    let sampling = config.sampling;
    assert_eq!(sampling.sampler.as_deref(), Some("ddim"));
    assert_eq!(
        (sampling.steps, sampling.guidance_scale),
        (Some(20), Some(4.0))
    );
}

#[test]
fn diffusers_counts_heads_as_it_does() {
    let unet = |head_dim: serde_json::Value, heads: serde_json::Value| {
        let unet = json!({"_class_name": "UNet2DConditionModel", "attention_head_dim": head_dim,
            "num_attention_heads": heads, "cross_attention_dim": 1024, "use_linear_projection": true});
        component(unet).unwrap()
    };
    let null = serde_json::Value::Null;
    assert_eq!(
        transformers(&unet(json!(8), null.clone())),
        [(320, 8, 1), (640, 8, 1), (1280, 8, 1)]
    );
    let listed = unet(json!([5, 10, 20, 20]), null);
    assert_eq!(
        transformers(&listed),
        [(320, 5, 1), (640, 10, 1), (1280, 20, 1)]
    );
    assert_eq!(
        transformers(&unet(json!(64), json!([5, 10, 20, 20]))),
        transformers(&listed)
    );
}

#[test]
fn a_codebook_of_diffusers_has_its_defaults_and_no_scale() {
    let config = component(json!({"_class_name": "VQModel", "scaling_factor": 0.18215})).unwrap();
    assert_eq!(
        config.scale_factor, 1.0,
        "diffusers' default, in every such file, is wrong"
    );
    let first = config.autoencoder.unwrap();
    assert_eq!(
        (first.codebook, first.embed_dim, first.z_channels),
        (Some(256), 3, 3)
    );
    let json = json!({"_class_name": "VQModel", "num_vq_embeddings": 16384, "latent_channels": 4, "vq_embed_dim": 2});
    let first = component(json).unwrap().autoencoder.unwrap();
    assert_eq!(
        (first.codebook, first.embed_dim, first.z_channels),
        (Some(16384), 2, 4)
    );
    for (key, value) in [
        ("norm_type", json!("spatial")),
        ("num_vq_embeddings", json!(0)),
        ("lookup_from_codebook", json!(true)),
    ] {
        let message = refusal(component(json!({"_class_name": "VQModel", key: value})));
        assert!(
            message.contains(key) || message.contains("0 codes"),
            "{message}"
        );
    }
}

#[test]
fn token_ids_that_nobody_chose_are_not_believed() {
    let text = |eos, pad| {
        let json =
            json!({"model_type": "clip_text_model", "eos_token_id": eos, "pad_token_id": pad});
        let text = clip_of(component(json).unwrap());
        (text.eos_token, text.pad_token)
    };
    assert_eq!(text(2, 0), (None, None));
    assert_eq!(text(49407, 1), (Some(49407), None));
    assert_eq!(text(49407, 0), (Some(49407), Some(0)));
}

/// What is replaced in Stable Diffusion's configuration, by what, and two parts of the refusal.
const REFUSED: &str = "\
model_channels: 320,  |  | model_channels | is missing
model_channels: 320 | model_channels: -320 | model_channels | -320
model_channels: 320 | model_channels: many | model_channels | whole number
num_heads: 8 | num_heads: 7 | params.unet_config.params | 320 channels cannot be divided among 7
num_heads: 8 | num_heads: 0 | params.unet_config.params | among 0 attention heads
num_heads: 8 | num_head_channels: 48 | num_head_channels | divisor of 320
num_heads: 8,  |  | num_heads | is missing
[1,2,4,4], num_heads | [], num_heads | channel_mult | list of multiples
[1,2,4,4], num_heads | [1,2,4,999999999999], num_heads | params.unet_config.params | channels
num_res_blocks: 2, channel | num_res_blocks: [2,2], channel | num_res_blocks | list of 4
context_dim: 768,  |  | context_dim | is missing
context_dim: 768 | context_dim: 768, num_groups: 48 | params.unet_config.params | 48 normalisation groups
context_dim: 768 | context_dim: 768, dims: 3 | dims | only 2 is supported
context_dim: 768 | context_dim: 768, n_embed: 8192 | n_embed | not supported
UNetModel | EncoderUNetModel | unet_config.target | not supported
double_z: true | double_z: false | ddconfig.double_z | only true
embed_dim: 4,  |  | embed_dim | is missing
scale_factor: 0.18215 | scale_factor: 0 | scale_factor | above 0
0.00085 | .nan | YAML: line 4 | non-finite
image_size: 64 | parameterization: mu | parameterization | eps, v or x0
image_size: 64 | beta_schedule: wavy | beta_schedule | cosine
image_size: 64 | given_betas: [1] | given_betas | not supported
num_heads: 8 | num_heads: 8, num_heads_upsample: 4 | num_heads_upsample | only -1";

#[test]
fn configurations_that_describe_nothing_are_refused_by_key() {
    let with = |from: &str, to: &str| {
        let text = yaml(SD_OWN, SD_UNET, KL_F8, "__is_unconditional__");
        assert!(text.contains(from), "{from}");
        refusal(read(&text.replace(from, to)))
    };
    for case in REFUSED.lines() {
        let [from, to, key, expected] = case.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{case}");
        };
        let message = with(from, to);
        assert!(
            message.contains(key) && message.contains(expected),
            "{from} -> {to}: {message}"
        );
        assert!(message.starts_with("config.yaml: "), "{message}");
    }
    assert!(refusal(read("model: [")).contains("YAML"));
    assert!(refusal(read("- 1")).contains("no keys"));
    assert!(refusal(read("")).contains("no keys"));
    let unet = |key: &str, value: serde_json::Value| {
        component(json!({"_class_name": "UNet2DConditionModel", key: value}))
    };
    for (key, value) in [
        ("time_cond_proj_dim", json!(256)),
        ("addition_embed_type", json!("text_time")),
        ("down_block_types", json!(["SimpleCrossAttnDownBlock2D"])),
        ("freq_shift", json!(1)),
        ("act_fn", json!("gelu")),
        ("cross_attention_dim", json!([768, 768, 768, 1024])),
        ("mid_block_type", serde_json::Value::Null),
        ("only_cross_attention", json!([false, true, false, false])),
        ("block_out_channels", json!([])),
        (
            "up_block_types",
            json!([
                "UpBlock2D",
                "UpBlock2D",
                "UpBlock2D",
                "UpBlock2D",
                "UpBlock2D"
            ]),
        ),
    ] {
        let message = refusal(unet(key, value));
        assert!(
            message.contains(key) || message.contains("list of 4"),
            "{key}: {message}"
        );
    }
    assert!(unet("freq_shift", json!(0.0)).is_ok());
    assert!(unet("act_fn", json!("swish")).is_ok());
    assert!(unet("only_cross_attention", json!([false, false])).is_ok());
    let context = unet("cross_attention_dim", json!([768, 768, 768, 768]))
        .unwrap()
        .unet;
    assert_eq!(context.unwrap().context_dim, Some(768));
    let parts = json!({"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "transformer": [null, null]});
    let parts = unsupported_parts(Path::new("model_index.json"), &parts).unwrap();
    assert!(
        parts.len() == 1 && parts[0].contains("second text encoder"),
        "{parts:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever one value of a configuration becomes, it is read or refused.
    #[test]
    fn no_value_makes_the_reader_panic(word in 0usize..200, value in "-?[0-9]{1,20}|true|null|\\[\\]|\\[0\\]|\\{\\}|a|1e309") {
        let text = yaml(SD_OWN, SD_UNET, KL_F8, "__is_unconditional__");
        let mut words: Vec<&str> = text.split_inclusive(' ').collect();
        let values: Vec<usize> = (1..words.len()).filter(|&i| words[i - 1].ends_with(": ")).collect();
        let index = values[word % values.len()];
        let tail = words[index].trim_start_matches(|c: char| !",}\n".contains(c)).to_owned();
        let changed = format!("{value}{tail}");
        words[index] = &changed;
        let _ = read(&words.concat());
    }
}
