//! Writing weights to a safetensors file, with one tensor in memory at a time.

use super::synthetic;
use super::view::TensorView;
use super::{Dtype, Kind, Weights};
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};
use safetensors::tensor::View;
use std::borrow::Cow;
use std::path::Path;

/// Writes tensors to a safetensors file: for each its name in the file, and the weights, name and shape it comes from.
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
    let mut all = vec![];
    for (name_in_file, weights, name, shape) in tensors {
        let (kind, own) = weights.owner(name);
        let source = match kind {
            Kind::Synthetic(synthetic) => Source::Made(synthetic.seed(), own, shape),
            Kind::Checkpoint(..) => Source::Stored(weights.get(name, &shape)?),
        };
        let dims = shape.dims().to_vec();
        all.push((name_in_file, Written { dims, source }));
    }
    safetensors::serialize_to_file(all, None, path)
        .map_err(|error| Error::output(path, error.to_string()))
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

struct Written<'a> {
    dims: Vec<usize>,
    source: Source<'a>,
}

enum Source<'a> {
    Stored(TensorView),
    Made(u64, &'a str, Shape),
}

impl View for Written<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match &self.source {
            Source::Stored(view) => view.dtype().to_safetensors(),
            Source::Made(..) => Dtype::F16.to_safetensors(),
        }
    }

    fn shape(&self) -> &[usize] {
        &self.dims
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.source {
            Source::Stored(view) => view.bytes().into(),
            Source::Made(seed, name, shape) => synthetic::values(*seed, name, *shape).into(),
        }
    }

    fn data_len(&self) -> usize {
        match &self.source {
            Source::Stored(view) => view.bytes().len(),
            Source::Made(_, _, shape) => shape.len() * Dtype::F16.bytes(),
        }
    }
}
