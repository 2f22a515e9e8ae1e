//! The exact search of a database, on every device that is here.

use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Precision, Target};
use latent_diffusion::image::{Array, Existing, write_npz};
use latent_diffusion::pipeline::{Database, Neighbour};
use latent_diffusion::rng::Noise;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const WIDTH: usize = 24;

fn write(folder: &Path, rows: usize, width: usize, values: &[f32]) -> PathBuf {
    let path = folder.join("database.npz");
    let array = Array {
        name: "embedding",
        dims: &[rows, width],
        descr: "<f4",
    };
    write_npz(&path, Existing::Replace, |archive| {
        archive.array(&array, |out| {
            values
                .iter()
                .try_for_each(|x| out.write_all(&x.to_le_bytes()))
        })
    })
    .unwrap();
    path
}

/// More rows than are scored at once. Some are so near each other that halves do not tell them apart, some are equal, one is zero.
fn rows() -> Vec<f32> {
    let mut values = Noise::cpu(1).normal(9000 * WIDTH);
    let first = values[..WIDTH].to_vec();
    for copy in 1..40 {
        let row = &mut values[copy * 200 * WIDTH..][..WIDTH];
        for (index, (value, first)) in row.iter_mut().zip(&first).enumerate() {
            // Other lengths, one direction but for a hair.
            let hair = if index == copy % WIDTH {
                1e-5 * copy as f32
            } else {
                0.0
            };
            *value = (1.0 + copy as f32) * (first + hair);
        }
    }
    values.copy_within(..WIDTH, 8888 * WIDTH);
    values[5 * WIDTH..6 * WIDTH].fill(0.0);
    values
}

/// The nearest by the definition.
fn expected(rows: &[f32], query: &[f32], count: usize) -> Vec<usize> {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    let score = |row: &[f32]| {
        let length = product(row, row).sqrt();
        if length > 0.0 {
            product(row, query) / length
        } else {
            0.0
        }
    };
    let scores: Vec<f64> = rows.chunks(WIDTH).map(score).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order
}

fn numbers(found: &[Neighbour]) -> Vec<usize> {
    found.iter().map(|neighbour| neighbour.row).collect()
}

/// The database, something near one of its rows, and something that is near none.
fn database() -> (Database, Vec<f32>, [Vec<f32>; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let rows = rows();
    let database = Database::open(&write(folder.path(), 9000, WIDTH, &rows)).unwrap();
    let near = rows[..WIDTH].iter().map(|x| 3.0 * x + 0.01).collect();
    (database, rows, [near, Noise::cpu(2).normal(WIDTH)])
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn the_kernels_find_the_rows_that_the_cpu_finds() {
    let (database, _, queries) = database();
    let cpu = Arc::new(Cpu::new(2, Arc::default()).unwrap());
    let target = Target::a100(Precision::F16);
    let emulator = Arc::new(Cuda::emulator(Emulation::plain(2), target, Arc::default()).unwrap());
    for query in &queries {
        let expected = database.nearest(&cpu, query, 50).unwrap();
        assert_eq!(database.nearest(&emulator, query, 50).unwrap(), expected);
    }
}

#[test]
fn the_nearest_rows_are_those_of_the_definition() {
    let (database, rows, queries) = database();
    let cpu = Arc::new(Cpu::new(2, Arc::default()).unwrap());
    for query in &queries {
        let found = database.nearest(&cpu, query, 50).unwrap();
        assert!(found.windows(2).all(|two| two[0].score >= two[1].score));
        // The query is normalised in f32 first, which turns it by a hair: neighbours that close may change places.
        let mut ours = numbers(&found);
        let mut theirs = expected(&rows, query, 50);
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
    }
    // Equal rows: the lowest number first.
    let twins = database.nearest(&cpu, &rows[..WIDTH], 45).unwrap();
    let place = |row| {
        twins
            .iter()
            .position(|neighbour| neighbour.row == row)
            .unwrap()
    };
    assert!(place(0) < place(8888));
    assert_eq!(database.nearest(&cpu, &queries[1], 0).unwrap(), []);
}

#[test]
fn what_cannot_be_searched_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = Arc::new(Cpu::new(1, Arc::default()).unwrap());
    let path = write(folder.path(), 3, 2, &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let database = Database::open(&path).unwrap();
    let refused = |query: &[f32], count, expected: &str| {
        let error = database
            .nearest(&cpu, query, count)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&[1.0; 3], 1, "vectors of 2 numbers, and the model takes 3");
    refused(&[1.0; 2], 4, "4 neighbours were asked for, and");
    refused(&[0.0; 2], 1, "is zero");
    let open = |rows, width, values: &[f32], expected: &str| {
        let error = Database::open(&write(folder.path(), rows, width, values)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    open(0, 2, &[], "is empty");
    open(1, 2, &[1.0, f32::NAN], "NaN or infinity in 1 places");
}
