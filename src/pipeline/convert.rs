//! A model as one folder of what sampling needs: half-precision weights under CompVis's names, the configuration, the tokenizer.
//!
//! Everything is written to a folder beside the target, which takes its name when all of it is on the disk; so what has the name is
//! whole. Weights are read, converted and let go piece by piece, so a checkpoint of any size takes little memory.

use super::Model;
use crate::error::{Error, Result};
use crate::models::config::to_yaml;
use crate::models::{Network, networks};
use crate::weights::{Dtype, Written, save_as};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The codes of a vector-quantised first stage: what is nearest depends on their last bits, and they are few.
const CODEBOOK: &str = "quantize.embedding.weight";
/// Bytes of a file that are hashed at a time.
const BLOCK: usize = 1 << 20;

impl Model {
    /// Writes the model to a new folder, its weights in `dtype`. `progress` is told how many bytes are done, of how many; what it
    /// refuses ends the conversion, and nothing is left of it.
    ///
    /// # Errors
    /// If the folder is there already or cannot be written, weights are missing or do not fit, one is beyond the range of `dtype`, or
    /// the model cannot be described by CompVis's configuration; or as `progress` does.
    pub fn convert(
        &self,
        folder: &Path,
        dtype: Dtype,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        if folder.symlink_metadata().is_ok() {
            return Err(Error::output(
                folder,
                "it exists already, and is kept: name another folder",
            ));
        }
        if !self.config.unsupported.is_empty() {
            return Err(self.refused("cannot be converted as a whole"));
        }
        let yaml = to_yaml(&self.name, &self.config)?;
        let networks = networks(&self.config)?;
        let (tensors, files) = self.tensors(&networks, dtype)?;
        if files.iter().any(|file| !file.is_file()) {
            return Err(self.refused("is part of the program, and no file that could be converted"));
        }
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |found| found.len() as usize);
        let elements: usize = tensors.iter().map(|tensor| tensor.shape.len()).sum();
        let total = files.iter().map(size).sum::<usize>() + elements * dtype.bytes();
        let mut done = 0;
        let mut more = |bytes: usize| {
            done += bytes;
            progress(done.min(total), total)
        };
        let partial = Partial::create(folder)?;
        let mut hashes = BTreeMap::new();
        for file in &files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            hashes.insert(name.into_owned(), hash(file, &mut more)?);
        }
        let about = BTreeMap::from([
            ("format".to_owned(), "pt".to_owned()),
            (
                "engine".to_owned(),
                format!("ldm {}", env!("CARGO_PKG_VERSION")),
            ),
            ("source".to_owned(), self.name.clone()),
            ("source_sha256".to_owned(), json!(hashes).to_string()),
        ]);
        let path = partial.0.join("model.safetensors");
        save_as(&path, tensors, &about, &mut more)?;
        partial.put("config.yaml", yaml.as_bytes())?;
        for source in &self.companions {
            let bytes = fs::read(source)
                .map_err(|error| Error::file(source, format!("cannot be read: {error}")))?;
            let name = source.file_name().unwrap_or_default();
            partial.put(name, &bytes)?;
        }
        partial.finish(folder)
    }

    /// The tensors of these networks, each once, as they are written, and the files they are in.
    fn tensors<'a>(
        &'a self,
        networks: &'a [Network],
        dtype: Dtype,
    ) -> Result<(Vec<Written<'a>>, BTreeSet<PathBuf>)> {
        let (mut tensors, mut files) = (BTreeMap::new(), BTreeSet::new());
        for network in networks {
            let Some(weights) = self.weights(network.part) else {
                continue;
            };
            weights.check(network.graph.tensors())?;
            files.extend(weights.files());
            for param in network.graph.params() {
                let prefix = self.config.unet.as_ref().map_or("", |_| network.prefix);
                let tensor = Written {
                    name: format!("{prefix}{}", param.name),
                    weights,
                    own: &param.name,
                    shape: param.shape,
                    dtype: (param.name != CODEBOOK).then_some(dtype),
                };
                tensors.insert(tensor.name.clone(), tensor);
            }
        }
        Ok((tensors.into_values().collect(), files))
    }
}

/// The SHA-256 of a file, in hexadecimal digits.
fn hash(path: &Path, more: &mut dyn FnMut(usize) -> Result<()>) -> Result<String> {
    let failed = |error| Error::file(path, format!("cannot be read: {error}"));
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut block) = (Sha256::new(), vec![0; BLOCK]);
    loop {
        match file.read(&mut block).map_err(failed)? {
            0 => break,
            count => {
                hash.update(&block[..count]);
                more(count)?;
            }
        }
    }
    let bytes = hash.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A folder that is removed again, unless it is finished.
struct Partial(PathBuf);

impl Partial {
    fn create(folder: &Path) -> Result<Self> {
        let path = folder.with_added_extension(format!("partial-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err(Error::output(folder, error.to_string())),
        }
    }

    fn put(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        fs::write(&path, bytes).map_err(|error| Error::output(&path, error.to_string()))
    }

    fn finish(self, folder: &Path) -> Result<()> {
        fs::rename(&self.0, folder).map_err(|error| Error::output(folder, error.to_string()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After the renaming there is nothing here to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}
