//! Sums of products that are kept in halves for a while.

use super::Bound;
use super::{Conv2d, Linear, Op, growth};

/// Unit roundoff of halves, and half of the smallest of them.
const U: f64 = 1.0 / (1u64 << 11) as f64;
const SMALLEST: f64 = 1.0 / (1u64 << 25) as f64;

/// Products that are summed in halves before their sum is promoted, and how often that is rounded on the way: each step adds 16 at once.
const CHUNK: usize = 64;
const ROUNDINGS: f64 = 4.0;

impl Bound {
    /// The same where every 64 products are summed in halves. A chunk is rounded four times, each time by at most the unit roundoff of a partial
    /// sum, which is at most the chunk's condition; so four roundoffs of the whole condition hold whatever they are, and two are one deviation
    /// of independent ones. What is too small for a full significand is off by half of the smallest half, at every rounding.
    pub fn of_sums_in_halves(mut self, op: &Op) -> Self {
        let (Op::Linear(Linear {
            weight, epilogue, ..
        })
        | Op::Conv2d(Conv2d {
            weight, epilogue, ..
        })) = op
        else {
            return self;
        };
        let growth = growth(*epilogue);
        let chunks = weight.shape.dims()[1..].iter().product::<usize>();
        let chunks = chunks.div_ceil(CHUNK) as f64;
        let roundings = [ROUNDINGS.sqrt(), ROUNDINGS / (1.0 - ROUNDINGS * U)];
        for (factor, roundings) in self.factors.iter_mut().zip(roundings) {
            *factor += growth * roundings * U;
        }
        self.floor += growth * ROUNDINGS * chunks * SMALLEST;
        self
    }
}
