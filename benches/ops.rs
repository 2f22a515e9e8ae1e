//! Every operation case on the CPU: time, and operations and bytes per second from its cost.
//!
//! `cargo bench --bench ops -- 'conv2d/unet 64x64'` runs those in whose name that regular expression is found.

#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
#[path = "../tests/cases/mod.rs"]
mod cases;

use cases::Case;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use latent_diffusion::cpu::Cpu;
use latent_diffusion::{Session, Weights};
use std::sync::Arc;
use std::time::Duration;

/// Few samples and few resamplings: there are nine hundred cases.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(20))
        .measurement_time(Duration::from_millis(150))
        .nresamples(2000)
}

fn operations(criterion: &mut Criterion) {
    let cpu = Arc::new(Cpu::new(0, Arc::default()).expect("threads"));
    for case in cases::awkward().iter().chain(&cases::real()) {
        let mut group = criterion.benchmark_group(case.op.name());
        time(&mut group, &cpu, case);
        group.finish();
    }
}

fn time(group: &mut BenchmarkGroup<WallTime>, cpu: &Arc<Cpu>, case: &Case) {
    let cost = case.cost();
    group.throughput(Throughput::ElementsAndBytes {
        elements: cost.flops,
        bytes: cost.bytes(size_of::<f32>(), size_of::<half::f16>()),
    });
    let mut session = None;
    let what = case.name.split_once(": ").map_or("", |(_, what)| what);
    group.bench_function(what, |bencher| {
        // Made when the case is first run, so that a filter skips its weights too.
        let session = session.get_or_insert_with(|| ready(cpu, case));
        bencher.iter(|| session.run().expect("a run"));
    });
}

/// A session with its operands set.
fn ready(cpu: &Arc<Cpu>, case: &Case) -> Session<Cpu> {
    let mut session = Session::new(cpu, case.graph(), &Weights::synthetic(0)).expect("a session");
    for (index, input) in case.inputs().iter().enumerate() {
        session.set(&index.to_string(), input).expect("an operand");
    }
    session
}

criterion_group! {
    name = benches;
    config = settings();
    targets = operations
}
criterion_main!(benches);
