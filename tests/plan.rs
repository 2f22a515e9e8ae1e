//! What planning promises, on whole networks: fusion changes no result, and memory is shared only by what never lives together.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::cpu::Cpu;
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::ops::Op;
use latent_diffusion::plan::Plan;
use latent_diffusion::plan::fuse::{fuse, rules};
use latent_diffusion::plan::hoist::hoist;
use latent_diffusion::{Graph, Session, Tensor, Weights};
use networks::Network;
use std::sync::Arc;

/// The networks of a model, and a sampler's step around one.
fn all(model: &ModelConfig, batch: usize, latent: [usize; 2]) -> Vec<Network> {
    let mut all = networks::networks(model, batch, latent);
    all.push(networks::step(model, batch, latent));
    all
}

/// A network of every kind, narrow.
fn narrow(batch: usize, latent: [usize; 2]) -> Vec<Network> {
    let mut narrow = all(&networks::tiny(), batch, latent);
    narrow.extend(networks::unets(batch, latent));
    narrow
}

/// The results of a network with the rules that `enabled` lets through.
fn results(graph: &Graph, enabled: impl Fn(&str) -> bool) -> Vec<Tensor> {
    let cpu = Arc::new(Cpu::new(2, Arc::default()).unwrap());
    let weights = Weights::synthetic(3);
    let mut session = Session::with_fusion(&cpu, graph.clone(), &weights, enabled).unwrap();
    for (name, input) in networks::inputs(graph) {
        session.set(&name, &input).unwrap();
    }
    session.run().unwrap();
    let names = graph.outputs().iter().map(|(name, _)| name);
    names.map(|name| session.get(name).unwrap()).collect()
}

/// A fused operation rounds where its parts do or less often: at most one unit of difference for each operation of the network,
/// which normalisation and residual connections carry on at its own size.
fn same_up_to_rounding(what: &str, graph: &Graph, expected: &[Tensor], found: &[Tensor]) {
    let bound = graph.nodes().len() as f64 * f64::from(f32::EPSILON);
    for (expected, found) in expected.iter().zip(found) {
        assert_eq!(expected.count_not_finite(), 0, "{what}");
        let error = found.relative_error(expected);
        assert!(
            error <= bound,
            "{what}: relative error {error:e}, at most {bound:e}"
        );
    }
}

#[test]
fn fusion_changes_no_network() {
    for network in narrow(2, [8, 8]) {
        let (name, graph) = (network.name, &network.graph);
        let unfused = results(graph, |_| false);
        same_up_to_rounding(name, graph, &unfused, &results(graph, |_| true));
        for rule in rules() {
            let without = format!("{name} without {rule}");
            same_up_to_rounding(&without, graph, &unfused, &results(graph, |r| r != rule));
            let alone = format!("{name} with {rule} alone");
            same_up_to_rounding(&alone, graph, &unfused, &results(graph, |r| r == rule));
        }
    }
}

#[test]
fn every_rule_finds_work_in_the_networks() {
    let all = narrow(1, [8, 8]);
    for rule in rules() {
        let work = |graph: &Graph, enabled: &dyn Fn(&str) -> bool| {
            let fused = fuse(graph.clone(), enabled);
            (fused.cost().flops, fused.nodes().len())
        };
        // Either fewer operations, or, for a cut, less work.
        let works = |graph: &Graph| {
            let [all, without] = [work(graph, &|_| true), work(graph, &|r| r != rule)];
            all.0 < without.0 || all.1 < without.1
        };
        assert!(all.iter().any(|network| works(&network.graph)), "{rule}");
    }
}

/// The real networks, fused and laid out for elements of two bytes and of four, with some scratch memory for every attention.
fn plans() -> Vec<(String, Plan)> {
    let mut plans = vec![];
    let sd = ModelConfig::stable_diffusion_1();
    let sizes = [
        (networks::tiny(), 2, [8, 16]),
        (networks::demo(), 2, [16, 16]),
        (sd.clone(), 1, [64, 64]),
        (sd, 3, [32, 48]),
    ];
    for (model, batch, latent) in sizes {
        for network in all(&model, batch, latent) {
            for element_bytes in [2, 4] {
                let graph = hoist(&fuse(network.graph.clone(), |_| true));
                let scratch = |op: &Op| {
                    if matches!(op, Op::Attention(_)) {
                        100_000
                    } else {
                        0
                    }
                };
                let workspaces: Vec<usize> = graph.nodes().iter().map(|n| scratch(&n.op)).collect();
                let name = format!(
                    "{} {batch} x {latent:?}, {element_bytes} bytes",
                    network.name
                );
                plans.push((name, Plan::new(graph, element_bytes, &workspaces)));
            }
        }
    }
    plans
}

/// Bytes, first step and last step of a piece of the arena, from the graph alone.
struct Piece {
    offset: usize,
    bytes: usize,
    first: usize,
    last: usize,
}

/// The memory of each value and of each workspace; a reshape's is its operand's, an assignment's its target's. What runs once must outlive
/// all that runs every time and reads it.
fn pieces(plan: &Plan, element_bytes: usize) -> Vec<Piece> {
    let nodes = plan.graph.nodes();
    let once = |step: usize| step < plan.prologue;
    let mut owner: Vec<usize> = (0..nodes.len()).collect();
    let mut pieces: Vec<Piece> = vec![];
    for (step, node) in nodes.iter().enumerate() {
        if matches!(node.op, Op::Reshape(_) | Op::Assign(_)) {
            owner[step] = owner[node.inputs[0].index()];
        }
        let place = plan.places[step];
        let size = if place.exact { 4 } else { element_bytes };
        let is_input = matches!(node.op, Op::Input(_));
        pieces.push(Piece {
            offset: place.offset,
            bytes: size * place.shape.len(),
            first: if is_input { 0 } else { step },
            last: if is_input { nodes.len() } else { step },
        });
        for input in &node.inputs {
            let owner = owner[input.index()];
            let read = if once(owner) && !once(step) {
                nodes.len()
            } else {
                step
            };
            pieces[owner].last = pieces[owner].last.max(read);
        }
    }
    for (_, value) in plan.graph.outputs() {
        pieces[owner[value.index()]].last = nodes.len();
    }
    let workspaces = plan.workspaces.iter().enumerate();
    let scratch = workspaces.filter_map(|(step, offset)| {
        Some(Piece {
            offset: (*offset)?,
            bytes: 100_000,
            first: step,
            last: step,
        })
    });
    let owned = pieces
        .into_iter()
        .enumerate()
        .filter(|(step, _)| owner[*step] == *step);
    owned.map(|(_, piece)| piece).chain(scratch).collect()
}

#[test]
fn nothing_alive_shares_memory() {
    for (name, plan) in plans() {
        let element_bytes = if name.ends_with("2 bytes") { 2 } else { 4 };
        let pieces = pieces(&plan, element_bytes);
        for (i, a) in pieces.iter().enumerate() {
            assert!(a.offset + a.bytes <= plan.arena_bytes, "{name}");
            for b in &pieces[..i] {
                let together = a.first <= b.last && b.first <= a.last;
                let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
                assert!(apart || !together, "{name}: {} and {}", a.first, b.first);
            }
        }
    }
}

#[test]
fn arenas_are_near_the_least_possible() {
    for (name, plan) in plans() {
        let ratio = plan.arena_bytes as f64 / plan.lower_bound_bytes as f64;
        // Most are at the bound; the demo's text encoder, of a few small values, is not.
        assert!(ratio <= 1.12, "{name}: {ratio:.3} times the lower bound");
        assert!(
            (plan.lower_bound_bytes..=plan.sum_bytes).contains(&plan.arena_bytes),
            "{name}"
        );
    }
}
