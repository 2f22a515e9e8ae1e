//! What each entry of `kernels/primitives_sm90.cu` is given, and what it must answer, from the PTX ISA ("Tensor data movement", "Asynchronous
//! warpgroup level matrix instructions") and from nothing of ours. All numbers are small integers, which halves hold and any order adds.

use crate::layout::{Matrix, WARP, fragment_a, fragment_d};
use crate::tensor::{Numbers, Tensor, floats, halves};
use half::f16;
use latent_diffusion::cuda::tensor_map::{Swizzle, TensorMap};
use latent_diffusion::cuda::{Argument, Operand};

/// One launch.
pub struct Case {
    pub entry: &'static str,
    pub inputs: Vec<Numbers>,
    pub arguments: Vec<Argument>,
    /// Blocks.
    pub grid: u32,
    pub shared_bytes: u32,
    /// What the output holds afterwards. Before it is `UNTOUCHED` everywhere.
    pub expected: Numbers,
}

/// A number that no case computes.
pub const UNTOUCHED: f32 = -777.0;

/// Threads of a warpgroup.
const WARPGROUP: usize = 128;

const SHARED_BOX: u32 = 64 << 10;

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7 % 2039) as f32).collect()
}

/// From -4 to 4.
fn integer(seed: usize, i: usize) -> f32 {
    let mixed = (i * 31 + seed * 101).wrapping_mul(0x9e37_79b9) >> 7;
    (mixed % 9) as f32 - 4.0
}

fn input(index: usize, map: TensorMap) -> Argument {
    Argument::Map {
        of: Operand::Input(index),
        map,
    }
}

/// Five coordinates, of which the first are `at`.
fn coordinates<const COUNT: usize>(at: &[i32]) -> [Argument; COUNT] {
    std::array::from_fn(|i| Argument::Int(at.get(i).copied().unwrap_or(0)))
}

fn loaded(x: &Tensor, at: &[i32], values: &[f32]) -> Vec<f32> {
    let mut shared = vec![0.0; x.box_len()];
    for (place, source) in x.places(at) {
        shared[place] = source.map_or(0.0, |source| values[source]);
    }
    shared
}

fn load(x: &Tensor, at: &[i32]) -> Case {
    let values = numbers(x.len());
    let rank = Argument::Int(x.extents.len() as i32);
    let bytes = Argument::Int(2 * x.box_len() as i32);
    let arguments = [Argument::Output, input(0, x.map()), rank].into_iter();
    Case {
        entry: "primitive_tensor_load_sm90",
        expected: halves(loaded(x, at, &values)),
        inputs: vec![halves(values)],
        arguments: arguments
            .chain(coordinates::<5>(at))
            .chain([bytes])
            .collect(),
        grid: 1,
        shared_bytes: SHARED_BOX,
    }
}

fn store(y: &Tensor, at: &[i32]) -> Case {
    let shared = numbers(y.box_len());
    let mut expected = vec![UNTOUCHED; y.len()];
    for (place, target) in y.places(at) {
        if let Some(target) = target {
            expected[target] = shared[place];
        }
    }
    let map = Argument::Map {
        of: Operand::Output,
        map: y.map(),
    };
    let rank = Argument::Int(y.extents.len() as i32);
    let bytes = Argument::Int(2 * y.box_len() as i32);
    Case {
        entry: "primitive_tensor_store_sm90",
        inputs: vec![halves(shared)],
        arguments: [map, Argument::Input(0), rank]
            .into_iter()
            .chain(coordinates::<4>(at))
            .chain([bytes])
            .collect(),
        grid: 1,
        shared_bytes: SHARED_BOX,
        expected: halves(expected),
    }
}

fn copies() -> Vec<Case> {
    let matrix = Tensor::new([100, 20], [64, 16], Swizzle::Bytes128);
    let mut cases: Vec<Case> = [[0, 0], [-3, -2], [60, 10], [100, 0]]
        .iter()
        .flat_map(|at| [load(&matrix, at), store(&matrix, at)])
        .collect();
    for (span, swizzle) in [
        (24, Swizzle::None),
        (16, Swizzle::Bytes32),
        (32, Swizzle::Bytes64),
    ] {
        let matrix = Tensor::new([100, 40], [span, 33], swizzle);
        cases.extend([load(&matrix, &[8, 10]), store(&matrix, &[8, 10])]);
    }
    // A head of 40 channels, and fewer rows than a tile has.
    let small = Tensor::new([40, 5], [64, 16], Swizzle::Bytes128);
    cases.extend([load(&small, &[0, 0]), store(&small, &[0, -3])]);
    let volume = Tensor::new([72, 5, 6], [64, 4, 3], Swizzle::Bytes128);
    cases.extend([load(&volume, &[5, -1, 4]), store(&volume, &[5, -1, 4])]);
    let images = Tensor::new([72, 7, 6, 2], [64, 8, 3, 2], Swizzle::Bytes128);
    cases.extend([
        load(&images, &[8, -1, 4, 0]),
        store(&images, &[8, -1, 4, 0]),
    ]);
    let every_other = Tensor {
        steps: vec![1, 2, 2, 1],
        ..Tensor::new([64, 9, 8, 2], [64, 8, 6, 1], Swizzle::Bytes128)
    };
    cases.push(load(&every_other, &[0, -1, 1, 1]));
    let five = Tensor::new([16, 3, 4, 3, 2], [8, 2, 3, 2, 2], Swizzle::None);
    cases.push(load(&five, &[8, 2, -1, 1, 0]));
    cases
}

fn multicast() -> Case {
    let flat = Tensor::new([80, 30], [64, 16], Swizzle::Bytes128);
    let images = Tensor::new([64, 5, 6, 1], [64, 4, 4, 1], Swizzle::Bytes128);
    let (x2, x4) = (numbers(flat.len()), numbers(images.len()));
    let both = [
        loaded(&flat, &[8, 3], &x2),
        loaded(&images, &[8, 3, -1, 0], &x4),
    ]
    .concat();
    Case {
        entry: "primitive_multicast_sm90",
        inputs: vec![halves(x2), halves(x4)],
        arguments: vec![
            Argument::Output,
            input(0, flat.map()),
            input(1, images.map()),
            Argument::Int(8),
            Argument::Int(3),
            Argument::Int(-1),
            Argument::Int(2 * flat.box_len() as i32),
        ],
        grid: 2,
        shared_bytes: SHARED_BOX,
        expected: halves([both.clone(), both].concat()),
    }
}

/// What a matrix of 64 rows is in the accumulators of a warpgroup: warp `w` has rows `16 w` on, and fragment `j` columns `8 j` on.
fn accumulators(of: &Matrix) -> Vec<f32> {
    let thread = |thread: usize| {
        let warp = thread / WARP;
        (0..of.columns / 8).flat_map(move |j| {
            let part = Matrix::from_fn(16, 8, |row, column| of.at(16 * warp + row, 8 * j + column));
            fragment_d(&part, thread % WARP)
        })
    };
    (0..WARPGROUP).flat_map(thread).collect()
}

fn product(entry: &'static str, columns: usize, transposed: bool) -> Case {
    let a = Matrix::from_fn(64, 64, |row, k| integer(1, 64 * row + k));
    let b = Matrix::from_fn(64, columns, |k, column| integer(2, 64 * column + k));
    let y = a.multiply_add(&b, &Matrix::from_fn(64, columns, |_, _| 0.0));
    let right = match transposed {
        true => b.values.clone(),
        false => (0..64 * columns).map(|i| b.at(i % 64, i / 64)).collect(),
    };
    let of_a = Tensor::new([64, 64], [64, 64], Swizzle::Bytes128);
    let of_b = match transposed {
        true => Tensor::new([columns, 64], [64, 64], Swizzle::Bytes128),
        false => Tensor::new([64, columns], [64, columns], Swizzle::Bytes128),
    };
    let fragments = (0..WARPGROUP).flat_map(|thread| {
        let a = &a;
        (0..4).flat_map(move |step| {
            let part = Matrix::from_fn(16, 16, |row, k| {
                a.at(thread / WARP * 16 + row, 16 * step + k)
            });
            fragment_a(&part, thread % WARP)
                .into_iter()
                .flat_map(|word| [word as u16, (word >> 16) as u16])
                .map(|bits| f16::from_bits(bits).to_f32())
                .collect::<Vec<_>>()
        })
    });
    let fragments = halves(fragments.collect());
    Case {
        entry,
        inputs: vec![halves(a.values.clone()), halves(right), fragments],
        arguments: vec![
            Argument::Output,
            input(0, of_a.map()),
            input(1, of_b.map()),
            Argument::Input(2),
        ],
        grid: 1,
        shared_bytes: SHARED_BOX,
        expected: floats(accumulators(&y)),
    }
}

/// What `stmatrix.x4` makes of lanes' words: the inverse of what `ldmatrix.x4` gives them.
fn store_matrix(transposed: bool, setting: usize) -> Case {
    let word = |lane: usize, matrix: usize| [2 * (4 * lane + matrix), 2 * (4 * lane + matrix) + 1];
    let pairs = (0..WARP).flat_map(|lane| (0..4).flat_map(move |matrix| word(lane, matrix)));
    let x: Vec<f32> = pairs.map(|i| i as f32).collect();
    let mut expected = vec![0.0; x.len()];
    for lane in 0..WARP {
        let (matrix, row, place) = (lane / 8, lane % 8, lane * setting % WARP);
        for column in 0..8 {
            // Which lane holds (row, column), and which of its two halves.
            let (r, c) = if transposed {
                (column, row)
            } else {
                (row, column)
            };
            expected[8 * place + column] = word(4 * r + c / 2, matrix)[c % 2] as f32;
        }
    }
    Case {
        entry: if transposed {
            "primitive_store_matrix_transposed_sm90"
        } else {
            "primitive_store_matrix_sm90"
        },
        inputs: vec![halves(x)],
        arguments: vec![
            Argument::Output,
            Argument::Input(0),
            Argument::Int(setting as i32),
        ],
        grid: 1,
        shared_bytes: 0,
        expected: halves(expected),
    }
}

fn threads() -> Case {
    let x = numbers(2 * WARPGROUP);
    let first = (0..WARPGROUP).flat_map(|i| [1.0, x[WARPGROUP + i], 0.0]);
    let second = (0..WARPGROUP).flat_map(|i| {
        let other = x[WARPGROUP - 1 - i];
        [1.0, other + 1.0, 4.0 * other + 6.0]
    });
    Case {
        entry: "primitive_threads_sm90",
        expected: floats(first.chain(second).collect()),
        inputs: vec![floats(x.clone())],
        arguments: vec![Argument::Output, Argument::Input(0)],
        grid: 1,
        shared_bytes: 0,
    }
}

fn cluster() -> Case {
    let x = numbers(2 * WARPGROUP);
    let y = (0..2).flat_map(|rank| {
        let other = &x[WARPGROUP * (1 - rank)..][..WARPGROUP];
        (0..WARPGROUP).flat_map(move |i| {
            let four = 4 * (i / 4);
            let next = other[(i + 1) % WARPGROUP];
            [rank as f32, next, other[four], other[four + 3]]
        })
    });
    Case {
        entry: "primitive_cluster_sm90",
        expected: floats(y.collect()),
        inputs: vec![floats(x.clone())],
        arguments: vec![Argument::Output, Argument::Input(0)],
        grid: 2,
        shared_bytes: 0,
    }
}

/// All of it together, over more stages than there are, with tiles that are cut short along K.
fn pipeline() -> Case {
    const ROWS: usize = 512;
    const K: usize = 440;
    let sign = |seed: usize, i: usize| integer(seed, i).signum();
    let x = Matrix::from_fn(ROWS, K, |row, k| sign(3, K * row + k));
    let w = Matrix::from_fn(K, 64, |k, column| sign(4, K * column + k));
    let y = x.multiply_add(&w, &Matrix::from_fn(ROWS, 64, |_, _| 0.0));
    let transposed = (0..64 * K).map(|i| w.at(i % K, i / K)).collect();
    let of = |extents, spans| Tensor::new(extents, spans, Swizzle::Bytes128).map();
    Case {
        entry: "primitive_pipeline_sm90",
        inputs: vec![halves(x.values), halves(transposed)],
        arguments: vec![
            Argument::Map {
                of: Operand::Output,
                map: of([64, ROWS], [64, 64]),
            },
            input(0, of([K, ROWS], [64, 128])),
            input(1, of([K, 64], [64, 32])),
            Argument::Int(K.div_ceil(64) as i32),
        ],
        grid: ROWS as u32 / 128,
        shared_bytes: 3 * (128 + 64) * 64 * 2,
        expected: halves(y.values),
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = copies();
    cases.extend([multicast(), threads(), cluster(), pipeline()]);
    cases.extend([
        product("primitive_product_8_sm90", 8, false),
        product("primitive_product_48_sm90", 48, false),
        product("primitive_product_160_sm90", 160, false),
        product("primitive_product_256_sm90", 256, false),
        product("primitive_product_48_transposed_sm90", 48, true),
        product("primitive_product_160_transposed_sm90", 160, true),
        product("primitive_product_80_registers_sm90", 80, false),
        // What attention multiplies values by: its heads and eight columns more, which end within a swizzle.
        product("primitive_product_48_registers_transposed_sm90", 48, true),
        product("primitive_product_72_registers_transposed_sm90", 72, true),
        product("primitive_product_88_registers_transposed_sm90", 88, true),
        product("primitive_product_168_registers_transposed_sm90", 168, true),
    ]);
    for transposed in [false, true] {
        cases.extend([1, 3, 31].map(|stride| store_matrix(transposed, stride)));
    }
    cases
}
