//! The kernels that only Hopper GPUs run, held to those that every GPU runs, on the GPU itself and before anything rests on them.
//!
//! One small graph has a node of each family, of awkward sizes. The portable kernels answer first, then those for Hopper GPUs, with three sizes of
//! tiles that between them have every number of rows and columns there is; each twice, on other inputs, as the second run is a recording, where
//! launches start before others have ended. That is 8 runs of 7 launches and less than 3 MiB of the GPU's memory, which are given back: so little
//! that it is done at every start, and nothing is remembered that could be stale. A host is done with its part in less than 0.1 s; what the GPU
//! takes has not yet been seen on hardware, and is meant to be nothing beside loading kernels, most of which a run needs anyway.

use crate::cuda::{Cuda, Precision, TileSize};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::ops::Padding;
use crate::rng::Noise;
use crate::session::Session;
use crate::tensor::Tensor;
use crate::weights::Weights;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Rows and columns of products' tiles; attention has some of them too.
const TILES: [TileSize; 3] = [[256, 160], [128, 128], [64, 80]];

/// Inputs that each is asked for.
const ROUNDS: u64 = 2;

/// How far two right answers may be apart, of an element's size and the root mean square of all. A result is rounded to a half once: `2^-11` of itself,
/// by both. Sums in f32 of up to 1000 products in another order differ by six deviations of `sqrt(K)` roundings of `sqrt(K)` root mean squares, under
/// `2^-10`. Weights of attention are halves too: six deviations of both their roundings are `6 sqrt(2/3) 2^-11`, under `2^-8`. One product of a sum
/// that is left out moves it by a deviation of `1 / sqrt(K)`, four times this or more.
const TOLERANCE: f64 = 1.0 / 128.0;

/// How long it may take before a word is said. A kernel that waits for ever ends no other way than by its process's end.
const LIMIT: Duration = Duration::from_secs(20);

/// The device; with portable kernels alone, if those for Hopper GPUs are refused or answer wrongly, of which it warns.
///
/// # Errors
/// If even portable kernels fail then, or there is too little memory.
pub fn checked(device: Cuda) -> Result<Cuda> {
    let of_halves = device.target().precision == Precision::F16;
    if device.hardware().is_none() || !device.target().hopper() || !of_halves {
        return Ok(device);
    }
    let late = || {
        device.warn(
            "the check of the kernels that only Hopper GPUs run does not end: stop this program, use --kernels portable, and please report it",
        );
    };
    let Some(fault) = in_time(LIMIT, late, || fault(&device))? else {
        return Ok(device);
    };
    device.warn(&format!(
        "kernels that only Hopper GPUs run fail on this one ({fault}): those that every GPU runs are used, which are slower; please report it"
    ));
    Ok(device.portable())
}

/// What is wrong with the kernels that the device takes and others do not.
fn fault(device: &Cuda) -> Result<Option<String>> {
    let small = device.in_small();
    let weights = Weights::synthetic(90);
    let mut portable = Session::new(&Arc::new(small.portable()), graph()?, &weights)?;
    let expected: Vec<_> = (0..ROUNDS)
        .map(|round| answers(&mut portable, round))
        .collect::<Result<_>>()?;
    for tile in TILES {
        let tried = Arc::new(small.preferring(Some(tile)));
        match compare(&tried, &weights, &expected) {
            Ok(None) => {}
            // What broke the device breaks these too, and then nothing can go on.
            Err(Error::Device(problem)) => {
                return match answers(&mut portable, 0) {
                    Ok(_) => Ok(Some(problem)),
                    Err(_) => Err(Error::Device(problem)),
                };
            }
            Ok(Some((family, problem))) => {
                let [rows, columns] = tile;
                return Ok(Some(format!(
                    "{family}, tiles of {rows}x{columns}: {problem}"
                )));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(None)
}

/// The first family whose answers are not those `expected`, and how.
fn compare(
    device: &Arc<Cuda>,
    weights: &Weights,
    expected: &[Vec<(String, Tensor)>],
) -> Result<Option<(String, String)>> {
    let mut session = Session::new(device, graph()?, weights)?;
    for (round, expected) in (0..).zip(expected) {
        let found = answers(&mut session, round)?;
        for ((family, found), (_, expected)) in found.iter().zip(expected) {
            if let Some(problem) = difference(found, expected) {
                return Ok(Some((family.clone(), problem)));
            }
        }
    }
    Ok(None)
}

/// A node of each family: sizes that no tile divides, sums of several stages and a part of one.
fn graph() -> Result<Graph> {
    let mut g = Graph::new();
    let x = g.input("x", [2, 75, 328]);
    let y = g.scope("linear", |g| g.linear(x, 152, true))?;
    g.output("linear", y);
    let x = g.input("rows", [2, 75, 328]);
    let x = g.scope("norm", |g| g.layer_norm(x, 1e-5))?;
    let y = g.scope("normalised", |g| g.linear(x, 152, true))?;
    g.output("linear_norm", y);
    let x = g.input("image", [2, 15, 15, 64]);
    let y = g.scope("conv2d", |g| g.conv2d(x, 152, 3, 1, Padding::all(1)))?;
    g.output("conv2d", y);
    // Keys of several stages and a part of one, and few.
    for (head, keys) in [(40, 150), (64, 77), (80, 300), (160, 77)] {
        let of = |what: &str| format!("attention {what}{head}");
        let q = g.input(&of("q"), [2, 70, head]);
        let [k, v] = ["k", "v"].map(|what| g.input(&of(what), [2, keys, head]));
        let y = g.scope(&of(""), |g| g.attention([q, k, v], 1, false))?;
        g.output(&of("with heads of "), y);
    }
    Ok(g)
}

/// The graph's results of one round.
fn answers(session: &mut Session<Cuda>, round: u64) -> Result<Vec<(String, Tensor)>> {
    let graph = &session.plan().graph;
    let inputs = graph.inputs();
    let inputs: Vec<_> = inputs
        .map(|(name, value)| (name.to_owned(), graph.shape(value)))
        .collect();
    let names: Vec<String> = graph
        .outputs()
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    let mut noise = Noise::cpu(round);
    for (name, shape) in inputs {
        session.set(&name, &Tensor::new(shape, noise.normal(shape.len()))?)?;
    }
    session.run()?;
    let answer = |name: String| session.get(&name).map(|tensor| (name, tensor));
    names.into_iter().map(answer).collect()
}

/// In which way an answer is not the expected one.
fn difference(found: &Tensor, expected: &Tensor) -> Option<String> {
    let squares = expected.data().iter().map(|&x| f64::from(x).powi(2));
    let typical = (squares.sum::<f64>() / expected.data().len() as f64).sqrt();
    let pairs = found.data().iter().zip(expected.data()).enumerate();
    let mut wrong = pairs.filter(|(_, (found, expected))| {
        let [found, expected] = [**found, **expected].map(f64::from);
        // So that NaN is wrong.
        let near = (found - expected).abs() <= TOLERANCE * (expected.abs() + typical);
        !near
    });
    let (index, (first, right)) = wrong.next()?;
    let [count, all] = [1 + wrong.count(), expected.data().len()];
    Some(format!(
        "{count} of {all} elements are wrong, element {index} is {first} and not {right}"
    ))
}

/// Does `work`, and `late` besides if it is not done after `limit`.
fn in_time<T>(limit: Duration, late: impl FnOnce() + Send, work: impl FnOnce() -> T) -> T {
    let (working, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                late();
            }
        });
        let result = work();
        drop(working);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::cuda::{Emulation, Target};
    use crate::session::Program;

    fn hopper() -> Cuda {
        let target = Target::h200(Precision::F16);
        Cuda::emulator(Emulation::watched(2), target, Arc::default()).unwrap()
    }

    /// The entries that a device takes for the graph, of which two fit into 2.5 MiB.
    fn entries(device: &Cuda) -> Vec<String> {
        let program = Program::new(device, graph().unwrap()).unwrap();
        assert!(program.plan().arena_bytes < 5 << 18);
        let launches = program.kernels().flat_map(|kernel| &kernel.launches);
        launches.map(|launch| launch.entry.clone()).collect()
    }

    #[test]
    #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
    fn every_family_is_asked_and_none_of_them_is_portable() {
        let small = hopper().in_small();
        for tile in TILES {
            let [rows, columns] = tile;
            let entries = entries(&small.preferring(Some(tile)));
            for family in ["linear", "linear_norm", "conv2d"] {
                let entry = format!("{family}_f16_{rows}x{columns}_sm90");
                assert!(entries.contains(&entry), "{entries:?}");
            }
            assert!(entries.iter().all(|entry| entry.ends_with("_sm90")));
            assert_eq!(entries.len(), 7);
        }
        let entries = entries(&small.portable());
        assert!(entries.iter().all(|entry| !entry.ends_with("_sm90")));
    }

    #[test]
    #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
    fn kernels_that_are_right_pass() {
        assert_eq!(fault(&hopper()).unwrap(), None);
        // Only a GPU is checked; and whoever goes without takes others, and says so.
        let device = checked(hopper()).unwrap();
        assert!(device.target().hopper());
        let portable = device.portable();
        assert!(!portable.target().hopper());
        assert!(portable.name().ends_with("f16, portable kernels"));
        assert!(portable.arithmetic().ends_with("f16, portable kernels"));
        assert_ne!(portable.described(), device.described());
    }

    #[test]
    fn a_wrong_element_is_found_and_rounding_is_not() {
        let right = Tensor::from_fn([5, 40], |i| (i % 7) as f32 - 3.0);
        let with = |index: usize, value: f32| {
            let mut found = right.clone();
            found.data_mut()[index] = value;
            difference(&found, &right)
        };
        let rounded = right.data()[199] * (1.0 + 1.0 / 1024.0);
        assert_eq!(with(199, rounded), None);
        for value in [f32::NAN, f32::INFINITY, right.data()[199] + 0.1] {
            let said = with(199, value).unwrap();
            assert!(
                said.contains("1 of 200") && said.contains("element 199"),
                "{said}"
            );
        }
        let nothing = Tensor::zeros([3, 4]);
        assert_eq!(difference(&nothing, &nothing), None);
    }

    #[test]
    fn what_does_not_end_is_said_while_it_lasts() {
        let (said, hears) = mpsc::channel();
        let late = move || said.send(()).unwrap();
        in_time(Duration::ZERO, late, || assert!(hears.recv().is_ok()));
        let late = || panic!("nothing is late");
        assert_eq!(in_time(LIMIT, late, || 3), 3);
    }
}
