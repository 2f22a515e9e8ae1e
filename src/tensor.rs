//! Shapes and dense host tensors.
//!
//! Everything is dense and row-major: images `[N, H, W, C]`, tokens `[N, T, C]`. There are no strides and no views, so a tensor
//! is a shape and a run of f32, and a reshape never moves a byte. Host tensors are always f32: what precision a value
//! has on a device is the device's business. Token ids and labels travel as f32 too (exact up to 2^24).

use crate::error::{Error, Result};
use std::fmt;

/// The largest rank any tensor of a latent diffusion model has.
const MAX_RANK: usize = 4;

/// The sizes of a dense tensor, outermost first; rank 0 (a scalar) to 4.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// A shape of the given sizes.
    ///
    /// # Panics
    /// If there are more than four sizes: ranks are written in the program, never read from input.
    pub fn new(dims: &[usize]) -> Self {
        assert!(
            dims.len() <= MAX_RANK,
            "a shape has at most {MAX_RANK} sizes, not {}",
            dims.len()
        );
        let mut padded = [1; MAX_RANK];
        padded[..dims.len()].copy_from_slice(dims);
        Self {
            dims: padded,
            rank: dims.len() as u8,
        }
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// The number of sizes.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outermost size: the batch of an image or token tensor (1 for a scalar).
    pub fn batch(&self) -> usize {
        self.dims[0]
    }

    /// The innermost size: the channels of an image or token tensor (1 for a scalar).
    pub fn channels(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The number of rows of `channels` elements.
    pub fn rows(&self) -> usize {
        self.dims()
            .split_last()
            .map_or(1, |(_, outer)| outer.iter().product())
    }

    /// The same shape with another innermost size.
    pub fn with_channels(&self, channels: usize) -> Self {
        let mut shape = *self;
        if let Some(last) = shape.dims[..shape.rank as usize].last_mut() {
            *last = channels;
        }
        shape
    }

    /// The same shape with another outermost size.
    pub fn with_batch(&self, batch: usize) -> Self {
        let mut shape = *self;
        if shape.rank > 0 {
            shape.dims[0] = batch;
        }
        shape
    }

    /// `[n, h, w, c]` of an image, or `None` if the rank is not 4.
    pub fn image(&self) -> Option<[usize; 4]> {
        (self.rank == 4).then_some(self.dims)
    }

    /// `[n, t, c]` of tokens, or `None` if the rank is not 3.
    pub fn tokens(&self) -> Option<[usize; 3]> {
        (self.rank == 3).then(|| [self.dims[0], self.dims[1], self.dims[2]])
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self::new(&dims)
    }
}

/// A dense f32 tensor in host memory.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    shape: Shape,
    data: Vec<f32>,
}

impl Tensor {
    /// A tensor of the given elements, row-major.
    ///
    /// # Errors
    /// If the number of elements is not the shape's.
    pub fn new(shape: impl Into<Shape>, data: Vec<f32>) -> Result<Self> {
        let shape = shape.into();
        if shape.len() != data.len() {
            return Err(Error::request(format!(
                "a tensor of shape {shape} holds {} values, but {} were given",
                shape.len(),
                data.len()
            )));
        }
        Ok(Self { shape, data })
    }

    /// A tensor of zeros.
    pub fn zeros(shape: impl Into<Shape>) -> Self {
        Self::full(shape, 0.0)
    }

    /// A tensor of one repeated value.
    pub fn full(shape: impl Into<Shape>, value: f32) -> Self {
        let shape = shape.into();
        Self {
            shape,
            data: vec![value; shape.len()],
        }
    }

    /// A tensor whose element `i` (row-major) is `value(i)`.
    pub fn from_fn(shape: impl Into<Shape>, value: impl FnMut(usize) -> f32) -> Self {
        let shape = shape.into();
        Self {
            shape,
            data: (0..shape.len()).map(value).collect(),
        }
    }

    /// The sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The elements, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The elements, row-major, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The elements alone.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// `[N, C, H, W]` as checkpoints, dumps and PyTorch have it, to `[N, H, W, C]`. Other ranks are returned as they are.
    pub fn nchw_to_nhwc(&self) -> Self {
        match self.shape.image() {
            Some([n, c, h, w]) => {
                self.permuted([n, h, w, c], |i, y, x, k| ((i * c + k) * h + y) * w + x)
            }
            None => self.clone(),
        }
    }

    /// `[N, H, W, C]` to `[N, C, H, W]`. Other ranks are returned as they are.
    pub fn nhwc_to_nchw(&self) -> Self {
        match self.shape.image() {
            Some([n, h, w, c]) => {
                self.permuted([n, c, h, w], |i, k, y, x| ((i * h + y) * w + x) * c + k)
            }
            None => self.clone(),
        }
    }

    /// A copy of shape `to` whose element `[a, b, c, d]` is this tensor's element `from(a, b, c, d)`.
    fn permuted(&self, to: [usize; 4], from: impl Fn(usize, usize, usize, usize) -> usize) -> Self {
        let mut data = Vec::with_capacity(self.data.len());
        for a in 0..to[0] {
            for b in 0..to[1] {
                for c in 0..to[2] {
                    data.extend((0..to[3]).map(|d| self.data[from(a, b, c, d)]));
                }
            }
        }
        Self {
            shape: to.into(),
            data,
        }
    }

    /// Item `index` of the batch, as a batch of one.
    ///
    /// # Errors
    /// If there is no such item.
    pub fn item(&self, index: usize) -> Result<Self> {
        let shape = self.shape.with_batch(1);
        let size = shape.len();
        let data = self
            .data
            .get(index * size..(index + 1) * size)
            .ok_or_else(|| {
                Error::request(format!("item {index} of a tensor of shape {}", self.shape))
            })?;
        Ok(Self {
            shape,
            data: data.to_vec(),
        })
    }

    /// Tensors one after another along the batch.
    ///
    /// # Errors
    /// If there are none, or their other sizes differ.
    pub fn stack(items: &[Self]) -> Result<Self> {
        let first = items
            .first()
            .ok_or_else(|| Error::request("a batch of no tensors"))?
            .shape;
        if let Some(other) = items
            .iter()
            .find(|t| t.shape.with_batch(1) != first.with_batch(1))
        {
            return Err(Error::request(format!(
                "a batch of tensors of shapes {first} and {}",
                other.shape
            )));
        }
        let batch = items.iter().map(|t| t.shape.batch()).sum();
        let data = items.iter().flat_map(|t| t.data.iter().copied()).collect();
        Self::new(first.with_batch(batch), data)
    }

    /// The channels of this tensor, and behind them those of another of as many rows.
    ///
    /// # Errors
    /// If it has fewer or more rows.
    pub fn beside(&self, other: &Self) -> Result<Self> {
        let [own, further] = [self, other].map(|x| x.shape.channels());
        let rows = self.data.chunks(own).zip(other.data.chunks(further));
        let joined = rows.flat_map(|(a, b)| a.iter().chain(b).copied());
        Self::new(self.shape.with_channels(own + further), joined.collect())
    }

    /// How many elements are NaN or infinite.
    pub fn count_not_finite(&self) -> usize {
        self.data.iter().filter(|x| !x.is_finite()).count()
    }

    /// Relative L2 distance `|self - reference| / |reference|`, summed in f64. NaN where either holds NaN; infinite where
    /// the reference is all zeros and this is not, or where the shapes differ.
    pub fn relative_error(&self, reference: &Self) -> f64 {
        if self.shape != reference.shape {
            return f64::INFINITY;
        }
        let (mut difference, mut norm) = (0.0f64, 0.0f64);
        for (&a, &b) in self.data.iter().zip(&reference.data) {
            difference += (f64::from(a) - f64::from(b)).powi(2);
            norm += f64::from(b).powi(2);
        }
        if difference == 0.0 {
            0.0
        } else {
            (difference / norm).sqrt()
        }
    }

    /// Largest absolute difference; NaN wherever one is met.
    pub fn max_abs_error(&self, reference: &Self) -> f32 {
        self.data
            .iter()
            .zip(&reference.data)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, |worst, d| {
                if d.is_nan() || worst.is_nan() {
                    f32::NAN
                } else {
                    d.max(worst)
                }
            })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.data[..self.data.len().min(8)];
        write!(f, "Tensor {} {shown:?}", self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_inverse_and_reorder_as_named() {
        let nchw = Tensor::from_fn([2, 3, 2, 2], |i| i as f32);
        let nhwc = nchw.nchw_to_nhwc();
        assert_eq!(nhwc.shape(), [2, 2, 2, 3].into());
        assert_eq!(&nhwc.data()[..6], &[0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        assert_eq!(nhwc.nhwc_to_nchw(), nchw);
    }

    #[test]
    fn nan_never_compares_as_equal() {
        let reference = Tensor::full([3], 1.0);
        let bad = Tensor::new([3], vec![1.0, f32::NAN, 1.0]).unwrap();
        assert!(bad.relative_error(&reference).is_nan());
        assert!(bad.max_abs_error(&reference).is_nan());
        assert!(
            Tensor::zeros([3])
                .relative_error(&Tensor::zeros([2]))
                .is_infinite()
        );
    }

    #[test]
    fn channels_stand_beside_each_other() {
        let a = Tensor::from_fn([1, 1, 2, 2], |i| i as f32);
        let b = Tensor::from_fn([1, 1, 2, 1], |i| 10.0 + i as f32);
        let both = a.beside(&b).unwrap();
        assert_eq!(both.shape(), [1, 1, 2, 3].into());
        assert_eq!(both.data(), [0.0, 1.0, 10.0, 2.0, 3.0, 11.0]);
    }

    #[test]
    fn items_and_stacks_are_inverse() {
        let batch = Tensor::from_fn([3, 2, 2], |i| i as f32);
        let items: Vec<_> = (0..3).map(|i| batch.item(i).unwrap()).collect();
        assert_eq!(Tensor::stack(&items).unwrap(), batch);
        assert!(batch.item(3).is_err());
        assert!(Tensor::stack(&[]).is_err());
    }
}
