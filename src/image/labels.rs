//! Maps of labels given by the user: an image whose pixels are numbers, not colours.

use super::file::open;
use super::read::MAX_PIXELS;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use png::{ColorType, Decoder, Transformations};
use std::io::BufReader;
use std::path::Path;

/// Reads a PNG file of one number per pixel: 8-bit gray levels, or the indices of a palette, whose colours mean nothing.
///
/// # Shapes
/// Returns `[1, H, W, 1]`.
///
/// # Errors
/// If the file is missing, damaged or too large, is of colours, or a number is not below `labels`.
pub fn read_labels(path: &Path, labels: usize) -> Result<Tensor> {
    let refuse = |problem: String| Error::file(path, problem);
    let unreadable = |error: &dyn std::fmt::Display| {
        refuse(format!("cannot be read as a PNG image of labels: {error}"))
    };
    let file = open(path).map_err(|error| unreadable(&error))?;
    let mut decoder = Decoder::new(BufReader::new(file));
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|error| unreadable(&error))?;
    let info = reader.info();
    let (width, height) = (info.width as usize, info.height as usize);
    if info.width as u64 * u64::from(info.height) > MAX_PIXELS {
        return Err(refuse(format!(
            "has {width}x{height} pixels, and at most {MAX_PIXELS} are accepted"
        )));
    }
    let bits = info.bit_depth as usize;
    if !matches!(info.color_type, ColorType::Grayscale | ColorType::Indexed) || bits > 8 {
        return Err(refuse(
            "is an image of colours, where a number per pixel is expected: an 8-bit gray or palette PNG whose levels are labels"
                .into(),
        ));
    }
    let size = reader.output_buffer_size();
    let mut packed = vec![0; size.ok_or_else(|| refuse("is too large".into()))?];
    let frame = reader.next_frame(&mut packed);
    let line = frame.map_err(|error| unreadable(&error))?.line_size;
    let mut values = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            // Narrow levels are packed into bytes, the first in the highest bits.
            let byte = packed[y * line + x * bits / 8];
            let shift = 8 - bits - x * bits % 8;
            let label = usize::from(byte >> shift) & ((1 << bits) - 1);
            if label >= labels {
                return Err(refuse(format!(
                    "has the label {label} at pixel ({x}, {y}), and the model knows 0 to {}",
                    labels.saturating_sub(1)
                )));
            }
            values.push(label as f32);
        }
    }
    Tensor::new([1, height, width, 1], values)
}

/// A map of labels at another size, each pixel the nearest of the old ones.
///
/// # Shapes
/// `[1, H, W, 1]` gives `[1, height, width, 1]`.
///
/// # Errors
/// If the map has another shape.
pub fn resize_labels(labels: &Tensor, width: usize, height: usize) -> Result<Tensor> {
    let Some([1, from_height, from_width, 1]) = labels.shape().image() else {
        let problem = format!("expected [1, H, W, 1] to resize, found {}", labels.shape());
        return Err(Error::shape("labels", problem));
    };
    Ok(Tensor::from_fn([1, height, width, 1], |index| {
        let (y, x) = (index / width, index % width);
        labels.data()[y * from_height / height * from_width + x * from_width / width]
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use png::{BitDepth, Encoder};
    use std::fs::File;
    use std::path::PathBuf;

    fn written(
        folder: &Path,
        color: ColorType,
        depth: BitDepth,
        size: [u32; 2],
        bytes: &[u8],
    ) -> PathBuf {
        let path = folder.join("labels.png");
        let mut encoder = Encoder::new(File::create(&path).unwrap(), size[0], size[1]);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(vec![7; 3 * 16]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(bytes).unwrap();
        writer.finish().unwrap();
        path
    }

    #[test]
    fn levels_and_palette_indices_are_labels() {
        let folder = tempfile::tempdir().unwrap();
        let gray = written(
            folder.path(),
            ColorType::Grayscale,
            BitDepth::Eight,
            [3, 2],
            &[0, 1, 2, 181, 4, 5],
        );
        assert_eq!(
            read_labels(&gray, 182).unwrap().data(),
            [0., 1., 2., 181., 4., 5.]
        );
        let palette = written(
            folder.path(),
            ColorType::Indexed,
            BitDepth::Four,
            [3, 2],
            &[0x12, 0x30, 0xfe, 0xd0],
        );
        assert_eq!(
            read_labels(&palette, 16).unwrap().data(),
            [1., 2., 3., 15., 14., 13.]
        );
    }

    #[test]
    fn unknown_labels_and_colours_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path, expected: &str| {
            let error = read_labels(path, 182).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let gray = written(
            folder.path(),
            ColorType::Grayscale,
            BitDepth::Eight,
            [2, 2],
            &[0, 1, 182, 3],
        );
        refused(
            &gray,
            "label 182 at pixel (0, 1), and the model knows 0 to 181",
        );
        refused(
            &written(
                folder.path(),
                ColorType::Rgb,
                BitDepth::Eight,
                [1, 1],
                &[1, 2, 3],
            ),
            "colours",
        );
        refused(&folder.path().join("none.png"), "cannot be read");
        std::fs::write(&gray, "text").unwrap();
        refused(&gray, "cannot be read");
    }

    #[test]
    fn the_nearest_label_is_taken() {
        let labels = Tensor::from_fn([1, 2, 4, 1], |i| i as f32);
        let smaller = resize_labels(&labels, 2, 1).unwrap();
        assert_eq!(smaller.data(), [0., 2.]);
        assert_eq!(resize_labels(&labels, 4, 2).unwrap(), labels);
        assert_eq!(
            resize_labels(&labels, 8, 2).unwrap().data()[..4],
            [0., 0., 1., 1.]
        );
    }
}
