//! Finds models that the Hugging Face tools have downloaded, by their `org/name`. Reads their cache, never the network.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The `org/name` that a path is, if it looks like one.
pub(super) fn id(path: &Path) -> Option<&str> {
    let id = path.to_str()?;
    let (org, name) = id.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    (plain(org) && plain(name)).then_some(id)
}

/// The folder of a model's main revision in the cache.
///
/// # Errors
/// If the model is not there, or only in part.
pub(super) fn snapshot(cache: &Path, id: &str) -> Result<PathBuf> {
    let model = cache.join(format!("models--{}", id.replace('/', "--")));
    let absent = || {
        Error::file(
            id,
            format!(
                "is neither a file, nor a folder, nor a model in the Hugging Face cache {}: download it with \
                 `hf download {id}`",
                cache.display()
            ),
        )
    };
    let commit = fs::read_to_string(model.join("refs").join("main")).map_err(|_| absent())?;
    let commit = commit.trim();
    // A reference is a commit's name, and never leads out of the cache.
    if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(Error::file(
            model.join("refs").join("main"),
            "is not the name of a commit",
        ));
    }
    let folder = model.join("snapshots").join(commit);
    if folder.is_dir() {
        Ok(folder)
    } else {
        Err(Error::file(
            folder,
            format!(
                "is missing: the download of {id} is incomplete; repeat it with `hf download {id}`"
            ),
        ))
    }
}
