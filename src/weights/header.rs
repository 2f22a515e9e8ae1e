//! Reads the header of a safetensors file, and says in words what is wrong with a file that is not one.
//!
//! The `safetensors` crate checks that the tensors fill the file without overlap or hole. It takes some files that a
//! loader of models should not, and refuses what people really have on disk (a web page, a GGUF file) in terms of header
//! lengths; both are seen to here, first.

use super::map::Bytes;
use super::printable;
use crate::error::{Error, Result};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// The longest header in bytes; Stable Diffusion's has 0.2 MB.
const MAX_HEADER: u64 = 8 << 20;
/// The most tensors in one file; Stable Diffusion with its moving average has 1,900.
pub(super) const MAX_TENSORS: usize = 20_000;

/// Where a tensor lies in its file.
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// In elements, where they do not lie row after row; only PyTorch's own files have such tensors.
    pub(super) strides: Option<Vec<usize>>,
    /// In bytes from the start of the file.
    pub(super) range: Range<usize>,
}

/// The tensors of a file by name.
///
/// # Errors
/// If the file is not a sound safetensors file, with what it seems to be instead.
pub(super) fn read(path: &Path, bytes: &Bytes) -> Result<HashMap<String, Entry>> {
    let header = header_text(bytes).map_err(|problem| Error::file(path, problem))?;
    check_keys(header).map_err(|problem| Error::file(path, problem))?;
    let (length, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| Error::file(path, damage(error)))?;
    let data = length + 8;
    let entry = |info: &safetensors::tensor::TensorInfo| Entry {
        dtype: info.dtype,
        shape: info.shape.clone(),
        strides: None,
        range: data + info.data_offsets.0..data + info.data_offsets.1,
    };
    let tensors: HashMap<_, _> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| (name, entry(info)))
        .collect();
    if tensors.is_empty() {
        return Err(Error::file(path, "holds no tensor"));
    }
    Ok(tensors)
}

/// The JSON text between the length and the data.
fn header_text(bytes: &[u8]) -> Result<&[u8], String> {
    if bytes.is_empty() {
        return Err("is empty: the download may have failed".into());
    }
    if let Some(problem) = something_else(bytes) {
        return Err(problem);
    }
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(
            "is not a safetensors file: it is shorter than the 8 bytes of its first field".into(),
        );
    };
    let length = u64::from_le_bytes(*length);
    if rest.first().is_some_and(|&byte| byte != b'{') {
        return Err("is not a safetensors file: no JSON header follows its first 8 bytes".into());
    }
    if length > MAX_HEADER {
        return Err(format!(
            "claims a header of {length} bytes, and no model needs more than {MAX_HEADER}: the file is damaged"
        ));
    }
    rest.get(..length as usize).ok_or_else(|| {
        format!(
            "is truncated: its header has {length} bytes, but only {} follow",
            rest.len()
        )
    })
}

/// What a file is that is taken for a checkpoint by mistake, and what to do, or `None` if it may be a checkpoint.
fn something_else(bytes: &[u8]) -> Option<String> {
    let start = &bytes[..bytes.len().min(512)];
    let text = String::from_utf8_lossy(start)
        .trim_start()
        .to_ascii_lowercase();
    let problem = if text.starts_with("<!doctype")
        || text.starts_with("<html")
        || text.starts_with("<?xml")
    {
        "is a web page, not a model: the download returned an error page; download the file itself"
    } else if text.starts_with("version https://git-lfs") {
        "is a git-lfs pointer, not the model: run `git lfs pull` where it was cloned, or download the file itself"
    } else if start.starts_with(b"GGUF") {
        "is a GGUF file: download the model's .safetensors file"
    } else {
        return None;
    };
    Some(problem.into())
}

/// Walks the header's keys once, for what the crate does not check: how many there are, and that none comes twice.
fn check_keys(header: &[u8]) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_slice(header);
    json.deserialize_map(KeyCheck)
        .map_err(|error| format!("has a damaged header: {error}"))
}

struct KeyCheck;

impl<'de> Visitor<'de> for KeyCheck {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let mut names = HashSet::new();
        while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
            if names.contains(&name) {
                let name = printable(&name);
                return Err(M::Error::custom(format!("tensor `{name}` is listed twice")));
            }
            names.insert(name);
            if names.len() > MAX_TENSORS {
                return Err(M::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
        }
        Ok(())
    }
}

/// The crate's verdict in a reader's terms.
fn damage(error: SafeTensorError) -> String {
    match error {
        SafeTensorError::MetadataIncompleteBuffer => {
            "does not end where its header says the last tensor ends: it is truncated or damaged; download it again".into()
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("is damaged: tensor `{}` does not begin where the one before it ends", printable(&name))
        }
        SafeTensorError::TensorInvalidInfo => {
            "is damaged: a tensor's bytes are not as many as its shape and type need".into()
        }
        SafeTensorError::ValidationOverflow => "is damaged: a tensor's sizes are absurd".into(),
        other => format!("is not a sound safetensors file: {other}"),
    }
}
