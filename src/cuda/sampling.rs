//! What only sampling asks for.

use super::{Kernel, Target};
use crate::ops::TimestepEmbedding;
use crate::tensor::Shape;

pub(super) fn timestep_embedding(
    _: &TimestepEmbedding,
    _: Shape,
    _: &Target,
) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}

pub(super) fn guidance(_: &[Shape], _: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}

pub(super) fn combine(_: &[Shape], _: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}
