//! Fused operations as operations whose bounds are known.

use super::{Elements, normalised};
use latent_diffusion::ops::{Attention, Linear, Op, Qkv};

/// The same attention on an operand each for queries, keys and values, where one holds them all.
pub fn unstacked(op: &Op, inputs: &[Elements]) -> Option<(Op, Vec<Elements>)> {
    let Op::Attention(attention) = op else {
        return None;
    };
    let channels = inputs[0].shape.channels() / 3;
    let size = channels / attention.heads;
    let place = |part: usize, channel: usize| match attention.operands {
        Qkv::Separate => None,
        Qkv::HeadByHead => Some(channel / size * 3 * size + part * size + channel % size),
        Qkv::Thirds => Some(part * channels + channel),
    };
    place(0, 0)?;
    let separate = |part: usize| Elements {
        shape: inputs[0].shape.with_channels(channels),
        data: (inputs[0].data.chunks(3 * channels))
            .flat_map(|token| (0..channels).filter_map(move |c| Some(token[place(part, c)?])))
            .collect(),
    };
    let attention = Attention {
        operands: Qkv::Separate,
        ..*attention
    };
    Some((attention.into(), (0..3).map(separate).collect()))
}

/// A linear map without the normalisation before it, of what has that one's condition: a mean that is taken off after the product enlarges its
/// errors as one that is taken off before.
pub fn unfolded(
    op: &Op,
    inputs: &[Elements],
    params: &[Elements],
) -> Option<(Op, Vec<Elements>, Vec<Elements>)> {
    let Op::Linear(Linear {
        norm: Some(norm), ..
    }) = op
    else {
        return None;
    };
    let (maps, factors) = params.split_at(params.len() - 2);
    let channels = inputs[0].shape.channels();
    let condition = normalised(&inputs[0], factors, norm.eps, |i| (i / channels, 0));
    let rows = Elements {
        shape: inputs[0].shape,
        data: condition.into_iter().map(|x| x as f32).collect(),
    };
    let Op::Linear(mut op) = op.clone() else {
        return None;
    };
    op.norm = None;
    let others = inputs[1..].iter().map(|x| x.map(|x| x));
    let inputs = std::iter::once(rows).chain(others).collect();
    let params = maps.iter().map(|x| x.map(|x| x)).collect();
    Some((op.into(), inputs, params))
}
