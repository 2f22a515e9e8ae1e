//! The kernels that Hopper GPUs have for themselves.

use crate::family::{Family, family};
use crate::{cases, checks};
use latent_diffusion::cuda::{Precision, Target, table};
use std::collections::HashSet;

const H200: Target = Target::h200(Precision::F16);

const FAMILY: Family = Family {
    ending: "_sm90",
    targets: [
        H200.with_multiprocessors(2),
        H200.with_multiprocessors(12),
        H200,
    ],
};

family!(checks::agrees);

#[test]
fn every_one_of_them_is_met_by_a_case() {
    let mut met = HashSet::new();
    for target in &FAMILY.targets {
        for case in cases::awkward() {
            met.extend(
                FAMILY
                    .launches(&case, target)
                    .into_iter()
                    .map(|launch| launch.entry),
            );
        }
    }
    // Primitives and ceilings are no operation's.
    let of_none = |file: &str| file.contains("primitives") || file.contains("probe");
    let unmet: Vec<&str> = (table::ENTRIES.iter())
        .filter(|entry| entry.file.ends_with("_sm90.cu") && !of_none(entry.file))
        .map(|entry| entry.name)
        .filter(|name| !met.contains(*name))
        .collect();
    assert!(unmet.is_empty(), "no case runs {unmet:?}");
}
