//! The entries of `kernels/` with their signatures, and what nvcc made of them: written by `build.rs`, which reads the sources.
//!
//! A launch is checked against this table before any driver sees it, and `ldm devices` says from here what the binary holds.

/// One kernel that can be launched.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Unique over all files.
    pub name: &'static str,
    /// Its file in `kernels/`.
    pub file: &'static str,
    /// Threads per block.
    pub threads: u32,
    /// Blocks that fit on one multiprocessor, as far as registers go.
    pub blocks_per_multiprocessor: u32,
    /// Blocks along x that form a cluster; 1: none do.
    pub cluster: u32,
    /// In the order in which they are passed.
    pub parameters: &'static [Parameter],
}

/// One parameter of an entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    /// As the source names it.
    pub name: &'static str,
    /// What is passed.
    pub kind: Kind,
}

/// What is passed to a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An address on the device.
    Pointer {
        /// What lies there.
        element: Element,
        /// Whether the entry may write there.
        written: bool,
    },
    /// A tensor map.
    Map,
    /// A 32-bit integer.
    Int,
    /// A 32-bit float.
    Float,
}

/// What a pointer points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 16-bit floats.
    Half,
    /// 32-bit floats.
    Float,
    /// 32-bit integers.
    Int,
}

/// One file of `kernels/`, compiled.
pub struct Module {
    /// The file's name without `.cu`.
    pub stem: &'static str,
    /// Machine code and PTX, as `cuModuleLoadData` takes it.
    pub fatbin: &'static [u8],
}

/// Drivers read the headers of a fatbin as 64-bit words.
#[repr(C, align(8))]
#[allow(dead_code, reason = "a build without nvcc has no module")]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

impl Entry {
    /// The one compute capability that there is code for, where its file is for one alone.
    pub fn only_on(&self) -> Option<u32> {
        self.file.ends_with("_sm90.cu").then_some(90)
    }
}

/// The entry of that name.
pub fn entry(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}
