//! Which model: a path, a name in the Hugging Face cache, random weights, or the one inside the program.

use super::args::ModelArgs;
use super::console::Console;
use latent_diffusion::models::config::{ModelConfig, TextConfig, TimestepSpacing};
use latent_diffusion::models::{ModelFiles, OpenOptions, System};
use latent_diffusion::pipeline::Model;
use latent_diffusion::{Error, Result};
use std::env;
use std::path::{Path, PathBuf};

/// Random weights are drawn from this seed, so that a benchmark is the same tomorrow.
const SYNTHETIC_SEED: u64 = 0;

/// Opens the model that the arguments name, with their changes to its configuration.
///
/// # Errors
/// If there is no such model, it cannot be used, or a change does not fit it.
pub fn open(args: &ModelArgs, console: &Console) -> Result<Model> {
    open_or(Model::demo, args, console)
}

/// As [`open`], with another built-in model where the arguments name none.
///
/// # Errors
/// As [`open`].
pub fn open_or(
    built_in: fn() -> Result<Model>,
    args: &ModelArgs,
    console: &Console,
) -> Result<Model> {
    if let Some(version) = &args.sd_version {
        return Err(Error::request(format!(
            "--sd-version {version}: this program downloads nothing; give the model's folder or file with --model"
        )));
    }
    let mut model = match &args.model {
        None => {
            console.note("no --model given: this is the built-in demo model");
            built_in()?
        }
        Some(path) => named(path, args)?,
    };
    for note in &model.notes {
        console.note(note);
    }
    if let Some(skip) = args.clip_skip {
        set_clip_skip(&mut model.config, skip)?;
    }
    if let Some(rule) = &args.timestep_spacing {
        model.config.schedule.timestep_spacing = Some(spacing(rule)?);
    }
    Ok(model)
}

/// Opens another model than the one that is sampled from.
///
/// # Errors
/// If there is no such model, or it cannot be used.
pub fn another(path: &Path) -> Result<Model> {
    named(path, &ModelArgs::default())
}

fn named(path: &Path, args: &ModelArgs) -> Result<Model> {
    let mut options = OpenOptions {
        variant: args.variant.clone(),
        hub_cache: hub_cache(),
        synthetic: None,
        config: args.config.clone(),
        average: args.average(),
    };
    let Some(name) = path
        .to_str()
        .and_then(|path| path.strip_prefix("synthetic:"))
    else {
        return match path.to_str() {
            Some("demo") if !path.exists() => Model::demo(),
            Some("inpaint-demo") if !path.exists() => Model::inpaint_demo(),
            _ => Model::open(path, &options),
        };
    };
    match name {
        "sd1" => synthetic(path, ModelConfig::stable_diffusion_1()),
        "sd2" => synthetic(path, ModelConfig::stable_diffusion_2()),
        "demo" => synthetic(path, Model::demo()?.config),
        name if System::named(name).is_some() => synthetic(path, System::find(name)?.config()?),
        folder => {
            if !Path::new(folder).exists() {
                System::find(folder).map_err(|error| Error::file(path, error.to_string()))?;
            }
            options.synthetic = Some(SYNTHETIC_SEED);
            Model::open(folder, &options)
        }
    }
}

/// A model of random weights. Prompts are read with the demo's tokenizer: any of its ids will do.
fn synthetic(name: &Path, config: ModelConfig) -> Result<Model> {
    let files = ModelFiles::synthetic(&name.display().to_string(), config, SYNTHETIC_SEED);
    Model::new(files, Some(Model::demo()?.tokenizer()?.clone()))
}

/// Where the Hugging Face tools keep what they download.
fn hub_cache() -> Option<PathBuf> {
    let folder = |variable: &str| {
        env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(folder("HF_HOME")?.join("hub")))
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(env::home_dir()?.join(".cache/huggingface/hub")))
}

/// Counts as AUTOMATIC1111 does: 1 is the last layer, 2 the one before.
fn set_clip_skip(config: &mut ModelConfig, skip: usize) -> Result<()> {
    let Some(TextConfig::Clip(text)) = &mut config.text else {
        return Err(Error::request(
            "--clip-skip: this model has no CLIP text encoder",
        ));
    };
    if skip == 0 || skip > text.layers {
        return Err(Error::request(format!(
            "--clip-skip {skip}: this text encoder has {} layers, so 1 to {} are possible",
            text.layers, text.layers
        )));
    }
    text.skip_layers = skip - 1;
    Ok(())
}

fn spacing(rule: &str) -> Result<TimestepSpacing> {
    match rule.to_ascii_lowercase().as_str() {
        "leading" => Ok(TimestepSpacing::Leading),
        "linspace" => Ok(TimestepSpacing::Linspace),
        "trailing" => Ok(TimestepSpacing::Trailing),
        _ => Err(Error::request(format!(
            "`{rule}` is no rule for timesteps: leading, linspace or trailing"
        ))),
    }
}
