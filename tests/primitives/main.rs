//! Every primitive of `kernels/gpu.cuh` and `kernels/hopper.cuh`: the emulator held to the instruction set's manual, and GPUs to the emulator.
//!
//! The emulator is what all other tests of kernels rest on. Here its answers are compared with layouts and numbers written independently of
//! it, and on a machine with a GPU the instructions themselves are asked: `cargo test --release --test primitives -- --ignored`. Values are
//! small integers where an order of adding is not defined, so that answers are equal to the bit or wrong.

mod blocks;
mod cases;
mod hardware;
mod hopper;
mod layout;
mod numbers;
mod relay;
mod tensor;

use cases::{Case, Expected};
use half::f16;
use latent_diffusion::backend::{Backend, Step};
use latent_diffusion::cuda::table::{Element, Kind};
use latent_diffusion::cuda::{Argument, Cuda, Emulation, Kernel, Launch, Precision, Target, table};
use latent_diffusion::ops::{Cost, Reshape};
use latent_diffusion::plan::Place;
use std::collections::HashSet;
use std::sync::Arc;
use tensor::Numbers;

/// Offsets of values in an arena are multiples of it.
const ALIGNMENT: usize = 256;

/// Runs a case: the words of its answer.
fn answer(device: &Cuda, case: &Case) -> Vec<u32> {
    let words = |count: usize, offset: usize| Place {
        offset,
        shape: [count].into(),
        exact: true,
    };
    let x = words(case.x.len(), 0);
    let y = words(
        case.expected.len(),
        (4 * case.x.len()).next_multiple_of(ALIGNMENT),
    );
    let mut arena = device.alloc(y.offset + 4 * case.expected.len()).unwrap();
    let floats = |words: &[u32]| words.iter().map(|&w| f32::from_bits(w)).collect::<Vec<_>>();
    device.write(&mut arena, x, &floats(&case.x)).unwrap();
    // A word that the kernel does not write stays one that no case expects.
    device
        .write(
            &mut arena,
            y,
            &floats(&vec![0xffff_5a5a; case.expected.len()]),
        )
        .unwrap();
    let entry = table::entry(case.entry).expect("an entry of kernels/primitives.cu");
    let integers = |parameter: &table::Parameter| {
        let kind = parameter.kind;
        matches!(
            kind,
            Kind::Pointer {
                element: Element::Int,
                ..
            }
        )
    };
    let counters = entry.parameters.iter().any(integers);
    let counters = counters.then_some(Argument::Counters(1));
    let launch = Launch {
        entry: case.entry.to_owned(),
        grid: [case.threads.div_ceil(entry.threads as usize) as u32, 1, 1],
        shared_bytes: 0,
        arguments: [Argument::Output, Argument::Input(0)]
            .into_iter()
            .chain(case.setting.map(Argument::Int))
            .chain(counters)
            .collect(),
    };
    let step = Step {
        name: case.entry.to_owned(),
        op: Reshape { shape: y.shape }.into(),
        kernel: Kernel::single(launch, vec![]),
        inputs: vec![x],
        output: y,
        also: None,
        workspace: None,
        weights: vec![],
        cost: Cost::default(),
    };
    // Twice: what a launch leaves behind must not change the next one.
    for _ in 0..2 {
        let run = device.run(
            &mut arena,
            std::slice::from_ref(&step),
            &mut Default::default(),
        );
        run.unwrap_or_else(|error| panic!("{}: {error}", case.entry));
    }
    let mut found = vec![0.0; case.expected.len()];
    device.read(&arena, y, &mut found).unwrap();
    found.iter().map(|x| x.to_bits()).collect()
}

/// Runs a case of Hopper's primitives: the numbers of its answer.
fn answer_hopper(device: &Cuda, case: &hopper::Case) -> Vec<f32> {
    let mut offset = 0;
    let mut place = |numbers: &Numbers| {
        let place = Place {
            offset,
            shape: [numbers.values.len()].into(),
            exact: numbers.exact,
        };
        offset = (offset + 4 * numbers.values.len()).next_multiple_of(ALIGNMENT);
        place
    };
    let inputs: Vec<Place> = case.inputs.iter().map(&mut place).collect();
    let output = place(&case.expected);
    let mut arena = device.alloc(offset).unwrap();
    for (input, numbers) in inputs.iter().zip(&case.inputs) {
        device.write(&mut arena, *input, &numbers.values).unwrap();
    }
    let untouched = vec![hopper::UNTOUCHED; case.expected.values.len()];
    device.write(&mut arena, output, &untouched).unwrap();
    let launch = Launch {
        entry: case.entry.to_owned(),
        grid: [case.grid, 1, 1],
        shared_bytes: case.shared_bytes,
        arguments: case.arguments.clone(),
    };
    let step = Step {
        name: case.entry.to_owned(),
        op: Reshape {
            shape: output.shape,
        }
        .into(),
        kernel: Kernel::single(launch, vec![]),
        inputs,
        output,
        also: None,
        workspace: None,
        weights: vec![],
        cost: Cost::default(),
    };
    device
        .run(&mut arena, &[step], &mut Default::default())
        .unwrap_or_else(|error| panic!("{}: {error}", case.entry));
    let mut found = vec![0.0; case.expected.values.len()];
    device.read(&arena, output, &mut found).unwrap();
    found
}

/// What of an answer is not as it must be: every number is exact.
fn wrong_hopper(case: &hopper::Case, found: &[f32]) -> Option<String> {
    let expected = &case.expected.values;
    let differs = |i: &usize| found[*i].to_bits() != expected[*i].to_bits();
    let count = (0..found.len()).filter(differs).count();
    let first = (0..found.len()).find(differs)?;
    Some(format!(
        "{} {:?}: {count} of {} numbers are wrong, the first is number {first}: {}, not {}",
        case.entry,
        case.arguments,
        found.len(),
        found[first],
        expected[first]
    ))
}

fn check_hopper(device: &Cuda, asked: impl Fn(&hopper::Case) -> bool) {
    let wrong: Vec<String> = hopper::all()
        .iter()
        .filter(|case| asked(case))
        .filter_map(|case| wrong_hopper(case, &answer_hopper(device, case)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The word with every NaN in it made one and the same: which one an instruction gives is not defined.
fn canonical(word: u32, expected: &Expected) -> u32 {
    let half = |bits: u32| {
        let half = f16::from_bits(bits as u16);
        u32::from(if half.is_nan() { f16::NAN } else { half }.to_bits())
    };
    match expected {
        Expected::Words(_) => word,
        Expected::Halves(_) => half(word) | half(word >> 16) << 16,
        Expected::Floats(_) | Expected::Near(..) if f32::from_bits(word).is_nan() => {
            f32::NAN.to_bits()
        }
        Expected::Floats(_) | Expected::Near(..) => word,
    }
}

/// How far `found` is from `expected` in units of its last place; infinite where one is zero, infinite or NaN and the other something else.
fn units_apart(found: f32, expected: f64) -> f64 {
    let rounded = expected as f32;
    if found.to_bits() == rounded.to_bits() || (found.is_nan() && expected.is_nan()) {
        return 0.0;
    }
    if !found.is_normal() || !rounded.is_normal() {
        return f64::INFINITY;
    }
    let unit = (expected.abs().log2().floor() - 23.0).exp2();
    (f64::from(found) - expected).abs() / unit
}

/// What of an answer is not as it must be.
fn wrong(case: &Case, found: &[u32]) -> Option<String> {
    let name = case.entry;
    let setting = case.setting.map_or(String::new(), |s| format!("({s:#x})"));
    if let Expected::Near(numbers, most) = &case.expected {
        let far = found
            .iter()
            .zip(numbers)
            .zip(&case.x)
            .find(|((found, number), _)| {
                // A NaN here is beyond every limit.
                !matches!(units_apart(f32::from_bits(**found), **number), apart if apart <= *most)
            });
        return far.map(|((found, number), x)| {
            let [found, x] = [*found, *x].map(f32::from_bits);
            format!("{name}: of {x:e} it makes {found:e}, more than {most} units from {number:e}")
        });
    }
    let expected = match &case.expected {
        Expected::Words(words) => words.clone(),
        Expected::Floats(floats) => floats.iter().map(|x| x.to_bits()).collect(),
        Expected::Halves(halves) => halves
            .chunks(2)
            .map(|two| layout::pair(two[0], two[1]))
            .collect(),
        Expected::Near(..) => unreachable!("compared above"),
    };
    let same = |a: u32, b: u32| canonical(a, &case.expected) == canonical(b, &case.expected);
    let place = found
        .iter()
        .zip(&expected)
        .position(|(a, b)| !same(*a, *b))?;
    let count = found
        .iter()
        .zip(&expected)
        .filter(|(a, b)| !same(**a, **b))
        .count();
    let [found, expected] = [found[place], expected[place]];
    Some(format!(
        "{name}{setting}: {count} words are wrong, the first is word {place}: {found:#010x}, not {expected:#010x}"
    ))
}

fn check(device: &Cuda, asked: impl Fn(&Case) -> bool) {
    let wrong: Vec<String> = cases::all()
        .iter()
        .filter(|case| asked(case))
        .filter_map(|case| wrong(case, &answer(device, case)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn entries(file: &str) -> HashSet<&'static str> {
    let there = table::ENTRIES.iter().filter(|entry| entry.file == file);
    there.map(|entry| entry.name).collect()
}

#[test]
fn every_entry_is_asked() {
    let cases = cases::all();
    let asked = cases.iter().map(|case| case.entry).chain([relay::ENTRY]);
    let asked: HashSet<&str> = asked.collect();
    assert_eq!(asked, entries("primitives.cu"));
    let cases = hopper::all();
    let asked_hopper = cases.iter().map(|case| case.entry).chain([relay::HOPPER]);
    let asked_hopper: HashSet<&str> = asked_hopper.collect();
    assert_eq!(asked_hopper, entries("primitives_sm90.cu"));
    let on_hardware: HashSet<&str> = hardware::ENTRIES.iter().copied().collect();
    assert_eq!(on_hardware, &asked | &asked_hopper);
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn the_emulator_does_what_the_manual_says() {
    for seed in [0, 1, 2] {
        check(&emulator(seed), |_| true);
        check_hopper(&emulator(seed), |_| true);
        for entry in [relay::ENTRY, relay::HOPPER] {
            assert_eq!(relay::wrong(&emulator(seed), entry), None);
        }
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn one_wrong_bit_is_found() {
    let device = emulator(0);
    for case in cases::all() {
        let answer = answer(&device, &case);
        let last = answer.len() - 1;
        for word in [0, last / 2, last] {
            let mut changed = answer.clone();
            // The lowest bits of an approximation are free.
            changed[word] ^= if let Expected::Near(..) = case.expected {
                1 << 8
            } else {
                1
            };
            let of_nan =
                f32::from_bits(changed[word]).is_nan() && f32::from_bits(answer[word]).is_nan();
            assert!(
                of_nan || wrong(&case, &changed).is_some(),
                "{}, word {word}",
                case.entry
            );
        }
    }
    for case in hopper::all() {
        let mut answer = answer_hopper(&device, &case);
        let middle = answer.len() / 2;
        answer[middle] += 1.0;
        assert!(wrong_hopper(&case, &answer).is_some(), "{}", case.entry);
    }
}

fn emulator(seed: u64) -> Cuda {
    let emulation = Emulation {
        seed,
        ..Emulation::watched(1)
    };
    let hopper = Target {
        compute_capability: 90,
        ..Target::a100(Precision::F16)
    };
    Cuda::emulator(emulation, hopper, Arc::default()).unwrap()
}
