//! Arrays as NumPy keeps them, several in a zip archive: pictures for the field's evaluation scripts, and databases of embeddings.
//!
//! The archive is a library's business; an array's header is one line of text.

use super::file::{Existing, open, write_file_with};
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};
use half::f16;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use zip::read::ZipFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The largest header that is read, in bytes.
const MAX_HEADER: usize = 1 << 16;

/// The most elements of an array that is read.
const MAX_ELEMENTS: usize = 1 << 36;

/// An array in an archive that is being written: its name, sizes and type, as NumPy has it (`|u1`, `<i8`).
pub struct Array<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its sizes.
    pub dims: &'a [usize],
    /// The type of its elements.
    pub descr: &'a str,
}

/// An archive that is being written, array by array.
pub struct NpzWriter<'a>(ZipWriter<BufWriter<&'a mut File>>);

impl NpzWriter<'_> {
    /// Adds an array, whose bytes `write` gives in row-major order.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn array(
        &mut self,
        array: &Array,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let stored = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(true);
        self.0.start_file(format!("{}.npy", array.name), stored)?;
        self.0.write_all(&header(array))?;
        write(&mut self.0)
    }
}

/// Writes an archive, whole or not at all.
///
/// # Errors
/// If it cannot be written; nothing is left behind then.
pub fn write_npz(
    path: &Path,
    existing: Existing,
    write: impl FnOnce(&mut NpzWriter) -> io::Result<()>,
) -> Result<()> {
    write_file_with(path, existing, |file| {
        let mut archive = NpzWriter(ZipWriter::new(BufWriter::new(file)));
        write(&mut archive)?;
        archive.0.finish()?.flush()
    })
}

/// What stands before an array's bytes: padded, so that they begin at a multiple of 64.
fn header(array: &Array) -> Vec<u8> {
    let sizes: String = array.dims.iter().map(|size| format!("{size}, ")).collect();
    let descr = array.descr;
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    let before = MAGIC.len() + 4;
    let length = (before + text.len() + 1).next_multiple_of(64) - before;
    let mut bytes = [MAGIC, &[1, 0], &(length as u16).to_le_bytes()].concat();
    bytes.extend(format!("{text:<width$}\n", width = length - 1).bytes());
    bytes
}

/// Reads an array of floats, as f32.
///
/// # Errors
/// If the file is missing or damaged, holds no such array, or one that is not of floats.
pub fn read_npz(path: &Path, name: &str) -> Result<Tensor> {
    let refuse = |problem: String| Error::file(path, problem);
    let file = open(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let mut archive = ZipArchive::new(BufReader::new(file))
        .map_err(|error| refuse(format!("is no .npz archive: {error}")))?;
    let names = archive.file_names().filter_map(|name| name.ok());
    let names: Vec<String> = names.map(|name| name.into_owned()).collect();
    let mut array = archive.by_name(&format!("{name}.npy")).map_err(|_| {
        let held: Vec<&str> = names
            .iter()
            .map(|name| name.trim_end_matches(".npy"))
            .collect();
        refuse(format!("holds no array `{name}`, but: {}", held.join(", ")))
    })?;
    let unusable = |problem: String| refuse(format!("array `{name}` {problem}"));
    let (descr, dims, start) = read_header(&mut array).map_err(unusable)?;
    let width = match descr.as_str() {
        "<f2" => 2,
        "<f4" => 4,
        "<f8" => 8,
        other => {
            return Err(unusable(format!(
                "is of type {other}, where floats are expected"
            )));
        }
    };
    let count = dims
        .iter()
        .try_fold(1usize, |count, size| count.checked_mul(*size));
    let count = count.filter(|&count| count <= MAX_ELEMENTS && (1..=4).contains(&dims.len()));
    let count =
        count.ok_or_else(|| unusable(format!("has the sizes {dims:?}, which are not usable")))?;
    // A header may promise anything; the archive says how many bytes there are.
    if array.size() != start + (count * width) as u64 {
        return Err(unusable(format!(
            "does not hold {dims:?} elements: the file is damaged"
        )));
    }
    let values = read_floats(&mut array, width, count)
        .map_err(|error| unusable(format!("cannot be read: {error}")))?;
    Tensor::new(Shape::new(&dims), values)
}

/// Type and sizes of an array, which is left at its first element, and that one's place.
fn read_header(array: &mut ZipFile<impl Read>) -> Result<(String, Vec<usize>, u64), String> {
    let damaged = |_| "has no readable header".to_owned();
    let mut magic = [0; 8];
    array.read_exact(&mut magic).map_err(damaged)?;
    if !magic.starts_with(MAGIC) {
        return Err("is no NumPy array".into());
    }
    // Version 1 counts the header in two bytes, the later ones in four.
    let mut length = [0; 4];
    let counted = if magic[6] == 1 { 2 } else { 4 };
    array.read_exact(&mut length[..counted]).map_err(damaged)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err("has no readable header".into());
    }
    let start = (magic.len() + counted + length) as u64;
    let mut text = vec![0; length];
    array.read_exact(&mut text).map_err(damaged)?;
    let text = String::from_utf8_lossy(&text);
    let after = |key: &str| {
        text.split_once(key)
            .map(|(_, rest)| rest.trim_start_matches([' ', ':']))
    };
    let descr = after("'descr'").and_then(|rest| rest.split('\'').nth(1));
    let rows = after("'fortran_order'").map(|rest| rest.starts_with("False"));
    let sizes = after("'shape'").and_then(|rest| rest.split_once('(')?.1.split_once(')'));
    let sizes = sizes.and_then(|(sizes, _)| {
        let sizes = sizes
            .split(',')
            .map(str::trim)
            .filter(|size| !size.is_empty());
        sizes
            .map(|size| size.parse().ok())
            .collect::<Option<Vec<usize>>>()
    });
    match (descr, rows, sizes) {
        (Some(descr), Some(true), Some(sizes)) => Ok((descr.to_owned(), sizes, start)),
        (_, Some(false), _) => {
            Err("is stored column by column: save it with np.ascontiguousarray".into())
        }
        _ => Err("has no readable header".into()),
    }
}

/// `count` floats of `width` bytes each, little end first.
fn read_floats(bytes: &mut impl Read, width: usize, count: usize) -> io::Result<Vec<f32>> {
    const CHUNK: usize = 1 << 16;
    let mut values = Vec::with_capacity(count);
    let mut buffer = vec![0; CHUNK * width];
    while values.len() < count {
        let now = (count - values.len()).min(CHUNK);
        let part = &mut buffer[..now * width];
        bytes.read_exact(part)?;
        values.extend(part.chunks_exact(width).map(|bytes| match *bytes {
            [a, b] => f16::from_le_bytes([a, b]).to_f32(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            _ => f32::NAN,
        }));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(folder: &Path, descr: &str, bytes: &[u8], dims: &[usize]) -> std::path::PathBuf {
        let path = folder.join("a.npz");
        let array = Array {
            name: "embedding",
            dims,
            descr,
        };
        write_npz(&path, Existing::Replace, |archive| {
            archive.array(&array, |out| out.write_all(bytes))
        })
        .unwrap();
        path
    }

    #[test]
    fn floats_of_three_widths_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let values = [1.5f32, -2.0, 0.25, 1024.0, 0.0, -0.5];
        let halves: Vec<u8> = values
            .iter()
            .flat_map(|&x| f16::from_f32(x).to_le_bytes())
            .collect();
        let singles: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let doubles: Vec<u8> = values
            .iter()
            .flat_map(|&x| f64::from(x).to_le_bytes())
            .collect();
        for (descr, bytes) in [("<f2", halves), ("<f4", singles), ("<f8", doubles)] {
            let path = floats(folder.path(), descr, &bytes, &[3, 2]);
            let read = read_npz(&path, "embedding").unwrap();
            assert_eq!(
                (read.shape(), read.data()),
                ([3, 2].into(), &values[..]),
                "{descr}"
            );
        }
    }

    #[test]
    fn elements_begin_where_numpy_aligns_them() {
        for dims in [&[50_000, 256, 256, 3][..], &[7]] {
            let header = header(&Array {
                name: "arr_0",
                dims,
                descr: "|u1",
            });
            assert_eq!((header.len() % 64, header.last()), (0, Some(&b'\n')));
        }
    }

    #[test]
    fn what_is_not_the_array_is_refused_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path, name: &str, expected: &str| {
            let error = read_npz(path, name).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let path = floats(folder.path(), "<f4", &[0; 24], &[3, 2]);
        refused(
            &path,
            "embeddings",
            "holds no array `embeddings`, but: embedding",
        );
        refused(
            &floats(folder.path(), "<i8", &[0; 48], &[3, 2]),
            "embedding",
            "type <i8",
        );
        refused(
            &floats(folder.path(), "<f4", &[0; 20], &[3, 2]),
            "embedding",
            "damaged",
        );
        refused(
            &floats(folder.path(), "<f4", &[], &[usize::MAX, 3]),
            "embedding",
            "not usable",
        );
        std::fs::write(&path, "text").unwrap();
        refused(&path, "embedding", "no .npz archive");
        refused(
            &folder.path().join("none.npz"),
            "embedding",
            "cannot be read",
        );
    }
}
