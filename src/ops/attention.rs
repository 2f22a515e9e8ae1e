//! Multi-head attention: the only place where softmax exists.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y[n, t, a] = softmax_l(scale * q[n, t, a] . k[n, l, a]) v[n, l, a]` for each head `a`, heads lying side by side along the channels.
///
/// # Source
/// Vaswani et al., arXiv:1706.03762, equation (1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Number of heads; the head size is the channels divided by it.
    pub heads: usize,
    /// Factor of the logits, `1 / sqrt(head size)` in every network here.
    pub scale: f32,
    /// Position `t` sees positions up to `t` only.
    pub causal: bool,
}

impl Graph {
    /// Appends attention of `heads` heads, scaled by `1 / sqrt(head size)`.
    ///
    /// # Shapes
    /// `q [N, T, C]`, `k [N, L, C]`, `v [N, L, C]` give `[N, T, C]`.
    ///
    /// # Errors
    /// If the shapes do not fit, or the heads do not divide the channels.
    pub fn attention(
        &mut self,
        [q, k, v]: [Value; 3],
        heads: usize,
        causal: bool,
    ) -> CrateResult<Value> {
        let size = self.shape(q).channels() / heads.max(1);
        let scale = (1.0 / (size as f64).sqrt()) as f32;
        self.push(
            Attention {
                heads,
                scale,
                causal,
            },
            &[q, k, v],
        )
    }
}

impl Operator for Attention {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [q, k, v] = exactly(inputs)?;
        let (Some([n, t, c]), Some([_, keys, _])) = (q.tokens(), k.tokens()) else {
            return Err(format!("takes tokens [N, T, C], not {q} and {k}"));
        };
        require(k == [n, keys, c].into() && v == k && keys > 0, || {
            format!("q {q}, k {k} and v {v} do not fit")
        })?;
        require(self.heads > 0 && c.is_multiple_of(self.heads), || {
            format!("{} heads do not divide the channels of {q}", self.heads)
        })?;
        require(!self.causal || t == keys, || {
            format!("causal attention of {t} on {keys} keys")
        })?;
        Ok(q)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        let keys = inputs[1].dims()[1];
        Cost::of(4 * output.len() * keys, inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let (Some([_, t, c]), Some([_, keys, _])) =
            (inputs[0].shape.tokens(), inputs[1].shape.tokens())
        else {
            return;
        };
        let size = c / self.heads;
        for (row, y) in output.chunks_mut(size).enumerate() {
            let (n, at, head) = (
                row / (t * self.heads),
                row / self.heads % t,
                row % self.heads,
            );
            let vector = |slice: &Slice, tokens: usize, token: usize| {
                let start = (n * tokens + token) * c + head * size;
                slice.data[start..start + size]
                    .iter()
                    .map(|&x| f64::from(x))
                    .collect::<Vec<_>>()
            };
            let q = vector(&inputs[0], t, at);
            let seen = if self.causal { at + 1 } else { keys };
            let logit = |l| {
                let k = vector(&inputs[1], keys, l);
                q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(self.scale)
            };
            let logits: Vec<f64> = (0..seen).map(logit).collect();
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; size];
            for (l, weight) in weights.iter().enumerate() {
                for (m, v) in mixed.iter_mut().zip(vector(&inputs[2], keys, l)) {
                    *m += weight / total * v;
                }
            }
            y.iter_mut().zip(mixed).for_each(|(y, m)| *y = m as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_average_the_values_each_head_its_own() {
        let q = Slice {
            shape: [1, 1, 2].into(),
            data: &[1.0, 1.0],
        };
        let k = Slice {
            shape: [1, 2, 2].into(),
            data: &[1.0, 0.0, 1.0, 1e4],
        };
        let v = Slice {
            shape: [1, 2, 2].into(),
            data: &[2.0, 2.0, 4.0, 4.0],
        };
        let op = Attention {
            heads: 2,
            scale: 1.0,
            causal: false,
        };
        assert_eq!(op.infer(&[q.shape, k.shape, v.shape]), Ok(q.shape));
        let mut y = [0.0; 2];
        op.eval(&[q, k, v], &[], &mut y);
        assert_eq!(
            y,
            [3.0, 4.0],
            "the second head sees only its large key, and does not overflow"
        );
    }

    #[test]
    fn causal_positions_do_not_see_the_future() {
        let x = Slice {
            shape: [1, 2, 1].into(),
            data: &[0.0, 0.0],
        };
        let v = Slice {
            shape: [1, 2, 1].into(),
            data: &[1.0, 3.0],
        };
        let mut y = [0.0; 2];
        Attention {
            heads: 1,
            scale: 1.0,
            causal: true,
        }
        .eval(&[x, x, v], &[], &mut y);
        assert_eq!(y, [1.0, 2.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let op = Attention {
            heads: 3,
            scale: 1.0,
            causal: false,
        };
        assert!(
            op.infer(&[[1, 4, 8].into(), [1, 4, 8].into(), [1, 4, 8].into()])
                .is_err()
        );
        let op = Attention {
            heads: 2,
            scale: 1.0,
            causal: true,
        };
        assert!(
            op.infer(&[[1, 4, 8].into(), [1, 5, 8].into(), [1, 5, 8].into()])
                .is_err()
        );
        assert!(
            op.infer(&[[2, 4, 8].into(), [1, 4, 8].into(), [1, 4, 8].into()])
                .is_err()
        );
    }
}
