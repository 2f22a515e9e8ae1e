//! The emulator's checker on the kernels themselves: as they are it has nothing to say, and of each of many planted faults it says what it is.
//!
//! A fault is a change of one place in `kernels/`: the changed sources are compiled with the emulator into a library, which is loaded and given a
//! case of `tests/cases`. The place must be there exactly once, so that a fault cannot outlive the code it is planted in.

mod attention;
mod banks;
#[allow(
    dead_code,
    unused_imports,
    reason = "other tests and the benchmarks use the rest"
)]
#[path = "../cases/mod.rs"]
mod cases;
mod compile;
mod door;
mod fault;
mod faults;
mod halves;
#[allow(dead_code, reason = "the tests of primitives use the rest")]
#[path = "../primitives/hopper.rs"]
mod hopper;
mod launch;
#[allow(dead_code, reason = "the tests of primitives use the rest")]
#[path = "../primitives/layout.rs"]
mod layout;
mod moments;
mod primitives;
mod products;
#[path = "../primitives/tensor.rs"]
mod tensor;

use cases::Case;
use door::Way;
use latent_diffusion::cuda::{Kernel, Precision};
use latent_diffusion::ops::Epilogue;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The fixed schedule and two random ones.
const SEEDS: [u64; 3] = [0, 1, 2];

/// On one thread of the host, or two.
fn way(seed: u64) -> Way {
    Way {
        seed,
        workers: 1 + seed as u32 % 2,
        withheld: 0,
        banks: false,
    }
}

/// Calls `check` for every index below `count`, on as many threads as there are processors, and fails with all that was found wrong.
fn all(count: usize, check: impl Fn(usize) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    if let Err(problem) = check(index) {
                        wrong.lock().unwrap().push(problem);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Fails unless launches raise nothing, and have the same result, on every schedule.
fn clean(kernels: &compile::Loaded, case: &Case, kernel: &Kernel) -> Result<(), String> {
    let name = &case.name;
    let run = |seed| {
        let result = launch::run(&kernels.library, case, kernel, way(seed));
        result.map_err(|report| format!("{name}, seed {seed}: {report}"))
    };
    let results: BTreeSet<Vec<u8>> = SEEDS.into_iter().map(run).collect::<Result<_, _>>()?;
    match results.len() {
        1 => Ok(()),
        _ => Err(format!("{name}: the result depends on the schedule")),
    }
}

/// Fails unless each of these raises nothing, compiled by itself.
fn raise_nothing(launched: impl IntoIterator<Item = (Case, Kernel)>) {
    for (case, kernel) in launched {
        let kernels = compile::library(&launch::entries(&kernel), None);
        clean(&kernels, &case, &kernel).unwrap();
    }
}

/// Every case, and two that take the largest tiles of products.
fn cases_and_kernels() -> Vec<(Case, Kernel)> {
    let large =
        [160, 120].map(|out| cases::linear([3, 130, 72].into(), out, true, Epilogue::default()));
    let cases: Vec<Case> = cases::awkward().into_iter().chain(large).collect();
    let both = |case: &Case| {
        [Precision::F16, Precision::F32].map(|precision| {
            let kernel = case.kernel(&launch::target(precision));
            (case.clone(), kernel)
        })
    };
    cases.iter().flat_map(both).collect()
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn kernels_as_they_are_raise_nothing() {
    let cases = cases_and_kernels();
    let entries = cases.iter().flat_map(|(_, kernel)| launch::entries(kernel));
    let entries: Vec<String> = entries.collect::<BTreeSet<_>>().into_iter().collect();
    let kernels = compile::library(&entries, None);
    all(cases.len(), |index| {
        let (case, kernel) = &cases[index];
        clean(&kernels, case, kernel)
    });
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn too_little_shared_memory_is_named() {
    let case = fault::case("attention: 40 on 700, 2 heads of 24, deviation 1");
    let kernel = case.kernel(&launch::target(Precision::F16));
    let kernels = compile::library(&launch::entries(&kernel), None);
    let way = Way {
        withheld: 1024,
        ..way(0)
    };
    let report = launch::run(&kernels.library, &case, &kernel, way).unwrap_err();
    assert!(report.starts_with("SHARED_OUT_OF_BOUNDS: "), "{report}");
}
