//! Images given by the user.

use super::file::open;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use ::image::imageops::{self, FilterType};
use ::image::{
    DynamicImage, ImageBuffer, ImageDecoder, ImageReader, ImageResult, Limits, Rgb, RgbImage,
};
use std::fmt::Display;
use std::io::BufReader;
use std::path::Path;

/// The largest image that is read, in pixels: most cameras', and 0.8 GB as a tensor.
pub const MAX_PIXELS: u64 = 64 << 20;

/// Reads a PNG, JPEG or WebP image, turned upright as its EXIF orientation says; transparency is ignored.
///
/// # Shapes
/// Returns `[1, H, W, 3]` in -1..1.
///
/// # Errors
/// If the file is missing or damaged, of another format, or larger than [`MAX_PIXELS`].
pub fn read_image(path: &Path) -> Result<Tensor> {
    let unreadable = |error: &dyn Display| {
        let problem = format!("cannot be read as a PNG, JPEG or WebP image: {error}");
        Error::file(path, problem)
    };
    let file = open(path).map_err(|error| unreadable(&error))?;
    let mut reader = ImageReader::new(BufReader::new(file))
        .with_guessed_format()
        .map_err(|error| unreadable(&error))?;
    let mut limits = Limits::default();
    // Eight bytes a pixel: 16-bit RGBA, the widest of these formats.
    limits.max_alloc = Some(MAX_PIXELS * 8);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| unreadable(&error))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > MAX_PIXELS {
        let problem = format!(
            "has {width}x{height} pixels, and 1 to {MAX_PIXELS} are accepted; make it smaller first"
        );
        return Err(Error::file(path, problem));
    }
    let image = decode(decoder).map_err(|error| unreadable(&error))?;
    let shape = [1, image.height() as usize, image.width() as usize, 3];
    let values = image.into_raw().into_iter();
    let values = values.map(|byte| f32::from(byte) / 127.5 - 1.0);
    Tensor::new(shape, values.collect())
}

fn decode(mut decoder: impl ImageDecoder) -> ImageResult<RgbImage> {
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Stretches an image to another size with a Lanczos window of three lobes, widened where the image shrinks, so that fine
/// detail is averaged and not skipped. Values beyond -1..1, where the window overshoots, are clamped.
///
/// # Shapes
/// `image`: `[1, H, W, 3]`; returns `[1, height, width, 3]`.
///
/// # Errors
/// If the image has another shape, or a size is zero or over 2^32.
pub fn resize(image: &Tensor, width: usize, height: usize) -> Result<Tensor> {
    let Some([1, from_height, from_width, 3]) = image.shape().image() else {
        let problem = format!("expected [1, H, W, 3] to resize, found {}", image.shape());
        return Err(Error::shape("image", problem));
    };
    if (from_width, from_height) == (width, height) {
        return Ok(image.clone());
    }
    let size = |size: usize| {
        let size = u32::try_from(size).ok().filter(|size| *size > 0);
        size.ok_or_else(|| {
            Error::request(format!(
                "an image of {from_width}x{from_height} pixels cannot be resized to {width}x{height}"
            ))
        })
    };
    // The filter clamps to 0..1, as the crate keeps float pixels.
    let unit = image.data().iter().map(|x| x / 2.0 + 0.5).collect();
    let pixels: ImageBuffer<Rgb<f32>, Vec<f32>> =
        ImageBuffer::from_raw(size(from_width)?, size(from_height)?, unit)
            .ok_or_else(|| Error::shape("image", format!("of shape {}", image.shape())))?;
    let resized = imageops::resize(&pixels, size(width)?, size(height)?, FilterType::Lanczos3);
    let values = resized.into_raw().into_iter().map(|x| x * 2.0 - 1.0);
    Tensor::new([1, height, width, 3], values.collect())
}

/// Continues an image to the right and down by its mirror image.
///
/// # Shapes
/// `image`: `[1, H, W, C]`; returns `[1, height, width, C]`, where no side is smaller than before.
///
/// # Errors
/// If the image has another shape, or a side shrinks.
pub fn pad(image: &Tensor, width: usize, height: usize) -> Result<Tensor> {
    let Some([1, from_height, from_width, channels]) = image.shape().image() else {
        let problem = format!("expected [1, H, W, C] to continue, found {}", image.shape());
        return Err(Error::shape("image", problem));
    };
    if width < from_width || height < from_height || from_width * from_height == 0 {
        return Err(Error::request(format!(
            "an image of {from_width}x{from_height} pixels cannot be continued to {width}x{height}"
        )));
    }
    // There and back again, without the ends twice.
    let mirrored = |place: usize, size: usize| {
        let there = place % (2 * size.max(2) - 2);
        there.min(2 * size.max(2) - 2 - there).min(size - 1)
    };
    Ok(Tensor::from_fn([1, height, width, channels], |index| {
        let (pixel, channel) = (index / channels, index % channels);
        let y = mirrored(pixel / width, from_height);
        let x = mirrored(pixel % width, from_width);
        image.data()[(y * from_width + x) * channels + channel]
    }))
}

/// The upper left part of an image.
///
/// # Shapes
/// `image`: `[1, H, W, C]`; returns `[1, height, width, C]`.
///
/// # Errors
/// If the image has another shape, or is smaller.
pub fn crop(image: &Tensor, width: usize, height: usize) -> Result<Tensor> {
    match image.shape().image() {
        Some([1, from_height, from_width, channels])
            if height <= from_height && width <= from_width =>
        {
            Ok(Tensor::from_fn([1, height, width, channels], |index| {
                let (pixel, channel) = (index / channels, index % channels);
                let place = pixel / width * from_width + pixel % width;
                image.data()[place * channels + channel]
            }))
        }
        _ => Err(Error::shape(
            "image",
            format!("of shape {} has no part of {width}x{height}", image.shape()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::codecs::jpeg::JpegEncoder;
    use ::image::{ExtendedColorType, ImageEncoder};
    use std::fs;
    use std::path::PathBuf;

    #[test]
    fn what_is_continued_is_mirrored_and_cut_again() {
        let image = Tensor::from_fn([1, 2, 3, 1], |i| i as f32);
        let padded = pad(&image, 6, 4).unwrap();
        assert_eq!(padded.data()[..6], [0., 1., 2., 1., 0., 1.]);
        assert_eq!(padded.data()[6..12], [3., 4., 5., 4., 3., 4.]);
        assert_eq!(padded.data()[12..18], padded.data()[..6]);
        assert_eq!(crop(&padded, 3, 2).unwrap(), image);
        let dot = Tensor::full([1, 1, 1, 2], 7.0);
        assert_eq!(pad(&dot, 3, 2).unwrap(), Tensor::full([1, 2, 3, 2], 7.0));
        assert!(pad(&image, 2, 4).is_err() && crop(&image, 4, 1).is_err());
    }

    fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A JPEG, 16 wide and 8 high, black on its left half and white on its right, lying on its side.
    fn lying_jpeg() -> Vec<u8> {
        let pixels: Vec<u8> = (0..8 * 16 * 3)
            .map(|i| if i / 3 % 16 < 8 { 0 } else { 255 })
            .collect();
        let exif = [
            b"MM\0\x2a\0\0\0\x08".as_slice(),
            // One entry: orientation, a short, one of them, "rotate a quarter clockwise to see it upright".
            b"\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
        ];
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 100);
        encoder.set_exif_metadata(exif.concat()).unwrap();
        let rgb = ExtendedColorType::Rgb8;
        encoder.write_image(&pixels, 16, 8, rgb).unwrap();
        bytes
    }

    #[test]
    fn photographs_are_turned_upright() {
        let folder = tempfile::tempdir().unwrap();
        // The content decides, not the name.
        let image = read_image(&write(&folder, "photo.png", &lying_jpeg())).unwrap();
        assert_eq!(image.shape(), [1, 16, 8, 3].into());
        assert!(image.data()[0] < -0.9 && image.data()[16 * 8 * 3 - 1] > 0.9);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let jpeg = lying_jpeg();
        let refused = |path: &Path| {
            let error = read_image(path).unwrap_err();
            assert!(matches!(error, Error::File { .. }), "{error:?}");
            assert_eq!(error.exit_code(), 3);
        };
        refused(&write(&folder, "empty.png", b""));
        refused(&write(&folder, "page.png", b"<!DOCTYPE html><html></html>"));
        refused(&write(&folder, "cut.jpg", &jpeg[..jpeg.len() / 3]));
        refused(&write(&folder, "other.gif", b"GIF89a\x01\0\x01\0\0\0\0;"));
        refused(&folder.path().join("none.png"));
        refused(folder.path());
    }

    #[test]
    fn a_small_file_of_a_huge_image_is_refused_before_it_is_decoded() {
        let folder = tempfile::tempdir().unwrap();
        let mut bomb = Vec::new();
        let encoder = png::Encoder::new(&mut bomb, 50_000, 50_000);
        let mut writer = encoder.write_header().unwrap();
        writer.write_chunk(png::chunk::IDAT, &[]).unwrap();
        drop(writer);
        let error = read_image(&write(&folder, "bomb.png", &bomb)).unwrap_err();
        assert!(error.to_string().contains("50000x50000"), "{error}");
    }

    #[test]
    fn resizing_keeps_what_is_flat_and_averages_what_is_fine() {
        let flat = Tensor::full([1, 10, 7, 3], 0.25);
        let resized = resize(&flat, 16, 3).unwrap();
        assert_eq!(resized.shape(), [1, 3, 16, 3].into());
        // Weights are normalised in f32 and summed over at most 20 taps, twice.
        assert!(resized.max_abs_error(&Tensor::full([1, 3, 16, 3], 0.25)) < 40.0 * f32::EPSILON);

        let stripes = Tensor::from_fn([1, 64, 64, 3], |i| if i / 3 % 2 == 0 { -1.0 } else { 1.0 });
        let middle = resize(&stripes, 8, 8).unwrap().data()[(4 * 8 + 4) * 3];
        assert!(middle.abs() < 0.1, "{middle}");
        assert_eq!(resize(&stripes, 64, 64).unwrap(), stripes);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let image = Tensor::zeros([1, 4, 4, 3]);
        assert!(matches!(resize(&image, 0, 4), Err(Error::Request(_))));
        assert!(matches!(resize(&image, 4, 1 << 33), Err(Error::Request(_))));
        let latent = Tensor::zeros([1, 4, 4, 4]);
        assert!(matches!(resize(&latent, 8, 8), Err(Error::Shape { .. })));
    }
}
