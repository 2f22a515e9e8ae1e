//! The stand-in for NVIDIA's driver (`libcuda/`), compiled with the emulator of this build, and the binary run with it.

use super::support::{Place, Run};
use latent_diffusion::cuda::table::{ENTRIES, Entry, Kind, Parameter};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};
use tempfile::TempDir;

/// The folder of the stand-in, compiled once. Where there is an emulator there is a C++ compiler.
pub fn stand_in() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let compile = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = fs::read_dir(root.join("tests/cli/libcuda")).unwrap();
        let mut sources: Vec<PathBuf> = sources.map(|file| file.unwrap().path()).collect();
        sources.retain(|path| path.extension().is_some_and(|extension| extension == "cpp"));
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("signatures.cpp");
        fs::write(&table, signatures()).unwrap();
        sources.push(table);
        // As the emulator was compiled.
        let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
        let mut compiler = Command::new(compiler);
        compiler.args(["-std=c++17", "-O1", "-shared", "-fPIC", "-pthread"]);
        compiler.args(["-Wl,-Bsymbolic", "-o"]);
        compiler.arg(folder.path().join("libcuda.so")).args(sources);
        compiler.arg("-I").arg(root.join("kernels"));
        compiler.arg("-I").arg(root.join("tests/cli/libcuda"));
        let emulator = concat!(env!("OUT_DIR"), "/libldm_emulator.a");
        compiler.args(["-Wl,--whole-archive", emulator, "-Wl,--no-whole-archive"]);
        succeed(compiler);
        folder
    };
    FOLDER.get_or_init(compile).path()
}

/// Runs a compiler.
pub fn succeed(mut compiler: Command) {
    let answer = compiler.output().unwrap();
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{compiler:?}\n{said}");
}

/// What the stand-in knows of every entry.
fn signatures() -> String {
    let letter = |parameter: &Parameter| match parameter.kind {
        Kind::Pointer { written: true, .. } => 'w',
        Kind::Pointer { .. } => 'r',
        Kind::Map => 'm',
        Kind::Int => 'i',
        Kind::Float => 'f',
    };
    let row = |entry: &Entry| {
        let letters: String = entry.parameters.iter().map(letter).collect();
        let (name, hopper) = (entry.name, entry.only_on().is_some());
        let (threads, cluster) = (entry.threads, entry.cluster);
        format!("    {{{name:?}, {hopper}, {threads}, {cluster}, {letters:?}}},\n")
    };
    let rows: String = ENTRIES.iter().map(row).collect();
    format!(
        "#include \"libcuda.h\"\nconst stand_in::Signature stand_in::signatures[] = {{\n{rows}    {{}},\n}};\n"
    )
}

/// A run of the binary, and the stand-in's log of it.
pub struct Logged {
    pub run: Run,
    log: String,
}

impl Logged {
    /// How often the log has a line.
    pub fn count(&self, line: &str) -> usize {
        self.log.lines().filter(|found| *found == line).count()
    }

    /// What the stand-in refused, and what was not given back.
    pub fn complaints(&self) -> Vec<&str> {
        let complains = |line: &&str| line.starts_with("refused: ") || line.starts_with("leaked: ");
        self.log.lines().filter(complains).collect()
    }

    /// Checks that the run succeeded and that the stand-in had nothing to say against it.
    #[track_caller]
    pub fn good(self) -> Self {
        let none: [&str; 0] = [];
        assert_eq!(self.complaints(), none, "{}", self.run.stderr);
        assert_eq!(self.run.code, 0, "{}", self.run.stderr);
        self
    }
}

/// Runs the binary in `place` with the stand-in, which is told `answers`.
pub fn run_in(place: &Place, answers: &str, arguments: &[&str]) -> Logged {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = place.command(arguments);
    command
        .env("LD_LIBRARY_PATH", stand_in())
        .env("FAKE_CUDA", answers)
        .env("FAKE_CUDA_LOG", log.path());
    let run = Run::of(command.output().unwrap());
    let log = fs::read_to_string(log.path()).unwrap();
    Logged { run, log }
}
