//! The file in which a device keeps what it made of a checkpoint's tensors, so that the next start reads it instead of making it again. What is
//! kept, under which names, and when such a file is used, is the device's business (`cuda/packed.rs`).
//!
//! It is a safetensors file: a row of numbers for each thing that was made, under the name that its maker gave it, and last a checksum for each.
//! About itself it says in which format and from which weights it was made. A file that says anything else is refused, and so is what does not add up
//! to its checksum: whoever asked then makes it anew, so that a file can save time and do nothing else.

use super::map::Bytes;
use super::save::{header_of, whole};
use super::{Checkpoint, Dtype, TensorView, header};
use crate::error::{Error, Result};
use rayon::prelude::*;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What the file says of itself.
const FORMAT: &str = "packed";
const WEIGHTS: &str = "weights";

/// The name of the checksums, which no maker gives.
const SUMS: &str = "checksums";

/// Pieces of a weights file that stand for all of it, spread over its length, and how long each is.
const SAMPLES: u64 = 256;
const SAMPLE_BYTES: u64 = 4096;

/// Bytes that a thread sums up at a time.
const PIECE: usize = 1 << 20;

/// What is to be kept.
pub struct Made {
    /// What its maker calls it.
    pub name: String,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// How many there are.
    pub count: usize,
}

/// A file of what was made.
pub struct Packed {
    path: PathBuf,
    /// For each name the numbers, and their checksum.
    made: HashMap<String, (TensorView, u64)>,
}

impl Packed {
    /// Opens a file of this format that was made from the weights of this [fingerprint](Checkpoint::fingerprint); `None` if there is no file.
    ///
    /// # Errors
    /// If the file is damaged, of another format, or made from other weights.
    pub fn open(path: &Path, format: &str, weights: &str) -> Result<Option<Self>> {
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let bytes = Bytes::map(path)?;
        let mut entries = header::read(path, &bytes)?;
        let refuse = |problem: &str| Error::file(path, problem);
        let about = SafeTensors::read_metadata(&bytes).ok();
        let about = about.and_then(|(_, header)| header.metadata().clone());
        let says = |key| about.as_ref()?.get(key).map(String::as_str);
        if says(FORMAT) != Some(format) {
            return Err(refuse(
                "was packed by another version of this program, or in another precision",
            ));
        }
        if says(WEIGHTS) != Some(weights) {
            return Err(refuse("was packed from other weights than are beside it"));
        }
        let damaged = || refuse("is damaged: its checksums are not those of its tensors");
        let sums = entries.remove(SUMS).ok_or_else(damaged)?;
        let sums = bytes.get(sums.range).ok_or_else(damaged)?;
        let (sums, rest) = sums.as_chunks::<8>();
        if sums.len() != entries.len() || !rest.is_empty() {
            return Err(damaged());
        }
        let entries: BTreeMap<_, _> = entries.into_iter().collect();
        let made = entries.into_iter().zip(sums).map(|((name, entry), sum)| {
            let count: usize = entry.shape.iter().product();
            let dtype = Dtype::from_safetensors(entry.dtype).ok_or_else(damaged)?;
            let bytes = bytes.slice(entry.range).ok_or_else(damaged)?;
            let view = TensorView::new(dtype, [count].into(), bytes);
            Ok((name, (view, u64::from_le_bytes(*sum))))
        });
        Ok(Some(Self {
            path: path.to_owned(),
            made: made.collect::<Result<_>>()?,
        }))
    }

    /// What was made under this name, if it was.
    ///
    /// # Errors
    /// If its bytes are not those that were written.
    pub fn get(&self, name: &str) -> Result<Option<TensorView>> {
        let Some((view, sum)) = self.made.get(name) else {
            return Ok(None);
        };
        match checksum(view.bytes()) == *sum {
            true => Ok(Some(view.clone())),
            false => Err(Error::file(
                &self.path,
                format!("is damaged: `{name}` does not add up to its checksum"),
            )),
        }
    }

    /// Writes what `make` answers for each of `made`, by its number, to a file. The file appears whole or not at all.
    ///
    /// # Errors
    /// As `make` does, or if the file cannot be written.
    pub fn write(
        path: &Path,
        (format, weights): (&str, &str),
        mut made: Vec<Made>,
        make: &mut dyn FnMut(&Made) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let about = [(FORMAT, format), (WEIGHTS, weights)];
        let about = about.map(|(key, value)| (key.to_owned(), value.to_owned()));
        made.sort_by(|a, b| a.name.cmp(&b.name));
        let tensors = made.iter().map(|made| {
            let bytes = made.count * made.dtype.bytes();
            (
                &*made.name,
                format!("{:?}", made.dtype),
                vec![made.count],
                bytes,
            )
        });
        let sums = (SUMS, "U64".to_owned(), vec![made.len()], 8 * made.len());
        let header = header_of(tensors.chain([sums]), &BTreeMap::from(about));
        let failed = |error: io::Error| Error::output(path, error.to_string());
        whole(path, &mut |file| {
            file.write_all(&header).map_err(failed)?;
            let mut sums = Vec::with_capacity(made.len());
            for one in &made {
                let bytes = make(one)?;
                if bytes.len() != one.count * one.dtype.bytes() {
                    return Err(Error::output(
                        path,
                        format!(
                            "`{}` is of another size than it was said to be: a defect of this program",
                            one.name
                        ),
                    ));
                }
                sums.extend(checksum(&bytes).to_le_bytes());
                file.write_all(&bytes).map_err(failed)?;
            }
            file.write_all(&sums).map_err(failed)
        })
    }
}

impl Checkpoint {
    /// What tells these weights from others without reading all of them: of each file its name, length and time of change, and the SHA-256 of 256
    /// pieces of it. `None` for a checkpoint that lies in no file.
    ///
    /// # Errors
    /// If a file cannot be read any more.
    pub fn fingerprint(&self) -> Result<Option<String>> {
        if !self.is_of_files() {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        for path in self.files() {
            sample(path, &mut hash)
                .map_err(|error| Error::file(path, format!("cannot be read: {error}")))?;
        }
        let digits = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Some(digits))
    }
}

/// Adds to `hash` what tells a file from others.
fn sample(path: &Path, hash: &mut Sha256) -> io::Result<()> {
    let about = fs::metadata(path)?;
    let (length, name) = (about.len(), path.file_name().unwrap_or_default());
    // Before 1970 or without a clock: the pieces must do.
    let changed = about
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    hash.update(name.as_encoded_bytes());
    hash.update(length.to_le_bytes());
    hash.update(changed.unwrap_or_default().as_nanos().to_le_bytes());
    let mut file = File::open(path)?;
    let mut piece = vec![0; SAMPLE_BYTES.min(length) as usize];
    let last = length - piece.len() as u64;
    for number in 0..SAMPLES {
        let start = u128::from(last) * u128::from(number) / u128::from(SAMPLES - 1);
        file.seek(SeekFrom::Start(start as u64))?;
        file.read_exact(&mut piece)?;
        hash.update(&piece);
    }
    Ok(())
}

/// The sum of the sums of pieces, which threads share: it is to take no longer than reading.
fn checksum(bytes: &[u8]) -> u64 {
    let sums: Vec<u64> = bytes.par_chunks(PIECE).map(piece_sum).collect();
    sums.into_iter().fold(bytes.len() as u64, add)
}

/// A change of one word always changes what follows.
fn add(sum: u64, word: u64) -> u64 {
    (sum ^ word)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}

/// Four sums side by side, none of which waits for another. What is left of the bytes counts as if zeros followed.
fn piece_sum(bytes: &[u8]) -> u64 {
    let mut sums = [1, 2, 3, 4];
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut last = [0; 32];
    last[..rest.len()].copy_from_slice(rest);
    for block in blocks.iter().chain([&last]) {
        let (words, _) = block.as_chunks::<8>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = add(*sum, u64::from_le_bytes(*word));
        }
    }
    sums.into_iter().fold(0, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Vec<Made> {
        let made = |name: &str, dtype, count| Made {
            name: name.to_owned(),
            dtype,
            count,
        };
        vec![made("b", Dtype::F32, 3), made("a", Dtype::F16, 50)]
    }

    fn bytes(made: &Made) -> Vec<u8> {
        let length = made.count * made.dtype.bytes();
        (0..length).map(|i| (i * 7) as u8).collect()
    }

    fn write(path: &Path) {
        Packed::write(path, ("1", "w"), made(), &mut |made| Ok(bytes(made))).unwrap();
    }

    fn open(path: &Path) -> Packed {
        Packed::open(path, "1", "w").unwrap().unwrap()
    }

    #[test]
    fn what_was_made_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.packed");
        assert!(Packed::open(&path, "1", "w").unwrap().is_none());
        write(&path);
        let packed = open(&path);
        for made in made() {
            let view = packed.get(&made.name).unwrap().unwrap();
            assert_eq!((view.dtype(), view.bytes()), (made.dtype, &*bytes(&made)));
        }
        assert!(packed.get("c").unwrap().is_none());
        for (format, weights, expected) in
            [("2", "w", "another version"), ("1", "v", "other weights")]
        {
            let error = Packed::open(&path, format, weights)
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
        let only = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(only, 1, "nothing is left of the writing");
    }

    #[test]
    fn what_could_not_be_made_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.packed");
        let outcome = Packed::write(&path, ("1", "w"), made(), &mut |_| Err(Error::Interrupted));
        assert!(outcome.is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn no_damage_is_taken_for_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.packed");
        write(&path);
        let sound = fs::read(&path).unwrap();
        let is_found = || match Packed::open(&path, "1", "w") {
            Err(_) => true,
            Ok(packed) => {
                let packed = packed.unwrap();
                // A name of another entry is an entry that is not there.
                made()
                    .iter()
                    .any(|made| !matches!(packed.get(&made.name), Ok(Some(_))))
            }
        };
        assert!(!is_found());
        for length in 0..sound.len() {
            fs::write(&path, &sound[..length]).unwrap();
            assert!(is_found(), "of {length} bytes");
        }
        for place in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[place] ^= 1 << (place % 8);
            fs::write(&path, &damaged).unwrap();
            let filling = sound[place] == b' ';
            assert!(is_found() || filling, "byte {place}");
        }
    }

    #[test]
    fn a_fingerprint_is_of_what_is_in_the_files_and_of_when() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let of = |value: f32| {
            let tensor = crate::Tensor::full([5000], value);
            fs::write(
                &path,
                super::super::save::to_bytes([("w", &tensor)]).unwrap(),
            )
            .unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(UNIX_EPOCH)
                .unwrap();
            Checkpoint::open(&path)
                .unwrap()
                .fingerprint()
                .unwrap()
                .unwrap()
        };
        let first = of(1.0);
        assert_ne!(first, of(2.0));
        assert_eq!(first, of(1.0));
        let later = UNIX_EPOCH + std::time::Duration::from_nanos(1);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(later)
            .unwrap();
        let later = Checkpoint::open(&path)
            .unwrap()
            .fingerprint()
            .unwrap()
            .unwrap();
        assert_ne!(first, later);
        let inside = Checkpoint::from_bytes("memory", fs::read(&path).unwrap()).unwrap();
        assert_eq!(inside.fingerprint().unwrap(), None);
    }
}
