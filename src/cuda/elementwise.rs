//! One element at a time.

use super::{Kernel, Target};
use crate::ops::{Activate, AddChannels, AddPositions};
use crate::tensor::Shape;

pub(super) fn activation(_: &Activate, _: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}

pub(super) fn geglu(_: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}

pub(super) fn add(_: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}

pub(super) fn add_channels(
    _: &AddChannels,
    _: &[Shape],
    _: Shape,
    _: &Target,
) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}

pub(super) fn add_positions(_: &AddPositions, _: Shape, _: &Target) -> Result<Kernel, String> {
    Err("has no CUDA kernel yet".to_owned())
}
