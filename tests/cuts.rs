//! The cuts, which leave out work that follows from other work: whole networks with each of them and without it. Two change no bit, nor does reading
//! again what one of them would copy, but for the statistics of normalisations: no product finds those of a copy, and who finds them rounds in an order
//! of its own. So kernels are compared that leave each other nothing. Upsampling in phases rounds weights once more, and is held to what that can change. (What attention over one
//! key adds in another order, `tests/plan.rs` holds.)

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::backend::{Backend, LINK};
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Precision, Target};
use latent_diffusion::ops::{Op, Upsampling};
use latent_diffusion::plan::fuse::CUTS;
use latent_diffusion::{Graph, Session, Tensor, Weights};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The cuts that change no bit, and the rule that spares the first its copies.
const EXACT: [&str; 3] = ["guided pair", "repeated operands", "constants once"];

/// A network's results, with the rules that `enabled` lets through; and the session that computed them.
fn run<B: Backend>(
    device: &Arc<B>,
    graph: &Graph,
    enabled: impl Fn(&str) -> bool,
) -> (Vec<Tensor>, Session<B>) {
    let weights = Weights::synthetic(3);
    let mut session = Session::with_fusion(device, graph.clone(), &weights, enabled).unwrap();
    for (name, x) in networks::inputs(graph) {
        session.set(&name, &x).unwrap();
    }
    session.run().unwrap();
    let names = graph.outputs().iter().map(|(name, _)| name);
    let results = names.map(|name| session.get(name).unwrap()).collect();
    (results, session)
}

/// Does without each of them in turn: the same bits, by more work in some of the networks, or as much on more values.
fn change_no_bit<B: Backend>(device: &Arc<B>, networks: &[Graph]) {
    let mut useful = BTreeSet::new();
    for graph in networks {
        let (expected, with) = run(device, graph, |rule| rule != LINK);
        for cut in EXACT {
            let (found, without) = run(device, graph, |rule| rule != LINK && rule != cut);
            assert_eq!(expected, found, "{cut}");
            let [with, without] = [with.cost(), without.cost()].map(|c| (c.flops, c.activations));
            if with < without {
                useful.insert(cut);
            }
        }
    }
    assert_eq!(useful, BTreeSet::from(EXACT));
}

/// A sampler's steps: of every kind of narrow network.
fn steps(batch: usize) -> Vec<Graph> {
    let mut steps = networks::unets(batch, [8, 8]);
    steps.retain(|network| network.name.ends_with("step"));
    steps.push(networks::step(&networks::tiny(), batch, [8, 8]));
    steps.into_iter().map(|step| step.graph).collect()
}

/// The emulator as if it were a GPU of this architecture.
fn emulator(compute_capability: u32) -> Arc<Cuda> {
    let target = Target {
        compute_capability,
        ..Target::a100(Precision::F16)
    };
    Arc::new(Cuda::emulator(Emulation::watched(2), target, Arc::default()).unwrap())
}

#[test]
fn what_is_left_out_changes_no_bit() {
    let cpu = Arc::new(Cpu::new(2, Arc::default()).unwrap());
    for batch in [1, 3] {
        change_no_bit(&cpu, &steps(batch));
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn what_is_left_out_changes_no_bit_in_the_kernels() {
    let step = networks::step(&networks::tiny(), 2, [8, 8]).graph;
    change_no_bit(&emulator(80), &[step]);
}

/// A weight of a phase is a sum of halves, rounded: it is off by half a unit, and with it, on average over the pixels, the convolution. From there on
/// both ways round every result, each by at most half a unit, and normalisations and residual connections carry differences on at their own size.
#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn phases_change_what_rounding_their_weights_can() {
    let half_a_unit = f64::from(half::f16::EPSILON) / 2.0;
    let phased = |op: &Op| matches!(op, Op::Conv2d(conv) if conv.upsampling == Upsampling::Phases);
    for (name, latent) in [("decoder", [8, 8]), ("unet", [16, 16])] {
        let mut networks = networks::networks(&networks::demo(), 1, latent);
        networks.retain(|network| network.name == name);
        let graph = &networks[0].graph;
        for architecture in [80, 90] {
            let device = emulator(architecture);
            let (found, session) = run(&device, graph, |_| true);
            let (expected, _) = run(&device, graph, |rule| !CUTS.contains(&rule));
            let nodes = session.plan().graph.nodes().iter().map(|node| &node.op);
            let behind: Vec<&Op> = nodes.skip_while(|op| !phased(op)).collect();
            let convolutions = behind.iter().filter(|op| phased(op)).count();
            let bound = (2 * behind.len() + convolutions) as f64 * half_a_unit;
            let error = found[0].relative_error(&expected[0]);
            println!("{name}, sm_{architecture}: {error:.1e} of {bound:.1e}");
            assert!(convolutions > 0 && error > 0.0 && error <= bound);
        }
    }
}
