//! The archive of all images of a run, as the field's evaluation scripts read it: `arr_0`, unsigned bytes `[N, H, W, 3]`, and the
//! classes as `arr_1` where there are some.
//!
//! Images are collected in a file beside it as they are finished, behind a line that says how they are made. A run that was stopped
//! goes on there, if it says the same; the archive appears when the last image is done.

use latent_diffusion::image::{Array, Existing, to_bytes, write_npz};
use latent_diffusion::{Error, Result, Tensor};
use serde_json::Value;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The longest first line that is read of a file begun earlier.
const LONGEST: u64 = 256 << 20;

/// An archive that is being made.
pub(super) struct Pixels {
    path: PathBuf,
    collected: PathBuf,
    file: File,
    /// Bytes of the line before the first image.
    header: u64,
    /// Images in all, and their sides.
    sizes: [usize; 3],
    labels: Vec<i64>,
    done: usize,
}

impl Pixels {
    /// Begins an archive of `[images, height, width]`, or goes on with it. There is a label for each image, or none; `made` says how they
    /// are made.
    ///
    /// # Errors
    /// If nothing can be written there, or what is there was begun otherwise.
    pub(super) fn open(
        path: &Path,
        sizes: [usize; 3],
        labels: Vec<i64>,
        made: &Value,
    ) -> Result<Self> {
        if path.is_dir() || path == Path::new("-") {
            return Err(Error::request(format!(
                "--npz {}: an archive is a file, which is written when its last image is done: name one",
                path.display()
            )));
        }
        let mut collected = path.as_os_str().to_owned();
        collected.push(".part");
        let collected = PathBuf::from(collected);
        let failed = |error: io::Error| Error::output(&collected, error.to_string());
        let line = format!("{made}\n");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&collected)
            .map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::output(
                &collected,
                "another process is collecting images in it; name another archive",
            ));
        }
        let mut found = String::new();
        let length = file.metadata().map_err(failed)?.len();
        if length > 0
            && (BufReader::new((&file).take(LONGEST))
                .read_line(&mut found)
                .is_err()
                || found != line)
        {
            return Err(Error::request(format!(
                "{} was begun with other settings: repeat those to go on with it, or remove it",
                collected.display()
            )));
        }
        if length == 0 {
            file.write_all(line.as_bytes()).map_err(failed)?;
        }
        let header = line.len() as u64;
        let image = sizes[1..].iter().product::<usize>() as u64 * 3;
        let done = (length.saturating_sub(header) / image.max(1)) as usize;
        // What was being written when the run was stopped is written again.
        let end = header + done as u64 * image;
        file.set_len(end).map_err(failed)?;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            collected,
            file,
            header,
            sizes,
            labels,
            done,
        })
    }

    /// Images that are there already.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Adds the next image.
    ///
    /// # Errors
    /// If it cannot be written, or holds NaN or infinity.
    pub(super) fn add(&mut self, image: &Tensor) -> Result<()> {
        let [_, height, width] = self.sizes;
        if image.shape() != [1, height, width, 3].into() {
            return Err(Error::request(format!(
                "an image of shape {} does not fit an archive of {width}x{height} pixels",
                image.shape()
            )));
        }
        let bytes = to_bytes(image)?;
        self.file
            .write_all(&bytes)
            .map_err(|error| Error::output(&self.collected, error.to_string()))?;
        self.done += 1;
        Ok(())
    }

    /// Writes the archive, whole or not at all, and removes what was collected for it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(mut self) -> Result<PathBuf> {
        let [count, height, width] = self.sizes;
        write_npz(&self.path, Existing::Replace, |archive| {
            let images = Array {
                name: "arr_0",
                dims: &[count, height, width, 3],
                descr: "|u1",
            };
            self.file.seek(SeekFrom::Start(self.header))?;
            archive.array(&images, |mut out| {
                io::copy(&mut self.file, &mut out).map(|_| ())
            })?;
            if self.labels.is_empty() {
                return Ok(());
            }
            let labels = Array {
                name: "arr_1",
                dims: &[count],
                descr: "<i8",
            };
            archive.array(&labels, |out| {
                let mut labels = self.labels.iter();
                labels.try_for_each(|label| out.write_all(&label.to_le_bytes()))
            })
        })?;
        fs::remove_file(&self.collected)
            .map_err(|error| Error::output(&self.collected, error.to_string()))?;
        Ok(self.path)
    }
}
