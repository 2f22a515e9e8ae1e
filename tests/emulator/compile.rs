//! Compiles one kernel file, perhaps with a fault planted in it or in a header of its, and loads it with an emulator of its own.
//!
//! The flags are those at the head of `kernels/emulator/entry.h`.

use latent_diffusion::cuda::table;
use libloading::Library;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};
use tempfile::TempDir;

/// A text of a file of `kernels/`, and what stands in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    pub file: &'static str,
    pub text: &'static str,
    pub replacement: &'static str,
}

/// A library, and the folder of its sources, which faults are looked up in.
pub struct Loaded {
    pub library: Library,
    _sources: TempDir,
}

/// The C++ compiler. Where there is none these tests are ignored.
fn compiler() -> &'static OsString {
    static FOUND: OnceLock<OsString> = OnceLock::new();
    let find = || {
        let named = env::var_os("CXX").into_iter();
        let mut names = named.chain(["c++", "g++", "clang++"].map(OsString::from));
        let found = names.find(|name| {
            let answer = Command::new(name).arg("--version").output();
            answer.is_ok_and(|answer| answer.status.success())
        });
        found.expect("a C++ compiler")
    };
    FOUND.get_or_init(find)
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn run(arguments: impl FnOnce(&mut Command)) {
    let mut command = Command::new(compiler());
    command.arg("-fPIC");
    arguments(&mut command);
    let answer = command.output().unwrap();
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{command:?}\n{said}");
}

/// The emulator's objects, compiled once.
fn emulator() -> &'static [PathBuf] {
    static OBJECTS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    OBJECTS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
        fs::create_dir_all(&folder).unwrap();
        let sources = files(&kernels().join("emulator"), "cpp");
        let compile = |source: PathBuf| {
            let stem = source.file_stem().unwrap().to_string_lossy();
            let object = folder.join(format!("{stem}.o"));
            // Another run of the tests may be linking the object that is there.
            let new = folder.join(format!("{stem}.{}.o", std::process::id()));
            run(|c| {
                c.args(["-std=c++17", "-O2", "-c", "-o"])
                    .arg(&new)
                    .arg(&source);
            });
            fs::rename(new, &object).unwrap();
            object
        };
        sources.into_iter().map(compile).collect()
    })
}

/// The files of a folder that end so.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

/// Copies the kernels to a folder and makes one change there, which must fit exactly once.
fn copy(to: &Path, change: Option<&Change>) {
    fs::create_dir_all(to.join("emulator")).unwrap();
    fs::create_dir_all(to.join("stubs")).unwrap();
    let copied = [("", "cu"), ("", "cuh"), ("emulator", "h")];
    for (folder, extension) in copied {
        for file in files(&kernels().join(folder), extension) {
            fs::copy(&file, to.join(folder).join(file.file_name().unwrap())).unwrap();
        }
    }
    if let Some(Change {
        file,
        text,
        replacement,
    }) = change
    {
        let path = to.join(file);
        let source = fs::read_to_string(&path).unwrap();
        let found = source.matches(text).count();
        assert_eq!(found, 1, "kernels/{file}: `{text}` must be there once");
        fs::write(path, source.replace(text, replacement)).unwrap();
    }
}

/// A stub that lists those of `entries` that are in `file`, compiled.
fn stub(folder: &Path, file: &str, entries: &[String]) -> PathBuf {
    let rows = entries
        .iter()
        .filter(|entry| table::entry(entry).unwrap().file == file);
    let rows: String = rows.map(|entry| format!("LDM_ENTRY({entry}), ")).collect();
    let stem = file.trim_end_matches(".cu");
    let stub = folder.join("stubs").join(stem).with_extension("cpp");
    let text = format!(
        "#include \"emulator/entry.h\"\nnamespace {{\n#include \"{file}\"\n}}\n\
        extern const ldm_entry ldm_entries_{stem}[] = {{{rows}{{nullptr, nullptr, 0}}}};\n"
    );
    fs::write(&stub, text).unwrap();
    let object = stub.with_extension("o");
    let clang = compiler().to_string_lossy().contains("clang");
    let silent: &[&str] = match clang {
        true => &["-mllvm", "-tsan-instrument-func-entry-exit=0"],
        false => &[
            "--param",
            "tsan-instrument-func-entry-exit=0",
            "-fno-tree-loop-distribute-patterns",
        ],
    };
    run(|c| {
        c.args([
            "-std=c++17",
            "-O2",
            "-g1",
            "-gdwarf-4",
            "-DLDM_EMULATOR",
            "-Wno-unknown-pragmas",
            "-fsanitize=thread",
        ]);
        c.args(silent)
            .arg("-I")
            .arg(folder)
            .arg("-c")
            .arg(&stub)
            .arg("-o")
            .arg(&object);
    });
    object
}

/// `entries`, with a change made to the sources, or none.
pub fn library(entries: &[String], change: Option<&Change>) -> Loaded {
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = temporary.path();
    copy(folder, change);
    let files: BTreeSet<&str> = entries
        .iter()
        .map(|entry| table::entry(entry).unwrap().file)
        .collect();
    let mut objects: Vec<PathBuf> = files
        .iter()
        .map(|file| stub(folder, file, entries))
        .collect();
    let tables = || {
        files
            .iter()
            .map(|file| format!("ldm_entries_{}", file.trim_end_matches(".cu")))
    };
    let declared: String = tables()
        .map(|table| format!("extern const ldm_entry {table}[];\n"))
        .collect();
    let listed: String = tables().map(|table| format!("{table}, ")).collect();
    let text = format!(
        "#include \"emulator/entry.h\"\n{declared}\
        extern \"C\" const ldm_entry* const ldm_entry_tables[] = {{{listed}nullptr}};\n"
    );
    let list = folder.join("stubs/tables.cpp");
    fs::write(&list, text).unwrap();
    objects.push(list.with_extension("o"));
    run(|c| {
        c.args(["-std=c++17", "-I"])
            .arg(folder)
            .arg("-c")
            .arg(&list)
            .arg("-o")
            .arg(list.with_extension("o"));
    });
    let shared = folder.join("kernels.so");
    run(|c| {
        c.args(["-shared", "-pthread", "-Wl,-Bsymbolic", "-o"])
            .arg(&shared);
        c.args(&objects).args(emulator());
    });
    // SAFETY: nothing in it runs when it is loaded but constructors of the C++ library's own.
    let library = unsafe { Library::new(&shared) }.unwrap();
    Loaded {
        library,
        _sources: temporary,
    }
}
