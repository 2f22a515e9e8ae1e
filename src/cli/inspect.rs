//! `ldm inspect`: what a model is made of, or how an image was made.

use super::args::{InspectArgs, ModelArgs};
use super::console::Console;
use super::{list, model};
use latent_diffusion::image::{Infotext, TextChunk, read_image, read_text_chunks};
use latent_diffusion::models::{Average, Network, System, networks};
use latent_diffusion::pipeline::Model;
use latent_diffusion::{Error, Result, Shape, Weights};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Describes what the arguments name.
///
/// # Errors
/// If it cannot be read, or a network's weights are not what its configuration needs; what could be found is said before.
pub fn run(args: &InspectArgs, console: &Console) -> Result<()> {
    match &args.path {
        Some(path) if is_image(path) => image(path, args.json, console),
        Some(path) => {
            let model = ModelArgs {
                model: Some(path.clone()),
                ..args.model.clone()
            };
            describe(&model::open(&model, console)?, args, console)
        }
        None => describe(&model::open(&args.model, console)?, args, console),
    }
}

fn is_image(path: &Path) -> bool {
    const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|found| EXTENSIONS.contains(&found.to_ascii_lowercase().as_str()))
}

fn image(path: &Path, as_json: bool, console: &Console) -> Result<()> {
    let pixels = read_image(path)?;
    let [_, height, width, _] = pixels.shape().image().unwrap_or_default();
    let is_png = path
        .extension()
        .is_some_and(|found| found.eq_ignore_ascii_case("png"));
    let chunks = if is_png {
        read_text_chunks(path)?
    } else {
        vec![]
    };
    if as_json {
        let texts: Map<String, Value> = chunks
            .iter()
            .map(|chunk| (chunk.keyword.clone(), parsed(chunk)))
            .collect();
        let answer = json!({"path": path.display().to_string(), "width": width, "height": height, "texts": texts});
        return console.result(&answer.to_string());
    }
    console.result(&format!("{}: {width}x{height} pixels", path.display()))?;
    if chunks.is_empty() {
        console.result("It says nothing about how it was made.")?;
    }
    for chunk in &chunks {
        console.result(&format!("\n[{}]\n{}", chunk.keyword, chunk.text))?;
    }
    Ok(())
}

/// A text as JSON: its fields where it is infotext or JSON, else the text.
fn parsed(chunk: &TextChunk) -> Value {
    if let (true, Some(infotext)) = (chunk.keyword == "parameters", Infotext::parse(&chunk.text)) {
        return json!({
            "prompt": infotext.prompt,
            "negative_prompt": infotext.negative_prompt,
            "steps": infotext.steps,
            "sampler": infotext.sampler,
            "scheduler": infotext.schedule_type,
            "cfg_scale": infotext.cfg_scale,
            "seed": infotext.seed,
            "width": infotext.width,
            "height": infotext.height,
            "model": infotext.model,
            "strength": infotext.denoising_strength,
            "rng": infotext.rng,
            "extra": infotext.extra.into_iter().collect::<BTreeMap<_, _>>(),
            "version": infotext.version,
        });
    }
    serde_json::from_str(&chunk.text).unwrap_or_else(|_| json!(chunk.text))
}

/// The networks that are there, with their weights.
fn present(model: &Model) -> Result<Vec<(Network, &Weights)>> {
    let all = networks(&model.config)?.into_iter();
    let with_weights = |network: Network| {
        let weights = model.weights(network.part)?;
        Some((network, weights))
    };
    Ok(all.filter_map(with_weights).collect())
}

fn describe(model: &Model, args: &InspectArgs, console: &Console) -> Result<()> {
    let networks = present(model)?;
    let (mut rows, mut damage) = (vec![], None);
    for (network, weights) in &networks {
        let (name, graph) = (network.part.name(), &network.graph);
        let params: BTreeMap<_, _> = graph
            .params()
            .map(|param| (param.name.as_str(), param.shape))
            .collect();
        let mut row = json!({
            "network": name,
            "tensors": params.len(),
            "parameters": params.values().map(Shape::len).sum::<usize>(),
            "file": weights.path().map(|path| path.display().to_string()),
        });
        match weights.check(params.iter().map(|(name, shape)| (*name, *shape))) {
            Err(error) => {
                row["problem"] = json!(error.to_string());
                damage = damage.or(Some(error));
            }
            Ok(()) => stored(&mut row, weights, &params)?,
        }
        if args.check_weights {
            let bad = weights.not_finite();
            row["not_finite"] = bad
                .iter()
                .map(|(name, count)| json!({"tensor": name, "values": count}))
                .collect();
            damage = damage.or_else(|| not_finite(name, &bad));
        }
        rows.push(row);
    }
    // Asked for last: by now every network has named what it needs.
    let mut unused: Vec<String> = networks
        .iter()
        .filter_map(|(_, weights)| weights.unused_sentence())
        .collect();
    unused.dedup();
    match args.json {
        true => console.result(&as_json(model, rows, unused).to_string())?,
        false => as_text(model, &rows, &unused, console)?,
    }
    damage.map_or(Ok(()), Err)
}

/// Adds the sizes and precisions on disk.
fn stored(row: &mut Value, weights: &Weights, params: &BTreeMap<&str, Shape>) -> Result<()> {
    if weights.path().is_none() {
        row["dtypes"] = json!({"synthetic F16": params.len()});
        return Ok(());
    }
    let (mut bytes, mut dtypes) = (0, BTreeMap::<String, usize>::new());
    for (name, shape) in params {
        let view = weights.get(name, shape)?;
        bytes += view.bytes().len();
        *dtypes.entry(format!("{:?}", view.dtype())).or_default() += 1;
    }
    row["bytes"] = json!(bytes);
    row["dtypes"] = json!(dtypes);
    Ok(())
}

fn not_finite(network: &str, bad: &[(String, usize)]) -> Option<Error> {
    let (first, values) = bad.first()?;
    Some(Error::NotFinite {
        stage: format!("the weights of the {network}"),
        what: format!(
            "NaN or infinity in {} tensors, the first being {values} values of `{first}`",
            bad.len()
        ),
        hint: "the file is damaged; get it again".into(),
    })
}

fn as_json(model: &Model, networks: Vec<Value>, unused: Vec<String>) -> Value {
    let config = &model.config;
    let schedule = &config.schedule;
    json!({
        "model": model.name,
        "networks": networks,
        "unused": unused,
        "unsupported": config.unsupported,
        "native_size": model.native_size(),
        "pixel_multiple": model.pixel_multiple().ok(),
        "system": System::described_by(config).map(|system| system.name),
        "condition": list::condition(&config.condition),
        "first_stage": list::first_stage(config),
        "ema": match model.average {
            Average::Absent => Value::Null,
            average => json!(average == Average::Used),
        },
        "scale_factor": config.scale_factor,
        "prediction": format!("{:?}", schedule.prediction).to_lowercase(),
        "betas": [schedule.beta_start, schedule.beta_end],
        "timesteps": schedule.timesteps,
        "timestep_spacing": schedule.timestep_spacing.map(|rule| format!("{rule:?}").to_lowercase()),
        "zero_terminal_snr": schedule.zero_terminal_snr,
        "sampler": config.sampling.sampler,
        "scheduler": config.sampling.sigmas,
        "steps": config.sampling.steps,
        "cfg_scale": config.sampling.guidance_scale,
        "tokenizer": model.tokenizer().ok().map(|tokenizer| json!({
            "tokens": tokenizer.vocab_size(),
            "positions": tokenizer.max_length(),
        })),
    })
}

fn as_text(model: &Model, networks: &[Value], unused: &[String], console: &Console) -> Result<()> {
    let (config, schedule) = (&model.config, &model.config.schedule);
    console.result(&format!("model {}", model.name))?;
    for row in networks {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let dtypes = row["dtypes"].as_object().into_iter().flatten();
        let dtypes: Vec<String> = dtypes
            .map(|(dtype, count)| format!("{count} {dtype}"))
            .collect();
        console.result(&format!(
            "  {:<13} {:>9.3} M parameters  {:>8.1} MB  {:>4} tensors ({})  {}",
            text("network"),
            row["parameters"].as_f64().unwrap_or_default() / 1e6,
            row["bytes"].as_f64().unwrap_or_default() / 1e6,
            row["tensors"],
            dtypes.join(", "),
            text("file"),
        ))?;
    }
    if let Some(first_stage) = list::first_stage(config) {
        console.result(&format!("  first stage   {first_stage}"))?;
    }
    if config.unet.is_some() {
        let condition = list::condition(&config.condition);
        console.result(&format!("  condition     {condition}"))?;
        let average = match model.average {
            Average::Absent => "the checkpoint holds none",
            Average::Unused => "not used",
            Average::Used => "used",
        };
        console.result(&format!(
            "  moving average of the UNet's weights: {average}"
        ))?;
    }
    if let (Some([width, height]), Ok(multiple)) = (model.native_size(), model.pixel_multiple()) {
        console.result(&format!(
            "  size          {width}x{height}, sides multiples of {multiple}"
        ))?;
    }
    if config.unet.is_some() {
        console.result(&format!(
            "  schedule      {} timesteps, betas {:?} {} to {}, predicts {:?}{}{}",
            schedule.timesteps,
            schedule.beta_schedule,
            schedule.beta_start,
            schedule.beta_end,
            schedule.prediction,
            schedule
                .timestep_spacing
                .map_or(String::new(), |rule| format!(", {rule:?} spacing")),
            if schedule.zero_terminal_snr {
                ", zero terminal SNR"
            } else {
                ""
            },
        ))?;
        console.result(&format!("  scale factor  {}", config.scale_factor))?;
    }
    if let Ok(tokenizer) = model.tokenizer() {
        let (tokens, positions) = (tokenizer.vocab_size(), tokenizer.max_length());
        console.result(&format!(
            "  tokenizer     {tokens} tokens, {positions} positions"
        ))?;
    }
    for part in &config.unsupported {
        console.result(&format!("  cannot be run: {part}"))?;
    }
    unused
        .iter()
        .try_for_each(|sentence| console.result(&format!("  {sentence}")))
}
