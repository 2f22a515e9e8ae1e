//! What was compiled, as Rust.

use crate::{Source, nvcc};
use std::fmt::Write;

/// The text that `src/cuda/table.rs` includes.
pub fn text(
    sources: &[Source],
    cuda: &Result<String, String>,
    emulator: &Result<String, String>,
) -> String {
    let mut entries = String::new();
    for source in sources {
        for entry in &source.entries {
            let _ = write!(
                entries,
                "    Entry {{ name: {:?}, file: \"{}.cu\", threads: {}, blocks_per_multiprocessor: {}, cluster: {}, parameters: &[",
                entry.name,
                source.stem,
                entry.threads,
                entry.blocks_per_multiprocessor,
                entry.cluster
            );
            for parameter in &entry.parameters {
                let _ = write!(
                    entries,
                    "Parameter {{ name: {:?}, kind: {} }}, ",
                    parameter.name, parameter.kind
                );
            }
            entries.push_str("] },\n");
        }
    }
    let mut modules = String::new();
    for source in sources.iter().filter(|_| cuda.is_ok()) {
        let stem = &source.stem;
        let _ = writeln!(
            modules,
            "    Module {{ stem: {stem:?}, fatbin: &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{stem}.fatbin\"))).0 }},"
        );
    }
    let architectures: &[u32] = if cuda.is_ok() {
        &nvcc::ARCHITECTURES
    } else {
        &[]
    };
    let ptx = cuda.as_ref().map(|_| nvcc::PTX).ok();
    format!(
        "/// Every entry of `kernels/`, file by file.
pub const ENTRIES: &[Entry] = &[
{entries}];

/// The kernels for GPUs; none where there was no nvcc.
pub const MODULES: &[Module] = &[
{modules}];

/// The compute capabilities (10 * major + minor) that the modules have machine code for.
pub const ARCHITECTURES: &[u32] = &{architectures:?};

/// The compute capability whose PTX the modules hold: drivers compile it for capabilities that are not among [`ARCHITECTURES`].
pub const PTX: Option<u32> = {ptx:?};

/// The version of nvcc that compiled the modules, or why there are none.
pub const NVCC: Result<&str, &str> = {cuda:?};

/// The compiler of the emulator, or why it is absent.
pub const EMULATOR: Result<&str, &str> = {emulator:?};
"
    )
}
