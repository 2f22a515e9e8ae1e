//! The files of one component, opened: every tensor by the name it has on disk.

use super::header::{self, Entry};
use super::map::{Bytes, open_problem};
use super::{Naming, Weights, archive, printable};
use crate::error::{Error, Result, nearest};
use safetensors::Dtype;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// One or several files, safetensors or PyTorch's own, whose tensors together are a checkpoint.
///
/// Opening maps the files and reads alone what says where tensors are; a tensor's bytes are read when they are used.
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<(PathBuf, Bytes)>,
    /// For each name, its file and where it lies there.
    tensors: HashMap<String, (usize, Entry)>,
    /// The names that networks have asked for.
    asked: Mutex<HashSet<String>>,
    /// The configuration in the zip archive that the checkpoint was published in.
    configuration: Option<String>,
}

impl Checkpoint {
    /// Opens a safetensors file, a PyTorch checkpoint (of which nothing is run), or the files that a `.index.json` lists.
    ///
    /// # Errors
    /// If a file is missing or damaged, or is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            return Self::open_all(path, &shards(path)?);
        }
        Self::open_all(path, &[path.to_owned()])
    }

    /// Opens the weights of a component's folder: `diffusion_pytorch_model` or `model`, in one file or in shards.
    ///
    /// With a `variant` (`fp16`) only that one is taken; without, the full one comes first and then `fp16`. PyTorch's own
    /// files, `diffusion_pytorch_model.bin` or `pytorch_model.bin`, are taken where there is no safetensors file.
    ///
    /// # Errors
    /// If the folder holds no such file, or one that cannot be used.
    pub fn open_folder(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let chosen = variant.map(|name| format!(".{name}"));
        let variants = match &chosen {
            Some(variant) => vec![variant.as_str()],
            None => vec!["", ".fp16"],
        };
        for (first, second, extension) in [
            ("diffusion_pytorch_model", "model", "safetensors"),
            ("diffusion_pytorch_model", "pytorch_model", "bin"),
        ] {
            for (variant, stem) in variants.iter().flat_map(|v| [(v, first), (v, second)]) {
                for name in [
                    format!("{stem}{variant}.{extension}"),
                    format!("{stem}.{extension}.index{variant}.json"),
                    format!("{stem}{variant}.{extension}.index.json"),
                ] {
                    let path = folder.join(name);
                    // A dangling link is taken too, so that the error is about the incomplete download.
                    if path.symlink_metadata().is_ok() {
                        return Self::open(path);
                    }
                }
            }
        }
        Err(Error::file(folder, no_weights(folder, variant)))
    }

    /// Reads a safetensors file that is part of the program; `name` stands for its path in messages.
    ///
    /// # Errors
    /// If the bytes are not a sound safetensors file.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::assemble(
            Path::new(name),
            vec![(name.into(), Bytes::from_static(bytes))],
        )
    }

    /// The tensors of a safetensors file that is in memory; `name` stands for its path in messages.
    ///
    /// # Errors
    /// If the bytes are not a sound safetensors file.
    pub(super) fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self> {
        Self::assemble(Path::new(name), vec![(name.into(), Bytes::from_vec(bytes))])
    }

    fn open_all(path: &Path, files: &[PathBuf]) -> Result<Self> {
        let files = files
            .iter()
            .map(|file| Ok((file.clone(), Bytes::map(file)?)))
            .collect::<Result<_>>()?;
        Self::assemble(path, files)
    }

    fn assemble(path: &Path, mut files: Vec<(PathBuf, Bytes)>) -> Result<Self> {
        let (mut tensors, mut configuration) = (HashMap::new(), None);
        for (index, (file, bytes)) in files.iter_mut().enumerate() {
            if let Some(parcel) = archive::parcel(file, bytes)? {
                let part = |range| bytes.slice(range);
                let yaml = parcel.configuration.and_then(part);
                configuration = yaml.and_then(|yaml| String::from_utf8(yaml.to_vec()).ok());
                *bytes = part(parcel.checkpoint).unwrap_or_else(|| bytes.clone());
            }
            let found = if archive::is_one(bytes) {
                archive::read(file, bytes)?
            } else {
                header::read(file, bytes)?
            };
            // What was touched on the way is a little of everywhere: none of it is needed again.
            bytes.release();
            for (name, entry) in found {
                if tensors.contains_key(&name) {
                    let name = printable(&name);
                    return Err(Error::file(
                        &*file,
                        format!("holds tensor `{name}`, which another shard holds too"),
                    ));
                }
                tensors.insert(name, (index, entry));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            files,
            tensors,
            asked: Mutex::default(),
            configuration,
        })
    }

    /// The weights of one network in this checkpoint.
    pub fn weights(self: &Arc<Self>, naming: Naming) -> Weights {
        Weights::of_checkpoint(self.clone(), naming)
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors: the one that was opened, or the shards that it lists.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Whether it lies in files, and not in the program or in memory.
    pub(super) fn is_of_files(&self) -> bool {
        self.files.iter().all(|(_, bytes)| bytes.is_mapped())
    }

    /// The text of the configuration that lies beside the checkpoint in its zip archive, if it was opened there and has one.
    pub fn configuration(&self) -> Option<&str> {
        self.configuration.as_deref()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The sizes of a tensor as they are on disk.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.1.shape)
    }

    /// The one number in a tensor of one element, such as the `scale_factor` that some checkpoints hold; `None` if there
    /// is no such tensor, or it is something else than one float.
    pub fn scalar(&self, name: &str) -> Option<f64> {
        match self.reals(name)?.0.as_slice() {
            [number] => Some(*number),
            _ => None,
        }
    }

    /// The numbers in a tensor that is no weight, such as the `betas` of a schedule, and how far rounding may have moved each
    /// of them, relative to itself; `None` if there is no such tensor, or it holds no floats row after row.
    pub fn reals(&self, name: &str) -> Option<(Vec<f64>, f64)> {
        let (_, bytes, entry) = self.entry(name)?;
        let bytes = bytes.get(entry.range.clone())?;
        if entry.strides.is_some() {
            return None;
        }
        fn each<const SIZE: usize>(bytes: &[u8], number: impl Fn([u8; SIZE]) -> f64) -> Vec<f64> {
            let (numbers, _) = bytes.as_chunks::<SIZE>();
            numbers.iter().map(|&bytes| number(bytes)).collect()
        }
        let (numbers, mantissa) = match entry.dtype {
            Dtype::F64 => (each(bytes, f64::from_le_bytes), 53),
            Dtype::F32 => (each(bytes, |x| f32::from_le_bytes(x).into()), 24),
            Dtype::F16 => (each(bytes, |x| half::f16::from_le_bytes(x).into()), 11),
            Dtype::BF16 => (each(bytes, |x| half::bf16::from_le_bytes(x).into()), 8),
            _ => return None,
        };
        Some((numbers, 0.5f64.powi(mantissa)))
    }

    /// What the checkpoint seems to hold, by names that only such files have.
    pub fn kind(&self) -> Option<&'static str> {
        let any = |test: &dyn Fn(&str) -> bool| self.names().any(test);
        if any(&|name| name.contains("lora_") || name.contains(".lora.")) {
            Some("a LoRA, which changes a model and is not one")
        } else if any(&|name| name.starts_with("conditioner.embedders.")) {
            Some("Stable Diffusion XL, which is not supported")
        } else if any(&|name| name.contains("control_model.") || name.starts_with("controlnet_")) {
            Some("a ControlNet, which guides a model and is not one")
        } else if any(&|name| name.contains("double_blocks.") || name.contains("joint_blocks.")) {
            Some("a diffusion transformer, which is not supported")
        } else if any(&|name| name.starts_with("model.diffusion_model.")) {
            Some("a whole model in CompVis's names")
        } else if any(&|name| name.starts_with("down_blocks.")) {
            Some("a UNet in diffusers' names")
        } else if any(&|name| name.starts_with("decoder.up_blocks.")) {
            Some("an autoencoder in diffusers' names")
        } else if any(&|name| name.starts_with("decoder.up.")) {
            Some("an autoencoder in CompVis's names")
        } else if any(&|name| name.contains("encoder.layers.0.self_attn.")) {
            Some("a CLIP encoder")
        } else {
            None
        }
    }

    /// Says that tensors behind `prefix` are not meant to be used, so that they are not reported.
    pub fn leave_out(&self, prefix: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.names().filter(|name| name.starts_with(prefix));
        asked.extend(names.map(str::to_owned));
    }

    /// Where a tensor lies: its file's path and bytes, and its place there.
    pub(super) fn entry(&self, name: &str) -> Option<(&Path, &Bytes, &Entry)> {
        let (file, entry) = self.tensors.get(name)?;
        let (path, bytes) = &self.files[*file];
        Some((path, bytes, entry))
    }

    /// As [`entry`](Self::entry), and notes that the tensor was asked for.
    pub(super) fn find(&self, name: &str) -> Option<(&Path, &Bytes, &Entry)> {
        let found = self.entry(name)?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(name.to_owned());
        Some(found)
    }

    /// The name in the file nearest to `wanted`.
    pub(super) fn nearest(&self, wanted: &str) -> Option<&str> {
        nearest(wanted, self.names())
    }

    /// Names behind `prefix` that nobody asked for, sorted.
    pub(super) fn unused(&self, prefix: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let unused: BTreeSet<&str> = self
            .names()
            .filter(|name| name.starts_with(prefix) && !asked.contains(*name))
            .collect();
        unused.into_iter().map(str::to_owned).collect()
    }
}

/// The shards that an index lists, beside it.
fn shards(index: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(index)
        .map_err(|error| Error::file(index, open_problem(index, &error)))?;
    let damaged =
        |problem: &str| Error::file(index, format!("is not an index of shards: {problem}"));
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
    let map = json
        .get("weight_map")
        .and_then(|map| map.as_object())
        .ok_or_else(|| damaged("it has no object `weight_map`"))?;
    let mut files = BTreeSet::new();
    for file in map.values() {
        let file = file
            .as_str()
            .ok_or_else(|| damaged("a shard's name is not text"))?;
        // An index comes from strangers: it may name files beside itself and nothing else.
        if Path::new(file).file_name() != Some(file.as_ref()) {
            return Err(damaged(&format!(
                "`{}` is not a file beside it",
                printable(file)
            )));
        }
        files.insert(index.with_file_name(file));
    }
    if files.is_empty() {
        return Err(damaged("it lists no shard"));
    }
    Ok(files.into_iter().collect())
}

/// Why a folder has no weights to open, going by what it does hold.
fn no_weights(folder: &Path, variant: Option<&str>) -> String {
    let names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let ends = |ending: &str| names.iter().find(|name| name.ends_with(ending));
    if let (Some(variant), Some(other)) = (variant, ends(".safetensors").or(ends(".bin"))) {
        return format!(
            "holds no `{variant}` variant of its weights, but `{}`",
            printable(other)
        );
    }
    "holds no weights: `diffusion_pytorch_model.safetensors` or `model.safetensors` is expected"
        .into()
}
