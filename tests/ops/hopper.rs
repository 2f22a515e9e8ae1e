//! The kernels that Hopper GPUs have for themselves, in every tile: on few multiprocessors a small product takes the tile that a large one takes
//! on many. Only cases are run for which one of these kernels is chosen.

use crate::cases::{self, Case};
use crate::checks::{self, Check, every};
use crate::{emulated, emulator_of};
use latent_diffusion::cuda::{Launch, Precision, Target, table};
use std::collections::HashSet;

/// GPUs that between them take every tile: with so many multiprocessors.
const SIZES: [u32; 3] = [2, 12, 132];

fn target(multiprocessors: u32) -> Target {
    Target {
        precision: Precision::F16,
        compute_capability: 90,
        multiprocessors,
        shared_bytes_per_block: 227 << 10,
        ..Target::a100(Precision::F16)
    }
}

/// The launches of kernels for Hopper GPUs alone that compute a case.
fn launches(case: &Case, target: &Target) -> Vec<Launch> {
    let launches = case.kernel(target).launches.into_iter();
    launches
        .filter(|launch| launch.entry.ends_with("_sm90"))
        .collect()
}

/// Asks `check` of every case that runs such a kernel, on a GPU of each size that has other launches for it.
fn every_size(what: &str, check: impl Fn(&Target, &Case) -> Check) {
    every(what, |case| {
        let mut met = vec![vec![]];
        for target in SIZES.map(target) {
            let launches = launches(case, &target);
            if !met.contains(&launches) {
                met.push(launches);
                check(&target, case)?;
            }
        }
        Ok(())
    });
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn they_compute_what_the_definitions_say() {
    every_size("the definition", |target, case| {
        checks::agrees(&emulator_of(*target), case)
    });
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn they_give_each_image_what_it_gets_alone_and_again() {
    every_size("one image's bits", |target, case| {
        checks::reproducible(&emulator_of(*target), case)
    });
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn they_pass_nan_on_and_keep_it_in_its_image() {
    every_size("NaN", |target, case| {
        checks::passes_nan_on(&emulator_of(*target), case)
    });
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn the_order_of_threads_and_blocks_changes_nothing() {
    every_size("one schedule's bits", |target, case| {
        let expected = checks::result(&emulator_of(*target), case)?;
        for seed in [1, 2] {
            let found = checks::result(&emulated(seed, *target), case)?;
            checks::same_bits(&format!("schedule {seed}"), &expected, &found)?;
        }
        Ok(())
    });
}

#[test]
fn every_one_of_them_is_met_by_a_case() {
    let mut met = HashSet::new();
    for target in SIZES.map(target) {
        for case in cases::awkward() {
            met.extend(
                launches(&case, &target)
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
