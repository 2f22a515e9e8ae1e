//! Faults planted in the products that Hopper GPUs have for themselves.

use crate::cases::{self, Case};
use crate::compile::{self, Change};
use crate::{SEEDS, all, launch, way};
use latent_diffusion::Shape;
use latent_diffusion::cuda::{self, Kernel, Precision, Target};
use latent_diffusion::ops::Epilogue;
use std::collections::BTreeSet;

/// What is changed in `product_sm90.cuh`, whether it shows where K is split over blocks, and what it is called.
struct Fault {
    text: &'static str,
    replacement: &'static str,
    split: bool,
    names: &'static [&'static str],
}

const fn fault(
    text: &'static str,
    replacement: &'static str,
    names: &'static [&'static str],
) -> Fault {
    Fault {
        text,
        replacement,
        split: false,
        names,
    }
}

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    fault("        barrier_wait(ring.full + ring.slot, ring.parity);\n", "",
        &["ASYNC_READ_BEFORE_WAIT", "RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("                barrier_wait(ring.empty + ring.slot, ring.parity);\n", "",
        &["BARRIER_OVER_ARRIVAL", "ASYNC_WRITE_WRITE", "ASYNC_OVERWRITE"]),
    fault("barrier_arrive_expect(full, T::STAGE);", "barrier_arrive_expect(full, T::STAGE - 128);",
        &["BARRIER_BYTES", "ASYNC_READ_BEFORE_WAIT"]),
    fault("        barrier_init_fence();\n", "",
        &["MISSING_INIT_FENCE"]),
    fault("        wgmma_fence();\n", "",
        &["WGMMA_FENCE"]),
    fault("        wgmma_wait<1>();\n        if (step > 0) release", "        if (step > 0) release",
        &["ASYNC_OVERWRITE"]),
    fault("    wgmma_wait<0>();\n    release", "    release",
        &["WGMMA_REGISTERS", "ASYNC_OVERWRITE"]),
    fault("        before = ring.slot;\n        advance(ring);", "        advance(ring);\n        before = ring.slot;",
        &["ASYNC_OVERWRITE", "BARRIER_OVER_ARRIVAL", "DEADLOCK"]),
    fault("barrier_init(ring.empty + slot, T::WARPS * T::CLUSTER);", "barrier_init(ring.empty + slot, T::WARPS);",
        &["ASYNC_OVERWRITE", "BARRIER_OVER_ARRIVAL", "ASYNC_WRITE_WRITE", "RACE_WRITE_AFTER_WRITE"]),
    fault("        sync_warp();\n#pragma unroll 1\n        for (int item = lane;", "#pragma unroll 1\n        for (int item = lane;",
        &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("    if (T::CLUSTER > 1) sync_cluster();\n}", "}",
        &["CLUSTER_EXIT"]),
    Fault {
        split: true,
        ..fault("    sync_named(1, T::THREADS);\n    if (threadIdx.x == 0) *last", "    if (threadIdx.x == 0) *last",
            &["BLOCK_RACE"])
    },
    Fault {
        split: true,
        ..fault("arrive(split.counters + tile, parts) ? 1 : 0;\n    sync_named(1, T::THREADS);\n", "arrive(split.counters + tile, parts) ? 1 : 0;\n",
            &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"])
    },
];

/// A product of more steps than a ring has stages, in several tiles or in several parts; on a GPU that is small or large enough for it.
fn case(split: bool) -> (Case, Kernel) {
    let shapes: &[[usize; 3]] = match split {
        true => &[[64, 4096, 320], [64, 4096, 640], [128, 4096, 640]],
        false => &[[150, 1032, 160]],
    };
    let sizes = [1, 2, 12, 132];
    let mut tried = shapes
        .iter()
        .flat_map(|shape| sizes.map(|size| (*shape, size)));
    let found = tried.find_map(|([rows, k, n], multiprocessors)| {
        let case = cases::linear([3, rows, k].into(), n, true, Epilogue::default());
        let target = Target {
            multiprocessors,
            ..launch::target(Precision::F16)
        };
        let inputs: Vec<Shape> = case.operands.iter().map(|operand| operand.shape).collect();
        let output = case.op.operator().infer(&inputs).unwrap();
        let kernel = cuda::select(&case.op, &inputs, output, &target).unwrap();
        let first = &kernel.launches[0];
        let suits = first.entry.ends_with("_sm90") && (first.grid[1] > 1) == split;
        suits.then_some((case, kernel))
    });
    found.expect("a GPU that takes a kernel of its own for one of these products")
}

/// What is wrong with how a fault is answered.
fn answered(fault: &Fault) -> Result<(), String> {
    let Fault {
        text,
        replacement,
        split,
        names,
    } = *fault;
    let (case, kernel) = case(split);
    let change = Change {
        file: "product_sm90.cuh",
        text,
        replacement,
    };
    let entries = [kernel.launches[0].entry.clone()];
    let kernels = compile::library(&entries, Some(&change));
    for seed in SEEDS {
        let report = match launch::run_kernel(&kernels.library, &case, kernel.clone(), way(seed)) {
            Ok(_) => "nothing".to_owned(),
            Err(report) => report,
        };
        let (name, _) = report.split_once(": ").unwrap_or_default();
        if !names.contains(&name) {
            return Err(format!(
                "{text:?} to {replacement:?}, seed {seed}: expected {names:?}, found {report}"
            ));
        }
        println!("{report}");
    }
    Ok(())
}

#[test]
fn products_for_hopper_raise_nothing() {
    all(2, |index| {
        let (case, kernel) = case(index == 1);
        let entries = [kernel.launches[0].entry.clone()];
        let kernels = compile::library(&entries, None);
        let run = |seed| launch::run_kernel(&kernels.library, &case, kernel.clone(), way(seed));
        let results: BTreeSet<Vec<u8>> = SEEDS.into_iter().map(run).collect::<Result<_, _>>()?;
        match results.len() {
            1 => Ok(()),
            _ => Err(format!("{}: the result depends on the schedule", case.name)),
        }
    });
}

#[test]
fn faults_planted_in_products_for_hopper_are_named() {
    all(FAULTS.len(), |index| answered(&FAULTS[index]));
}
