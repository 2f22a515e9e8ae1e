//! How alike two images are: the two measures by which the paper compares first stages, on the 256 levels that a file holds.

use super::png::to_byte;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Largest level.
const PEAK: f64 = 255.0;

/// Pixels along a side of SSIM's window.
const WINDOW: usize = 11;

/// How like an image its original is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// Peak signal-to-noise ratio over all channels, in decibels; infinite for images that are the same.
    pub psnr: f64,
    /// Structural similarity, the mean of the three channels', -1 to 1; `None` where a side is shorter than its window of 11 pixels.
    pub ssim: Option<f64>,
}

impl Similarity {
    /// Compares two images as 8-bit files would hold them.
    ///
    /// # Shapes
    /// Both `[1, H, W, C]`, -1..1 (clamped).
    ///
    /// # Errors
    /// If the shapes differ, or are no image's.
    ///
    /// # Source
    /// SSIM: Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE Transactions on Image
    /// Processing 13 (2004), section III, with its own constants: a Gaussian of 1.5 pixels, `K1` = 0.01 and `K2` = 0.03.
    pub fn of(image: &Tensor, original: &Tensor) -> Result<Self> {
        let shape = original.shape();
        let size = shape
            .image()
            .filter(|&[n, h, w, c]| n == 1 && h * w * c > 0);
        let (Some([_, height, width, channels]), true) = (size, image.shape() == shape) else {
            return Err(Error::shape(
                "image",
                format!("cannot be compared: {} with {shape}", image.shape()),
            ));
        };
        let [image, original] = [image, original].map(levels);
        let squares = image.iter().zip(&original).map(|(a, b)| (a - b).powi(2));
        let error = squares.sum::<f64>() / image.len() as f64;
        let size = [height, width];
        let ssim = (height >= WINDOW && width >= WINDOW).then(|| {
            let of_channel = |channel| {
                let plane = |x: &[f64]| x.iter().skip(channel).step_by(channels).copied().collect();
                ssim(plane(&image), plane(&original), size)
            };
            (0..channels).map(of_channel).sum::<f64>() / channels as f64
        });
        Ok(Self {
            psnr: 10.0 * (PEAK * PEAK / error).log10(),
            ssim,
        })
    }
}

fn levels(image: &Tensor) -> Vec<f64> {
    let levels = image.data().iter();
    levels.map(|&x| f64::from(to_byte(x))).collect()
}

/// The mean over every place where the window fits into one channel.
fn ssim(x: Vec<f64>, y: Vec<f64>, size: [usize; 2]) -> f64 {
    let [c1, c2] = [0.01, 0.03].map(|k: f64| (k * PEAK).powi(2));
    let mean = |values: &mut dyn Iterator<Item = f64>| weighted(values.collect(), size);
    let both = || x.iter().zip(&y);
    let [x_mean, y_mean] = [&x, &y].map(|v| mean(&mut v.iter().copied()));
    let [xx, yy] = [&x, &y].map(|v| mean(&mut v.iter().map(|v| v * v)));
    let xy = mean(&mut both().map(|(x, y)| x * y));
    let place = |i: usize| {
        let (mx, my) = (x_mean[i], y_mean[i]);
        let (vx, vy, covariance) = (xx[i] - mx * mx, yy[i] - my * my, xy[i] - mx * my);
        (2.0 * mx * my + c1) * (2.0 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    };
    (0..xy.len()).map(place).sum::<f64>() / xy.len() as f64
}

/// The window's mean at every place where it fits: along rows, then along columns.
fn weighted(plane: Vec<f64>, [height, width]: [usize; 2]) -> Vec<f64> {
    let weights = gaussian();
    let [rows, columns] = [height, width].map(|side| side + 1 - WINDOW);
    let sum = |start: usize, step: usize, plane: &[f64]| -> f64 {
        let values = plane[start..].iter().step_by(step);
        weights.iter().zip(values).map(|(w, v)| w * v).sum()
    };
    let along = (0..height).flat_map(|row| (0..columns).map(move |column| row * width + column));
    let along: Vec<f64> = along.map(|start| sum(start, 1, &plane)).collect();
    let places = 0..rows * columns;
    places.map(|start| sum(start, columns, &along)).collect()
}

fn gaussian() -> [f64; WINDOW] {
    let weight = |i: usize| (-(i as f64 - 5.0).powi(2) / (2.0 * 1.5 * 1.5)).exp();
    let weights: [f64; WINDOW] = std::array::from_fn(weight);
    let sum: f64 = weights.iter().sum();
    weights.map(|w| w / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The images of `tools/metrics.py`.
    fn image(number: usize, [height, width]: [usize; 2]) -> Tensor {
        Tensor::from_fn([1, height, width, 3], |i| {
            let i = i as u64 + 1;
            let mixed = i * (i + 40 * number as u64) * 2_654_435_761 % (1 << 32);
            let noise = (mixed >> 24) as f32 - 128.0;
            let wave = (i * i / 7 % 256) as f32;
            let level = (wave + if number == 0 { 0.0 } else { noise / 6.0 }).clamp(0.0, 255.0);
            level.trunc() / 127.5 - 1.0
        })
    }

    /// As tools/metrics.py printed them.
    const KNOWN: [([usize; 2], f64, f64); 3] = [
        ([11, 11], 26.873527149020692, 0.9863567179951017),
        ([16, 24], 26.768746787694248, 0.9868012098482982),
        ([29, 13], 26.75050033034735, 0.9878013723974087),
    ];

    #[test]
    fn measures_are_those_of_the_definitions() {
        for (size, psnr, ssim) in KNOWN {
            let found = Similarity::of(&image(1, size), &image(0, size)).unwrap();
            assert!((found.psnr - psnr).abs() < 1e-9, "{found:?}");
            assert!((found.ssim.unwrap() - ssim).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn an_image_is_its_own_best_likeness_and_small_ones_have_no_window() {
        let same = image(0, [12, 16]);
        let found = Similarity::of(&same, &same).unwrap();
        assert_eq!((found.psnr, found.ssim), (f64::INFINITY, Some(1.0)));
        let small = image(0, [10, 16]);
        assert_eq!(Similarity::of(&small, &small).unwrap().ssim, None);
        assert!(Similarity::of(&same, &small).is_err());
    }

    #[test]
    fn levels_are_those_of_a_file() {
        let gray = |value| Tensor::full([1, 1, 1, 3], value);
        // 0.001 of -1..1 is less than half a level; beyond 1 there is none.
        let same = |a, b| {
            Similarity::of(&gray(a), &gray(b))
                .unwrap()
                .psnr
                .is_infinite()
        };
        assert!(same(1.0, 0.999) && same(1.0, 9.0) && !same(1.0, 0.99));
    }
}
