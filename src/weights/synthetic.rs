//! Seeded weights for any name and shape, so that a network can be built, run and timed without a checkpoint.
//!
//! Element `i` of a tensor is a hash of (seed, name, i), so a tensor is the same whatever was asked before it and on
//! however many threads it is made. Scales follow the usual initialisations, so that activations stay near 1 through
//! any depth; nothing is zero, not even the layers that training starts at zero, since a zero would hide an error.

use super::map::Bytes;
use super::view::{Dtype, TensorView};
use crate::tensor::Shape;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Values made by one task.
const CHUNK: usize = 1 << 14;

/// Tensors that are made when first asked for, and kept.
pub(super) struct Synthetic {
    seed: u64,
    made: Mutex<HashMap<(String, Shape), Bytes>>,
}

impl Synthetic {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            made: Mutex::default(),
        }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// The tensor of this name and shape, in f16.
    pub(super) fn get(&self, name: &str, shape: Shape) -> TensorView {
        let key = (name.to_owned(), shape);
        // The lock is not held while values are made: rayon may run another `get` on this very thread meanwhile.
        let made = self.lock().get(&key).cloned();
        let bytes = made.unwrap_or_else(|| {
            let bytes = Bytes::from_vec(values(self.seed, name, shape));
            self.lock().entry(key).or_insert(bytes).clone()
        });
        TensorView::new(Dtype::F16, shape, bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Shape), Bytes>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tensor that is not kept.
pub(super) fn view(seed: u64, name: &str, shape: Shape) -> TensorView {
    let bytes = Bytes::from_vec(values(seed, name, shape));
    TensorView::new(Dtype::F16, shape, bytes)
}

/// The bytes of a tensor in f16.
fn values(seed: u64, name: &str, shape: Shape) -> Vec<u8> {
    let key = mix(seed ^ fnv(name));
    let (mean, deviation) = distribution(name, shape);
    // Uniform over +-sqrt(3) deviations has this deviation.
    let scale = deviation * 3f32.sqrt() / 32768.0;
    let mut values = vec![f16::ZERO; shape.len()];
    values
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(chunk, out)| {
            let mut exact = [0f32; CHUNK];
            let exact = &mut exact[..out.len()];
            for (i, quad) in exact.chunks_mut(4).enumerate() {
                let bits = mix(key.wrapping_add((chunk * CHUNK / 4 + i) as u64));
                for (j, value) in quad.iter_mut().enumerate() {
                    // A half is added so that the 2^16 values lie symmetrically about zero, and none is zero.
                    let uniform = (bits >> (16 * j)) as u16 as f32 - 32767.5;
                    *value = mean + scale * uniform;
                }
            }
            out.convert_from_f32_slice(exact);
        });
    bytemuck::cast_slice(&values).to_vec()
}

/// Mean and standard deviation of a tensor's elements, by what its name and rank say it is.
fn distribution(name: &str, shape: Shape) -> (f32, f32) {
    let fan_in: usize = shape.dims().iter().skip(1).product();
    if name.ends_with("bias") {
        (0.0, 0.02)
    } else if shape.rank() <= 1 {
        // The only vectors beside biases are the gains of normalisations.
        (1.0, 0.1)
    } else if name.contains("embedding") {
        (0.0, 0.02)
    } else {
        (0.0, 1.0 / (fan_in.max(1) as f32).sqrt())
    }
}

/// The 64-bit FNV-1a hash.
fn fnv(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The output function of SplitMix64, a bijection that spreads every bit.
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_weights_depend_on_seed_and_name_alone() {
        let shape = Shape::new(&[300, 257]);
        let of_seed = |seed, name| Synthetic::new(seed).get(name, shape).to_f32();
        let first = of_seed(7, "a.weight");
        let kept = Synthetic::new(7);
        kept.get("b.weight", shape);
        assert_eq!(first, kept.get("a.weight", shape).to_f32());
        assert_eq!(first, kept.get("a.weight", shape).to_f32());
        assert_ne!(first, of_seed(8, "a.weight"));
        assert_ne!(first, of_seed(7, "b.weight"));
        // What a benchmark ran on last year is what it runs on now.
        assert_eq!(first[..3], [-0.029388428, -0.001373291, -0.013130188]);
    }

    #[test]
    fn synthetic_values_have_the_scale_of_an_initialisation() {
        let weights = Synthetic::new(0);
        for (name, shape, mean, deviation) in [
            (
                "conv.weight",
                Shape::new(&[64, 32, 3, 3]),
                0.0,
                (1.0f64 / 288.0).sqrt(),
            ),
            ("conv.bias", Shape::new(&[4096]), 0.0, 0.02),
            ("norm.weight", Shape::new(&[4096]), 1.0, 0.1),
            ("token_embedding.weight", Shape::new(&[512, 64]), 0.0, 0.02),
        ] {
            let values = weights.get(name, shape).to_f32();
            let n = values.len() as f64;
            let sum: f64 = values.iter().map(|&x| f64::from(x)).sum();
            let squares: f64 = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
            // Five standard errors: of the mean, and of the variance of a uniform variable (0.8 sigma^4 / n).
            assert!(
                (sum / n - mean).abs() < 5.0 * deviation / n.sqrt(),
                "{name}"
            );
            let variance = deviation * deviation;
            assert!(
                (squares / n - variance).abs() < 5.0 * variance * (0.8 / n).sqrt(),
                "{name}"
            );
            assert!(values.iter().all(|&x| x != 0.0), "{name}");
        }
    }
}
