//! nvcc: where it is, and a fatbin of each kernel file.

use crate::entries::HOPPER;
use crate::jobs::{self, Job};
use crate::{Folders, Source};
use std::env;
use std::path::PathBuf;
use std::process::Command;

/// GPUs that get machine code: A100; the RTX 30 series; the RTX 40 series and L4; H100 and H200. Code for one of them runs on later ones of
/// the same generation too.
pub const ARCHITECTURES: [u32; 4] = [80, 86, 89, 90];

/// The PTX that comes with it, for drivers to compile on every other GPU. The oldest that has all our instructions serves the most cards, and
/// the kernels have no code for one architecture that newer PTX would let in.
pub const PTX: u32 = 80;

/// CUDA 11 lacks sm_89 and sm_90 in most of its versions.
const OLDEST: u32 = 12;

/// A compiler that runs.
struct Nvcc {
    path: PathBuf,
    version: String,
}

/// Compiles every file and sets `cfg(nvcc)`: the version of nvcc, or why there is none to compile with.
///
/// # Errors
/// What nvcc said against a kernel.
pub fn compile(sources: &[Source], folders: &Folders) -> Result<Result<String, String>, String> {
    let nvcc = match find(folders) {
        Ok(nvcc) => nvcc,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut jobs = Vec::new();
    for source in sources {
        let output = folders.out.join(&source.stem).with_extension("fatbin");
        let mut command = Command::new(&nvcc.path);
        // The host compiler only preprocesses here, so its version matters little. ptxas reports registers and spills.
        command.args([
            "-fatbin",
            "-std=c++17",
            "-O3",
            "-allow-unsupported-compiler",
            "-Xptxas=-v",
        ]);
        let mut code = |from: &str, to: &str| {
            command.arg(format!("-gencode=arch=compute_{from},code={to}"));
        };
        if source.stem.ends_with(HOPPER) {
            // Instructions that only this one architecture has, and none after it: PTX of them would serve nobody else.
            code("90a", "sm_90a");
        } else {
            for architecture in ARCHITECTURES.map(|number| number.to_string()) {
                code(&architecture, &format!("sm_{architecture}"));
            }
            code(&PTX.to_string(), &format!("compute_{PTX}"));
        }
        command
            .arg("-I")
            .arg(&folders.kernels)
            .arg("-o")
            .arg(&output)
            .arg(&source.path);
        let emulator = folders.kernels.join("emulator");
        jobs.push(Job {
            output,
            inputs: jobs::texts(&source.path, &folders.kernels, Some(&emulator))?,
            compiler: nvcc.version.clone(),
            command,
        });
    }
    jobs::run(jobs)?;
    println!("cargo::rustc-cfg=nvcc");
    Ok(Ok(nvcc.version))
}

/// The first nvcc that works: the one named by `NVCC` (and no other; empty asks for none), or in `CUDA_HOME` or `CUDA_PATH`, on the path, or where
/// tools/install-nvcc puts it.
fn find(folders: &Folders) -> Result<Nvcc, String> {
    for watched in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={watched}");
    }
    let named = |name: &str| env::var_os(name).map(PathBuf::from);
    if let Some(path) = named("NVCC") {
        return match path.as_os_str().is_empty() {
            true => Err("CUDA kernels are not compiled: NVCC is empty".to_owned()),
            false => {
                check(path).map_err(|problem| format!("CUDA kernels are not compiled: {problem}"))
            }
        };
    }
    let mut refused = String::new();
    for home in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(named) {
        match check(home.join("bin/nvcc")) {
            Ok(nvcc) => return Ok(nvcc),
            Err(problem) => refused = refused + "; " + &problem,
        }
    }
    // The path matters only to builds that have to ask it, so that others are not repeated when it changes.
    println!("cargo::rerun-if-env-changed=PATH");
    let path = env::var_os("PATH").unwrap_or_default();
    let folders_of_path = env::split_paths(&path).chain([folders.root.join(".cuda/bin")]);
    for nvcc in folders_of_path
        .map(|folder| folder.join("nvcc"))
        .filter(|nvcc| nvcc.is_file())
    {
        match check(nvcc) {
            Ok(nvcc) => return Ok(nvcc),
            Err(problem) => refused = refused + "; " + &problem,
        }
    }
    Err(format!(
        "CUDA kernels are not compiled, as there is no nvcc{refused}: install the CUDA toolkit, or run tools/install-nvcc"
    ))
}

/// That it runs and is new enough.
fn check(path: PathBuf) -> Result<Nvcc, String> {
    let shown = path.display();
    let answer = match Command::new(&path).arg("--version").output() {
        Ok(answer) if answer.status.success() => answer.stdout,
        Ok(answer) => return Err(format!("{shown} fails ({})", answer.status)),
        Err(problem) => return Err(format!("{shown} does not run ({problem})")),
    };
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let answer = String::from_utf8_lossy(&answer);
    let version = answer
        .split_whitespace()
        .find_map(|word| word.strip_prefix('V'));
    let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    match (version, major) {
        (Some(version), Some(major)) if major >= OLDEST => {
            println!("cargo::rerun-if-changed={shown}");
            Ok(Nvcc {
                version: version.to_owned(),
                path,
            })
        }
        (Some(version), Some(_)) => {
            Err(format!("{shown} is version {version}, older than {OLDEST}"))
        }
        _ => Err(format!("{shown} does not say its version")),
    }
}
