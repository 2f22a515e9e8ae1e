//! Whole networks on the CPU, of synthetic weights: the demo's at its native size with both halves of guidance, and Stable
//! Diffusion 1.x's at 256x256 pixels; and how long planning takes.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/cases/networks.rs"]
mod networks;

use criterion::{BatchSize, Criterion, SamplingMode, criterion_group, criterion_main};
use latent_diffusion::cpu::Cpu;
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::plan::{Plan, fuse::fuse};
use latent_diffusion::{Graph, Session, Weights};
use std::sync::Arc;
use std::time::Duration;

/// A network of seconds is timed ten times.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1))
        .nresamples(2000)
}

/// UNet, decode, encode, text and a sampler's step of two models.
fn models(criterion: &mut Criterion) {
    let cpu = Arc::new(Cpu::new(0, Arc::default()).expect("threads"));
    let sd1 = ModelConfig::stable_diffusion_1();
    for (model, config, batch, latent) in [
        ("demo 64x64, batch 2", networks::demo(), 2, [16, 16]),
        ("sd1 256x256, batch 1", sd1, 1, [32, 32]),
    ] {
        let weights = Weights::synthetic(0);
        let mut group = criterion.benchmark_group(model);
        group.sampling_mode(SamplingMode::Flat);
        let mut all = networks::networks(&config, batch, latent);
        all.push(networks::step(&config, batch.div_ceil(2), latent));
        for network in all {
            let mut session = None;
            group.bench_function(network.name, |bencher| {
                // Made when the network is first run, so that a filter skips its weights too.
                let session = session.get_or_insert_with(|| ready(&cpu, &network.graph, &weights));
                bencher.iter(|| session.run().expect("a run"));
            });
        }
        group.finish();
    }
}

/// Fusing and laying out the largest graph there is.
fn plans(criterion: &mut Criterion) {
    let mut all = networks::networks(&ModelConfig::stable_diffusion_1(), 1, [64, 64]);
    let unet = all.swap_remove(0);
    criterion.bench_function("plan/sd1 unet 512x512", |bencher| {
        let plan = |graph: Graph| {
            let graph = fuse(graph, |_| true);
            let workspaces = vec![0; graph.nodes().len()];
            Plan::new(graph, size_of::<f32>(), &workspaces)
        };
        bencher.iter_batched(|| unet.graph.clone(), plan, BatchSize::SmallInput);
    });
}

/// A session with its inputs set.
fn ready(cpu: &Arc<Cpu>, graph: &Graph, weights: &Weights) -> Session<Cpu> {
    let mut session = Session::new(cpu, graph.clone(), weights).expect("a session");
    for (name, input) in networks::inputs(graph) {
        session.set(&name, &input).expect("an input");
    }
    session
}

criterion_group! {
    name = benches;
    config = settings();
    targets = models, plans
}
criterion_main!(benches);
