//! Faults planted in the products that Hopper GPUs have for themselves.

use crate::cases::{self, Case};
use crate::fault::{Fault, On, are_named, fault};
use crate::{launch, raise_nothing};
use latent_diffusion::cuda::Kernel;
use latent_diffusion::ops::Epilogue;

/// Rows whose last stage has one piece of channels, shared by two threads each.
const NORMALISED: On = On::Gpu(132, "linear: [3, 33, 264] to 48, normalised");
/// More stages than a ring has, so that a block loads over what it has read.
const DEEP: On = On::Gpu(132, "linear: [3, 2, 1032] to 24, normalised");
/// Images that end within a tile.
const IMAGES: On = On::Gpu(2, "conv2d: [3, 5, 6, 64] to 88 + row");

/// A fault that shows where all of K is summed by one block.
const fn planted(
    text: &'static str,
    replacement: &'static str,
    names: &'static [&'static str],
) -> Fault {
    let on = On::Product { split: false };
    fault("product_sm90.cuh", text, replacement, on, names)
}

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    planted("        barrier_wait(ring.full + ring.slot, ring.parity);\n", "",
        &["ASYNC_READ_BEFORE_WAIT", "RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    planted("                barrier_wait(ring.empty + ring.slot, ring.parity);\n", "",
        &["BARRIER_OVER_ARRIVAL", "ASYNC_WRITE_WRITE", "ASYNC_OVERWRITE"]),
    planted("barrier_arrive_expect(full, T::STAGE);", "barrier_arrive_expect(full, T::STAGE - 128);",
        &["BARRIER_BYTES", "ASYNC_READ_BEFORE_WAIT"]),
    planted("        barrier_init_fence();\n", "",
        &["MISSING_INIT_FENCE"]),
    planted("    SHARED_DYNAMIC_SWIZZLED(shared);\n", "    SHARED_DYNAMIC(shared);\n",
        &["MISALIGNED"]),
    planted("        wgmma_fence();\n", "",
        &["WGMMA_FENCE"]),
    planted("        wgmma_wait<1>();\n        if (step > 0) release", "        if (step > 0) release",
        &["ASYNC_OVERWRITE"]),
    planted("    wgmma_wait<0>();\n    release", "    release",
        &["WGMMA_REGISTERS", "ASYNC_OVERWRITE"]),
    planted("        before = ring.slot;\n        advance(ring);", "        advance(ring);\n        before = ring.slot;",
        &["ASYNC_OVERWRITE", "BARRIER_OVER_ARRIVAL", "DEADLOCK"]),
    planted("barrier_init(ring.empty + slot, T::WARPS * T::CLUSTER);", "barrier_init(ring.empty + slot, T::WARPS);",
        &["ASYNC_OVERWRITE", "BARRIER_OVER_ARRIVAL", "ASYNC_WRITE_WRITE", "RACE_WRITE_AFTER_WRITE"]),
    planted("        sync_warp();\n#pragma unroll 1\n        for (int item = lane;", "#pragma unroll 1\n        for (int item = lane;",
        &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    planted("    if (T::CLUSTER > 1) sync_cluster();\n}", "}",
        &["CLUSTER_EXIT"]),
    Fault {
        on: On::Product { split: true },
        ..planted("    sync_named(1, T::THREADS);\n    if (threadIdx.x == 0) *last", "    if (threadIdx.x == 0) *last",
            &["BLOCK_RACE"])
    },
    Fault {
        on: On::Product { split: true },
        ..planted("arrive(split.counters + tile, parts) ? 1 : 0;\n    sync_named(1, T::THREADS);\n", "arrive(split.counters + tile, parts) ? 1 : 0;\n",
            &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"])
    },
    // ---- rows that are normalised ----
    fault("linear_norm_sm90.cu", "*own = RowScale{sum[0], squares[0]};\n        sync_group();\n", "*own = RowScale{sum[0], squares[0]};\n",
        NORMALISED, &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("linear_norm_sm90.cu", "columns) + eps)};\n        }\n        sync_group();\n", "columns) + eps)};\n        }\n",
        NORMALISED, &["RACE_READ_AFTER_WRITE", "RACE_WRITE_AFTER_READ"]),
    fault("linear_norm_sm90.cu", "        fence_async_shared();\n", "",
        DEEP, &["MISSING_PROXY_FENCE"]),
    fault("linear_norm_sm90.cu", "shared + T::LAST + 16);", "shared + T::LAST + 16 + T::GROUP_ROWS * sizeof(RowScale));",
        NORMALISED, &["SHARED_OUT_OF_BOUNDS"]),
    fault("linear_norm_sm90.cu", "            if (chunk * 8 >= left) continue;\n", "",
        NORMALISED, &[]),
    // ---- pixels ----
    fault("conv2d_sm90.cu", "        if (at.x >= out_w || at.y >= out_h) return 0x7fffffff;\n", "",
        IMAGES, &["BLOCK_RACE", "RACE_WRITE_AFTER_WRITE", "GLOBAL_OUT_OF_BOUNDS"]),
    fault("conv2d_sm90.cu", "+ at.tap_x - left", "+ at.tap_x",
        IMAGES, &[]),
    fault("conv2d_sm90.cu", "        at.tap_x = 0;\n        at.tap_y++;", "        at.tap_y++;",
        IMAGES, &[]),
];

/// A product of more steps than a ring has stages, in several tiles or in several parts; on a GPU that is small or large enough for it.
pub fn case(split: bool) -> (Case, Kernel) {
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
        let kernel = case.kernel(&launch::gpu(multiprocessors));
        let first = &kernel.launches[0];
        let suits = first.entry.ends_with("_sm90") && (first.grid[1] > 1) == split;
        suits.then_some((case, kernel))
    });
    found.expect("a GPU that takes a kernel of its own for one of these products")
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn products_for_hopper_raise_nothing() {
    raise_nothing([false, true].map(case));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn faults_planted_in_products_for_hopper_are_named() {
    are_named(FAULTS);
}
