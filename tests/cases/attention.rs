//! Attention: every head size of the published networks, few keys and many, causal, sharp.

use super::{Case, IMAGES, Operand, case};
use latent_diffusion::ops::Attention;

pub(super) fn cases() -> Vec<Case> {
    // Queries, keys, heads, head size.
    let mut sizes: Vec<[usize; 4]> = [8, 24, 32, 40, 48, 64, 80, 96, 128, 160, 384, 512, 576, 960]
        .map(|size| [5, 77, 1, size])
        .to_vec();
    sizes.extend([
        [1, 1, 2, 8],
        [1, 77, 2, 40],
        [9, 1, 3, 40],
        [64, 64, 2, 32],
        [65, 92, 2, 40],
        [4, 21, 8, 5],
        [33, 130, 1, 16],
        [3, 4096, 1, 8],
        [300, 77, 3, 40],
        [40, 700, 2, 24],
        [50, 50, 1, 350],
        [16, 16, 7, 33],
    ]);
    let plain = sizes.into_iter().map(|size| attention(size, false, 1.0));
    let causal = [[77, 77, 2, 64], [1, 1, 1, 8], [40, 40, 3, 24]];
    let causal = causal.into_iter().map(|size| attention(size, true, 1.0));
    // Logits far apart: without the largest subtracted, their exponentials overflow.
    let sharp = [[17, 77, 2, 40], [20, 300, 1, 64]];
    let sharp = sharp.into_iter().map(|size| attention(size, false, 5.0));
    plain.chain(causal).chain(sharp).collect()
}

/// Attention on keys and queries of the given standard deviation.
pub fn attention([queries, keys, heads, size]: [usize; 4], causal: bool, deviation: f32) -> Case {
    let op = Attention {
        heads,
        scale: (1.0 / (size as f64).sqrt()) as f32,
        causal,
    };
    let width = heads * size;
    let operands = vec![
        Operand::spread([IMAGES, queries, width], 0.0, deviation),
        Operand::spread([IMAGES, keys, width], 0.0, deviation),
        Operand::normal([IMAGES, keys, width]),
    ];
    let causal = if causal { ", causal" } else { "" };
    let what =
        format!("{queries} on {keys}, {heads} heads of {size}, deviation {deviation}{causal}");
    case(what, op, operands)
}
