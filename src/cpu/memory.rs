//! How much memory there is, and what does not fit.

use crate::error::{Error, Result};
use std::fs;

/// Bytes that the system can give without swapping; `None` where it does not say.
pub(super) fn available() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// Refuses what does not fit in `limit` bytes.
pub(super) fn within(limit: usize, weight_bytes: usize, arena_bytes: usize) -> Result<()> {
    if weight_bytes + arena_bytes <= limit {
        return Ok(());
    }
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    Err(Error::Memory(format!(
        "{} MiB of memory may be used, and {} MiB are needed: {} of weights and {} of activations; use a smaller size or batch, or allow more",
        limit >> 20,
        mib(weight_bytes + arena_bytes),
        mib(weight_bytes),
        mib(arena_bytes),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_parts() {
        assert!(within(3 << 20, 1 << 20, 2 << 20).is_ok());
        let refused = within(3 << 20, 2 << 20, 2 << 20).unwrap_err();
        assert_eq!(refused.exit_code(), 5);
        let sentence = refused.to_string();
        let numbers = ["3 MiB of memory", "4 MiB are needed", "2 of weights"];
        assert!(numbers.iter().all(|n| sentence.contains(n)), "{sentence}");
    }
}
