//! Opens a model wherever it is: what its configuration says and where its weights are, in one value.
//!
//! Three layouts are known by a file each has: a diffusers folder by `model_index.json`, or by its components' folders, a single
//! component as diffusers or transformers save it by `config.json`, a CompVis release by `config.yaml` beside one safetensors or
//! PyTorch file. A file without a configuration is tried against every published system.

use super::config::{self, ModelConfig, SamplingDefaults};
use super::{ModelFiles, System, hub, original};
use crate::error::{Error, Result};
use crate::weights::{Checkpoint, Naming, UNetLayout, Weights};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folders of a diffusers folder that are read.
const COMPONENTS: [&str; 5] = ["unet", "vae", "vqvae", "text_encoder", "bert"];

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
    /// The configuration of a CompVis checkpoint: a file, or the name of a [`System`]; otherwise the one beside the checkpoint, or
    /// else the system that its tensors are of.
    pub config: Option<PathBuf>,
    /// Whether the denoising network runs with the moving average of its weights; otherwise as the configuration has it.
    pub average: Option<bool>,
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
    Err(Error::file(
        model,
        match model.symlink_metadata() {
            Ok(_) => "is neither a file nor a folder",
            Err(_) => {
                "does not exist: a model is a folder, a .safetensors or .ckpt file, or org/name in the Hugging Face cache"
            }
        },
    ))
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
    original::assign(&mut opening.model, &checkpoint, None)?;
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
        let (given, weights) = (&self.options.config, original::weights(folder));
        if given.is_none() && folder.join("model_index.json").is_file() {
            self.pipeline(folder)?;
        } else if given.is_none() && folder.join("config.json").is_file() {
            self.component(folder)?;
            self.beside(folder);
        } else if given.is_some() || original::configuration(folder)?.is_some() {
            if self.options.synthetic.is_some() {
                let (path, yaml) = self.configuration(folder, None, None)?;
                return self.synthetic(&path, &yaml, folder);
            }
            return self.file(&weights?);
        } else if COMPONENTS
            .iter()
            .any(|part| folder.join(part).join("config.json").is_file())
        {
            self.pipeline(folder)?;
        } else if let Ok(weights) = weights {
            return self.file(&weights);
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
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let is = |extension: &str| file.extension().is_some_and(|found| found == extension);
        if is("json") {
            return self.folder(folder);
        }
        if is("yaml") || is("yml") {
            if self.options.synthetic.is_some() {
                return self.synthetic(file, &read(file)?, folder);
            }
            let weights = original::weights(folder)?;
            return self.original(file, &read(file)?, &Arc::new(Checkpoint::open(weights)?));
        }
        // What the file is comes first: a web page has no configuration beside it either.
        let checkpoint = Arc::new(Checkpoint::open(file)?);
        let (path, yaml) = self.configuration(folder, Some(file), Some(&checkpoint))?;
        self.original(&path, &yaml, &checkpoint)
    }

    /// The configuration of a CompVis checkpoint, and what to call it: the one that was asked for, one beside the file that has its
    /// name, one in the same archive, the folder's, or that of the system that its tensors are of.
    fn configuration(
        &mut self,
        folder: &Path,
        file: Option<&Path>,
        checkpoint: Option<&Arc<Checkpoint>>,
    ) -> Result<(PathBuf, String)> {
        let text = |path: PathBuf| read(&path).map(|yaml| (path, yaml));
        if let Some(given) = &self.options.config {
            if given.is_file() {
                return text(given.clone());
            }
            let system = System::find(&given.to_string_lossy())?;
            return Ok((given.clone(), system.yaml.to_owned()));
        }
        if let Some(own) = file.map(|file| file.with_extension("yaml"))
            && own.is_file()
        {
            return text(own);
        }
        if let Some(yaml) = checkpoint.and_then(|checkpoint| checkpoint.configuration()) {
            let path = file.unwrap_or(folder).join("config.yaml");
            return Ok((path, yaml.to_owned()));
        }
        if let Some(yaml) = original::configuration(folder)? {
            return text(yaml);
        }
        let fitting = checkpoint.map_or(vec![], System::fitting);
        if let Some(system) = fitting.first() {
            self.model.notes.push(assumed(&fitting));
            return Ok((system.name.into(), system.yaml.to_owned()));
        }
        let kind = checkpoint.and_then(|checkpoint| checkpoint.kind());
        let kind = kind.map_or(String::new(), |kind| format!(" (it looks like {kind})"));
        Err(Error::file(
            file.unwrap_or(folder),
            format!(
                "has no configuration beside it, and its tensors are those of no published system{kind}: put the model's \
                 `config.yaml` into its folder, or name one with --config"
            ),
        ))
    }

    /// A CompVis release.
    fn original(
        mut self,
        path: &Path,
        yaml: &str,
        checkpoint: &Arc<Checkpoint>,
    ) -> Result<ModelFiles> {
        self.describe(path, yaml)?;
        let folder = checkpoint.path().parent().unwrap_or(Path::new(""));
        self.beside(folder);
        original::assign(&mut self.model, checkpoint, self.options.average)?;
        Ok(self.model)
    }

    /// A CompVis configuration with made-up weights.
    fn synthetic(mut self, path: &Path, yaml: &str, folder: &Path) -> Result<ModelFiles> {
        self.describe(path, yaml)?;
        self.beside(folder);
        self.model
            .make_up_weights(self.options.synthetic.unwrap_or_default());
        Ok(self.model)
    }

    /// Reads a CompVis configuration. The original ones say nothing of sampling: their scripts do, each for its system.
    fn describe(&mut self, path: &Path, yaml: &str) -> Result<()> {
        self.model.config = config::from_yaml(path, yaml)?;
        let config = &mut self.model.config;
        if config.sampling == SamplingDefaults::default()
            && let Some(system) = System::described_by(config)
        {
            config.sampling = system.config()?.sampling;
        }
        Ok(())
    }

    /// Finds what belongs to a model and is neither weights nor configuration: a tokenizer's files and the names of classes.
    fn beside(&mut self, folder: &Path) {
        let first = |folders: &[&Path], names: &[&str]| {
            let mut files = folders
                .iter()
                .flat_map(|folder| names.iter().map(|name| folder.join(name)));
            files.find(|file| file.is_file())
        };
        let names = ["vocab.json", "vocab.txt", "tokenizer.json"];
        let tokenizer = first(&[folder, &folder.join("tokenizer")], &names);
        self.model.tokenizer = tokenizer.and_then(|file| Some(file.parent()?.to_owned()));
        self.model.classes = first(&[folder], &["classes.json", "classes.txt"]);
    }

    /// A folder with a component in each of its folders. Who saved these one by one has no index of them.
    fn pipeline(&mut self, folder: &Path) -> Result<()> {
        let index = folder.join("model_index.json");
        let pipeline = match index.symlink_metadata() {
            Ok(_) => json(&index)?,
            Err(_) => serde_json::json!({}),
        };
        let parts = config::unsupported_parts(&index, &pipeline)?;
        self.model.config.unsupported.extend(parts);
        for part in COMPONENTS {
            let part = folder.join(part);
            if part.join("config.json").symlink_metadata().is_ok() {
                self.component(&part)?;
            }
        }
        let config = &self.model.config;
        if config.unet.is_none() && config.autoencoder.is_none() && config.text.is_none() {
            let why = match config.unsupported.first() {
                Some(part) => format!("cannot be run: {part}"),
                None => "holds none of `unet`, `vae`, `vqvae`, `text_encoder` and `bert`".into(),
            };
            return Err(Error::file(folder, why));
        }
        self.model.config.read_pipeline(&index, &pipeline)?;
        let scheduler = folder.join("scheduler").join("scheduler_config.json");
        if scheduler.symlink_metadata().is_ok() {
            let settings = json(&scheduler)?;
            self.model.config.read_scheduler(&scheduler, &settings)?;
            let all = settings.as_object().map(config::unsupported_settings);
            let notes = all.into_iter().flatten();
            let notes = notes.map(|setting| format!("in the model's scheduler, {setting}"));
            self.model.notes.extend(notes);
        }
        self.beside(folder);
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
            let pixels = matches!(unet.middle, config::Attention::Pixels { .. });
            let naming = Naming::DiffusersUNet(UNetLayout { levels, pixels });
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

/// What is said of a configuration that was chosen by a checkpoint's tensors.
fn assumed(fitting: &[&System]) -> String {
    let names: Vec<&str> = fitting.iter().skip(1).map(|system| system.name).collect();
    let others = match names.as_slice() {
        [] => String::new(),
        names => format!(
            " (and of {}: name the right one with --config)",
            names.join(", ")
        ),
    };
    let first = fitting.first().map_or("", |system| system.name);
    format!("no configuration beside the checkpoint: its tensors are those of {first}{others}")
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
    config::from_python_json(&read(path)?)
        .map_err(|error| Error::file(path, format!("is not readable as JSON: {error}")))
}
