//! Elementwise non-linearities.

use super::{Cost, Operator, Slice, exactly};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// Which non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`, the UNet's and the autoencoder's.
    Silu,
    /// `x * Phi(x)` with the exact normal distribution function, never its tanh approximation (which departs by 4.7e-4).
    Gelu,
    /// `x * sigmoid(1.702 x)`, the CLIP ViT-L/14's.
    QuickGelu,
}

impl Activation {
    /// The function's value at `x`.
    pub fn apply(self, x: f32) -> f32 {
        let x = f64::from(x);
        let y = match self {
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Self::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        };
        y as f32
    }
}

/// The error function, to about 1e-13: its Maclaurin series near zero, a continued fraction of the complement beyond.
///
/// # Source
/// Abramowitz and Stegun, 7.1.6 and 7.1.14.
fn erf(x: f64) -> f64 {
    let z = x.abs();
    if z >= 6.0 {
        return x.signum();
    }
    let square = z * z;
    let value = if z < 2.5 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * square / (2.0 * n + 1.0);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-square).exp() * sum
    } else {
        let tail = (1..=60)
            .rev()
            .fold(z, |below, n| z + 0.5 * f64::from(n) / below);
        1.0 - (-square).exp() / (tail * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

/// Elementwise non-linearity: `y = activation(x)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activate {
    /// Which one.
    pub activation: Activation,
}

impl Graph {
    /// Appends `activation(x)`.
    ///
    /// # Errors
    /// None for a value of this graph.
    pub fn activate(&mut self, x: Value, activation: Activation) -> CrateResult<Value> {
        self.push(Activate { activation }, &[x])
    }
}

impl Operator for Activate {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        exactly::<1>(inputs).map(|[x]| x)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(4 * output.len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        for (y, &x) in output.iter_mut().zip(inputs[0].data) {
            *y = self.activation.apply(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_published_digits_on_both_branches() {
        // Abramowitz and Stegun, table 7.1; the last two lie beyond the change of method.
        let table = [
            (0.1, 0.112_462_916_018_284_9),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
            (4.0, 0.999_999_984_582_742_1),
        ];
        for (x, expected) in table {
            assert!((erf(x) - expected).abs() < 1e-13, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + expected).abs() < 1e-13, "odd at {x}");
        }
        assert!(
            (erf(2.5 - 1e-12) - erf(2.5 + 1e-12)).abs() < 1e-13,
            "the branches meet"
        );
    }

    #[test]
    fn each_function_at_known_points() {
        assert_eq!(Activation::Silu.apply(0.0), 0.0);
        assert!((Activation::Silu.apply(1.0) - 0.731_058_6).abs() < 1e-7);
        assert!((Activation::Gelu.apply(1.0) - 0.841_344_7).abs() < 1e-7);
        assert!((Activation::QuickGelu.apply(1.0) - 0.845_795_8).abs() < 1e-6);
        assert!(Activation::Gelu.apply(f32::NAN).is_nan());
    }
}
