//! Compiles `kernels/` twice and writes down what it holds.
//!
//! - nvcc, where there is one, makes a fatbin of each `.cu` file: machine code for the GPUs we name and PTX for those that come later.
//! - The C++ compiler, where there is one, compiles the same files for the emulator, every memory access of theirs going through its checker.
//! - The entries of all files and their signatures become a table in Rust, which `src/cuda/table.rs` includes.
//!
//! Neither compiler is needed: a build without one says so once and holds everything else. Only files that changed are compiled again.

#[path = "build/emulator.rs"]
mod emulator;
#[path = "build/entries.rs"]
mod entries;
#[path = "build/jobs.rs"]
mod jobs;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/table.rs"]
mod table;

use std::path::PathBuf;
use std::{env, fs, process};

/// Where things are read and written.
struct Folders {
    /// The repository's root.
    root: PathBuf,
    /// `kernels/` in it.
    kernels: PathBuf,
    /// Cargo's folder for what is made here.
    out: PathBuf,
}

/// One `.cu` file.
struct Source {
    /// Its name without `.cu`.
    stem: String,
    path: PathBuf,
    entries: Vec<entries::Entry>,
}

fn main() {
    if let Err(problem) = build() {
        eprintln!("{problem}");
        process::exit(1);
    }
}

fn build() -> Result<(), String> {
    for watched in ["build.rs", "build", "kernels"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    println!("cargo::rustc-check-cfg=cfg(emulator, nvcc)");
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let folders = Folders {
        kernels: root.join("kernels"),
        out: PathBuf::from(variable("OUT_DIR")?),
        root,
    };
    let sources = sources(&folders)?;
    let cuda = nvcc::compile(&sources, &folders)?;
    let emulator = emulator::compile(&sources, &folders)?;
    for reason in [cuda.as_ref().err(), emulator.as_ref().err()]
        .into_iter()
        .flatten()
    {
        println!("cargo::warning={}", reason.replace('\n', " "));
    }
    let text = table::text(&sources, &cuda, &emulator);
    jobs::write_if_changed(&folders.out.join("kernels.rs"), &text)
}

/// Every kernel file with its entries, by name.
fn sources(folders: &Folders) -> Result<Vec<Source>, String> {
    let unreadable = |problem| format!("{}: {problem}", folders.kernels.display());
    let mut sources = Vec::new();
    for file in fs::read_dir(&folders.kernels).map_err(unreadable)? {
        let path = file.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let stem = name.trim_end_matches(".cu").to_owned();
            let entries = entries::parse(&format!("kernels/{name}"), &jobs::read(&path)?)?;
            sources.push(Source {
                stem,
                path,
                entries,
            });
        }
    }
    sources.sort_by(|a, b| a.stem.cmp(&b.stem));
    entries::check_names(sources.iter().flat_map(|source| &source.entries))?;
    Ok(sources)
}

/// A variable that cargo sets.
fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
