//! Linear combination of tensors: one update of a sampler.

use super::{Cost, Operator, Slice, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y = sum_j c_j v_j`. A term whose coefficient is zero is not read, so it may hold anything.
///
/// Every sampler step is such a combination of the current sample, the network's answer, earlier answers and noise; the
/// coefficients come from the host (see the `sampler` module), so one graph serves every sampler and every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combine;

impl Graph {
    /// Appends `sum_j coefficients[j] * terms[j]`.
    ///
    /// # Shapes
    /// `coefficients [J]` (exact), `J` terms of one shape.
    ///
    /// # Errors
    /// If the shapes differ, or there are not as many terms as coefficients.
    pub fn combine(&mut self, coefficients: Value, terms: &[Value]) -> CrateResult<Value> {
        let operands: Vec<Value> = std::iter::once(coefficients)
            .chain(terms.iter().copied())
            .collect();
        self.push(Combine, &operands)
    }
}

impl Operator for Combine {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (coefficients, terms) = inputs.split_first().ok_or("takes coefficients and terms")?;
        let first = *terms.first().ok_or("takes at least one term")?;
        require(*coefficients == [terms.len()].into(), || {
            format!(
                "{} terms need coefficients [{}], not {coefficients}",
                terms.len(),
                terms.len()
            )
        })?;
        require(terms.iter().all(|t| *t == first), || {
            format!("terms differ in shape: {terms:?}")
        })?;
        Ok(first)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(2 * output.len() * (inputs.len() - 1), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let Some((coefficients, terms)) = inputs.split_first() else {
            return;
        };
        let used: Vec<(f64, &[f32])> = coefficients
            .data
            .iter()
            .zip(terms)
            .filter(|(c, _)| **c != 0.0)
            .map(|(c, term)| (f64::from(*c), term.data))
            .collect();
        for (i, y) in output.iter_mut().enumerate() {
            *y = used
                .iter()
                .map(|(c, term)| c * f64::from(term[i]))
                .sum::<f64>() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_coefficient_hides_even_nan() {
        let c = Slice {
            shape: [3].into(),
            data: &[2.0, 0.0, -1.0],
        };
        let term = |data| Slice {
            shape: [2].into(),
            data,
        };
        let terms = [
            c,
            term(&[1.0, 2.0]),
            term(&[f32::NAN, 0.0]),
            term(&[1.0, 1.0]),
        ];
        let mut y = [0.0; 2];
        Combine.eval(&terms, &[], &mut y);
        assert_eq!(y, [1.0, 3.0]);
        let shapes: Vec<Shape> = terms.iter().map(|t| t.shape).collect();
        assert_eq!(Combine.infer(&shapes), Ok([2].into()));
        assert!(Combine.infer(&shapes[..3]).is_err());
    }
}
