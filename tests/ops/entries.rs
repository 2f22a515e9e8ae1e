//! Kernels that an A100 would not choose for shapes as small as the cases'.
//!
//! On a GPU of few multiprocessors a small product fills them all, and takes the tile that a large one takes elsewhere. Floats are for values that
//! leave the range of halves, which no case's do.

use crate::cases::{self, Case};
use crate::checks::{self, every};
use crate::{emulator_of, halves, some};
use latent_diffusion::cuda::{
    self, Cuda, Launch, Precision, Target, TileSize, Tuned, shape_name, table,
};
use latent_diffusion::ops::Op;
use latent_diffusion::session::Program;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// GPUs that between them take every tile of a product.
fn few_multiprocessors() -> [Target; 2] {
    [1, 3].map(|count| Target::a100(Precision::F16).with_multiprocessors(count))
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

/// GPUs between which all families of kernels run: one that sums in halves, an A100, a GeForce RTX 4090, a small Hopper GPU and an H200; and of
/// how many cases one is run.
fn tuned() -> impl Iterator<Item = (Target, usize)> {
    let h200 = Target::h200(Precision::F16);
    [
        (halves::FAMILY.targets[1], 2),
        (Target::a100(Precision::F16), 2),
        (Target::rtx_4090(Precision::F16), 5),
        (h200.with_multiprocessors(2), 1),
        (h200, 5),
    ]
    .into_iter()
}

/// A table of `ldm tune` may name any tile for any shape.
#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn no_table_of_tiles_changes_a_bit() {
    let met = RefCell::new(BTreeSet::new());
    for (target, stride) in tuned() {
        let usual = emulator_of(target);
        some("a table's tile", stride, |case| {
            if !is_product(case) && !matches!(case.op, Op::Attention(_)) {
                return Ok(());
            }
            let mut run = vec![launches(&usual, case)];
            let expected = checks::result(&usual, case)?;
            for tile in cuda::tile_sizes() {
                let tuned = with_table(&usual, case, tile);
                let chosen = launches(&tuned, case);
                if run.contains(&chosen) {
                    continue;
                }
                checks::same_bits("another tile", &expected, &checks::result(&tuned, case)?)?;
                met.borrow_mut()
                    .insert(table::entry(&chosen[0].entry).unwrap().file);
                run.push(chosen);
            }
            Ok(())
        });
    }
    let families = [
        "attention.cu",
        "attention_sm90.cu",
        "conv2d.cu",
        "conv2d_sm90.cu",
        "linear.cu",
        "linear_norm.cu",
        "linear_norm_sm90.cu",
        "linear_sm90.cu",
    ];
    assert_eq!(met.into_inner(), BTreeSet::from(families));
}

/// What computes a case.
fn launches(device: &Cuda, case: &Case) -> Vec<Launch> {
    let program = Program::new(device, case.graph()).unwrap();
    let launches = program.kernels().flat_map(|kernel| &kernel.launches);
    launches.cloned().collect()
}

/// The device with a table that names this tile for a case.
fn with_table(device: &Cuda, case: &Case, tile: TileSize) -> Arc<Cuda> {
    let mut table = Tuned::new(device.described());
    let program = Program::new(device, case.graph()).unwrap();
    let graph = &program.plan().graph;
    for node in graph.nodes() {
        if let Some(shape) = shape_name(&node.op, &graph.operands(node), node.shape) {
            table.set(shape, tile);
        }
    }
    Arc::new(device.preferring(None).with_tuned(table).unwrap())
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
    let targets = targets.into_iter().chain(few_multiprocessors());
    for target in targets.chain(halves::FAMILY.targets) {
        for case in cases::awkward().iter().filter(|case| is_product(case)) {
            let launches = case.kernel(&target).launches.into_iter();
            met.extend(launches.map(|launch| launch.entry));
        }
    }
    let of_products = ["linear.cu", "linear_norm.cu", "conv2d.cu"];
    for entry in table::ENTRIES {
        let unmet = of_products.contains(&entry.file) && !met.contains(entry.name);
        assert!(!unmet, "no case runs {}", entry.name);
    }
}
