//! How an image was made, written into it and read back: as infotext for everyone, and as JSON for us.

use super::args::ModelArgs;
use super::engine::Engine;
use super::settings::Settings;
use latent_diffusion::image::{Infotext, TextChunk, read_text_chunks};
use latent_diffusion::pipeline::{Given, Request};
use latent_diffusion::rng::NoiseSource;
use latent_diffusion::sampler::SigmaSpacing;
use latent_diffusion::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Keyword of the chunk with our own JSON.
const OURS: &str = "ldm";

const VERSION: &str = concat!("ldm ", env!("CARGO_PKG_VERSION"));

/// The settings of one image, as options by name.
pub fn settings(request: &Request, settings: &Settings, seed: u64) -> Map<String, Value> {
    let options = &request.options;
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let value = json!({
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "steps": options.steps,
        "sampler": request.sampler.name(),
        "scheduler": options.sigmas.name(),
        "cfg_scale": short(request.guidance_scale),
        "guidance_rescale": short(request.guidance_rescale),
        "guidance_interval": request.guidance_interval.map(|interval| interval.to_string()),
        "seed": seed,
        // What is enlarged decides the size.
        "width": request.keep.is_none().then_some(request.width),
        "height": request.keep.is_none().then_some(request.height),
        "eta": options.eta,
        "quantize_x0": options.quantise.then_some(true),
        "strength": options.strength,
        "init_image": path(&settings.init_image),
        "mask": path(&settings.mask),
        "invert_mask": settings.invert_mask.then_some(true),
        "mask_blur": settings.mask_blur,
        "class": class(request),
        "labels": path(&settings.labels),
        "layout": path(&settings.layout),
        "classes": path(&settings.classes),
        "neighbours": settings.neighbours,
        "rng": rng_name(request.rng),
    });
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect(),
        _ => Map::new(),
    }
}

/// The two chunks that go into an image.
pub fn chunks(
    request: &Request,
    fields: &Map<String, Value>,
    seed: u64,
    engine: &Engine,
    changed: &ModelArgs,
) -> Vec<TextChunk> {
    let (options, model) = (&request.options, engine.model());
    let [width, height] = request.keep.unwrap_or([request.width, request.height]);
    let infotext = Infotext {
        prompt: request.prompt.clone(),
        negative_prompt: request.negative_prompt.clone(),
        steps: options.steps as u32,
        sampler: request.sampler.name().to_owned(),
        schedule_type: (options.sigmas != SigmaSpacing::Normal)
            .then(|| options.sigmas.name().to_owned()),
        cfg_scale: short(request.guidance_scale),
        seed,
        width: width as u32,
        height: height as u32,
        model: Some(model.name.clone()),
        denoising_strength: options.strength,
        // Readers take silence for the GPU's.
        rng: (request.rng == NoiseSource::Cpu).then(|| "CPU".to_owned()),
        extra: extra(request, fields, changed),
        version: Some(VERSION.to_owned()),
    };
    let ours = json!({
        "schema": 1,
        "version": VERSION,
        "model": model.name,
        "device": engine.arithmetic(),
        // What the command line changed of the model's own configuration; null as it is.
        "clip_skip": changed.clip_skip,
        "timestep_spacing": changed.timestep_spacing,
        "ema": changed.average(),
        "request": fields,
    });
    vec![
        TextChunk::new("parameters", infotext.to_string()),
        TextChunk::new(OURS, ours.to_string()),
    ]
}

/// The number of the class that is drawn, if one is.
fn class(request: &Request) -> Option<usize> {
    match request.given {
        Given::Class(class) => Some(class),
        _ => None,
    }
}

/// What the infotext's form has no place of its own for.
fn extra(
    request: &Request,
    fields: &Map<String, Value>,
    changed: &ModelArgs,
) -> Vec<(String, String)> {
    let mut extra = vec![];
    if let Some(skip) = changed.clip_skip.filter(|&skip| skip > 1) {
        extra.push(("Clip skip".to_owned(), skip.to_string()));
    }
    if let Some(class) = class(request) {
        extra.push(("Class".to_owned(), class.to_string()));
    }
    for (name, key) in [
        ("guidance_interval", "Guidance interval"),
        ("mask", "Mask"),
        ("invert_mask", "Mask mode"),
        ("mask_blur", "Mask blur"),
    ] {
        let value = match fields.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(true)) => "inverted".to_owned(),
            Some(Value::Number(number)) => number.to_string(),
            _ => continue,
        };
        extra.push((key.to_owned(), value));
    }
    extra
}

/// The settings stored in an image, by this program or, in AUTOMATIC1111's form, by another.
///
/// # Errors
/// If the file is no PNG image, or holds no settings.
pub fn settings_of(image: &Path) -> Result<Map<String, Value>> {
    let chunks = read_text_chunks(image)?;
    let text = |keyword: &str| chunks.iter().find(|chunk| chunk.keyword == keyword);
    let ours = text(OURS).and_then(|chunk| serde_json::from_str::<Value>(&chunk.text).ok());
    if let Some(Value::Object(fields)) = ours.as_ref().and_then(|json| json.get("request")) {
        return Ok(fields.clone());
    }
    let infotext = text("parameters").and_then(|chunk| Infotext::parse(&chunk.text));
    let infotext = infotext.ok_or_else(|| {
        Error::file(
            image,
            "holds no settings: neither this program nor one that writes `parameters` made it",
        )
    })?;
    Ok(settings_of_infotext(&infotext))
}

fn settings_of_infotext(infotext: &Infotext) -> Map<String, Value> {
    let fields = [
        ("prompt", json!(infotext.prompt)),
        ("negative_prompt", json!(infotext.negative_prompt)),
        ("steps", json!(infotext.steps)),
        ("sampler", json!(infotext.sampler)),
        ("scheduler", json!(infotext.schedule_type)),
        ("cfg_scale", json!(infotext.cfg_scale)),
        ("seed", json!(infotext.seed)),
        ("width", json!(infotext.width)),
        ("height", json!(infotext.height)),
        // The initial image itself is not in the text, so a strength would have nothing to act on.
        (
            "rng",
            json!(if infotext.rng.as_deref() == Some("CPU") {
                "cpu"
            } else {
                "cuda"
            }),
        ),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The number with no more digits than the user typed: 7.1, not 7.099999904632568.
fn short(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

fn rng_name(rng: NoiseSource) -> &'static str {
    match rng {
        NoiseSource::Cpu => "cpu",
        NoiseSource::Cuda => "cuda",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_another_program_become_options() {
        let text = "cat\nNegative prompt: dog\nSteps: 28, Sampler: Euler a, Schedule type: Karras, CFG scale: 7.5, \
                    Seed: 1, Size: 512x768, Model: v1-5";
        let fields = settings_of_infotext(&Infotext::parse(text).unwrap());
        assert_eq!(fields["sampler"], "Euler a");
        assert_eq!(fields["scheduler"], "Karras");
        assert_eq!(
            (&fields["width"], &fields["height"]),
            (&json!(512), &json!(768))
        );
        assert_eq!(fields["rng"], "cuda");
    }
}
