//! From a name in a checkpoint to the bytes of a graph's weight, or to the sentence that says why there are none.

use super::checkpoint::Checkpoint;
use super::map::Bytes;
use super::names::Source;
use super::{Dtype, TensorView, printable};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// The weight that graphs call `name`, as `shape`: the tensor that `source` names, a third of it, or it and others stacked.
pub(super) fn view(
    checkpoint: &Checkpoint,
    source: &Source,
    name: &str,
    shape: Shape,
) -> Result<TensorView> {
    let (dtype, first) = part(checkpoint, source, &source.name, name, shape)?;
    if source.below.is_empty() {
        return Ok(TensorView::new(dtype, shape, first));
    }
    let mut all = first.to_vec();
    for other in &source.below {
        let (other_dtype, bytes) = part(checkpoint, source, other, name, shape)?;
        if other_dtype != dtype {
            return Err(Error::Tensor {
                path: checkpoint.path().to_owned(),
                tensor: name.to_owned(),
                problem: format!(
                    "is stored in parts of two types: `{}` as {dtype:?} and `{}` as {other_dtype:?}",
                    printable(&source.name),
                    printable(other)
                ),
            });
        }
        all.extend_from_slice(&bytes);
    }
    Ok(TensorView::new(dtype, shape, Bytes::from_vec(all)))
}

/// Whether every tensor of `source` is there in the sizes that a weight of this shape needs.
pub(super) fn fits(checkpoint: &Checkpoint, source: &Source, shape: Shape) -> bool {
    let expected = source.dims(shape);
    let fits = |name: &String| {
        checkpoint
            .dims(name)
            .is_some_and(|dims| without_trailing_ones(&expected) == without_trailing_ones(dims))
    };
    std::iter::once(&source.name).chain(&source.below).all(fits)
}

/// The bytes of the tensor `stored`, one of those that `source` names, or of the third of it that is meant, in the type that views have.
fn part(
    checkpoint: &Checkpoint,
    source: &Source,
    stored: &str,
    name: &str,
    shape: Shape,
) -> Result<(Dtype, Bytes)> {
    let (path, bytes, entry) = checkpoint
        .find(stored)
        .ok_or_else(|| missing(checkpoint, &[Source::whole(stored)], name))?;
    let refuse = |problem: String| Error::Tensor {
        path: path.to_owned(),
        tensor: name.to_owned(),
        problem: problem + &stored_as(name, stored),
    };
    let wide = entry.dtype == safetensors::Dtype::F64;
    let dtype = match wide {
        true => Dtype::F32,
        false => Dtype::from_safetensors(entry.dtype).ok_or_else(|| {
            refuse(format!(
                "is stored as {:?}, and weights are read from F16, BF16, F32 and F64",
                entry.dtype
            ))
        })?,
    };
    if let Some(strides) = &entry.strides {
        return Err(refuse(format!(
            "is stored with strides {strides:?} for shape {:?}, and weights are read row after row: save it again as \
             `tensor.contiguous()`",
            entry.shape
        )));
    }
    let expected = source.dims(shape);
    let mut range = entry.range.clone();
    if let Some(third) = source.third {
        let size = range.len() / 3;
        range = range.start + third * size..range.start + (third + 1) * size;
    }
    if without_trailing_ones(&expected) != without_trailing_ones(&entry.shape) {
        return Err(refuse(format!(
            "has shape {:?}, but this network needs {expected:?}",
            entry.shape
        )));
    }
    let bytes = bytes
        .slice(range)
        .ok_or_else(|| refuse("lies outside its file".into()))?;
    Ok((dtype, if wide { rounded(&bytes) } else { bytes }))
}

/// The f32 nearest to each f64: no device computes in more, and few models are stored so, so they are copied whenever one is asked for.
fn rounded(doubles: &Bytes) -> Bytes {
    let (doubles, _) = doubles.as_chunks::<8>();
    let floats = doubles.iter().map(|&x| f64::from_le_bytes(x) as f32);
    Bytes::from_vec(floats.flat_map(f32::to_le_bytes).collect())
}

/// The error for a tensor that is under none of the names it may have.
pub(super) fn missing(checkpoint: &Checkpoint, sources: &[Source], name: &str) -> Error {
    let wanted = sources.first().map_or(name, |source| &source.name);
    let mut problem = format!("is missing{}", stored_as(name, wanted));
    if let Some(nearest) = checkpoint.nearest(wanted) {
        problem += &format!("; the nearest name in the file is `{}`", printable(nearest));
    }
    if let Some(kind) = checkpoint.kind() {
        problem += &format!("; the file looks like {kind}");
    }
    Error::Tensor {
        path: checkpoint.path().to_owned(),
        tensor: name.to_owned(),
        problem,
    }
}

/// ` (in the file: ...)` where the file's name is another.
fn stored_as(name: &str, source: &str) -> String {
    if name == source {
        String::new()
    } else {
        format!(" (in the file: `{}`)", printable(source))
    }
}

fn without_trailing_ones(dims: &[usize]) -> &[usize] {
    let end = dims
        .iter()
        .rposition(|&size| size != 1)
        .map_or(0, |last| last + 1);
    &dims[..end]
}
