//! `ldm list`: the published systems and first stages, each with what it takes and what it costs. All of it is read off their
//! configurations and graphs, so that it cannot say anything else than what runs.

use super::args::ListArgs;
use super::console::Console;
use latent_diffusion::Result;
use latent_diffusion::graph::Graph;
use latent_diffusion::models::config::{AutoencoderConfig, Condition, ModelConfig};
use latent_diffusion::models::{System, autoencoder, networks, unet};
use latent_diffusion::pipeline::Task;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Side of the image that a first stage's cost is counted at, in pixels: that of the paper's.
const FIRST_STAGE_SIZE: usize = 256;

/// Lists what the arguments ask for.
///
/// # Errors
/// If a configuration that is part of the program describes no network, or nothing can be written.
pub fn run(args: &ListArgs, console: &Console) -> Result<()> {
    let rows = System::all().iter().map(row).collect::<Result<Vec<_>>>()?;
    if args.json {
        return console.result(&Value::from(rows).to_string());
    }
    let (systems, first_stages): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| row["steps"].is_u64());
    console.result(&format!(
        "{:<25} {:<13} {:>8}  {:>10}  {:<8} {:>5} {:>4} {:>5}  {:<13} condition",
        "system",
        "command",
        "M params",
        "GFLOP/call",
        "size",
        "steps",
        "eta",
        "scale",
        "first stage"
    ))?;
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let size = |row: &Value| format!("{0}x{0}", row["size"]);
    let or_dash = |value: &Value| {
        value
            .as_f64()
            .map_or("-".into(), |number| number.to_string())
    };
    for row in systems {
        let text = |key: &str| row[key].as_str().unwrap_or("-");
        console.result(&format!(
            "{:<25} {:<13} {:>8.2}  {:>10.1}  {:<8} {:>5} {:>4} {:>5}  {:<13} {}",
            text("name"),
            text("command"),
            number(&row["parameters"]) / 1e6,
            number(&row["flops"]) / 1e9,
            size(row),
            row["steps"],
            or_dash(&row["eta"]),
            or_dash(&row["cfg_scale"]),
            text("first_stage"),
            text("condition"),
        ))?;
    }
    console.result(&format!(
        "\n{:<25} {:<13} {:>8}  {:>10}  {:<8} {:>6}  kind",
        "first stage", "command", "M params", "GFLOP", "size", "factor"
    ))?;
    for row in first_stages {
        let text = |key: &str| row[key].as_str().unwrap_or("-");
        console.result(&format!(
            "{:<25} {:<13} {:>8.2}  {:>10.1}  {:<8} {:>6}  {}",
            text("name"),
            text("command"),
            number(&row["parameters"]) / 1e6,
            number(&row["flops"]) / 1e9,
            size(row),
            row["factor"],
            text("kind"),
        ))?;
    }
    console.result(
        "\nGFLOP of one call of the UNet, or of decoding, for one image of this size; guidance calls the UNet twice a step.\n\
         `-m synthetic:NAME` is any of them with random weights, `--config NAME` says which of them a checkpoint is of.",
    )
}

fn row(system: &System) -> Result<Value> {
    let config = system.config()?;
    let all = networks(&config)?;
    let params: BTreeMap<_, _> = all
        .iter()
        .flat_map(|network| network.graph.params().map(move |param| (network, param)))
        .map(|(network, param)| ((network.prefix, &param.name), param.shape.len()))
        .collect();
    let mut row = json!({
        "name": system.name,
        "parameters": params.values().sum::<usize>(),
    });
    if let (Some(network), Some(side)) = (&config.unet, config.latent_size) {
        let graph = unet::build(network, 1, [side, side], config.context_tokens())?;
        let tasks = Task::of(&config.condition);
        row["command"] = json!(tasks.first().map(|task| task.command()));
        row["flops"] = json!(flops(&graph));
        row["size"] = json!(
            side * config
                .autoencoder
                .as_ref()
                .map_or(1, AutoencoderConfig::factor)
        );
        row["steps"] = json!(config.sampling.steps);
        row["eta"] = json!(config.sampling.eta);
        row["cfg_scale"] = json!(config.sampling.guidance_scale);
        row["condition"] = json!(condition(&config.condition));
        row["first_stage"] = json!(first_stage(&config));
    } else if let Some(stage) = &config.autoencoder {
        let side = FIRST_STAGE_SIZE / stage.factor();
        let graph = autoencoder::build_decoder(stage, 1, [side, side])?;
        row["command"] = json!("reconstruct");
        row["flops"] = json!(flops(&graph));
        row["size"] = json!(FIRST_STAGE_SIZE);
        row["factor"] = json!(stage.factor());
        row["kind"] = json!(kind(stage));
    }
    Ok(row)
}

fn flops(graph: &Graph) -> u64 {
    graph.cost().flops
}

/// What a model is told, in words.
pub fn condition(condition: &Condition) -> String {
    match condition {
        Condition::None => "none".into(),
        Condition::Text => "a prompt".into(),
        Condition::Class { classes, .. } => format!("one of {classes} classes"),
        Condition::Label => "a class".into(),
        Condition::Layout => "objects and their boxes".into(),
        Condition::Vectors => "a prompt and its neighbours in a database".into(),
        Condition::LowResolution => "an image at a quarter of the size".into(),
        Condition::MaskedImage => "an image and a mask".into(),
        Condition::TextAndMaskedImage => "a prompt, an image and a mask".into(),
        Condition::Segmentation(map) => format!("a map of {} labels", map.in_channels),
    }
}

/// The name of a model's first stage, or what it is where it is none of those published.
pub fn first_stage(config: &ModelConfig) -> Option<String> {
    let stage = config.autoencoder.as_ref()?;
    let named = System::first_stage(stage).map(|system| system.name.to_owned());
    Some(named.unwrap_or_else(|| format!("{}, factor {}", kind(stage), stage.factor())))
}

fn kind(stage: &AutoencoderConfig) -> String {
    let latent = stage.embed_dim;
    match stage.codebook {
        None => format!("KL, {latent} channels"),
        Some(codes) => format!("VQ, {codes} codes of {latent} channels"),
    }
}
