//! Reads PyTorch's checkpoints (`.ckpt`, `.pt`, `.bin`): which tensors there are and where their bytes lie in the file.
//!
//! `torch.save` has written two layouts: since 1.6 a zip archive with one record for the pickle and one for every storage,
//! and before that a stream of five pickles and the storages. In both a tensor is a part of a storage, which is used where
//! it lies, so what is not asked for (optimizers, averages) is never read. A zip archive *of* a checkpoint, as the first
//! stages were published, is read in place too where it stores the checkpoint uncompressed.

use super::header::{Entry, MAX_TENSORS};
use super::map::Bytes;
use super::pickle::{Pickle, Tensor, Value};
use super::{printable, zip};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// The longest pickle of a zip archive in bytes; Stable Diffusion's has 0.2 MB.
const MAX_PICKLE: usize = 64 << 20;
/// The number that the older layout begins with, as its pickle has it.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The older layout's version.
const PROTOCOL: i64 = 1001;

/// Whether a file's first bytes are those of a zip archive or of a pickle.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    // A safetensors file may begin with the byte of a pickle, as the length of its header; then a brace follows.
    bytes.starts_with(b"PK\x03\x04")
        || bytes.starts_with(b"PK\x05\x06")
        || bytes.starts_with(b"\x80") && bytes.get(8) != Some(&b'{')
}

/// The tensors of a file by name: those of its `state_dict`, or of its root where it has none.
///
/// # Errors
/// If the file is damaged or holds something else.
pub(super) fn read(path: &Path, bytes: &Bytes) -> Result<HashMap<String, Entry>> {
    let tensors = if bytes.starts_with(b"PK") {
        zipped(bytes)
    } else {
        streamed(bytes)
    };
    tensors.map_err(|problem| Error::file(path, problem))
}

/// A zip archive of files, when it is no checkpoint itself.
pub(super) struct Parcel {
    /// Where the one checkpoint inside lies.
    pub(super) checkpoint: Range<usize>,
    /// Where its configuration lies, if there is one that can be read in place.
    pub(super) configuration: Option<Range<usize>>,
}

/// What a zip archive that holds files, and not the records of a checkpoint, has in it; `None` for any other file.
///
/// # Errors
/// If it holds no checkpoint, several, or one that is compressed.
pub(super) fn parcel(path: &Path, bytes: &Bytes) -> Result<Option<Parcel>> {
    if !bytes.starts_with(b"PK") {
        return Ok(None);
    }
    unpack(bytes).map_err(|problem| Error::file(path, problem))
}

fn unpack(bytes: &[u8]) -> Result<Option<Parcel>, String> {
    let records = zip::records(bytes)?;
    if records.keys().any(|name| name.ends_with("data.pkl")) {
        return Ok(None);
    }
    let named = |endings: &[&str]| {
        let is = |name: &&&str| endings.iter().any(|ending| name.ends_with(ending));
        let mut names: Vec<&str> = records.keys().filter(is).copied().collect();
        names.sort_unstable();
        names
    };
    let checkpoints = named(&[".ckpt", ".safetensors", ".pt"]);
    let [name] = checkpoints.as_slice() else {
        return Err(match checkpoints.first() {
            None => "is a zip archive, but no checkpoint: it has no `data.pkl`".into(),
            Some(first) => format!(
                "is a zip archive of {} checkpoints, `{}` among them: unpack it, and give the one that is meant",
                checkpoints.len(),
                printable(first)
            ),
        });
    };
    let yaml = named(&[".yaml", ".yml"]);
    let yaml = yaml.first().and_then(|name| records.get(name));
    Ok(Some(Parcel {
        checkpoint: records[name].locate(bytes)?,
        configuration: yaml.and_then(|record| record.locate(bytes).ok()),
    }))
}

fn zipped(bytes: &[u8]) -> Result<HashMap<String, Entry>, String> {
    let records = zip::records(bytes)?;
    let pickles = records
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"));
    let folder = pickles
        .min_by_key(|folder| (folder.len(), *folder))
        .ok_or("is a zip archive, but no checkpoint: it has no `data.pkl`")?;
    let place = |name: &str| {
        let record = records.get(format!("{folder}{name}").as_str());
        record.map(|record| record.locate(bytes)).transpose()
    };
    let bytes_of = |name: &str| Ok::<_, String>(place(name)?.and_then(|range| bytes.get(range)));
    if bytes_of("byteorder")? == Some(b"big") {
        return Err(BIG_ENDIAN.into());
    }
    let pickle = bytes_of("data.pkl")?.unwrap_or_default();
    if pickle.len() > MAX_PICKLE {
        return Err(format!(
            "is no checkpoint: its pickle has {} bytes, and no model needs more than {MAX_PICKLE}",
            pickle.len()
        ));
    }
    entries(&Pickle::load(pickle, 0)?, |key| {
        place(&format!("data/{key}"))
    })
}

fn streamed(bytes: &[u8]) -> Result<HashMap<String, Entry>, String> {
    let magic = Pickle::load(bytes, 0)?;
    if !matches!(magic.root, Value::Long(MAGIC)) {
        return Err("is a pickle, but not one that `torch.save` wrote: a model's .safetensors or .ckpt file is needed".into());
    }
    let version = Pickle::load(bytes, magic.end)?;
    if !matches!(version.root, Value::Int(PROTOCOL)) {
        return Err(format!(
            "is a checkpoint of another version of PyTorch's older layout than {PROTOCOL}"
        ));
    }
    let system = Pickle::load(bytes, version.end)?;
    if let Value::Dictionary(about) = system.root
        && let Some(Value::Bool(false)) = system.get(about, "little_endian")
    {
        return Err(BIG_ENDIAN.into());
    }
    let pickle = Pickle::load(bytes, system.end)?;
    let keys = Pickle::load(bytes, pickle.end)?;
    let places = storages(bytes, &pickle, &keys)?;
    entries(&pickle, |key| Ok(places.get(key).cloned()))
}

/// Where the storages of the older layout lie: in the order of `keys`, each behind its number of elements.
fn storages<'a>(
    bytes: &[u8],
    pickle: &Pickle,
    keys: &Pickle<'a>,
) -> Result<HashMap<&'a str, Range<usize>>, String> {
    let Value::Sequence(list) = keys.root else {
        return Err("is damaged: it does not list its storages".into());
    };
    let mut places = HashMap::new();
    let mut at = keys.end;
    for key in &keys.sequences[list] {
        let Value::Text(key) = *key else {
            return Err("is damaged: a storage's name is no text".into());
        };
        let shown = printable(key);
        let storage = pickle.storages.get(key);
        let storage =
            storage.ok_or_else(|| format!("is damaged: no tensor is of its storage `{shown}`"))?;
        let (_, size) = storage.element.ok_or_else(|| {
            format!("has a storage `{shown}` of a type whose size is not known, so what follows cannot be found")
        })?;
        let cut = || {
            format!("is truncated: it ends before its storage `{shown}` does; download it again")
        };
        let (count, _) = bytes[at..].split_first_chunk::<8>().ok_or_else(cut)?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok();
        let start = at + 8;
        let end = count.and_then(|count| count.checked_mul(size)?.checked_add(start));
        let end = end.filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
        places.insert(key, start..end);
        at = end;
    }
    Ok(places)
}

/// The tensors of a checkpoint, where `place` says where in the file a storage lies.
fn entries(
    pickle: &Pickle,
    place: impl Fn(&str) -> Result<Option<Range<usize>>, String>,
) -> Result<HashMap<String, Entry>, String> {
    let Value::Dictionary(root) = pickle.root else {
        return Err("is no checkpoint: it holds an object of a program, where the `state_dict()` of a model is needed".into());
    };
    let chosen = match pickle.get(root, "state_dict") {
        Some(Value::Dictionary(inner)) => inner,
        _ => root,
    };
    let mut tensors = HashMap::new();
    for (name, value) in &pickle.dictionaries[chosen] {
        let Value::Tensor(tensor) = *value else {
            continue;
        };
        let tensor = &pickle.tensors[tensor];
        let found = entry(tensor, place(tensor.storage.key)?);
        let found = found
            .map_err(|problem| format!("is damaged: tensor `{}` {problem}", printable(name)))?;
        if let Some(found) = found {
            tensors.insert((*name).to_owned(), found);
        }
        if tensors.len() > MAX_TENSORS {
            return Err(format!(
                "is no checkpoint: it has more than {MAX_TENSORS} tensors"
            ));
        }
    }
    if tensors.is_empty() {
        return Err("holds no tensor".into());
    }
    Ok(tensors)
}

/// Where a tensor of this storage lies in the file; `None` if its elements are of a type that no weight has.
fn entry(tensor: &Tensor, storage: Option<Range<usize>>) -> Result<Option<Entry>, String> {
    let Some((dtype, size)) = tensor.storage.element else {
        return Ok(None);
    };
    let (shape, strides) = (&tensor.shape, &tensor.strides);
    let absurd = || format!("has absurd sizes {shape:?} or strides {strides:?}");
    let elements = shape
        .iter()
        .try_fold(1usize, |all, size| all.checked_mul(*size));
    let empty = elements.ok_or_else(absurd)? == 0;
    // The last element's distance from the first, and the strides of elements that lie row after row.
    let (mut last, mut dense, mut row_major) = (0usize, 1, true);
    for (&size, &stride) in shape.iter().zip(strides).rev().filter(|_| !empty) {
        let reach = (size - 1).checked_mul(stride);
        last = reach
            .and_then(|reach| last.checked_add(reach))
            .ok_or_else(absurd)?;
        row_major &= size == 1 || stride == dense;
        dense *= size;
    }
    let span = if empty {
        0
    } else {
        last.checked_add(1).ok_or_else(absurd)?
    };
    let shown = printable(tensor.storage.key);
    let end = tensor
        .offset
        .checked_add(span)
        .filter(|end| *end <= tensor.storage.count);
    let end = end.ok_or_else(|| {
        format!(
            "reaches beyond the {} elements of its storage",
            tensor.storage.count
        )
    })?;
    let storage =
        storage.ok_or_else(|| format!("is in storage `{shown}`, which the file does not have"))?;
    let within = |elements: usize| {
        elements
            .checked_mul(size)
            .filter(|bytes| *bytes <= storage.len())
    };
    let (Some(begin), Some(end), Some(_)) = (
        within(tensor.offset),
        within(end),
        within(tensor.storage.count),
    ) else {
        return Err(format!(
            "is in storage `{shown}`, which has {} bytes, fewer than its {} elements need",
            storage.len(),
            tensor.storage.count
        ));
    };
    Ok(Some(Entry {
        dtype,
        shape: shape.clone(),
        strides: (!row_major).then(|| strides.clone()),
        range: storage.start + begin..storage.start + end,
    }))
}

const BIG_ENDIAN: &str = "was written on a big-endian machine, and its numbers are not turned around: save it again on another";
