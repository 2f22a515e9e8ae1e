//! A GPU as its driver describes it, and what follows from that.

use super::diagnosis;
use super::kernel::{Kernels, Precision, Sums, Target};
use crate::error::{Error, Result};
use std::fmt;

/// A GPU as the driver describes it.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Its number.
    pub ordinal: u32,
    /// What it is sold as.
    pub name: String,
    /// Compute capability, 10 * major + minor.
    pub compute_capability: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that one block may ask for.
    pub shared_bytes_per_block: u32,
    /// Bytes of its memory.
    pub memory_bytes: usize,
    /// Bytes that it reads from its memory per second, at most.
    pub memory_rate: f64,
    /// Bytes of its second-level cache.
    pub cache_bytes: usize,
    /// Clocks per second, at most.
    pub clock_rate: f64,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.name)
    }
}

impl Gpu {
    /// GPUs that predictions are made for: by their data sheets, but for the H200, whose clock and memory are those at which one was seen to
    /// multiply halves at 788 TFLOP/s and to copy at 4.3 TB/s.
    pub fn published() -> [Self; 4] {
        let gpu = |name: &str,
                   of: fn(Precision) -> Target,
                   [cache, memory]: [usize; 2],
                   [clock, rate]: [f64; 2]| Self {
            ordinal: 0,
            name: name.to_owned(),
            compute_capability: of(Precision::F16).compute_capability,
            multiprocessors: of(Precision::F16).multiprocessors,
            shared_bytes_per_block: of(Precision::F16).shared_bytes_per_block,
            memory_bytes: memory << 30,
            memory_rate: rate * 1e12,
            cache_bytes: cache << 20,
            clock_rate: clock * 1e9,
        };
        [
            gpu("A100", Target::a100, [40, 80], [1.41, 2.039]),
            gpu(
                "GeForce RTX 3090",
                Target::rtx_3090,
                [6, 24],
                [1.695, 0.936],
            ),
            gpu(
                "GeForce RTX 4090",
                Target::rtx_4090,
                [72, 24],
                [2.52, 1.008],
            ),
            gpu("H200", Target::h200, [50, 141], [1.457, 4.3]),
        ]
    }

    /// The one of [`published`](Self::published) that is called so, however it is written: `rtx4090`, `RTX 4090`, `4090`.
    ///
    /// # Errors
    /// If none is.
    pub fn named(name: &str) -> Result<Self> {
        let letters = |name: &str| -> String {
            let letters = name.chars().filter(char::is_ascii_alphanumeric);
            letters.map(|c| c.to_ascii_lowercase()).collect()
        };
        let wanted = letters(name);
        let is = |gpu: &Self| {
            let own = letters(&gpu.name);
            let short = ["geforce", "geforcertx"].map(|series| own.strip_prefix(series));
            own == wanted || short.contains(&Some(&*wanted))
        };
        Self::published().into_iter().find(is).ok_or_else(|| {
            let known = Self::published().map(|gpu| gpu.name).join(", ");
            Error::request(format!(
                "the GPU `{name}` is not among those that are known here: {known}"
            ))
        })
    }

    /// The one of [`published`](Self::published) that is of the target's kind, with the target's sizes.
    pub(super) fn nearest(target: &Target) -> Self {
        let [a100, others @ ..] = Self::published();
        let is = |gpu: &Self| gpu.compute_capability == target.compute_capability;
        Self {
            compute_capability: target.compute_capability,
            multiprocessors: target.multiprocessors,
            shared_bytes_per_block: target.shared_bytes_per_block,
            ..others.into_iter().find(is).unwrap_or(a100)
        }
    }

    /// What kernels are chosen for.
    pub fn target(&self, precision: Precision) -> Target {
        Target {
            precision,
            compute_capability: self.compute_capability,
            multiprocessors: self.multiprocessors,
            shared_bytes_per_block: self.shared_bytes_per_block,
            prefer: None,
            sums: match self.name.contains("GeForce") {
                true => Sums::of_geforce(self.compute_capability),
                false => Sums::F32,
            },
            kernels: Kernels::All,
        }
    }

    /// Floating-point operations per second at best: dense products of halves on tensor cores, or of floats on the others.
    pub fn flops(&self, precision: Precision) -> f64 {
        let per_clock = match (precision, self.compute_capability) {
            (Precision::F16, 90..) => 4096.0,
            (Precision::F16, 81..90) => 1024.0,
            (Precision::F16, _) => 2048.0,
            (Precision::F32, 81..) => 256.0,
            (Precision::F32, _) => 128.0,
        };
        per_clock * f64::from(self.multiprocessors) * self.clock_rate
    }

    /// Whether this program has code for it.
    ///
    /// # Errors
    /// If not, with what it has code for.
    pub fn check(&self) -> Result<()> {
        diagnosis::check_code(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_their_short_names() {
        for (name, whole) in [
            ("a100", "A100"),
            ("rtx4090", "GeForce RTX 4090"),
            ("RTX 4090", "GeForce RTX 4090"),
            ("geforce-rtx-3090", "GeForce RTX 3090"),
            ("3090", "GeForce RTX 3090"),
        ] {
            assert_eq!(Gpu::named(name).unwrap().name, whole);
        }
        for name in ["", "0", "RTX", "GeForce"] {
            assert!(Gpu::named(name).is_err(), "{name}");
        }
    }

    #[test]
    fn professional_cards_sum_in_f32() {
        let sums = |name: &str| {
            let gpu = Gpu {
                name: name.to_owned(),
                ..Gpu::named("4090").unwrap()
            };
            gpu.target(Precision::F16).sums
        };
        assert_eq!(sums("NVIDIA GeForce RTX 4090 Laptop GPU"), Sums::Allowed);
        for name in ["NVIDIA L40S", "NVIDIA RTX 6000 Ada Generation"] {
            assert_eq!(sums(name), Sums::F32);
        }
    }
}
