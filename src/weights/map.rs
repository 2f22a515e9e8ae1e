//! Runs of bytes that are shared and never copied: a mapped file, a part of the program, or a buffer.
//!
//! The only `unsafe` of the weights is here. A mapping is what lets every session of a model, and every process of a
//! machine, share one copy of gigabytes that the kernel reads in as they are touched.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// A shared run of bytes; cloning it clones no byte.
#[derive(Clone)]
pub(super) struct Bytes {
    storage: Storage,
    range: Range<usize>,
}

#[derive(Clone)]
enum Storage {
    Map(Arc<memmap2::Mmap>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    /// The whole of a file, mapped read-only.
    ///
    /// # Errors
    /// If the path is not a regular, readable file that holds something.
    pub(super) fn map(path: &Path) -> Result<Self> {
        let refuse = |error: io::Error| Error::file(path, open_problem(path, &error));
        let found = fs::metadata(path).map_err(refuse)?;
        if found.is_dir() {
            return Err(Error::file(path, "is a folder, where a file is needed"));
        }
        if !found.is_file() {
            return Err(Error::file(path, "is not a regular file"));
        }
        let file = File::open(path).map_err(refuse)?;
        // SAFETY: the mapping is read-only and private to this struct, and its bytes are only ever read as plain numbers,
        // for which every bit pattern is valid. What Rust cannot rule out is another process changing the file meanwhile:
        // new bytes would be read as other numbers, and a truncated file ends the process with SIGBUS, as with every
        // program that maps its model. The command line documents that.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(refuse)?;
        Ok(Self {
            range: 0..map.len(),
            storage: Storage::Map(Arc::new(map)),
        })
    }

    /// A part of the program itself.
    pub(super) fn from_static(bytes: &'static [u8]) -> Self {
        Self {
            range: 0..bytes.len(),
            storage: Storage::Static(bytes),
        }
    }

    /// A buffer.
    pub(super) fn from_vec(bytes: Vec<u8>) -> Self {
        Self {
            range: 0..bytes.len(),
            storage: Storage::Owned(Arc::new(bytes)),
        }
    }

    /// Whether they are a file's.
    pub(super) fn is_mapped(&self) -> bool {
        matches!(self.storage, Storage::Map(_))
    }

    /// Lets the pages of a mapped file go: they are read again when they are touched. Of use where each byte is read once, or
    /// seldom, so that a file larger than memory never fills it.
    pub(super) fn release(&self) {
        #[cfg(unix)]
        if let Storage::Map(map) = &self.storage {
            // SAFETY: the mapping is shared and read-only, so a page that is dropped holds nothing but what the file holds, and
            // comes back as it was. Whoever reads it meanwhile waits for the file.
            let outcome = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    self.range.start,
                    self.range.len(),
                )
            };
            // Advice that is not taken costs memory and nothing else.
            drop(outcome);
        }
    }

    /// A part of this run, or `None` where it reaches beyond the end.
    pub(super) fn slice(&self, part: Range<usize>) -> Option<Self> {
        self.get(part.clone())?;
        let start = self.range.start;
        Some(Self {
            storage: self.storage.clone(),
            range: start + part.start..start + part.end,
        })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.storage {
            Storage::Map(map) => map,
            Storage::Static(bytes) => bytes,
            Storage::Owned(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

/// Why a file could not be opened, as a sentence.
pub(super) fn open_problem(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => {
            "is a link to a file that is not there: the download may be incomplete".into()
        }
        io::ErrorKind::NotFound => "does not exist".into(),
        _ => format!("cannot be read: {error}"),
    }
}
