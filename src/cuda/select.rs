//! Which file chooses the kernels of which operation.

use super::moments::Asked;
use super::{Kernel, Target};
use super::{
    attention, codebook, conv2d, elementwise, group_norm, layer_norm, linear, movement, sampling,
};
use crate::ops::Op;
use crate::tensor::Shape;

/// The entries that compute `op` on operands of shapes `inputs`, where the result has shape `output`.
///
/// # Errors
/// A sentence, if no kernel takes these shapes.
pub fn select(op: &Op, inputs: &[Shape], output: Shape, target: &Target) -> Result<Kernel, String> {
    match op {
        Op::Input(_) | Op::Reshape(_) => Ok(Kernel::nothing()),
        Op::Linear(op) => linear::select(op, inputs, output, target, Asked::Nothing),
        Op::Conv2d(op) => conv2d::select(op, inputs, output, target, Asked::Nothing),
        Op::Attention(op) => attention::select(op, inputs, output, target),
        Op::GroupNorm(op) => group_norm::select(op, inputs, output, target),
        Op::GroupStatistics(op) => group_norm::statistics(op, inputs, output, target),
        Op::GroupNormalise(op) => group_norm::normalise(op, inputs, output, target),
        Op::LayerNorm(op) => layer_norm::select(op, output, target),
        Op::Activate(op) => elementwise::activation(op, output, target),
        Op::Geglu(_) => elementwise::geglu(output, target),
        Op::Add(_) => elementwise::add(output, target),
        Op::AddChannels(op) => elementwise::add_channels(op, inputs, output, target),
        Op::AddPositions(op) => elementwise::add_positions(op, output, target),
        Op::Concat(op) => movement::concat(op, inputs, output, target),
        Op::ScaleShift(op) => elementwise::scale_shift(op, inputs, output, target),
        Op::AveragePool2x(_) => elementwise::average_pool(inputs, output, target),
        Op::Upsample2x(_) => movement::upsample(inputs, output, target),
        Op::Embedding(op) => movement::embedding(op, output, target),
        Op::Codebook(op) => codebook::select(op, inputs, target),
        Op::GatherToken(_) => movement::gather(inputs, output, target),
        Op::TimestepEmbedding(op) => sampling::timestep_embedding(op, output, target),
        Op::Guidance(_) => sampling::guidance(inputs, output, target),
        Op::Combine(_) => sampling::combine(inputs, output, target),
        Op::Blend(_) => sampling::blend(output, target),
        Op::Assign(op) if op.combined > 0 => sampling::update(op, inputs, output, target),
        Op::Assign(_) => movement::assign(inputs, output, target),
        Op::CountNotFinite(_) => sampling::count_not_finite(inputs, output, target),
    }
}
