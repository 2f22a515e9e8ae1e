//! Tensors of halves, the boxes of them that copies move, and where a box's elements then lie in shared memory: from the PTX ISA ("Tensors") and
//! from nothing of ours.

use latent_diffusion::cuda::tensor_map::{Axis, Swizzle, TensorMap};

/// Numbers, stored as halves or as they are.
#[derive(Clone)]
pub struct Numbers {
    pub exact: bool,
    pub values: Vec<f32>,
}

pub fn halves(values: Vec<f32>) -> Numbers {
    Numbers {
        exact: false,
        values,
    }
}

pub fn floats(values: Vec<f32>) -> Numbers {
    Numbers {
        exact: true,
        values,
    }
}

/// A tensor of halves with rows of whole 16 bytes, and the box of it that copies move.
pub struct Tensor {
    /// Contiguous first.
    pub extents: Vec<usize>,
    pub spans: Vec<usize>,
    pub steps: Vec<usize>,
    pub swizzle: Swizzle,
}

impl Tensor {
    pub fn new<const RANK: usize>(
        extents: [usize; RANK],
        spans: [usize; RANK],
        swizzle: Swizzle,
    ) -> Self {
        Self {
            extents: extents.to_vec(),
            spans: spans.to_vec(),
            steps: vec![1; RANK],
            swizzle,
        }
    }

    /// Elements from one to the next of each axis.
    fn strides(&self) -> Vec<usize> {
        let mut stride = self.extents[0].next_multiple_of(8);
        let rest = self.extents[1..].iter().map(|extent| {
            let own = stride;
            stride *= extent;
            own
        });
        [1].into_iter().chain(rest).collect()
    }

    pub fn len(&self) -> usize {
        let last = self.strides().len() - 1;
        self.strides()[last] * self.extents[last]
    }

    pub fn map(&self) -> TensorMap {
        let strides = self.strides();
        let axes: Vec<Axis> = (0..strides.len())
            .map(|i| Axis {
                extent: self.extents[i],
                pitch: 2 * strides[i],
                span: self.spans[i],
                step: self.steps[i],
            })
            .collect();
        TensorMap::new(0, &axes, self.swizzle).unwrap()
    }

    /// Elements of the box.
    fn counts(&self) -> Vec<usize> {
        self.spans
            .iter()
            .zip(&self.steps)
            .map(|(span, step)| span / step)
            .collect()
    }

    pub fn box_len(&self) -> usize {
        self.counts().iter().product()
    }

    /// For each element of the box in order: its place in shared memory, and in the tensor if it is inside.
    pub fn places(&self, at: &[i32]) -> Vec<(usize, Option<usize>)> {
        let (counts, strides) = (self.counts(), self.strides());
        let place = |index: usize| {
            let mut rest = index;
            let mut inside = Some(0);
            for axis in 0..counts.len() {
                let moved = rest % counts[axis] * self.steps[axis];
                rest /= counts[axis];
                let coordinate = usize::try_from(i64::from(at[axis]) + moved as i64);
                inside = match (inside, coordinate) {
                    (Some(sum), Ok(c)) if c < self.extents[axis] => Some(sum + c * strides[axis]),
                    _ => None,
                };
            }
            (swizzled(2 * index, self.swizzle.bytes()) / 2, inside)
        };
        (0..self.box_len()).map(place).collect()
    }
}

/// Where a byte goes: of `pattern` bytes, whose rows of 16 are exchanged as the number of the 128 bytes says.
fn swizzled(byte: usize, pattern: usize) -> usize {
    let pieces = (pattern / 16).max(1);
    let (piece, line) = (byte / 16, byte / 128);
    (piece ^ (line % pieces)) * 16 + byte % 16
}
