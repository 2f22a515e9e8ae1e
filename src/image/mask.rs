//! Masks: which part of an image is to be drawn anew.

use super::read::read_image;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use std::path::Path;

/// Reads a mask from an image as [`read_image`] does: 1 where it is at least half white, 0 elsewhere.
///
/// # Shapes
/// Returns `[1, H, W, 1]`.
///
/// # Errors
/// As [`read_image`].
///
/// # Source
/// `make_batch` of CompVis's `scripts/inpaint.py`, with the luma of ITU-R BT.601 that Pillow converts to.
pub fn read_mask(path: &Path) -> Result<Tensor> {
    let image = read_image(path)?;
    let [_, height, width, _] = image.shape().image().unwrap_or_default();
    let white = image.data().chunks(3).map(|pixel| {
        let [r, g, b] = [0, 1, 2].map(|channel: usize| (pixel[channel] + 1.0) * 127.5);
        let luma = (0.299 * r + 0.587 * g + 0.114 * b).round();
        if luma / 255.0 >= 0.5 { 1.0 } else { 0.0 }
    });
    Tensor::new([1, height, width, 1], white.collect())
}

/// A mask softened by a Gaussian of standard deviation `deviation`, in pixels; beyond its edges it goes on as it ends.
///
/// # Shapes
/// `mask`: `[1, H, W, 1]`; returns the same.
///
/// # Errors
/// If the mask has another shape, or the deviation is no number from 0 to 1000.
pub fn blur_mask(mask: &Tensor, deviation: f64) -> Result<Tensor> {
    let Some([1, height, width, 1]) = mask.shape().image() else {
        let problem = format!("expected [1, H, W, 1] to blur, found {}", mask.shape());
        return Err(Error::shape("mask", problem));
    };
    if !(0.0..=1000.0).contains(&deviation) {
        return Err(Error::request(format!(
            "a mask's blur of {deviation} pixels: 0 to 1000 are possible"
        )));
    }
    if deviation == 0.0 {
        return Ok(mask.clone());
    }
    // Three deviations to each side leave out 0.3 % of the curve.
    let radius = (3.0 * deviation).ceil() as isize;
    let curve: Vec<f64> = (-radius..=radius)
        .map(|d| (-0.5 * (d as f64 / deviation).powi(2)).exp())
        .collect();
    let total: f64 = curve.iter().sum();
    let along = |values: &[f32], count: usize, place: &dyn Fn(usize, usize) -> usize| {
        let mut blurred = vec![0.0; values.len()];
        for line in 0..values.len() / count.max(1) {
            for i in 0..count {
                let taps = curve.iter().zip(-radius..).map(|(weight, d)| {
                    let near = (i as isize + d).clamp(0, count as isize - 1) as usize;
                    weight * f64::from(values[place(line, near)])
                });
                blurred[place(line, i)] = (taps.sum::<f64>() / total) as f32;
            }
        }
        blurred
    };
    let across = along(mask.data(), width, &|line, i| line * width + i);
    let down = along(&across, height, &|line, i| i * width + line);
    Tensor::new(mask.shape(), down)
}

#[cfg(test)]
mod tests {
    use super::super::{Existing, write_png};
    use super::*;

    #[test]
    fn what_is_at_least_half_white_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.png");
        // Red, green and blue have 76, 150 and 29 of 255 of white's luma.
        let levels = [
            [0, 0, 0],
            [127, 127, 127],
            [128, 128, 128],
            [255, 255, 255],
            [255, 0, 0],
            [0, 255, 0],
        ];
        let pixels = levels.as_flattened();
        let image = Tensor::from_fn([1, 1, 6, 3], |i| pixels[i] as f32 / 127.5 - 1.0);
        write_png(&path, &image, &[], Existing::Keep).unwrap();
        let mask = read_mask(&path).unwrap();
        assert_eq!(mask.shape(), [1, 1, 6, 1].into());
        assert_eq!(mask.data(), [0.0, 0.0, 1.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn a_blurred_edge_rises_evenly_from_nothing_to_all() {
        let edge = Tensor::from_fn([1, 5, 40, 1], |i| if i % 40 < 20 { 0.0 } else { 1.0 });
        let blurred = blur_mask(&edge, 3.0).unwrap();
        let row = &blurred.data()[80..120];
        assert!(row.windows(2).all(|pair| pair[0] <= pair[1]), "{row:?}");
        assert_eq!((row[5], row[34]), (0.0, 1.0));
        assert!((row[19] + row[20] - 1.0).abs() < 1e-6, "{row:?}");
        assert_eq!(blur_mask(&edge, 0.0).unwrap(), edge);
        assert!(blur_mask(&edge, f64::NAN).is_err());
    }
}
