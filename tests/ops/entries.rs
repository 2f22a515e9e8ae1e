//! Kernels that an A100 would not choose for shapes as small as the cases'.
//!
//! On a GPU of few multiprocessors a small product fills them all, and takes the tile that a large one takes elsewhere. Floats are for values that
//! leave the range of halves, which no case's do.

use crate::cases::{self, Case};
use crate::checks::{self, every};
use crate::emulator_of;
use latent_diffusion::Shape;
use latent_diffusion::cuda::{self, Precision, Target, table};
use latent_diffusion::ops::Op;
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

/// GPUs that between them take every tile of a product.
fn few_multiprocessors() -> [Target; 2] {
    [1, 3].map(|multiprocessors| Target {
        multiprocessors,
        ..Target::a100(Precision::F16)
    })
}

fn is_product(case: &Case) -> bool {
    matches!(case.op, Op::Linear(_) | Op::Conv2d(_))
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn products_are_right_and_reproducible_in_every_tile() {
    for target in few_multiprocessors() {
        let backend = emulator_of(target);
        every("products", |case| {
            if !is_product(case) {
                return Ok(());
            }
            checks::agrees(&backend, case)?;
            checks::reproducible(&backend, case)
        });
    }
}

/// A table of `ldm tune` may name any tile for any shape.
#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn no_preferred_tile_changes_a_bit() {
    let usual = emulator_of(Target::a100(Precision::F16));
    let others: Vec<_> = (cuda::tile_sizes().into_iter())
        .map(|tile| Arc::new(usual.preferring(Some(tile))))
        .collect();
    let changed = Cell::new(0);
    every("a preferred tile", |case| {
        if !is_product(case) && !matches!(case.op, Op::Attention(_)) {
            return Ok(());
        }
        let expected = checks::result(&usual, case)?;
        let chosen = entry(case, usual.target());
        for other in &others {
            if entry(case, other.target()) != chosen {
                changed.set(changed.get() + 1);
                checks::same_bits("another tile", &expected, &checks::result(other, case)?)?;
            }
        }
        Ok(())
    });
    assert!(
        changed.get() > 100,
        "{} tiles that were not the usual",
        changed.get()
    );
}

/// What a case launches first.
fn entry(case: &Case, target: &Target) -> Option<String> {
    let inputs: Vec<Shape> = case.operands.iter().map(|operand| operand.shape).collect();
    let output = case.op.operator().infer(&inputs).unwrap();
    let kernel = cuda::select(&case.op, &inputs, output, target).unwrap();
    kernel.launches.first().map(|launch| launch.entry.clone())
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn floats_agree_with_the_definitions() {
    let backend = emulator_of(Target::a100(Precision::F32));
    every("the definition", |case| checks::agrees(&backend, case));
}

#[test]
fn every_entry_of_a_product_is_met_by_a_case() {
    let targets = [Precision::F16, Precision::F32].map(Target::a100);
    let mut met = HashSet::new();
    for target in targets.into_iter().chain(few_multiprocessors()) {
        for case in cases::awkward().iter().filter(|case| is_product(case)) {
            let inputs: Vec<Shape> = case.operands.iter().map(|operand| operand.shape).collect();
            let output = case.op.operator().infer(&inputs).unwrap();
            let kernel = cuda::select(&case.op, &inputs, output, &target).unwrap();
            met.extend(kernel.launches.into_iter().map(|launch| launch.entry));
        }
    }
    let of_products = [
        "kernels/linear.cu",
        "kernels/linear_norm.cu",
        "kernels/conv2d.cu",
        "kernels/product.cu",
    ];
    for entry in table::ENTRIES {
        let unmet = of_products.contains(&entry.file) && !met.contains(entry.name);
        assert!(!unmet, "no case runs {}", entry.name);
    }
}
