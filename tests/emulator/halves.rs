//! Faults planted where products are summed in halves: on a consumer GPU so small that cases take the tiles that large products take elsewhere.

use crate::fault::{Fault, On, are_named, case, fault};
use crate::raise_nothing;
use latent_diffusion::cuda::{Precision, Sums, Target};

/// A consumer GPU of one multiprocessor, which sums in halves wherever it can.
pub const TARGET: Target = Target {
    sums: Sums::Halves,
    ..Target::rtx_4090(Precision::F16).with_multiprocessors(1)
};

const ROWS: &str = "linear: [3, 150, 72] to 128";
const NORMALISED: &str = "linear: [3, 33, 264] to 48, normalised";
const BESIDE: &str = "conv2d: [3, 6, 5, 64] to 24 beside [128, 64]";

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    fault("product.cuh", "copy_async_wait<T::STAGES - 2>();", "copy_async_wait<T::STAGES - 1>();",
        On::Halves(ROWS), &["ASYNC_READ_BEFORE_WAIT"]),
    fault("product.cuh", "copy_async_wait<T::STAGES - 2>();\n        sync_block();\n", "copy_async_wait<T::STAGES - 2>();\n",
        On::Halves(ROWS), &["ASYNC_READ_BEFORE_WAIT", "RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("product.cuh", "part[i][j][0] = part[i][j][1] = 0;", "part[i][j][0] = part[i][j][1] = 0x3c00;",
        On::Halves(ROWS), &[]),
    fault("product.cuh", "sum[i][j][e] += e % 2", "sum[i][j][e] = e % 2",
        On::Halves(ROWS), &[]),
    fault("product.cuh", "if (in_halves) return", "if (!in_halves) return",
        On::Halves(BESIDE), &[]),
    fault("product.cuh", "(bounded - part * k_part) / T::BK", "(bounded - part * k_part) / T::BK + 1",
        On::Halves(BESIDE), &[]),
    fault("linear_norm.cu", "i / OF_32 * (32 / CHUNK) + ", "",
        On::Halves(NORMALISED), &[]),
];

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn products_that_sum_in_halves_raise_nothing() {
    raise_nothing([ROWS, NORMALISED, BESIDE].map(|name| {
        let case = case(name);
        let kernel = case.kernel(&TARGET);
        assert!(kernel.launches[0].entry.ends_with("_half"), "{name}");
        (case, kernel)
    }));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn faults_planted_in_sums_in_halves_are_named() {
    are_named(FAULTS);
}
