//! Where results go: a file that the user named, or a folder where nothing is ever replaced.
//!
//! The place is tried before anything is computed. What cannot be written afterwards (a full disk) goes to the system's
//! folder for temporary files, so that minutes of work are not lost with it.

use super::args::PlaceArgs;
use super::console::Console;
use latent_diffusion::image::{Existing, write_file};
use latent_diffusion::{Error, Result};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the images of one invocation go.
pub struct Output {
    place: Place,
    /// Results so far: the number that templates fill in.
    index: usize,
    written: HashSet<PathBuf>,
}

enum Place {
    Stdout,
    /// A path that the user typed, with fields to be filled in.
    Template(PathBuf),
    Folder(PathBuf),
}

/// What a result's name may be made of.
pub struct Names<'a> {
    /// The name in a folder, without extension: a template too.
    pub stem: &'a str,
    /// The number for `{index}`, if it is not the next one that is free.
    pub index: Option<usize>,
    /// The seed, where there is one.
    pub seed: Option<u64>,
    /// What was asked for.
    pub prompt: &'a str,
    /// The user's own name for it.
    pub id: Option<&'a str>,
}

impl Output {
    /// Makes the place ready for results whose files end in `.extension`.
    ///
    /// # Errors
    /// If nothing can be written there, or the place does not fit the results.
    pub fn prepare(args: &PlaceArgs, extension: &str) -> Result<Self> {
        let place = match (&args.output, &args.outdir) {
            _ if args.is_stdout() => Place::Stdout,
            (Some(path), _) if is_folder(path) => Place::Folder(path.clone()),
            (Some(path), _) => Place::Template(path.clone()),
            (None, outdir) => Place::Folder(outdir.clone().unwrap_or_else(|| "outputs".into())),
        };
        match &place {
            Place::Stdout => {}
            Place::Folder(folder) => {
                fs::create_dir_all(folder).map_err(|error| {
                    Error::output(folder, format!("cannot be created: {error}"))
                })?;
                try_folder(folder)?;
            }
            Place::Template(path) => try_file(path, extension)?,
        }
        let index = match &place {
            Place::Folder(folder) => first_free(folder),
            Place::Stdout | Place::Template(_) => 0,
        };
        Ok(Self {
            place,
            index,
            written: HashSet::new(),
        })
    }

    /// The path of a result if there is a file already.
    pub fn existing(&self, names: &Names, extension: &str) -> Option<PathBuf> {
        self.path(names, extension).filter(|path| path.is_file())
    }

    /// Writes one result; its path, or `None` where it went to standard output.
    ///
    /// # Errors
    /// If it cannot be written; it is kept in the folder for temporary files then, and the error says where.
    pub fn write(
        &mut self,
        bytes: &[u8],
        names: &Names,
        extension: &str,
        console: &Console,
    ) -> Result<Option<PathBuf>> {
        let Some(path) = self.path(names, extension) else {
            if !self.written.insert("-".into()) {
                return Err(Error::request(
                    "standard output takes one result: name a file or folder for several",
                ));
            }
            return console.bytes(bytes).map(|()| None);
        };
        // Only what the user's own words name is replaced, and only once in a run.
        let named = matches!(self.place, Place::Template(_)) && !self.written.contains(&path);
        let replaces = named || is_device(&path);
        self.index += 1;
        loop {
            let (path, existing) = match replaces {
                true => (path.clone(), Existing::Replace),
                false => (free(path.clone()), Existing::Keep),
            };
            match write_file(&path, bytes, existing) {
                Ok(()) => {
                    self.written.insert(path.clone());
                    return Ok(Some(path));
                }
                // Another process took the name in the meantime.
                Err(_) if existing == Existing::Keep && path.exists() => {}
                Err(error) => return Err(rescued(error, &path, bytes)),
            }
        }
    }

    /// Where a result belongs; `None` for standard output.
    fn path(&self, names: &Names, extension: &str) -> Option<PathBuf> {
        let index = names.index.unwrap_or(self.index);
        match &self.place {
            Place::Stdout => None,
            Place::Folder(folder) => {
                let stem = fill_in(names.stem, index, names);
                Some(folder.join(format!("{stem}.{extension}")))
            }
            Place::Template(template) => Some(match template.to_str() {
                Some(text) => fill_in(text, index, names).into(),
                None => template.clone(),
            }),
        }
    }
}

/// Whether the user means a folder: one that is there, or a name with a slash at its end.
fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// Whether there is something other than a file or folder, such as `/dev/null`.
fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Writes nothing into a folder, to see whether something could be.
fn try_folder(folder: &Path) -> Result<()> {
    let probe = folder.join(format!(".ldm-{}.probe", std::process::id()));
    let tried = write_file(&probe, b"", Existing::Replace).and_then(|()| {
        fs::remove_file(&probe).map_err(|error| Error::output(&probe, error.to_string()))
    });
    // Nobody asked for the file that was tried.
    tried.map_err(|error| match error {
        Error::Output { problem, .. } => Error::output(folder, problem),
        other => other,
    })
}

/// As [`try_folder`], for the folder of a file that the user named.
fn try_file(path: &Path, extension: &str) -> Result<()> {
    if is_device(path) {
        return Ok(());
    }
    let other = path
        .extension()
        .filter(|found| !found.eq_ignore_ascii_case(extension));
    if let Some(other) = other.and_then(|other| other.to_str()) {
        const FORMATS: [&str; 8] = [
            "png",
            "jpg",
            "jpeg",
            "webp",
            "gif",
            "bmp",
            "tiff",
            "safetensors",
        ];
        if FORMATS.contains(&other.to_ascii_lowercase().as_str()) {
            return Err(Error::request(format!(
                "{}: only .{extension} files are written here",
                path.display()
            )));
        }
    }
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => try_folder(Path::new(".")),
        // A folder whose name is still to be filled in is tried when it is known.
        Some(folder)
            if folder
                .to_str()
                .is_some_and(|name| name.contains(['{', '%'])) =>
        {
            Ok(())
        }
        Some(folder) => try_folder(folder),
        None => Ok(()),
    }
}

/// One more than the largest number that begins a file's name in the folder.
fn first_free(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.split_once('-')?.0.parse::<usize>().ok()
    });
    numbers.max().map_or(0, |largest| largest.saturating_add(1))
}

/// A template with its fields filled in: `{index}`, `{index:05}`, `{seed}`, `{prompt}`, `{id}`, `%d` and `%05d`.
fn fill_in(template: &str, index: usize, names: &Names) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '%']) {
        filled += &rest[..at];
        rest = &rest[at..];
        let (value, length) = match field(rest, index, names) {
            Some(field) => field,
            None => (rest[..1].to_owned(), 1),
        };
        filled += &value;
        rest = &rest[length..];
    }
    filled + rest
}

/// The field that opens `text`: its value, and how long it is in the template.
fn field(text: &str, index: usize, names: &Names) -> Option<(String, usize)> {
    let padded = |number: u64, width: &str| {
        let width: usize = if width.is_empty() {
            0
        } else {
            width.parse().ok()?
        };
        (width <= 20).then(|| format!("{number:0width$}"))
    };
    if let Some(printf) = text.strip_prefix('%') {
        let end = printf.find('d')?;
        return Some((padded(index as u64, &printf[..end])?, end + 2));
    }
    let end = text.find('}')?;
    let (name, width) = text[1..end].split_once(':').unwrap_or((&text[1..end], ""));
    let value = match name {
        "index" => padded(index as u64, width)?,
        "seed" => padded(names.seed?, width)?,
        "prompt" => words(names.prompt),
        "id" => words(names.id.unwrap_or_default()),
        _ => return None,
    };
    Some((value, end + 1))
}

/// A text as part of a file's name.
fn words(text: &str) -> String {
    const LONGEST: usize = 60;
    let plain = text
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { ' ' });
    let plain: String = plain.collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    words.join("-").chars().take(LONGEST).collect()
}

/// The path, or where there is a file already, the first of `a-1.png`, `a-2.png` and so on where there is none.
fn free(path: PathBuf) -> PathBuf {
    if !path.exists() {
        return path;
    }
    let mut numbered = (1..).map(|number| with_number(&path, number));
    numbered
        .find(|path| !path.exists())
        .unwrap_or_else(|| path.clone())
}

/// `a.png` as `a-1.png`.
fn with_number(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Keeps what could not be written where it belongs.
fn rescued(error: Error, path: &Path, bytes: &[u8]) -> Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A name may be what was wrong with it: its end has the extension.
    let end = name.floor_char_boundary(name.len().saturating_sub(60));
    let name = format!("ldm-{}-{}", std::process::id(), &name[end..]);
    let shelter = free(std::env::temp_dir().join(name));
    match (error, write_file(&shelter, bytes, Existing::Keep)) {
        (Error::Output { path, problem }, Ok(())) => Error::output(
            path,
            format!("{problem}; the result was kept in {}", shelter.display()),
        ),
        (error, _) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names {
        stem: "{index}-7",
        index: None,
        seed: Some(7),
        prompt: "a red/blue Balloon!",
        id: Some("x 1"),
    };

    #[test]
    fn templates_are_filled_in() {
        for (template, expected) in [
            ("a.png", "a.png"),
            ("{index}-{seed}.png", "3-7.png"),
            ("{index:05}.png", "00003.png"),
            ("%03d.png", "003.png"),
            ("{prompt}_{id}.png", "a-red-blue-Balloon_x-1.png"),
            ("{other}%x{", "{other}%x{"),
            ("100%.png", "100%.png"),
        ] {
            assert_eq!(fill_in(template, 3, &NAMES), expected);
        }
    }

    #[test]
    fn numbering_goes_on_where_a_folder_ends() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(first_free(folder.path()), 0);
        for name in ["00004-1.png", "00009-2.png", "x-3.png", "17"] {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        assert_eq!(first_free(folder.path()), 10);
    }
}
