//! Products that sum 64 columns at a time in halves, as consumer GPUs do where they may: here wherever there is a kernel for it, within the budget
//! of such sums.

use crate::family::{Family, family};
use crate::{checks, emulator_of};
use half::f16;
use latent_diffusion::cuda::{Precision, Sums, Target};
use latent_diffusion::rng::Noise;
use latent_diffusion::session::Program;
use latent_diffusion::weights::Weights;
use latent_diffusion::{Graph, Session, Shape, Tensor};

const fn target(multiprocessors: u32, sums: Sums) -> Target {
    Target {
        sums,
        ..Target::rtx_4090(Precision::F16).with_multiprocessors(multiprocessors)
    }
}

pub const FAMILY: Family = Family {
    ending: "_half",
    targets: [
        target(1, Sums::Halves),
        target(6, Sums::Halves),
        target(128, Sums::Halves),
    ],
};

family!(checks::agrees_in_halves);

/// `outside` of a normalisation or behind one, a product of 128 columns, told of a timestep.
fn network(outside: bool) -> Graph {
    let mut g = Graph::new();
    let t = g.input_exact("t", [1]);
    let t = g.timestep_embedding(t, 8).unwrap();
    g.output("t", t);
    let x = g.input("x", [1, 8, 16, 128]);
    let normalised = g.scope("norm", |g| g.group_norm(x, 8, 1e-5)).unwrap();
    let read = if outside { x } else { normalised };
    g.output("norm", normalised);
    let y = g.scope("product", |g| g.linear(read, 64, false)).unwrap();
    g.output("y", y);
    g
}

/// What a plain loop makes of a row and a column: sums of 64 products in halves, which each step of 16 rounds once, then added to f32.
fn promoted(x: &[f32], w: &[f32]) -> f32 {
    let chunks = x.chunks(64).zip(w.chunks(64));
    let sum = chunks.fold(0.0, |sum, (x, w)| {
        let steps = x.chunks(16).zip(w.chunks(16));
        let chunk = steps.fold(f16::ZERO, |chunk, (x, w)| {
            let products = x.iter().zip(w).map(|(x, w)| x * w);
            f16::from_f32(products.fold(chunk.to_f32(), |sum, product| sum + product))
        });
        sum + chunk.to_f32()
    });
    f16::from_f32(sum).to_f32()
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn sums_are_promoted_every_64_columns() {
    let weights = Weights::synthetic(7);
    // Three chunks and a part of one.
    let [rows, columns, features] = [128, 200, 64];
    let w = weights.get("weight", &[features, columns].into());
    let w = w.unwrap().to_f32();
    let x = Noise::cpu(5).normal(rows * columns);
    let x = Tensor::new([1, rows, columns], x).unwrap();
    let run = |sums| {
        let backend = emulator_of(target(1, sums));
        let mut g = Graph::new();
        let x_in = g.input("x", [1, rows, columns]);
        g.output("x", x_in);
        let y = g.linear(x_in, features, false).unwrap();
        g.output("y", y);
        let mut session = Session::new(&backend, g, &weights).unwrap();
        session.set("x", &x).unwrap();
        session.run().unwrap();
        ["x", "y"].map(|name| session.get(name).unwrap())
    };
    let [held, found] = run(Sums::Halves);
    let expected = Tensor::from_fn([1, rows, features], |i| {
        let [row, feature] = [i / features, i % features];
        promoted(
            &held.data()[row * columns..][..columns],
            &w[feature * columns..][..columns],
        )
    });
    checks::same_bits("a plain loop", &expected, &found).unwrap();
    let [_, other] = run(Sums::F32);
    assert!(checks::same_bits("sums in f32", &other, &found).is_err());
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn what_a_normalisation_made_is_summed_so_and_nothing_else() {
    let halves = |graph, sums| {
        let backend = emulator_of(target(1, sums));
        let program = Program::new(&*backend, graph).unwrap();
        let mut launches = program.kernels().flat_map(|kernel| &kernel.launches);
        launches.any(|launch| launch.entry.ends_with("_half"))
    };
    assert!(halves(network(false), Sums::Allowed));
    assert!(!halves(network(true), Sums::Allowed));
    assert!(!halves(network(false), Sums::F32));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_sum_of_64_that_leaves_the_range_of_halves_is_infinite_and_its_node_is_found() {
    let weights = Weights::synthetic(7);
    let shape: Shape = [64, 128].into();
    let w = weights.get("product.weight", &shape).unwrap().to_f32();
    // The first 64 products of a column are as large as the next 64 are small: their sum is within the range, and the first's is not.
    let x = Tensor::from_fn([1, 8, 16, 128], |i| {
        let k = i % 128;
        let sign = if k < 64 { 1.0 } else { -1.0 };
        30_000.0 * sign * w[k].signum()
    });
    let first: f32 = w[..64].iter().map(|w| 30_000.0 * w.abs()).sum();
    let run = |sums| {
        let backend = emulator_of(target(1, sums));
        let mut session = Session::new(&backend, network(true), &weights).unwrap();
        session.set("x", &x).unwrap();
        session.run().unwrap();
        let finite = session.get("y").unwrap().count_not_finite() == 0;
        (finite, session.first_not_finite().unwrap())
    };
    assert!(first > 65_520.0, "{first}");
    assert_eq!(run(Sums::F32), (true, None));
    assert_eq!(run(Sums::Halves), (false, Some("product".to_owned())));
}
