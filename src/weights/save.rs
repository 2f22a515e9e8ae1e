//! Writing weights to a safetensors file, with one piece of a tensor in memory at a time.
//!
//! The file is written by hand and not by the crate that reads it, since a conversion must be able to stop between pieces, and to
//! refuse a number that the smaller type cannot hold with the tensor's name.

use super::synthetic;
use super::view::TensorView;
use super::{Dtype, Kind, Weights};
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Elements that are converted at a time.
const PIECE: usize = 1 << 16;

/// A tensor to be written.
pub struct Written<'a> {
    /// Its name in the file.
    pub name: String,
    /// The weights it is among.
    pub weights: &'a Weights,
    /// What graphs call it.
    pub own: &'a str,
    /// Its shape in the graph; in the file it keeps the one it has on disk.
    pub shape: Shape,
    /// The precision to write it in, if not its own.
    pub dtype: Option<Dtype>,
}

/// Writes tensors to a safetensors file as they are: for each its name in the file, and the weights, name and shape it comes from.
///
/// The file appears whole or not at all. Synthetic tensors are made when they are written and not kept, so a model far
/// larger than memory can be written.
///
/// # Errors
/// If a tensor is missing or does not fit, or the file cannot be written.
pub fn save<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a Weights, &'a str, Shape)>,
) -> Result<()> {
    let tensors = tensors
        .into_iter()
        .map(|(name, weights, own, shape)| Written {
            name,
            weights,
            own,
            shape,
            dtype: None,
        });
    save_as(path, tensors.collect(), &BTreeMap::new(), &mut |_| Ok(()))
}

/// A safetensors file of tensors in f32.
pub(super) fn to_bytes<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<Vec<u8>> {
    let views = tensors.into_iter().map(|(name, tensor)| {
        let dims = tensor.shape().dims().to_vec();
        let bytes = bytemuck::cast_slice(tensor.data());
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, dims, bytes);
        Ok((
            name,
            view.map_err(|error| Error::request(error.to_string()))?,
        ))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, None).map_err(|error| Error::request(error.to_string()))
}

/// As [`save`], each tensor in its precision, with texts about the file. `progress` is told how many bytes more are written, and may
/// stop it.
///
/// # Errors
/// As [`save`]; if a number is beyond the range of the precision it is to be written in; or as `progress` does.
pub fn save_as(
    path: &Path,
    tensors: Vec<Written>,
    about: &BTreeMap<String, String>,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let mut all = tensors
        .into_iter()
        .map(Prepared::new)
        .collect::<Result<Vec<_>>>()?;
    // The wider type first, so that every tensor lies at a multiple of its element.
    all.sort_by(|a, b| (b.dtype.bytes(), &a.name).cmp(&(a.dtype.bytes(), &b.name)));
    let failed = |error: io::Error| Error::output(path, error.to_string());
    let tensors = all.iter().map(|tensor| {
        let bytes = tensor.shape.len() * tensor.dtype.bytes();
        let dtype = format!("{:?}", tensor.dtype);
        (&*tensor.name, dtype, tensor.dims.clone(), bytes)
    });
    let header = header_of(tensors, about);
    whole(path, &mut |file| {
        file.write_all(&header).map_err(failed)?;
        all.iter().try_for_each(|tensor| {
            tensor.each_piece(&mut |piece| {
                file.write_all(piece).map_err(failed)?;
                progress(piece.len())
            })
        })
    })
}

/// Lets `write` fill a file that has its name only when all of it is on the disk.
pub(super) fn whole(
    path: &Path,
    write: &mut dyn FnMut(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let failed = |error: io::Error| Error::output(path, error.to_string());
    let partial = path.with_added_extension(format!("partial-{}", std::process::id()));
    let mut filled = || {
        let mut file = BufWriter::new(File::create(&partial).map_err(failed)?);
        write(&mut file)?;
        let file = file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        fs::rename(&partial, path).map_err(failed)
    };
    let outcome = filled();
    if outcome.is_err() {
        // Where even this fails, the first error is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    outcome
}

/// What precedes the data: of each tensor name, type, sizes and bytes. It is filled up with spaces so that the data begins at a multiple of eight
/// bytes.
pub(super) fn header_of<'a>(
    tensors: impl Iterator<Item = (&'a str, String, Vec<usize>, usize)>,
    about: &BTreeMap<String, String>,
) -> Vec<u8> {
    let (mut map, mut end) = (Map::new(), 0);
    if !about.is_empty() {
        map.insert("__metadata__".into(), json!(about));
    }
    for (name, dtype, dims, bytes) in tensors {
        let start = end;
        end += bytes;
        let about = json!({
            "dtype": dtype,
            "shape": dims,
            "data_offsets": [start, end],
        });
        map.insert(name.to_owned(), about);
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), &*text].concat()
}

struct Prepared<'a> {
    name: String,
    dims: Vec<usize>,
    shape: Shape,
    dtype: Dtype,
    source: Source<'a>,
    weights: &'a Weights,
}

enum Source<'a> {
    Stored(TensorView),
    Made(u64, &'a str),
}

impl<'a> Prepared<'a> {
    fn new(tensor: Written<'a>) -> Result<Self> {
        let Written {
            name,
            weights,
            own,
            shape,
            dtype,
        } = tensor;
        let (kind, own_name) = weights.owner(own);
        let (source, stored) = match kind {
            Kind::Synthetic(synthetic) => (Source::Made(synthetic.seed(), own_name), Dtype::F16),
            Kind::Checkpoint(..) => {
                let view = weights.get(own, &shape)?;
                let stored = view.dtype();
                (Source::Stored(view), stored)
            }
        };
        Ok(Self {
            name,
            dims: weights.dims(own).unwrap_or(shape.dims().to_vec()),
            shape,
            dtype: dtype.unwrap_or(stored),
            source,
            weights,
        })
    }

    /// The bytes of the tensor in the precision of the file, piece by piece.
    fn each_piece(&self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let view = match &self.source {
            Source::Stored(view) => view.clone(),
            Source::Made(seed, own) => synthetic::view(*seed, own, self.shape),
        };
        let mut exact = vec![0.0f32; PIECE.min(self.shape.len())];
        let mut halves = vec![f16::ZERO; exact.len()];
        for start in (0..self.shape.len()).step_by(PIECE) {
            let count = PIECE.min(self.shape.len() - start);
            let (exact, halves) = (&mut exact[..count], &mut halves[..count]);
            if view.dtype() == self.dtype {
                let size = self.dtype.bytes();
                take(&view.bytes()[start * size..(start + count) * size])?;
                continue;
            }
            view.read_f32(start, exact);
            if self.dtype == Dtype::F32 {
                take(bytemuck::cast_slice(exact))?;
                continue;
            }
            halves.convert_from_f32_slice(exact);
            let lost = exact
                .iter()
                .zip(&*halves)
                .find(|(exact, half)| exact.is_finite() && half.is_infinite());
            if let Some((number, _)) = lost {
                return Err(Error::Tensor {
                    path: self.weights.path().unwrap_or_default(),
                    tensor: self.name.clone(),
                    problem: format!(
                        "holds {number}, and f16 reaches to 65504: convert it with `--dtype f32`"
                    ),
                });
            }
            take(bytemuck::cast_slice(halves))?;
        }
        view.release();
        Ok(())
    }
}
