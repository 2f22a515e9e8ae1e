//! Combinations that their assignment computes, on the vectors that they are combined of: to the bits of combinations and assignments apart.

use crate::cpu_with;
use crate::emulated;
use latent_diffusion::backend::Backend;
use latent_diffusion::cuda::{Precision, Target};
use latent_diffusion::rng::Noise;
use latent_diffusion::{Graph, Result, Session, Tensor, Weights};
use std::sync::Arc;

/// Vectors of the state.
const VECTORS: usize = 3;

/// A sampler's update without a network: each vector is a combination of all and of noise, and what each was is kept. An image is not whole packs.
fn update() -> Result<Graph> {
    let mut g = Graph::new();
    let shape = [2, 5, 7, 3];
    let row = g.input_exact("row", [1]);
    let noise = g.input("noise", shape);
    let state: Vec<_> = (0..VECTORS)
        .map(|i| g.input(&i.to_string(), shape))
        .collect();
    let terms = [&state[..], &[noise]].concat();
    let mut next = vec![];
    for index in 0..VECTORS {
        let table = g.constant_exact(&format!("table.{index}"), [3, terms.len()]);
        next.push(g.combine(table, row, &terms)?);
    }
    for (index, &vector) in state.iter().enumerate() {
        let name = format!("before.{index}");
        let before = g.input(&name, shape);
        let before = g.assign(before, vector)?;
        g.output(&name, before);
    }
    for (index, (&vector, next)) in state.iter().zip(next).enumerate() {
        let assigned = g.assign(vector, next)?;
        g.output(&index.to_string(), assigned);
    }
    Ok(g)
}

/// All results of three runs, each from where the last one led, and how many kernels a run is.
fn runs<B: Backend>(device: &Arc<B>, fused: bool) -> Result<(Vec<Tensor>, usize)> {
    let graph = update()?;
    let weights = Weights::synthetic(0);
    let enabled = |rule: &str| fused || rule != "combine + assign";
    let mut session = Session::with_fusion(device, graph.clone(), &weights, enabled)?;
    for (index, (name, value)) in graph.inputs().enumerate() {
        let shape = graph.shape(value);
        let drawn = Noise::cpu(index as u64).normal(shape.len());
        // A vector of which nothing is said by some rows.
        let hidden = |i: usize| name.starts_with("table") && i % 4 == index % 4;
        let value = Tensor::from_fn(shape, |i| if hidden(i) { 0.0 } else { drawn[i] });
        session.set(name, &value)?;
    }
    let mut results = vec![];
    for row in 0..3 {
        session.set("row", &Tensor::full([1], row as f32))?;
        session.run()?;
        for (name, _) in graph.outputs() {
            results.push(session.get(name)?);
        }
    }
    Ok((results, session.profile()?.len()))
}

fn is_the_same_at_once<B: Backend>(device: &Arc<B>) {
    let (at_once, one) = runs(device, true).unwrap();
    let (apart, several) = runs(device, false).unwrap();
    assert_eq!((one, several), (1, VECTORS + 1));
    assert_eq!(at_once, apart);
    assert_ne!(at_once[0], at_once[2 * VECTORS], "a run does something");
}

#[test]
fn combinations_are_assigned_at_once_on_the_cpu() {
    is_the_same_at_once(&cpu_with(2));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn combinations_are_assigned_at_once_by_the_kernels() {
    for precision in [Precision::F16, Precision::F32] {
        for seed in 0..3 {
            is_the_same_at_once(&emulated(seed, Target::a100(precision)));
        }
    }
}
