//! Files that appear whole or not at all.
//!
//! The bytes go to a temporary file beside the target, reach the disk, and only then take the target's name; so a crash, a full
//! disk or a killed process leaves no half an image under a name that someone may read.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Opens a file that is read in any order, which a pipe cannot be: it would also be waited for until somebody writes to it.
///
/// # Errors
/// If it cannot be opened, or is a pipe or a device.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let found = fs::metadata(path)?;
    if !found.is_file() && !found.is_dir() {
        let problem = "is a pipe or a device; store what it gives in a file first";
        return Err(io::Error::new(ErrorKind::InvalidInput, problem));
    }
    File::open(path)
}

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to write: for names that the program chose.
    Keep,
    /// Replace it: for a file that the user named.
    Replace,
}

/// Writes a file, whole or not at all. A device or pipe is written to as it is.
///
/// # Errors
/// If the file cannot be written, or is there and to be kept; nothing is left behind then.
pub fn write_file(path: &Path, bytes: &[u8], existing: Existing) -> Result<()> {
    write_file_with(path, existing, |file| file.write_all(bytes))
}

/// As [`write_file`], of bytes that need not be in memory all at once: `write` makes them.
///
/// # Errors
/// As there, and as `write` does.
pub fn write_file_with(
    path: &Path,
    existing: Existing,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    let written = match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(Error::output(path, "it is a folder; name a file in it"));
        }
        Ok(found) if !found.is_file() => OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut device| write(&mut device)),
        Ok(_) if existing == Existing::Keep => Err(ErrorKind::AlreadyExists.into()),
        // A link stays a link: the file that it names is replaced.
        Ok(_) => fs::canonicalize(path).and_then(|target| write_beside(&target, write, existing)),
        Err(error) if error.kind() == ErrorKind::NotFound => write_beside(path, write, existing),
        Err(error) => Err(error),
    };
    written.map_err(|error| Error::output(path, explain(path, &error)))
}

fn write_beside(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    existing: Existing,
) -> io::Result<()> {
    let (temporary, mut file) = Temporary::create(folder_of(path))?;
    write(&mut file)?;
    file.sync_all()?;
    match existing {
        Existing::Replace => fs::rename(&temporary.0, path),
        // Unlike a rename, a second link to the file cannot replace what appeared in the meantime.
        Existing::Keep => match fs::hard_link(&temporary.0, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists && !path.exists() => {
                // A file system without links.
                fs::rename(&temporary.0, path)
            }
            result => result,
        },
    }
}

/// A file to be removed again, unless it has been renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn create(folder: &Path) -> io::Result<(Self, File)> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".ldm-{}-{number}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                // Left by a process that had the same number and was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
                Ok(file) => return Ok((Self(path), file)),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing here to remove.
        let _ = fs::remove_file(&self.0);
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn explain(path: &Path, error: &io::Error) -> String {
    let folder = folder_of(path).display();
    match error.kind() {
        ErrorKind::AlreadyExists => "it exists already, and is kept".into(),
        ErrorKind::NotFound => format!("the folder {folder} does not exist; create it first"),
        ErrorKind::NotADirectory => format!("{folder} is not a folder"),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            format!("the folder {folder} cannot be written to ({error}); choose another")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("the disk is full ({error}); free some space or choose another folder")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn refused(path: &Path, existing: Existing) -> String {
        let error = write_file(path, b"new", existing).unwrap_err();
        assert!(matches!(error, Error::Output { .. }), "{error:?}");
        assert_eq!(error.exit_code(), 6);
        error.to_string()
    }

    #[test]
    fn a_file_is_replaced_only_where_that_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write_file(&path, b"old", Existing::Keep).unwrap();
        assert!(refused(&path, Existing::Keep).contains("exists already"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_file(&path, b"new", Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.png"]);
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("late.png");
        fs::write(&path, b"old").unwrap();
        // As if the file had appeared after the first look.
        let error = write_beside(&path, |file| file.write_all(b"new"), Existing::Keep).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["late.png"]);
    }

    #[test]
    fn folders_that_cannot_hold_the_file_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refused(folder.path(), Existing::Replace).contains("is a folder"));
        let missing = folder.path().join("none/a.png");
        assert!(refused(&missing, Existing::Replace).contains("none does not exist"));
        fs::write(folder.path().join("file"), b"").unwrap();
        let beneath = folder.path().join("file/a.png");
        assert!(refused(&beneath, Existing::Replace).contains("is not a folder"));
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_file_left_by_a_killed_process_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let (left, _) = Temporary::create(folder.path()).unwrap();
        let name = left.0.file_name().unwrap().to_str().unwrap();
        let number: u32 = name
            .rsplit(['-', '.'])
            .find_map(|part| part.parse().ok())
            .unwrap();
        for next in number + 1..number + 4 {
            let pid = std::process::id();
            fs::write(folder.path().join(format!(".ldm-{pid}-{next}.tmp")), b"").unwrap();
        }
        write_file(&folder.path().join("a.png"), b"new", Existing::Keep).unwrap();
        assert_eq!(names(folder.path()).len(), 5);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_and_read_only_devices_are_explained() {
        assert!(refused(Path::new("/dev/full"), Existing::Replace).contains("disk is full"));
        // Not even the superuser creates a file here.
        let sentence = refused(Path::new("/sys/a.png"), Existing::Replace);
        assert!(sentence.contains("/sys cannot be written to"), "{sentence}");
        write_file(Path::new("/dev/null"), b"new", Existing::Keep).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.png"), folder.path().join("link.png"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_file(&link, b"new", Existing::Replace).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }
}
