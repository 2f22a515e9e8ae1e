//! PNG files with text chunks.
//!
//! Compression is the crate's `Fast`: a 512x512 image in about a millisecond instead of twenty, for an eighth more bytes. The text
//! stands before the pixels, where every reader looks for it.

use super::file::{Existing, open, write_file};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use png::{BitDepth, ColorType, Compression, Decoder, DecodingError, Encoder, EncodingError};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Bytes of text that are read of one file: a few kilobytes of it unpack to any number.
const MAX_TEXT: usize = 16 << 20;

/// A keyword and a text in a PNG file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextChunk {
    /// `parameters` for an [`Infotext`](super::Infotext), `ldm` for this program's own JSON; other programs have others.
    pub keyword: String,
    /// Any text.
    pub text: String,
}

impl TextChunk {
    /// A text under a keyword of 1 to 79 Latin-1 characters.
    pub fn new(keyword: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            keyword: keyword.into(),
            text: text.into(),
        }
    }
}

/// Writes an image as an 8-bit RGB PNG file, whole or not at all.
///
/// # Shapes
/// `image`: `[1, H, W, 3]`, -1..1 (clamped), rounded to the nearest of 256 levels.
///
/// # Errors
/// If the image holds NaN or infinity, or the file cannot be written; nothing is left behind then.
pub fn write_png(
    path: &Path,
    image: &Tensor,
    chunks: &[TextChunk],
    existing: Existing,
) -> Result<()> {
    write_file(path, &encode_png(image, chunks)?, existing)
}

/// The bytes of the file that [`write_png`] writes.
///
/// # Errors
/// If the image holds NaN or infinity, or has another shape.
pub fn encode_png(image: &Tensor, chunks: &[TextChunk]) -> Result<Vec<u8>> {
    let (width, height) = size(image)?;
    let pixels = to_bytes(image)?;
    let mut bytes = Vec::new();
    encode(&mut bytes, width, height, &pixels, chunks)
        .map_err(|error| Error::request(format!("the image cannot be encoded as PNG: {error}")))?;
    Ok(bytes)
}

/// An image's pixels, the nearest of 256 levels each, as they stand in a file.
///
/// # Errors
/// If the image holds NaN or infinity, or has another shape than `[1, H, W, 3]`.
pub fn to_bytes(image: &Tensor) -> Result<Vec<u8>> {
    size(image)?;
    refuse_not_finite(image)?;
    Ok(image.data().iter().map(|&x| to_byte(x)).collect())
}

fn encode(
    out: &mut Vec<u8>,
    width: u32,
    height: u32,
    pixels: &[u8],
    chunks: &[TextChunk],
) -> std::result::Result<(), EncodingError> {
    let mut encoder = Encoder::new(out, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    for TextChunk { keyword, text } in chunks.iter().cloned() {
        // The infotext goes where the web UI that defined it puts it: Latin-1 if it can. JSON is UTF-8 always.
        let latin1 = text.chars().all(|c| u32::from(c) < 256);
        if keyword == "parameters" && latin1 {
            encoder.add_text_chunk(keyword, text)?;
        } else {
            encoder.add_itxt_chunk(keyword, text)?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()
}

/// Width and height of one RGB image.
fn size(image: &Tensor) -> Result<(u32, u32)> {
    match image.shape().image() {
        Some([1, height, width, 3]) if width > 0 && height > 0 => {
            let sizes = u32::try_from(width).ok().zip(u32::try_from(height).ok());
            sizes.ok_or_else(|| {
                Error::request(format!(
                    "an image of {width}x{height} pixels is too large for PNG"
                ))
            })
        }
        _ => Err(Error::shape(
            "image",
            format!("expected [1, H, W, 3] to write, found {}", image.shape()),
        )),
    }
}

fn refuse_not_finite(image: &Tensor) -> Result<()> {
    match image.count_not_finite() {
        0 => Ok(()),
        bad => Err(Error::NotFinite {
            stage: "decode".into(),
            what: format!("NaN or infinity in {bad} of {} values", image.data().len()),
            hint: "no image was written; check the model's weights with `ldm inspect`".into(),
        }),
    }
}

/// The nearest of 256 levels. Ties go to the even level, as in NumPy.
pub(super) fn to_byte(x: f32) -> u8 {
    ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

/// The texts in a PNG file, whichever program wrote them, wherever they stand.
///
/// # Errors
/// If the file cannot be read, is no sound PNG file, or unpacks to more than 16 MiB of text.
pub fn read_text_chunks(path: &Path) -> Result<Vec<TextChunk>> {
    let file = open(path).map_err(|error| Error::file(path, format!("cannot be read: {error}")))?;
    text_chunks(BufReader::new(file))
        .map_err(|error| Error::file(path, format!("cannot be read as a PNG image: {error}")))
}

fn text_chunks(file: BufReader<File>) -> std::result::Result<Vec<TextChunk>, DecodingError> {
    let mut reader = Decoder::new(file).read_info()?;
    reader.finish()?;
    let info = reader.info();
    let (mut chunks, mut room) = (Vec::new(), MAX_TEXT);
    for chunk in &info.uncompressed_latin1_text {
        chunks.push(TextChunk::new(&chunk.keyword, &chunk.text));
    }
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(room)?;
        chunks.push(TextChunk::new(&chunk.keyword, chunk.get_text()?));
        room = room.saturating_sub(chunks[chunks.len() - 1].text.len());
    }
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(room)?;
        chunks.push(TextChunk::new(&chunk.keyword, chunk.get_text()?));
        room = room.saturating_sub(chunks[chunks.len() - 1].text.len());
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::super::read_image;
    use super::*;
    use std::fs;

    /// All 256 levels, three times over.
    fn levels() -> Tensor {
        Tensor::from_fn([1, 16, 16, 3], |i| (i / 3) as f32 / 255.0 * 2.0 - 1.0)
    }

    #[test]
    fn levels_survive_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("levels.png");
        write_png(&path, &levels(), &[], Existing::Keep).unwrap();
        let back = read_image(&path).unwrap();
        let bytes: Vec<u8> = back.data().iter().map(|&x| to_byte(x)).collect();
        let expected: Vec<u8> = (0..=255).flat_map(|level| [level; 3]).collect();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn values_round_to_the_nearest_level_and_clamp() {
        let level = |level: f32| to_byte(level / 127.5 - 1.0);
        assert_eq!(
            [level(100.4), level(100.6), level(-9.0), level(300.0)],
            [100, 101, 0, 255]
        );
        assert_eq!(to_byte(0.0), 128);
    }

    #[test]
    fn texts_come_back_and_stand_before_the_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.png");
        let chunks = [
            TextChunk::new("parameters", "a café\nSteps: 20"),
            TextChunk::new("parameters", "红色的气球"),
            TextChunk::new("ldm", "{\"prompt\": \"a café\"}"),
        ];
        write_png(&path, &levels(), &chunks, Existing::Keep).unwrap();
        assert_eq!(read_text_chunks(&path).unwrap(), chunks);

        let bytes = fs::read(&path).unwrap();
        let place = |name: &[u8]| bytes.windows(4).position(|window| window == name).unwrap();
        assert!(place(b"tEXt") < place(b"iTXt") && place(b"iTXt") < place(b"IDAT"));
        assert_eq!(bytes, encode_png(&levels(), &chunks).unwrap());
    }

    #[test]
    fn what_is_no_image_is_refused_and_nothing_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let mut bad = levels();
        bad.data_mut()[7] = f32::NAN;
        let error = write_png(&path, &bad, &[], Existing::Keep).unwrap_err();
        assert!(matches!(error, Error::NotFinite { .. }));
        assert!(error.to_string().contains("1 of 768"), "{error}");
        for shape in [[2, 4, 4, 3], [1, 4, 4, 4], [1, 0, 4, 3]] {
            let error = encode_png(&Tensor::zeros(shape), &[]).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
        assert!(encode_png(&levels(), &[TextChunk::new("", "x")]).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn damaged_files_have_no_texts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let whole = encode_png(&levels(), &[TextChunk::new("ldm", "{}")]).unwrap();
        for bytes in [&whole[..whole.len() / 2], b"<!DOCTYPE html>", b""] {
            fs::write(&path, bytes).unwrap();
            let error = read_text_chunks(&path).unwrap_err();
            assert!(matches!(error, Error::File { .. }), "{error}");
        }
        assert!(read_text_chunks(&folder.path().join("none.png")).is_err());
    }

    #[test]
    fn a_small_file_of_much_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.png");
        let written = |kilobytes: usize| {
            let mut encoder = Encoder::new(File::create(&path).unwrap(), 1, 1);
            let text = "x".repeat(kilobytes << 10);
            encoder.add_ztxt_chunk("parameters".into(), text).unwrap();
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&[0]).unwrap();
            writer.finish().unwrap();
            read_text_chunks(&path)
        };
        assert_eq!(written(4 << 10).unwrap()[0].text.len(), 4 << 20);
        let error = written(17 << 10).unwrap_err();
        assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
        assert_eq!(error.exit_code(), 3, "{error}");
    }
}
