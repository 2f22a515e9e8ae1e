//! Opening models in every layout, under every family of names. `data/names` is written by tools/names.py.

mod convert;
mod original;

use latent_diffusion::graph::Graph;
use latent_diffusion::models::{ModelFiles, OpenOptions, autoencoder, from_embedded, open, unet};
use latent_diffusion::weights::{Weights, save};
use latent_diffusion::{Error, Result, Shape};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const CONFIG: &str = include_str!("../data/names/config.yaml");
const UNET_CONFIG: &str = include_str!("../data/names/unet/config.json");
const UNET_NAMES: &str = include_str!("../data/names/unet/names.txt");
const VAE_CONFIG: &str = include_str!("../data/names/vae/config.json");
const VAE_NAMES: &str = include_str!("../data/names/vae/names.txt");
const TEXT_CONFIG: &str = r#"{"architectures":["CLIPTextModel"],"vocab_size":16,"hidden_size":6,"intermediate_size":8,
    "num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":5,"hidden_act":"quick_gelu",
    "bos_token_id":14,"eos_token_id":15,"pad_token_id":15}"#;
const FINAL_NORM: &str = "text_model.final_layer_norm.weight";
const TOKENS: &str = "text_model.embeddings.token_embedding.weight";

/// A weight's name in CompVis's files, its name in diffusers', and its shape.
fn names(list: &str) -> Vec<(&str, &str, Shape)> {
    list.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let (ours, theirs) = (words.next().unwrap(), words.next().unwrap());
            let dims = words
                .next()
                .unwrap()
                .split('x')
                .map(|size| size.parse().unwrap());
            (ours, theirs, Shape::new(&dims.collect::<Vec<_>>()))
        })
        .collect()
}

/// The values every file of these tests holds, by the graph's names.
fn truth() -> Weights {
    Weights::synthetic(5)
}

/// Writes weights to a file, each under the name that `rename` gives it (of CompVis's and diffusers').
fn write(path: &Path, list: &[(&str, &str, Shape)], rename: impl Fn(&str, &str) -> String) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let truth = truth();
    let tensors = list
        .iter()
        .map(|(ours, theirs, shape)| (rename(ours, theirs), &truth, *ours, *shape));
    save(path, tensors).unwrap();
}

fn put(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The weights that graphs of this network ask for are those of the list, no more and no fewer.
fn asks_for(graphs: &[Graph], list: &[(&str, &str, Shape)]) {
    let params = graphs.iter().flat_map(Graph::params);
    let asked: BTreeSet<&str> = params.map(|param| param.name.as_str()).collect();
    assert_eq!(asked, list.iter().map(|(ours, _, _)| *ours).collect());
}

/// Every weight has the values that were written for it, and no name is left over.
fn agrees(weights: &Weights, list: &[(&str, &str, Shape)]) {
    weights
        .check(list.iter().map(|(ours, _, shape)| (*ours, *shape)))
        .unwrap();
    for (ours, theirs, shape) in list {
        let (found, expected) = (
            weights.get(ours, shape).unwrap(),
            truth().get(ours, shape).unwrap(),
        );
        assert_eq!(found.bytes(), expected.bytes(), "{ours} as {theirs}");
    }
    assert_eq!(weights.unused(), Vec::<String>::new());
}

fn text_names() -> Vec<(&'static str, &'static str, Shape)> {
    vec![
        (TOKENS, TOKENS, Shape::new(&[16, 6])),
        (FINAL_NORM, FINAL_NORM, Shape::new(&[6])),
    ]
}

/// A diffusers folder with all three components.
fn diffusers_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put(
        root.join("model_index.json"),
        r#"{"_class_name":"StableDiffusionPipeline","transformer":[null,null]}"#,
    );
    put(root.join("unet/config.json"), UNET_CONFIG);
    put(root.join("vae/config.json"), VAE_CONFIG);
    put(root.join("text_encoder/config.json"), TEXT_CONFIG);
    put(root.join("tokenizer/vocab.json"), "{}");
    put(
        root.join("scheduler/scheduler_config.json"),
        r#"{"_class_name":"PNDMScheduler","beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear",
            "steps_offset":1,"set_alpha_to_one":false}"#,
    );
    let theirs = |_: &str, theirs: &str| theirs.to_owned();
    write(
        &root.join("unet/diffusion_pytorch_model.safetensors"),
        &names(UNET_NAMES),
        theirs,
    );
    write(
        &root.join("vae/diffusion_pytorch_model.fp16.safetensors"),
        &names(VAE_NAMES),
        theirs,
    );
    write(
        &root.join("text_encoder/model.safetensors"),
        &text_names(),
        theirs,
    );
    folder
}

/// A CompVis release with everything in one file, and the buffers that such files have.
fn original_folder(text_prefix: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("config.yaml"), CONFIG);
    let mut all = names(UNET_NAMES);
    all.extend(names(VAE_NAMES));
    all.extend(text_names());
    all.push(("model_ema.decay", "", Shape::new(&[])));
    write(
        &folder.path().join("model.safetensors"),
        &all,
        |ours, theirs| match ours {
            _ if theirs.is_empty() => ours.to_owned(),
            TOKENS | FINAL_NORM => ours.replace("text_model.", text_prefix),
            _ if ours.starts_with("encoder")
                || ours.starts_with("decoder")
                || ours.contains("quant") =>
            {
                format!("first_stage_model.{ours}")
            }
            _ => format!("model.diffusion_model.{ours}"),
        },
    );
    folder
}

fn open_plain(path: impl AsRef<Path>) -> Result<ModelFiles> {
    open(path, &OpenOptions::default())
}

fn refusal(result: Result<impl Sized, Error>) -> String {
    let error = result.err().expect("must be refused");
    assert_eq!(error.exit_code(), 3);
    error.to_string()
}

#[test]
fn components_that_were_saved_one_by_one_are_a_model() {
    let folder = diffusers_folder();
    let indexed = open_plain(folder.path()).unwrap();
    fs::remove_file(folder.path().join("model_index.json")).unwrap();
    let found = open_plain(folder.path()).unwrap();
    assert_eq!(found.config, indexed.config);
    agrees(&found.unet.unwrap(), &names(UNET_NAMES));
    assert!(found.autoencoder.is_some() && found.text.is_some() && found.tokenizer.is_some());
}

#[test]
fn diffusers_and_compvis_folders_hold_the_same_model() {
    let diffusers_folder = diffusers_folder();
    let diffusers = open_plain(diffusers_folder.path()).unwrap();
    let original_folder = original_folder("cond_stage_model.transformer.text_model.");
    let original = open_plain(original_folder.path()).unwrap();
    assert_eq!(diffusers.config.unet, original.config.unet);
    assert_eq!(diffusers.config.autoencoder, original.config.autoencoder);
    assert_eq!(diffusers.config.text, original.config.text);
    assert_eq!(diffusers.config.schedule, original.config.schedule);
    assert_eq!(diffusers.config.scale_factor, original.config.scale_factor);
    assert_eq!(diffusers.config.latent_size, original.config.latent_size);
    assert_eq!(
        diffusers.config.sampling.sampler.as_deref(),
        Some("PNDMScheduler")
    );
    assert_eq!(
        diffusers.tokenizer,
        Some(diffusers_folder.path().join("tokenizer"))
    );
    for model in [diffusers, original] {
        let unet = model.config.unet.as_ref().unwrap();
        asks_for(
            &[unet::build(unet, 1, [8, 8], 5).unwrap()],
            &names(UNET_NAMES),
        );
        let stage = model.config.autoencoder.as_ref().unwrap();
        let encoder = autoencoder::build_encoder(stage, 1, [32, 32]).unwrap();
        let decoder = autoencoder::build_decoder(stage, 1, [8, 8]).unwrap();
        asks_for(&[encoder, decoder], &names(VAE_NAMES));
        assert_eq!(model.config.unsupported, Vec::<String>::new());
        agrees(&model.unet.unwrap(), &names(UNET_NAMES));
        agrees(&model.autoencoder.unwrap(), &names(VAE_NAMES));
        agrees(&model.text.unwrap(), &text_names());
    }
}

#[test]
fn text_encoders_are_found_without_their_scope() {
    let folder = original_folder("cond_stage_model.transformer.");
    agrees(
        &open_plain(folder.path()).unwrap().text.unwrap(),
        &text_names(),
    );
}

#[test]
fn the_layer_that_stable_diffusion_2_skips_is_not_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (before, _) = CONFIG.split_once("cond_stage_config").unwrap();
    let open_clip = "cond_stage_config: {target: ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder, \
                     params: {layer: penultimate}}\n";
    put(
        folder.path().join("config.yaml"),
        &(before.to_owned() + open_clip),
    );
    let layer = |n| format!("transformer.resblocks.{n}.ln_1.weight");
    let (used, skipped) = (layer(22), layer(23));
    let shape = Shape::new(&[4]);
    let all = ["token_embedding.weight", &used, &skipped].map(|name| (name, "", shape));
    write(&folder.path().join("model.safetensors"), &all, |ours, _| {
        format!("cond_stage_model.model.{ours}")
    });
    let text = open_plain(folder.path()).unwrap().text.unwrap();
    let unused = text.unused();
    assert!(
        unused.iter().any(|name| name.ends_with(&used)),
        "{unused:?}"
    );
    assert!(
        !unused.iter().any(|name| name.ends_with(&skipped)),
        "{unused:?}"
    );
}

#[test]
fn old_attention_names_of_autoencoders_are_found() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("config.json"), VAE_CONFIG);
    let old = [
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ];
    write(
        &folder.path().join("diffusion_pytorch_model.safetensors"),
        &names(VAE_NAMES),
        |_, theirs| {
            old.iter()
                .fold(theirs.to_owned(), |name, (new, old)| name.replace(new, old))
        },
    );
    let model = open_plain(folder.path()).unwrap();
    agrees(&model.autoencoder.unwrap(), &names(VAE_NAMES));
    assert!(model.unet.is_none() && model.config.unet.is_none());
}

#[test]
fn an_autoencoder_alone_has_no_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let params = "double_z: true, z_channels: 4, resolution: 32, in_channels: 3, out_ch: 3, ch: 8, ch_mult: [1,2,2], \
                  num_res_blocks: 2, attn_resolutions: [], num_groups: 4";
    put(
        folder.path().join("kl-f4.yaml"),
        &format!(
            "model:\n  target: ldm.models.autoencoder.AutoencoderKL\n  params: {{embed_dim: 4, ddconfig: {{{params}}}}}\n"
        ),
    );
    write(
        &folder.path().join("kl-f4.safetensors"),
        &names(VAE_NAMES),
        |ours, _| ours.to_owned(),
    );
    for path in [
        folder.path().to_owned(),
        folder.path().join("kl-f4.safetensors"),
    ] {
        let model = open_plain(path).unwrap();
        assert_eq!(
            model
                .config
                .autoencoder
                .as_ref()
                .map(|config| config.factor()),
            Some(4)
        );
        agrees(&model.autoencoder.unwrap(), &names(VAE_NAMES));
    }
}

#[test]
fn models_are_found_in_the_hugging_face_cache() {
    let (cache, source) = (tempfile::tempdir().unwrap(), diffusers_folder());
    let model = cache.path().join("models--org--a.model");
    put(model.join("refs/main"), "0123abc\n");
    let options = OpenOptions {
        hub_cache: Some(cache.path().to_owned()),
        ..OpenOptions::default()
    };
    assert!(refusal(open("org/a.model", &options)).contains("incomplete"));
    fs::create_dir_all(model.join("snapshots")).unwrap();
    fs::rename(source.path(), model.join("snapshots/0123abc")).unwrap();
    let found = open("org/a.model", &options).unwrap();
    assert_eq!(found.name, "org/a.model");
    agrees(&found.unet.unwrap(), &names(UNET_NAMES));
    assert!(refusal(open("org/other", &options)).contains("hf download org/other"));
    assert!(refusal(open_plain("org/a.model")).contains("does not exist"));
    put(model.join("refs/main"), "../../elsewhere");
    assert!(refusal(open("org/a.model", &options)).contains("not the name of a commit"));
}

#[test]
fn a_model_inside_the_program_opens_like_any_other() {
    let folder = original_folder("cond_stage_model.transformer.text_model.");
    let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
    let model = from_embedded("demo", CONFIG, bytes.leak()).unwrap();
    assert_eq!(model.name, "demo");
    agrees(&model.unet.unwrap(), &names(UNET_NAMES));
    agrees(&model.text.unwrap(), &text_names());
}

#[test]
fn synthetic_weights_need_no_file() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("config.yaml"), CONFIG);
    let options = OpenOptions {
        synthetic: Some(5),
        ..OpenOptions::default()
    };
    agrees(
        &open(folder.path(), &options).unwrap().unet.unwrap(),
        &names(UNET_NAMES),
    );
    assert!(refusal(open_plain(folder.path())).contains("holds no weights"));
}

#[test]
fn folders_that_are_no_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert!(refusal(open_plain(root)).contains("is not a model"));
    fs::write(root.join("model.ckpt"), b"PK\x03\x04").unwrap();
    assert!(refusal(open_plain(root.join("model.ckpt"))).contains("is truncated"));
    put(root.join("config.yaml"), CONFIG);
    assert!(refusal(open_plain(root)).contains("model.ckpt: is truncated"));
    write(&root.join("model.safetensors"), &text_names(), |ours, _| {
        format!("conditioner.embedders.0.{ours}")
    });
    let message = refusal(open_plain(root));
    assert!(
        message.contains("none of the networks") && message.contains("XL"),
        "{message}"
    );
    put(
        root.join("config.json"),
        r#"{"_class_name":"AutoencoderTiny"}"#,
    );
    assert!(refusal(open_plain(root)).contains("describes a AutoencoderTiny"));
    put(root.join("config.json"), "{");
    assert!(refusal(open_plain(root)).contains("JSON"));
}
