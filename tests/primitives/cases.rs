//! What each entry of `kernels/primitives.cu` is given, and what it must answer.

use crate::blocks;
use crate::layout::{
    Matrix, WARP, fragment_a, fragment_b, fragment_d, fragment_d_halves, loaded, pair,
};
use crate::numbers;
use half::f16;
use std::iter;

/// One launch.
pub struct Case {
    pub entry: &'static str,
    /// Words of 32 bits.
    pub x: Vec<u32>,
    /// The last argument, if the entry has three.
    pub setting: Option<i32>,
    /// How many threads are needed.
    pub threads: usize,
    pub expected: Expected,
}

/// What is known of an answer.
pub enum Expected {
    /// These words.
    Words(Vec<u32>),
    /// These floats to the bit, where any NaN is as good as another.
    Floats(Vec<f32>),
    /// These halves, likewise.
    Halves(Vec<f16>),
    /// Floats at most as many units in the last place from these numbers; zeros and infinities to the bit.
    Near(Vec<f64>, f64),
}

impl Expected {
    /// Words of the answer.
    pub fn len(&self) -> usize {
        match self {
            Self::Words(words) => words.len(),
            Self::Floats(floats) => floats.len(),
            Self::Halves(halves) => halves.len() / 2,
            Self::Near(numbers, _) => numbers.len(),
        }
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = vec![vector(), multiply_special(), tile(false), tile(true)];
    cases.extend([1, 2, 3, 8, 16, 31].map(shuffle));
    cases.extend([
        reduce(|lane| lane as f32 - 20.0),
        reduce(|lane| -((lane * lane) as f32)),
    ]);
    for (entry, words) in [("16", 4), ("8", 2), ("4", 1)] {
        cases.extend([-1, 0, 0x0f0f_3c5a].map(|valid| copy_async(entry, words, valid)));
    }
    for transposed in [false, true] {
        cases.extend([1, 3, 31].map(|stride| load_matrix(transposed, stride)));
    }
    cases.extend([1, 2, 3].map(multiply));
    cases.extend([1, 2, 3].map(multiply_half));
    cases.extend([1, 2, 37].map(blocks::last_to_arrive));
    cases.extend([
        numbers::exp2(),
        numbers::reciprocal(),
        numbers::maximum(),
        pack(),
        narrow(),
        unpack(),
        widen(),
        rate(),
    ]);
    cases
}

/// Words that are all different, and floats of every kind among them.
fn words(count: usize) -> Vec<u32> {
    (0..count as u32)
        .map(|i| (i + 1).wrapping_mul(0x9e37_79b9))
        .collect()
}

/// Small integers, different for every `seed`.
pub fn integer(seed: usize, row: usize, column: usize) -> f32 {
    let mixed = (row * 31 + column * 17 + seed * 101).wrapping_mul(0x9e37_79b9) >> 7;
    (mixed % 9) as f32 - 4.0
}

pub fn warp(entry: &'static str, x: Vec<u32>, setting: Option<i32>, expected: Expected) -> Case {
    Case {
        entry,
        x,
        setting,
        threads: WARP,
        expected,
    }
}

fn shuffle(mask: usize) -> Case {
    let x = words(2 * WARP);
    let received = (0..2 * WARP).map(|i| x[i / WARP * WARP + ((i % WARP) ^ mask)]);
    let expected = Expected::Words(received.collect());
    warp("primitive_shuffle", x, Some(mask as i32), expected)
}

/// Integers, so that every order of adding them gives the same sum.
fn reduce(value: impl Fn(usize) -> f32) -> Case {
    let x: Vec<f32> = (0..WARP).map(value).collect();
    let sum = x.iter().sum();
    let largest = x.iter().copied().fold(f32::MIN, f32::max);
    let expected = iter::repeat_n(sum, WARP).chain(iter::repeat_n(largest, WARP));
    let expected = Expected::Floats(expected.collect());
    warp("primitive_reduce", bits(&x), None, expected)
}

fn vector() -> Case {
    let x = words(4 * WARP);
    let expected = x.chunks(4).rev().flatten().copied().collect();
    warp("primitive_vector", x, None, Expected::Words(expected))
}

fn copy_async(bytes: &str, words_per_lane: usize, valid: i32) -> Case {
    let x = words(2 * WARP * words_per_lane);
    let copied = x.iter().enumerate().map(|(i, &word)| {
        let (group, lane) = (i / words_per_lane / WARP, i / words_per_lane % WARP);
        if (valid >> lane & 1 != 0) == (group == 0) {
            word
        } else {
            0
        }
    });
    let expected = Expected::Words(copied.collect());
    let entry = match bytes {
        "16" => "primitive_copy_async_16",
        "8" => "primitive_copy_async_8",
        _ => "primitive_copy_async_4",
    };
    warp(entry, x, Some(valid), expected)
}

fn load_matrix(transposed: bool, stride: usize) -> Case {
    let x = words(4 * WARP);
    let halves = |row: usize| -> [u16; 8] {
        std::array::from_fn(|i| (x[4 * row + i / 2] >> (16 * (i % 2))) as u16)
    };
    let named: [[u16; 8]; WARP] = std::array::from_fn(|lane| halves(lane * stride % WARP));
    let expected = (0..WARP).flat_map(|lane| loaded(&named, lane, transposed));
    let expected = Expected::Words(expected.collect());
    let entry = match transposed {
        true => "primitive_load_matrix_transposed",
        false => "primitive_load_matrix",
    };
    warp(entry, x, Some(stride as i32), expected)
}

fn product(a: &Matrix, b: &Matrix, c: &Matrix) -> Case {
    let x = (0..WARP).flat_map(|lane| {
        let [a, b] = [fragment_a(a, lane).to_vec(), fragment_b(b, lane).to_vec()];
        [a, b, bits(&fragment_d(c, lane))].concat()
    });
    let d = a.multiply_add(b, c);
    let expected = (0..WARP).flat_map(|lane| fragment_d(&d, lane));
    let expected = Expected::Floats(expected.collect());
    warp("primitive_multiply", x.collect(), None, expected)
}

/// Integers: every sum is exact in any order. The last seed makes the left factors denormal halves and the right ones large.
fn multiply(seed: usize) -> Case {
    let [left, right] = if seed == 3 {
        [2f32.powi(-24), 2f32.powi(12)]
    } else {
        [1.0, 1.0]
    };
    let a = Matrix::from_fn(16, 16, |row, k| left * integer(seed, row, k));
    let b = Matrix::from_fn(16, 8, |k, column| right * integer(seed + 10, k, column));
    let c = Matrix::from_fn(16, 8, |row, column| {
        left * right * 1000.0 * integer(seed + 20, row, column)
    });
    product(&a, &b, &c)
}

/// NaN, infinity, infinity by zero, infinity less infinity, and products beyond halves.
fn multiply_special() -> Case {
    let a = Matrix::from_fn(16, 16, |row, k| match (row, k) {
        (1, 5) => f32::NAN,
        (3, 2) => f32::INFINITY,
        (9, 15) => f32::NEG_INFINITY,
        (12, 0 | 8) => 65504.0,
        (12, _) => 0.0,
        _ => integer(5, row, k),
    });
    let b = Matrix::from_fn(16, 8, |k, column| match (k, column) {
        (0 | 8, 6) => 65504.0,
        _ => integer(6, k, column),
    });
    let c = Matrix::from_fn(16, 8, |row, column| match (row, column) {
        (3, _) => f32::INFINITY,
        (14, 7) => f32::NAN,
        _ => integer(7, row, column),
    });
    product(&a, &b, &c)
}

fn multiply_half(seed: usize) -> Case {
    let a = Matrix::from_fn(16, 16, |row, k| integer(seed, row, k));
    let b = Matrix::from_fn(16, 8, |k, column| integer(seed + 10, k, column));
    let c = Matrix::from_fn(16, 8, |row, column| 16.0 * integer(seed + 20, row, column));
    let x = (0..WARP).flat_map(|lane| {
        let [a, b] = [fragment_a(&a, lane).to_vec(), fragment_b(&b, lane).to_vec()];
        [a, b, fragment_d_halves(&c, lane).to_vec()].concat()
    });
    let d = a.multiply_add(&b, &c);
    let expected = (0..WARP).flat_map(|lane| fragment_d(&d, lane));
    let expected = Expected::Halves(expected.map(f16::from_f32).collect());
    warp("primitive_multiply_half", x.collect(), None, expected)
}

/// A tile of fragments, with sums in f32 or in halves.
fn tile(halves: bool) -> Case {
    let a = [0, 1].map(|i| Matrix::from_fn(16, 16, |row, k| integer(30 + i, row, k)));
    let b = [0, 1, 2].map(|j| Matrix::from_fn(16, 8, |k, column| integer(40 + j, k, column)));
    let pairs = || (0..2).flat_map(|i| (0..3).map(move |j| (i, j)));
    let sum = |i: usize, j: usize| {
        Matrix::from_fn(16, 8, |row, column| integer(50 + 3 * i + j, row, column))
    };
    let x = (0..WARP).flat_map(|lane| {
        let left = a.iter().flat_map(|a| fragment_a(a, lane));
        let right = b.iter().flat_map(|b| fragment_b(b, lane));
        let sums = pairs().flat_map(|(i, j)| match halves {
            false => bits(&fragment_d(&sum(i, j), lane)),
            true => fragment_d_halves(&sum(i, j), lane).to_vec(),
        });
        left.chain(right).chain(sums).collect::<Vec<_>>()
    });
    let products: Vec<Matrix> = pairs()
        .map(|(i, j)| a[i].multiply_add(&b[j], &sum(i, j)))
        .collect();
    let expected =
        (0..WARP).flat_map(|lane| products.iter().flat_map(move |d| fragment_d(d, lane)));
    let (entry, expected) = match halves {
        false => (
            "primitive_multiply_tile",
            Expected::Floats(expected.collect()),
        ),
        true => (
            "primitive_multiply_tile_half",
            Expected::Halves(expected.map(f16::from_f32).collect()),
        ),
    };
    warp(entry, x.collect(), None, expected)
}

/// One number a thread.
pub fn each(entry: &'static str, x: Vec<u32>, count: usize, expected: Expected) -> Case {
    Case {
        entry,
        x,
        setting: Some(count as i32),
        threads: count,
        expected,
    }
}

/// A denormal.
pub const DENORMAL: f32 = 1e-40;

/// Numbers where rounding to halves can go wrong: ties, the largest, denormals, what is lost altogether; and usual ones.
fn roundings() -> Vec<f32> {
    let step = 2f32.powi(-11);
    let least = 2f32.powi(-24);
    let edges = [
        0.0,
        1.0 + step,
        1.0 + 3.0 * step,
        1.0 + step * 1.001,
        65504.0,
        65519.99,
        65520.0,
        1e30,
        f32::INFINITY,
        f32::NAN,
        least,
        least * 0.5,
        least * 0.5001,
        least * 1.5,
        DENORMAL,
        6.1e-5,
    ];
    let usual = (0..2000).map(|i| 1.013_7f32.powi(i - 1000) * 1.234_567);
    let positive: Vec<f32> = edges.into_iter().chain(usual).collect();
    positive.iter().flat_map(|&x| [x, -x]).collect()
}

fn pack() -> Case {
    let x = roundings();
    let expected = x.iter().map(|&x| f16::from_f32(x)).collect();
    let count = x.len() / 2;
    each(
        "primitive_pack",
        bits(&x),
        count,
        Expected::Halves(expected),
    )
}

fn narrow() -> Case {
    let x = roundings();
    let expected = x.iter().map(|&x| f16::from_f32(x)).collect();
    let count = x.len();
    each(
        "primitive_narrow",
        bits(&x),
        count,
        Expected::Halves(expected),
    )
}

/// All halves that there are, two in a word.
fn all_halves() -> (Vec<u32>, Vec<f32>) {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let words = halves.chunks(2).map(|two| pair(two[0], two[1]));
    (words.collect(), halves.iter().map(|x| x.to_f32()).collect())
}

fn unpack() -> Case {
    let (x, y) = all_halves();
    let count = x.len();
    each("primitive_unpack", x, count, Expected::Floats(y))
}

fn widen() -> Case {
    let (x, y) = all_halves();
    let count = y.len();
    each("primitive_widen", x, count, Expected::Floats(y))
}

/// As many rounds as keep every sum exact.
fn rate() -> Case {
    const ROUNDS: usize = 3;
    const FRAGMENTS: usize = 32;
    const THREADS: usize = 256;
    let a = Matrix::from_fn(16, 16, |row, k| integer(60, row, k));
    let b = Matrix::from_fn(16, 8, |k, column| integer(61, k, column));
    let d = a.multiply_add(&b, &Matrix::from_fn(16, 8, |_, _| 0.0));
    let x = (0..WARP)
        .flat_map(|lane| [fragment_a(&a, lane).to_vec(), fragment_b(&b, lane).to_vec()].concat());
    let expected = (0..THREADS).map(|thread| {
        let sum: f32 = fragment_d(&d, thread % WARP).iter().sum();
        (ROUNDS * FRAGMENTS) as f32 * sum
    });
    Case {
        entry: "primitive_rate",
        x: x.collect(),
        setting: Some(ROUNDS as i32),
        threads: THREADS,
        expected: Expected::Floats(expected.collect()),
    }
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
