//! Opens a model wherever it is: what its configuration says and where its weights are, in one value.
//!
//! Three layouts are known by a file each has: a diffusers folder by `model_index.json`, a single component as diffusers or
//! transformers save it by `config.json`, a CompVis release by `config.yaml` beside one
//! safetensors or PyTorch file.

use super::config::{self, ModelConfig};
use super::{hub, original};
use crate::error::{Error, Result};
use crate::weights::{Checkpoint, Naming, UNetLayout, Weights};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model that was found: its description, and the weights of each of its networks that is there.
#[derive(Clone)]
pub struct ModelFiles {
    /// What to call the model: the name of its folder or file.
    pub name: String,
    /// Everything but the weights.
    pub config: ModelConfig,
    /// The denoising network's weights.
    pub unet: Option<Weights>,
    /// The first stage's weights.
    pub autoencoder: Option<Weights>,
    /// The weights of the encoder of prompts or layouts.
    pub text: Option<Weights>,
    /// The weights of what else makes a condition: a table of classes, a rescaler of label maps.
    pub condition: Option<Weights>,
    /// The folder that holds the tokenizer's files.
    pub tokenizer: Option<PathBuf>,
}

impl ModelFiles {
    /// A model of synthetic weights, with no tokenizer.
    pub fn synthetic(name: &str, config: ModelConfig, seed: u64) -> Self {
        let mut model = Self::empty(name.to_owned(), config);
        model.make_up_weights(seed);
        model
    }

    fn empty(name: String, config: ModelConfig) -> Self {
        Self {
            name,
            config,
            unet: None,
            autoencoder: None,
            text: None,
            condition: None,
            tokenizer: None,
        }
    }

    /// Gives every network that is described synthetic weights.
    fn make_up_weights(&mut self, seed: u64) {
        let made = Weights::synthetic(seed);
        let config = &self.config;
        self.unet = config.unet.as_ref().map(|_| made.clone());
        self.autoencoder = config.autoencoder.as_ref().map(|_| made.clone());
        self.text = config.text.as_ref().map(|_| made.clone());
        self.condition = config.condition.has_weights().then_some(made);
    }
}

/// How to look for a model.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Which variant of the weights to take from a diffusers folder, `fp16` for example; otherwise the full ones are
    /// preferred.
    pub variant: Option<String>,
    /// Root of the Hugging Face cache, where `org/name` is looked for.
    pub hub_cache: Option<PathBuf>,
    /// Take synthetic weights of this seed, so that only configurations need to be there.
    pub synthetic: Option<u64>,
}

/// Opens a model by the path of its folder or file, or by its `org/name` in the Hugging Face cache. Nothing is downloaded.
///
/// # Errors
/// If there is nothing there, or a configuration or a weights file cannot be used.
pub fn open(model: impl AsRef<Path>, options: &OpenOptions) -> Result<ModelFiles> {
    let model = model.as_ref();
    if model.is_dir() {
        return Opening::new(model, options).folder(model);
    }
    if model.is_file() {
        return Opening::new(model, options).file(model);
    }
    if let (Some(cache), Some(id)) = (&options.hub_cache, hub::id(model)) {
        return Opening::new(model, options).folder(&hub::snapshot(cache, id)?);
    }
    Err(Error::file(model, "does not exist"))
}

/// A model that is part of the program; `name` stands for its path in messages.
///
/// # Errors
/// If the configuration or the safetensors bytes cannot be used.
pub fn from_embedded(name: &str, yaml: &str, safetensors: &'static [u8]) -> Result<ModelFiles> {
    let options = OpenOptions::default();
    let mut opening = Opening::new(Path::new(name), &options);
    opening.model.config = config::from_yaml(Path::new(name), yaml)?;
    let checkpoint = Arc::new(Checkpoint::from_static(name, safetensors)?);
    original::assign(&mut opening.model, &checkpoint)?;
    Ok(opening.model)
}

/// A model on its way to being opened.
struct Opening<'a> {
    model: ModelFiles,
    options: &'a OpenOptions,
}

impl<'a> Opening<'a> {
    fn new(path: &Path, options: &'a OpenOptions) -> Self {
        let full = path.canonicalize();
        let name = full
            .as_deref()
            .unwrap_or(path)
            .file_stem()
            .unwrap_or(path.as_os_str());
        let name = match hub::id(path) {
            Some(id) if !path.exists() => id.to_owned(),
            _ => name.to_string_lossy().into_owned(),
        };
        Self {
            model: ModelFiles::empty(name, ModelConfig::default()),
            options,
        }
    }

    fn folder(mut self, folder: &Path) -> Result<ModelFiles> {
        if folder.join("model_index.json").is_file() {
            self.pipeline(folder)?;
        } else if folder.join("config.json").is_file() {
            self.component(folder)?;
            self.model.tokenizer = tokenizer(&[folder, &folder.join("tokenizer")]);
        } else if let Some(yaml) = original::configuration(folder)? {
            self.original(&yaml, folder, None)?;
        } else {
            return Err(Error::file(
                folder,
                "is not a model: it has no `model_index.json` (diffusers), `config.json` (one component) or `config.yaml` \
                 (CompVis)",
            ));
        }
        Ok(self.model)
    }

    fn file(mut self, file: &Path) -> Result<ModelFiles> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let is = |extension: &str| file.extension().is_some_and(|found| found == extension);
        if is("json") {
            return self.folder(folder);
        }
        if is("yaml") || is("yml") {
            self.original(file, folder, None)?;
            return Ok(self.model);
        }
        // What the file is comes first: a web page has no configuration beside it either.
        let kind = Checkpoint::open(file)?.kind();
        let own = file.with_extension("yaml");
        if own.is_file() {
            self.original(&own, folder, Some(file))?;
        } else if let Some(yaml) = original::configuration(folder)? {
            self.original(&yaml, folder, Some(file))?;
        } else {
            let kind = kind.map(|kind| format!(" (it looks like {kind})"));
            let problem = "has no configuration beside it: put the model's `config.yaml` into its folder, or give the \
                           folder of a diffusers model";
            return Err(Error::file(
                file,
                problem.to_owned() + &kind.unwrap_or_default(),
            ));
        }
        Ok(self.model)
    }

    /// A CompVis release.
    fn original(&mut self, yaml: &Path, folder: &Path, weights: Option<&Path>) -> Result<()> {
        self.model.config = config::from_yaml(yaml, &read(yaml)?)?;
        self.model.tokenizer = tokenizer(&[folder, &folder.join("tokenizer")]);
        if let Some(seed) = self.options.synthetic {
            self.model.make_up_weights(seed);
            return Ok(());
        }
        let weights = match weights {
            Some(weights) => weights.to_owned(),
            None => original::weights(folder)?,
        };
        original::assign(&mut self.model, &Arc::new(Checkpoint::open(weights)?))
    }

    /// A folder with a component in each of its folders.
    fn pipeline(&mut self, folder: &Path) -> Result<()> {
        let index = folder.join("model_index.json");
        let parts = config::unsupported_parts(&index, &json(&index)?)?;
        self.model.config.unsupported.extend(parts);
        for part in ["unet", "vae", "text_encoder", "bert"] {
            let part = folder.join(part);
            if part.join("config.json").symlink_metadata().is_ok() {
                self.component(&part)?;
            }
        }
        let config = &self.model.config;
        if config.unet.is_none() && config.autoencoder.is_none() && config.text.is_none() {
            let why = match config.unsupported.first() {
                Some(part) => format!("cannot be run: {part}"),
                None => "holds none of `unet`, `vae`, `text_encoder` and `bert`".into(),
            };
            return Err(Error::file(folder, why));
        }
        let scheduler = folder.join("scheduler").join("scheduler_config.json");
        if scheduler.symlink_metadata().is_ok() {
            self.model
                .config
                .read_scheduler(&scheduler, &json(&scheduler)?)?;
        }
        self.model.tokenizer = tokenizer(&[&folder.join("tokenizer")]);
        Ok(())
    }

    /// The folder of one component.
    fn component(&mut self, folder: &Path) -> Result<()> {
        let file = folder.join("config.json");
        self.model.config.read_component(&file, &json(&file)?)?;
        let config = &self.model.config;
        if let (Some(unet), None) = (&config.unet, &self.model.unet) {
            let attended = |level: &config::UNetLevel| level.attention != config::Attention::None;
            let levels = unet.levels.iter();
            let levels = levels
                .map(|level| (level.res_blocks, attended(level)))
                .collect();
            let naming = Naming::DiffusersUNet(UNetLayout { levels });
            self.model.unet = Some(self.weights(folder, naming)?);
        }
        if let (Some(autoencoder), None) = (&config.autoencoder, &self.model.autoencoder) {
            let levels = autoencoder.levels.len();
            let naming = Naming::DiffusersAutoencoder { levels };
            self.model.autoencoder = Some(self.weights(folder, naming)?);
        }
        if let (Some(text), None) = (&config.text, &self.model.text) {
            let prefix = String::new();
            let naming = match text {
                config::TextConfig::Clip(_) => Naming::Clip { prefix },
                config::TextConfig::Bert(_) => Naming::DiffusersBert,
            };
            self.model.text = Some(self.weights(folder, naming)?);
        }
        Ok(())
    }

    fn weights(&self, folder: &Path, naming: Naming) -> Result<Weights> {
        match self.options.synthetic {
            Some(seed) => Ok(Weights::synthetic(seed)),
            None => {
                let variant = self.options.variant.as_deref();
                Ok(Arc::new(Checkpoint::open_folder(folder, variant)?).weights(naming))
            }
        }
    }
}

/// The first of the folders that holds a tokenizer's files.
fn tokenizer(folders: &[&Path]) -> Option<PathBuf> {
    let holds = |folder: &&&Path| {
        ["vocab.json", "vocab.txt", "tokenizer.json"]
            .iter()
            .any(|name| folder.join(name).is_file())
    };
    folders
        .iter()
        .find(holds)
        .map(|folder| folder.to_path_buf())
}

/// A configuration file's text.
fn read(path: &Path) -> Result<String> {
    const MOST: u64 = 16 << 20;
    let size = fs::metadata(path).map(|found| found.len());
    if size.is_ok_and(|size| size > MOST) {
        return Err(Error::file(path, "is too large to be a configuration"));
    }
    fs::read_to_string(path).map_err(|error| Error::file(path, format!("cannot be read: {error}")))
}

fn json(path: &Path) -> Result<serde_json::Value> {
    serde_json::from_str(&read(path)?)
        .map_err(|error| Error::file(path, format!("is not readable as JSON: {error}")))
}
