//! Every operation, on every device, against its definition.
//!
//! The cases are those of `tests/cases`; what is asked of a device is in `checks`. A device joins with one line below.

mod assigned;
mod bound;
#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "../cases/mod.rs"]
mod cases;
mod checks;
mod entries;
mod family;
mod halves;
mod hopper;
mod linked;
mod random;

use checks::every;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Kernels, Precision, Target};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// Asks everything of one device; attributes are those of each test.
macro_rules! device {
    ($(#[$attribute:meta])* $name:ident, $backend:expr) => {
        mod $name {
            use super::*;

            #[test]
            $(#[$attribute])*
            fn computes_what_the_definitions_say() {
                every("the definition", |case| checks::agrees(&$backend, case));
            }

            #[test]
            $(#[$attribute])*
            fn reads_weights_of_every_precision() {
                every("stored weights", |case| {
                    checks::agrees_stored(&$backend, case)
                });
            }

            #[test]
            $(#[$attribute])*
            fn gives_each_image_what_it_gets_alone_and_again() {
                every("one image's bits", |case| {
                    checks::reproducible(&$backend, case)
                });
            }

            #[test]
            $(#[$attribute])*
            fn passes_nan_on_and_keeps_it_in_its_image() {
                every("NaN", |case| checks::passes_nan_on(&$backend, case));
            }

            #[test]
            $(#[$attribute])*
            fn computes_random_shapes() {
                random::linear(&$backend);
                random::conv2d(&$backend);
                random::attention(&$backend);
            }
        }
    };
}

device!(cpu, cpu_with(2));
device!(
    #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
    emulator,
    emulator(Precision::F16)
);
device!(
    #[ignore = "needs a GPU"]
    gpu,
    gpu(Precision::F16, Kernels::All)
);
device!(
    #[ignore = "needs a GPU"]
    gpu_portable,
    gpu(Precision::F16, Kernels::Portable)
);
device!(
    #[ignore = "needs a GPU"]
    gpu_f32,
    gpu(Precision::F32, Kernels::All)
);

fn cpu_with(threads: usize) -> Arc<Cpu> {
    Arc::new(Cpu::new(threads, Arc::default()).unwrap())
}

/// The emulator as if it were an A100.
fn emulator(precision: Precision) -> Arc<Cuda> {
    emulator_of(Target::a100(precision))
}

/// The emulator as if it were this GPU.
fn emulator_of(target: Target) -> Arc<Cuda> {
    emulated(0, target)
}

/// The emulator, watching every access, with threads and blocks in the order that `seed` gives.
fn emulated(seed: u64, target: Target) -> Arc<Cuda> {
    let emulation = Emulation {
        seed,
        ..Emulation::watched(1)
    };
    Arc::new(Cuda::emulator(emulation, target, Arc::default()).unwrap())
}

/// The first GPU; kernels are loaded once and not for every case.
fn gpu(precision: Precision, kernels: Kernels) -> Arc<Cuda> {
    static GPUS: Mutex<Vec<Arc<Cuda>>> = Mutex::new(vec![]);
    let mut gpus = GPUS.lock().unwrap();
    let is =
        |gpu: &&Arc<Cuda>| (gpu.target().precision, gpu.target().kernels) == (precision, kernels);
    if let Some(gpu) = gpus.iter().find(is) {
        return gpu.clone();
    }
    let gpu = Cuda::gpu(0, precision, 0, Arc::default()).unwrap();
    let gpu = Arc::new(match kernels {
        Kernels::All => gpu,
        Kernels::Portable => gpu.portable(),
    });
    gpus.push(gpu.clone());
    gpu
}

/// Some of the cases: one in `stride`.
fn some(what: &str, stride: usize, check: impl Fn(&cases::Case) -> checks::Check) {
    let number = Cell::new(0);
    every(what, |case| {
        number.set(number.get() + 1);
        match number.get() % stride {
            0 => check(case),
            _ => Ok(()),
        }
    });
}

/// Kernels are chosen for the GPU: small ones and large ones have others.
#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn the_emulator_computes_as_other_gpus_would() {
    let [rtx, hopper] =
        [Target::rtx_3090, Target::h200].map(|gpu| emulator_of(gpu(Precision::F16)));
    some("sm_86", 3, |case| checks::agrees(&rtx, case));
    some("sm_90", 4, |case| checks::agrees(&hopper, case));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn the_order_of_threads_and_blocks_changes_nothing() {
    let [fixed, one, two] = [0, 1, 2].map(|seed| emulated(seed, Target::a100(Precision::F16)));
    some("one schedule's bits", 5, |case| {
        let expected = checks::result(&fixed, case)?;
        checks::same_bits("schedule 1", &expected, &checks::result(&one, case)?)?;
        checks::same_bits("schedule 2", &expected, &checks::result(&two, case)?)
    });
}

#[test]
fn the_cpu_gives_the_same_bits_on_any_number_of_threads() {
    let [one, two, three] = [1, 2, 3].map(cpu_with);
    every("one thread's bits", |case| {
        let expected = checks::result(&one, case)?;
        checks::same_bits("2 threads", &expected, &checks::result(&two, case)?)?;
        checks::same_bits("3 threads", &expected, &checks::result(&three, case)?)
    });
}

#[test]
fn names_tell_cases_apart() {
    let mut names = HashSet::new();
    for case in cases::awkward().into_iter().chain(cases::real()) {
        assert!(names.insert(case.name.clone()), "{} twice", case.name);
    }
}

#[test]
fn the_bound_tells_right_from_wrong() {
    every("the bound", checks::bound_is_tight);
}
