//! Classifier-free guidance, with the rescaling that keeps the picture's contrast.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// From the network's answers without and with the condition, `u` and `c` (the two halves of the batch), `g = u + s (c - u)`;
/// then `y = r g std(c) / std(g) + (1 - r) g`, the deviations over each image, where the rescaling factor `r` is not zero.
///
/// # Source
/// Ho and Salimans, arXiv:2207.12598, equation (6); Lin et al., arXiv:2305.08891, equations (15) and (16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guidance;

impl Graph {
    /// Appends guidance; `settings` is `(s, r)`.
    ///
    /// # Shapes
    /// `answers [2N, ..]` (first without the condition), `settings [2]` (exact) give `[N, ..]`.
    ///
    /// # Errors
    /// If the batch is odd.
    pub fn guidance(&mut self, answers: Value, settings: Value) -> CrateResult<Value> {
        self.push(Guidance, &[answers, settings])
    }
}

impl Operator for Guidance {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x, settings] = exactly(inputs)?;
        require(x.rank() > 1 && x.batch().is_multiple_of(2), || {
            format!("{x} has no halves")
        })?;
        require(settings == [2].into(), || {
            format!("takes settings [2], not {settings}")
        })?;
        Ok(x.with_batch(x.batch() / 2))
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(3 * output.len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let (without, with) = inputs[0].data.split_at(output.len());
        let [scale, rescale] = [inputs[1].data[0], inputs[1].data[1]];
        for ((y, u), c) in output.iter_mut().zip(without).zip(with) {
            *y = u + scale * (c - u);
        }
        if rescale == 0.0 {
            return;
        }
        let item = output.len() / (inputs[0].shape.batch() / 2).max(1);
        for (y, c) in output.chunks_mut(item).zip(with.chunks(item)) {
            let factor =
                f64::from(rescale) * deviation(c) / deviation(y) + 1.0 - f64::from(rescale);
            y.iter_mut()
                .for_each(|y| *y = (f64::from(*y) * factor) as f32);
        }
    }
}

/// Standard deviation with Bessel's correction, as `torch.std` has it.
fn deviation(values: &[f32]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let squares = values
        .iter()
        .map(|&v| (f64::from(v) - mean).powi(2))
        .sum::<f64>();
    (squares / (count - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extrapolates_from_without_to_with_and_restores_the_deviation() {
        let answers = Slice {
            shape: [2, 2].into(),
            data: &[0.0, 1.0, 1.0, 3.0],
        };
        let mut y = [0.0; 2];
        Guidance.eval(
            &[
                answers,
                Slice {
                    shape: [2].into(),
                    data: &[2.0, 0.0],
                },
            ],
            &[],
            &mut y,
        );
        assert_eq!(y, [2.0, 5.0]);
        Guidance.eval(
            &[
                answers,
                Slice {
                    shape: [2].into(),
                    data: &[2.0, 1.0],
                },
            ],
            &[],
            &mut y,
        );
        assert!((deviation(&y) - deviation(&[1.0, 3.0])).abs() < 1e-6);
        assert!(Guidance.infer(&[[3, 2].into(), [2].into()]).is_err());
    }
}
