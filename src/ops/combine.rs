//! Linear combination of tensors: one update of a sampler.

use super::{Cost, Operator, Slice, require, row};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y = sum_j c[s, j] v_j` for a row `s` of a table. A term whose coefficient is zero is not read, so it may hold anything.
///
/// Every sampler step is such a combination of the current sample, the network's answer, earlier answers and noise; the
/// coefficients come from the host (see the `sampler` module), a row for each step, so one graph serves every sampler and every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combine;

impl Graph {
    /// Appends `sum_j coefficients[row, j] * terms[j]`.
    ///
    /// # Shapes
    /// `coefficients [S, J]` and `row [1]` (both exact), `J` terms of one shape. A row beyond the table means its last.
    ///
    /// # Errors
    /// If the shapes differ, or there are not as many terms as coefficients.
    pub fn combine(
        &mut self,
        coefficients: Value,
        row: Value,
        terms: &[Value],
    ) -> CrateResult<Value> {
        let operands = [&[coefficients, row], terms].concat();
        self.push(Combine, &operands)
    }
}

impl Operator for Combine {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [coefficients, row, terms @ ..] = inputs else {
            return Err("takes coefficients, a row and terms".to_owned());
        };
        let first = *terms.first().ok_or("takes at least one term")?;
        let table = coefficients.rank() == 2
            && coefficients.batch() > 0
            && coefficients.channels() == terms.len();
        require(table && *row == [1].into(), || {
            format!(
                "{count} terms need coefficients [S, {count}] and a row [1], not {coefficients} and {row}",
                count = terms.len()
            )
        })?;
        require(terms.iter().all(|t| *t == first), || {
            format!("terms differ in shape: {terms:?}")
        })?;
        Ok(first)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(2 * output.len() * (inputs.len() - 2), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let [coefficients, index, terms @ ..] = inputs else {
            return;
        };
        let table = coefficients.shape;
        let used: Vec<(f64, &[f32])> = coefficients.data
            [row(*index, table.batch()) * table.channels()..]
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
            shape: [2, 3].into(),
            data: &[f32::NAN, 5.0, 5.0, 2.0, 0.0, -1.0],
        };
        let row = Slice {
            shape: [1].into(),
            data: &[1.0],
        };
        let term = |data| Slice {
            shape: [2].into(),
            data,
        };
        let terms = [
            c,
            row,
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
