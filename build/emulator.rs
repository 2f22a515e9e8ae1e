//! The emulator, and each kernel file compiled for it.
//!
//! A kernel file is C++ once `gpu.cuh` is read with `LDM_EMULATOR` defined. It is included by a stub written here, which also lists its
//! entries. The stubs are compiled as for a thread sanitizer, whose hooks the emulator has in the sanitizer's stead: every access of a kernel
//! goes through its checker. The emulator itself is not, so that it may do as it likes.

use crate::jobs::{self, Job};
use crate::{Folders, Source};
use std::path::PathBuf;
use std::{env, fs};

/// Compiles all of it, links it in and sets `cfg(emulator)`; or says why there is no emulator.
///
/// # Errors
/// What the C++ compiler said.
pub fn compile(sources: &[Source], folders: &Folders) -> Result<Result<String, String>, String> {
    let folder = folders.kernels.join("emulator");
    let mut runtime = Vec::new();
    for file in
        fs::read_dir(&folder).map_err(|problem| format!("{}: {problem}", folder.display()))?
    {
        let path = file
            .map_err(|problem| format!("{}: {problem}", folder.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "cpp") {
            runtime.push(path);
        }
    }
    runtime.sort();
    if runtime.is_empty() {
        return Ok(Err("the emulator is not there".to_owned()));
    }
    let (compiler, watched) = match compilers(folders) {
        Ok(compilers) => compilers,
        Err(reason) => return Ok(Err(format!("the emulator is not compiled: {reason}"))),
    };
    runtime.push(write_tables(sources, folders)?);
    let stubs = write_stubs(sources, folders)?;
    let mut jobs = Vec::new();
    for (files, tool, prefix) in [(&runtime, &compiler, "emulator_"), (&stubs, &watched, "")] {
        for file in files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let output = folders.out.join(format!("{prefix}{name}.o"));
            let mut command = tool.to_command();
            command.arg("-c").arg(file).arg("-o").arg(&output);
            jobs.push(Job {
                output,
                inputs: jobs::texts(file, &folders.kernels, None)?,
                compiler: version(tool),
                command,
            });
        }
    }
    let mut library = cc::Build::new();
    library
        .cpp(true)
        .objects(jobs.iter().map(|job| &job.output));
    jobs::run(jobs)?;
    library
        .try_compile("ldm_emulator")
        .map_err(|problem| format!("the emulator's objects do not go into a library: {problem}"))?;
    println!("cargo::rustc-cfg=emulator");
    Ok(Ok(version(&compiler)))
}

/// How the emulator is compiled, and how kernels are.
fn compilers(folders: &Folders) -> Result<(cc::Tool, cc::Tool), String> {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return Err("it runs on Linux alone".to_owned());
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .cargo_warnings(false)
        .include(&folders.kernels)
        // Faults name files and lines, from the repository's root.
        .flag("-g1")
        // In the fifth version of the format, the first file is at times taken for the second.
        .flag("-gdwarf-4")
        .flag(format!("-ffile-prefix-map={}/=", folders.root.display()));
    let plain = build
        .try_get_compiler()
        .map_err(|problem| format!("there is no C++ compiler ({problem})"))?;
    build
        .define("LDM_EMULATOR", None)
        .flag("-Wno-unknown-pragmas")
        .flag("-fsanitize=thread");
    if plain.is_like_clang() {
        build
            .flag("-mllvm")
            .flag("-tsan-instrument-func-entry-exit=0");
    } else {
        build
            .flag("--param")
            .flag("tsan-instrument-func-entry-exit=0")
            // A loop that became a call of memset would pass the checker by.
            .flag("-fno-tree-loop-distribute-patterns");
    }
    let watched = build.get_compiler();
    // A compiler that is named but absent, or one without a thread sanitizer, is found out by an empty file.
    let probe = folders.out.join("probe.cpp");
    jobs::write_if_changed(&probe, "#include <cmath>\n")?;
    let mut command = watched.to_command();
    command.arg("-fsyntax-only").arg(&probe);
    match command.output() {
        Ok(answer) if answer.status.success() => Ok((plain, watched)),
        Ok(answer) => Err(format!(
            "{} fails: {}",
            jobs::line(&command),
            String::from_utf8_lossy(&answer.stderr).trim()
        )),
        Err(problem) => Err(format!(
            "there is no C++ compiler ({}: {problem})",
            watched.path().display()
        )),
    }
}

/// What compiles, so that another compiler compiles everything again.
fn version(tool: &cc::Tool) -> String {
    let answer = tool.to_command().arg("--version").output();
    let said = answer.map_or_else(|_| Vec::new(), |answer| answer.stdout);
    String::from_utf8_lossy(&said)
        .lines()
        .next()
        .unwrap_or("unknown")
        .to_owned()
}

/// A stub for each kernel file.
fn write_stubs(sources: &[Source], folders: &Folders) -> Result<Vec<PathBuf>, String> {
    let stub = |source: &Source| {
        let stem = &source.stem;
        let names = source.entries.iter().map(|entry| &entry.name);
        let rows: String = names
            .map(|name| format!("    LDM_ENTRY({name}),\n"))
            .collect();
        // The namespace keeps templates of one name in two files apart, as nvcc does.
        let text = format!(
            "#include \"emulator/entry.h\"\nnamespace {{\n#include \"{stem}.cu\"\n}}\n\
            extern const ldm_entry ldm_entries_{stem}[] = {{\n{rows}    {{nullptr, nullptr, 0}},\n}};\n"
        );
        write(folders, &format!("emulated_{stem}.cpp"), &text)
    };
    sources.iter().map(stub).collect()
}

/// A file that lists the tables of all stubs.
fn write_tables(sources: &[Source], folders: &Folders) -> Result<PathBuf, String> {
    let stems = || sources.iter().map(|source| &source.stem);
    let declared: String = stems()
        .map(|stem| format!("extern const ldm_entry ldm_entries_{stem}[];\n"))
        .collect();
    let listed: String = stems()
        .map(|stem| format!("    ldm_entries_{stem},\n"))
        .collect();
    let text = format!(
        "#include \"emulator/entry.h\"\n{declared}\
        extern \"C\" const ldm_entry* const ldm_entry_tables[] = {{\n{listed}    nullptr,\n}};\n"
    );
    write(folders, "emulated_tables.cpp", &text)
}

fn write(folders: &Folders, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = folders.out.join(name);
    jobs::write_if_changed(&path, text)?;
    Ok(path)
}
