//! Where CompVis's releases keep things: a yaml file, one checkpoint, and every network behind a prefix in it.

use super::config::{BetaSchedule, ClipConfig, TextConfig};
use super::{Average, ModelFiles};
use crate::error::{Error, Result};
use crate::weights::{Checkpoint, Naming, Weights};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The configuration in a folder: `config.yaml`, or else the only yaml file.
pub(super) fn configuration(folder: &Path) -> Result<Option<PathBuf>> {
    only_file(folder, &["config.yaml"], "yaml")
}

/// The checkpoint in a folder: `model.safetensors`, or else the only safetensors file; without one `model.ckpt`,
/// `last.ckpt`, or else the only .ckpt file.
pub(super) fn weights(folder: &Path) -> Result<PathBuf> {
    let found = match only_file(folder, &["model.safetensors"], "safetensors")? {
        None => only_file(folder, &["model.ckpt", "last.ckpt"], "ckpt")?,
        found => found,
    };
    found.ok_or_else(|| {
        Error::file(
            folder,
            "holds no weights: `model.safetensors` or `model.ckpt` is expected beside the configuration",
        )
    })
}

/// The first of these names that is there, or else the only file with this extension.
fn only_file(folder: &Path, names: &[&str], extension: &str) -> Result<Option<PathBuf>> {
    let mut usual = names.iter().map(|name| folder.join(name));
    if let Some(usual) = usual.find(|file| file.is_file()) {
        return Ok(Some(usual));
    }
    let shown = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let entries = fs::read_dir(shown)
        .map_err(|error| Error::file(shown, format!("cannot be read: {error}")))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    match found.len() {
        0 | 1 => Ok(found.pop()),
        several => Err(Error::file(
            folder,
            format!(
                "holds {several} .{extension} files, and none is `{}`: give the path of the model's file",
                names.join("` or `")
            ),
        )),
    }
}

/// Gives each network that the configuration describes its weights, where the checkpoint holds them; the denoising network those of
/// its moving average where `average`, or else the configuration, wants it so.
pub(super) fn assign(
    model: &mut ModelFiles,
    checkpoint: &Arc<Checkpoint>,
    average: Option<bool>,
) -> Result<()> {
    let original = |prefix| checkpoint.weights(Naming::Original { prefix });
    if model.config.unet.is_some() {
        (model.average, model.unet) = unet(model.config.use_ema, checkpoint, average)?;
    }
    if model.config.autoencoder.is_some() {
        let find = |marker| find(checkpoint, &["first_stage_model.", ""], marker);
        let prefix = find("decoder.conv_in.weight").or_else(|| find("encoder.conv_in.weight"));
        model.autoencoder = prefix.map(original);
    }
    if model.config.condition.has_weights() {
        let markers = ["embedding.weight", "channel_mapper.weight"];
        let mut found = markers
            .iter()
            .map(|marker| find(checkpoint, &["cond_stage_model."], marker));
        model.condition = found.find_map(|prefix| prefix.map(original));
    }
    model.text = match &model.config.text {
        Some(TextConfig::Bert(_)) => {
            let prefixes = ["cond_stage_model.", ""];
            find(checkpoint, &prefixes, "transformer.token_emb.weight").map(original)
        }
        Some(TextConfig::Clip(text)) => clip(text, checkpoint),
        None => None,
    };
    check_betas(model, checkpoint)?;
    // Some of the unconditional models keep in a buffer what the configuration leaves out.
    if let Some(scale) = checkpoint
        .scalar("scale_factor")
        .filter(|scale| *scale > 0.0)
    {
        model.config.scale_factor = scale;
    }
    if model.unet.is_none() && model.autoencoder.is_none() && model.text.is_none() {
        let kind = checkpoint
            .kind()
            .map(|kind| format!("; it looks like {kind}"));
        let problem = "holds none of the networks that its configuration describes";
        return Err(Error::file(
            checkpoint.path(),
            problem.to_owned() + &kind.unwrap_or_default(),
        ));
    }
    Ok(())
}

/// The first of `prefixes` behind which the checkpoint holds `marker`. A network that stands alone in its file has none, the empty one.
fn find(checkpoint: &Checkpoint, prefixes: &[&'static str], marker: &str) -> Option<String> {
    let holds = |prefix: &&&str| checkpoint.contains(&format!("{prefix}{marker}"));
    prefixes.iter().find(holds).map(|prefix| prefix.to_string())
}

/// The denoising network's weights: as they were trained, or their moving average.
fn unet(
    use_ema: bool,
    checkpoint: &Arc<Checkpoint>,
    average: Option<bool>,
) -> Result<(Average, Option<Weights>)> {
    const FIRST: &str = "time_embed.0.weight";
    let raw = find(checkpoint, &["model.diffusion_model.", ""], FIRST);
    let raw = raw.map(|prefix| checkpoint.weights(Naming::Original { prefix }));
    let averaged = checkpoint.weights(Naming::Average);
    let averaged = averaged.contains(FIRST).then_some(averaged);
    let wanted = average.unwrap_or(use_ema || raw.is_none());
    match (averaged, wanted) {
        (Some(averaged), true) => Ok((Average::Used, Some(averaged))),
        (Some(_), false) => Ok((Average::Unused, raw)),
        (None, _) if average == Some(true) => Err(Error::file(
            checkpoint.path(),
            "holds no moving average of its weights (`model_ema.`), which --ema asks for",
        )),
        (None, _) => Ok((Average::Absent, raw)),
    }
}

/// The weights of CLIP's text encoder, under transformers' names or OpenCLIP's.
fn clip(text: &ClipConfig, checkpoint: &Arc<Checkpoint>) -> Option<Weights> {
    let prefixes = [
        "cond_stage_model.transformer.text_model.",
        "cond_stage_model.transformer.",
        "text_model.",
        "",
    ];
    if let Some(prefix) = find(checkpoint, &prefixes, "embeddings.token_embedding.weight") {
        let prefix = prefix.trim_end_matches("text_model.").to_owned();
        return Some(checkpoint.weights(Naming::Clip { prefix }));
    }
    let prefixes = ["cond_stage_model.model.", ""];
    let prefix = find(checkpoint, &prefixes, "token_embedding.weight")?;
    for skipped in text.layers.saturating_sub(text.skip_layers)..text.layers {
        checkpoint.leave_out(&format!("{prefix}transformer.resblocks.{skipped}."));
    }
    Some(checkpoint.weights(Naming::OpenClip { prefix }))
}

/// Refuses a configuration of another model's noise schedule: the checkpoint holds the one that it was trained with. The two ends tell
/// the published schedules apart.
fn check_betas(model: &ModelFiles, checkpoint: &Checkpoint) -> Result<()> {
    let schedule = &model.config.schedule;
    let Some((betas, rounding)) = checkpoint.reals("betas") else {
        return Ok(());
    };
    let [first, .., last] = betas.as_slice() else {
        return Ok(());
    };
    let known = match schedule.beta_schedule {
        BetaSchedule::Linear | BetaSchedule::ScaledLinear => !schedule.zero_terminal_snr,
        BetaSchedule::SquaredCosine => false,
    };
    // Four roundings: of the stored number, and of the three operations that PyTorch makes a beta with.
    let near = |found: f64, expected: f64| (found - expected).abs() <= 4.0 * rounding * expected;
    let same = near(*first, schedule.beta_start)
        && near(*last, schedule.beta_end)
        && betas.len() == schedule.timesteps;
    if model.config.unet.is_none() || !known || same {
        return Ok(());
    }
    Err(Error::file(
        checkpoint.path(),
        format!(
            "was trained with {} betas from {first} to {last} (its buffer `betas`), and its configuration says {} from {} to {}: \
             the configuration is another model's",
            betas.len(),
            schedule.timesteps,
            schedule.beta_start,
            schedule.beta_end
        ),
    ))
}
