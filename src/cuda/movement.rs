//! Elements that only move.

use super::{Kernel, Target};
use crate::ops::{Concat, Embedding};
use crate::tensor::Shape;

pub(super) fn concat(_: &Concat, _: &[Shape], _: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}

pub(super) fn upsample(_: &[Shape], _: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}

pub(super) fn embedding(_: &Embedding, _: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}

pub(super) fn gather(_: &[Shape], _: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}
