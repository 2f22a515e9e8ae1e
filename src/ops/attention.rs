//! Multi-head attention: the only place where softmax exists.

use super::{Cost, Operator, Slice, exactly, repeats, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y[n, t, a] = softmax_l(scale * q[n, t, a] . k[n, l, a]) v[n, l, a]` for each head `a`, heads lying side by side along the channels. Queries
/// of fewer images than keys and values repeat.
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
    /// Which operands hold queries, keys and values.
    pub operands: Qkv,
}

/// Where attention finds queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qkv {
    /// In an operand each.
    Separate,
    /// In one operand: the first head's queries, keys and values, then the next head's. So CompVis's `AttentionBlock` stacks them.
    HeadByHead,
    /// In one operand: every head's queries, then all keys, then all values; CompVis's `use_new_attention_order`.
    Thirds,
}

/// How far apart the elements of the operands lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strides {
    /// From a token to the next.
    pub(crate) token: usize,
    /// From a head to the next.
    pub(crate) head: usize,
    /// From a head's queries to its keys, and from those to its values, where one operand holds them all.
    pub(crate) part: usize,
}

impl Attention {
    /// The strides of the operands where the result has `channels` channels.
    pub(crate) fn strides(&self, channels: usize) -> Strides {
        let size = channels / self.heads.max(1);
        let [token, head, part] = match self.operands {
            Qkv::Separate => [channels, size, 0],
            Qkv::HeadByHead => [3 * channels, 3 * size, size],
            Qkv::Thirds => [3 * channels, size, channels],
        };
        Strides { token, head, part }
    }

    /// Queries, keys and values, which may be one operand.
    pub(crate) fn roles<T: Copy>(&self, operands: &[T]) -> Option<[T; 3]> {
        match (self.operands, operands) {
            (Qkv::Separate, &[q, k, v]) => Some([q, k, v]),
            (Qkv::HeadByHead | Qkv::Thirds, &[qkv]) => Some([qkv; 3]),
            _ => None,
        }
    }
}

impl Graph {
    /// Appends attention of `heads` heads, scaled by `1 / sqrt(head size)`.
    ///
    /// # Shapes
    /// `q [N, T, C]`, or of a divisor of `N` images, `k [N, L, C]`, `v [N, L, C]` give `[N, T, C]`.
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
        self.push(
            Attention {
                heads,
                scale: scale(size),
                causal,
                operands: Qkv::Separate,
            },
            &[q, k, v],
        )
    }

    /// Appends attention of a sequence on itself, scaled by `1 / sqrt(head size)`.
    ///
    /// # Shapes
    /// `qkv [N, T, 3C]`, stacked as `operands` says, gives `[N, T, C]`.
    ///
    /// # Errors
    /// If the channels are not thirds of whole heads.
    pub fn attention_stacked(
        &mut self,
        qkv: Value,
        heads: usize,
        operands: Qkv,
    ) -> CrateResult<Value> {
        let size = self.shape(qkv).channels() / 3 / heads.max(1);
        self.push(
            Attention {
                heads,
                scale: scale(size),
                causal: false,
                operands,
            },
            &[qkv],
        )
    }
}

fn scale(head_size: usize) -> f32 {
    (1.0 / (head_size as f64).sqrt()) as f32
}

impl Operator for Attention {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let q = match self.operands {
            Qkv::Separate => {
                let [q, k, v] = exactly(inputs)?;
                let (Some([_, queries, c]), Some([n, keys, _])) = (q.tokens(), k.tokens()) else {
                    return Err(format!("takes tokens [N, T, C], not {q} and {k}"));
                };
                let whole = q.with_batch(n);
                let fits = k == [n, keys, c].into() && v == k && keys > 0;
                require(fits && repeats(q, whole), || {
                    format!("q {q}, k {k} and v {v} do not fit")
                })?;
                require(!self.causal || queries == keys, || {
                    format!("causal attention of {queries} on {keys} keys")
                })?;
                whole
            }
            Qkv::HeadByHead | Qkv::Thirds => {
                let [qkv] = exactly(inputs)?;
                let thirds = qkv.tokens().filter(|[_, t, c]| c % 3 == 0 && *t > 0);
                let [n, t, c] = thirds.ok_or_else(|| {
                    format!("takes queries, keys and values [N, T, 3C], not {qkv}")
                })?;
                [n, t, c / 3].into()
            }
        };
        let channels = q.channels();
        require(
            self.heads > 0 && channels.is_multiple_of(self.heads),
            || format!("{} heads do not divide the {channels} channels", self.heads),
        )?;
        Ok(q)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        let keys = self.roles(inputs).map_or(0, |[_, k, _]| k.dims()[1]);
        Cost::of(4 * output.len() * keys, inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let Some([q, k, v]) = self.roles(inputs) else {
            return;
        };
        let (Some([_, t, _]), Some([images, keys, _])) = (q.shape.tokens(), k.shape.tokens())
        else {
            return;
        };
        let size = output.len() / (images * t * self.heads).max(1);
        let strides = self.strides(size * self.heads);
        for (row, y) in output.chunks_mut(size).enumerate() {
            let (n, at, head) = (
                row / (t * self.heads),
                row / self.heads % t,
                row % self.heads,
            );
            let vector = |slice: &Slice, part: usize, tokens: usize, token: usize| {
                let image = n % slice.shape.batch();
                let start = (image * tokens + token) * strides.token
                    + head * strides.head
                    + part * strides.part;
                slice.data[start..start + size]
                    .iter()
                    .map(|&x| f64::from(x))
                    .collect::<Vec<_>>()
            };
            let query = vector(&q, 0, t, at);
            let seen = if self.causal { at + 1 } else { keys };
            let logit = |l| {
                let key = vector(&k, 1, keys, l);
                query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * f64::from(self.scale)
            };
            let logits: Vec<f64> = (0..seen).map(logit).collect();
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; size];
            for (l, weight) in weights.iter().enumerate() {
                for (m, v) in mixed.iter_mut().zip(vector(&v, 2, keys, l)) {
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
            operands: Qkv::Separate,
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
            operands: Qkv::Separate,
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
            operands: Qkv::Separate,
        };
        assert!(
            op.infer(&[[1, 4, 8].into(), [1, 4, 8].into(), [1, 4, 8].into()])
                .is_err()
        );
        let op = Attention {
            heads: 2,
            scale: 1.0,
            causal: true,
            operands: Qkv::Separate,
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

    #[test]
    fn stacked_operands_are_taken_apart_by_their_order() {
        // One token of two heads of one channel: queries 1 and 2, keys 3 and 4, values 5 and 6. With one key, a head's result is its value.
        for (operands, data) in [
            (Qkv::HeadByHead, [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]),
            (Qkv::Thirds, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ] {
            let op = Attention {
                heads: 2,
                scale: 1.0,
                causal: false,
                operands,
            };
            let shape = [1, 1, 6].into();
            assert_eq!(op.infer(&[shape]), Ok([1, 1, 2].into()));
            let mut y = [0.0; 2];
            op.eval(&[Slice { shape, data: &data }], &[], &mut y);
            assert_eq!(y, [5.0, 6.0]);
            assert_eq!(op.cost(&[shape], [1, 1, 2].into()).flops, 8);
            assert!(op.infer(&[[1, 1, 8].into()]).is_err(), "no thirds");
            assert!(op.infer(&[[1, 1, 9].into()]).is_err(), "heads of 1.5");
        }
    }
}
