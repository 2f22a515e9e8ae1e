//! Sinusoidal features of the timestep.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y[n] = (cos(t f_0), .., cos(t f_h-1), sin(t f_0), .., sin(t f_h-1))` with `f_i = 10000^(-i / h)` and `h` half the features.
///
/// Cosine comes first, as in the published UNets; the angles are computed in f32, as there, because at t near 1000 a
/// rounding of the frequency is visible.
///
/// # Source
/// Ho et al., arXiv:2006.11239, appendix B, after Vaswani et al., section 3.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestepEmbedding {
    /// Number of features, even.
    pub features: usize,
}

impl Graph {
    /// Appends the features of `timestep`.
    ///
    /// # Shapes
    /// `timestep [N]` (exact) gives `[N, features]`.
    ///
    /// # Errors
    /// If `features` is odd.
    pub fn timestep_embedding(&mut self, timestep: Value, features: usize) -> CrateResult<Value> {
        self.push(TimestepEmbedding { features }, &[timestep])
    }
}

impl Operator for TimestepEmbedding {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [t] = exactly(inputs)?;
        require(t.rank() == 1, || format!("takes timesteps [N], not {t}"))?;
        require(self.features.is_multiple_of(2) && self.features > 0, || {
            format!("{} features have no halves", self.features)
        })?;
        Ok([t.batch(), self.features].into())
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(2 * output.len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let half = self.features / 2;
        for (y, &t) in output.chunks_mut(self.features).zip(inputs[0].data) {
            let (cos, sin) = y.split_at_mut(half);
            for i in 0..half {
                let frequency = (-(10000f32.ln()) * i as f32 / half as f32).exp();
                let angle = f64::from(t * frequency);
                cos[i] = angle.cos() as f32;
                sin[i] = angle.sin() as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_first_and_frequencies_fall() {
        let t = Slice {
            shape: [2].into(),
            data: &[0.0, 981.0],
        };
        let op = TimestepEmbedding { features: 4 };
        let mut y = [0.0; 8];
        op.eval(&[t], &[], &mut y);
        assert_eq!(y[..4], [1.0, 1.0, 0.0, 0.0]);
        assert!((f64::from(y[4]) - 981f64.cos()).abs() < 1e-6);
        assert!((f64::from(y[7]) - 9.81f64.sin()).abs() < 1e-5);
        assert!(
            TimestepEmbedding { features: 3 }
                .infer(&[[1].into()])
                .is_err()
        );
    }
}
