//! The emulator's checker on the kernels themselves: as they are it has nothing to say, and of each of many planted faults it says what it is.
//!
//! A fault is a change of one place in `kernels/`: the changed sources are compiled with the emulator into a library, which is loaded and given a case
//! of `tests/cases`. The place must be there exactly once, so that a fault cannot outlive the code it is planted in.

#[allow(
    dead_code,
    unused_imports,
    reason = "other tests and the benchmarks use the rest"
)]
#[path = "../cases/mod.rs"]
mod cases;
mod compile;
mod door;
mod faults;
#[allow(dead_code, reason = "the tests of primitives use the rest")]
#[path = "../primitives/hopper.rs"]
mod hopper;
mod launch;
#[allow(dead_code, reason = "the tests of primitives use the rest")]
#[path = "../primitives/layout.rs"]
mod layout;
mod primitives;
mod products;
#[path = "../primitives/tensor.rs"]
mod tensor;

use cases::Case;
use door::Way;
use faults::{Expected, FAULTS, Fault, case};
use latent_diffusion::cuda::Precision;
use latent_diffusion::ops::Epilogue;
use libloading::Library;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

/// The fixed schedule and two random ones.
const SEEDS: [u64; 3] = [0, 1, 2];

/// On one thread of the host, or two.
fn way(seed: u64) -> Way {
    Way {
        seed,
        workers: 1 + seed as u32 % 2,
        withheld: 0,
    }
}

/// Calls `check` for every index below `count`, on as many threads as there are processors, and fails with all that was found wrong.
fn all(count: usize, check: impl Fn(usize) -> Result<(), String> + Sync) {
    if compile::compiler().is_none() {
        println!("there is no C++ compiler here, and so no emulator to test");
        return;
    }
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

/// Every case, and two that take the largest tiles of products.
fn clean_cases() -> Vec<(Case, Precision)> {
    let large =
        [160, 120].map(|out| cases::linear([3, 130, 72].into(), out, true, Epilogue::default()));
    let cases: Vec<Case> = cases::awkward().into_iter().chain(large).collect();
    let both =
        |case: &Case| [Precision::F16, Precision::F32].map(|precision| (case.clone(), precision));
    cases.iter().flat_map(both).collect()
}

#[test]
fn kernels_as_they_are_raise_nothing() {
    let cases = clean_cases();
    let entries = cases
        .iter()
        .flat_map(|(case, precision)| launch::entries(case, *precision));
    let entries: Vec<String> = entries.collect::<BTreeSet<_>>().into_iter().collect();
    let kernels = OnceLock::new();
    all(cases.len(), |index| {
        let (case, precision) = &cases[index];
        let kernels = kernels.get_or_init(|| compile::library(&entries, None));
        let run = |seed| {
            let result = launch::run(&kernels.library, case, *precision, way(seed));
            result.map_err(|report| format!("{}, {precision:?}, seed {seed}: {report}", case.name))
        };
        let results: BTreeSet<Vec<u8>> = SEEDS.into_iter().map(run).collect::<Result<_, _>>()?;
        match results.len() {
            1 => Ok(()),
            _ => Err(format!(
                "{}, {precision:?}: the result depends on the schedule",
                case.name
            )),
        }
    });
}

/// What is wrong with how a fault was answered under `seed`.
fn answered(fault: &Fault, kernels: &Library, case: &Case, seed: u64) -> Result<(), String> {
    let answer = launch::run(kernels, case, fault.precision, way(seed));
    let found = match (&answer, fault.expected) {
        (Err(report), Expected::Named(names)) => {
            let (name, _) = report.split_once(": ").unwrap_or_default();
            if names.contains(&name) && report.contains(".cu") {
                println!("{report}");
                return Ok(());
            }
            report
        }
        (Err(report), Expected::OtherNumbers) => report,
        (Ok(_), Expected::Named(_)) => "nothing",
        (Ok(result), Expected::OtherNumbers) => {
            let right = compile::library(&launch::entries(case, fault.precision), None);
            let right = launch::run(&right.library, case, fault.precision, way(seed))?;
            if *result != right {
                return Ok(());
            }
            "the right numbers"
        }
    };
    let Fault {
        change, expected, ..
    } = fault;
    Err(format!(
        "{}, {change:?}, seed {seed}: expected {expected:?}, found {found}",
        case.name
    ))
}

#[test]
fn planted_faults_are_named() {
    all(FAULTS.len(), |index| {
        let fault = &FAULTS[index];
        let case = case(fault.case);
        let kernels = compile::library(
            &launch::entries(&case, fault.precision),
            Some(&fault.change),
        );
        SEEDS
            .into_iter()
            .try_for_each(|seed| answered(fault, &kernels.library, &case, seed))
    });
}

#[test]
fn too_little_shared_memory_is_named() {
    all(1, |_| {
        let case = case(faults::LONG);
        let kernels = compile::library(&launch::entries(&case, Precision::F16), None);
        let way = Way {
            withheld: 1024,
            ..way(0)
        };
        match launch::run(&kernels.library, &case, Precision::F16, way) {
            Err(report) if report.starts_with("SHARED_OUT_OF_BOUNDS: ") => Ok(()),
            other => Err(format!("{:?}", other.map(|_| "no fault"))),
        }
    });
}
