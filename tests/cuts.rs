//! What both calls of guidance share is computed once, and no bit changes. (Upsampling in phases rounds folded weights: `tests/ops` holds it to a bound.)

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Precision, Target};
use latent_diffusion::{Graph, Session, Tensor, Weights};
use std::sync::Arc;

#[test]
fn what_both_calls_of_guidance_share_is_computed_once() {
    let cpu = Arc::new(Cpu::new(2, Arc::default()).unwrap());
    for batch in [1, 3] {
        let mut steps = networks::unets(batch, [8, 8]);
        steps.retain(|network| network.name.ends_with("step"));
        steps.push(networks::step(&networks::tiny(), batch, [8, 8]));
        for step in steps {
            shares_what_is_equal(&cpu, &step.graph);
        }
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn what_both_calls_share_has_the_same_bits_in_the_kernels() {
    let emulation = Emulation {
        threads: 2,
        check: true,
        seed: 0,
    };
    let target = Target::a100(Precision::F16);
    let emulator = Cuda::emulator(emulation, target, Arc::default()).unwrap();
    let step = networks::step(&networks::tiny(), 2, [8, 8]);
    shares_what_is_equal(&Arc::new(emulator), &step.graph);
}

/// With less work, the same bits.
fn shares_what_is_equal<B: Backend>(device: &Arc<B>, step: &Graph) {
    let weights = Weights::synthetic(3);
    let results = [true, false].map(|pair| {
        let enabled = |rule: &str| pair || rule != "guided pair";
        let mut session = Session::with_fusion(device, step.clone(), &weights, enabled).unwrap();
        for (name, x) in networks::inputs(step) {
            session.set(&name, &x).unwrap();
        }
        session.run().unwrap();
        let names = step.outputs().iter().map(|(name, _)| name);
        let results: Vec<Tensor> = names.map(|name| session.get(name).unwrap()).collect();
        (results, session.cost().flops)
    });
    let [(shared, less), (twice, more)] = results;
    assert!(less < more, "{less} and {more}");
    assert_eq!(shared, twice);
}
