//! Guidance in an interval of noise levels: what it leaves out, and that a sampler's state crosses its ends to the bit.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Precision, Target};
use latent_diffusion::models::config::{Attention, ModelConfig, UNetConfig};
use latent_diffusion::ops::Op;
use latent_diffusion::pipeline::{Denoiser, FIRST_STAGE, Guided, Interval, Kept, StepSizes, step};
use latent_diffusion::plan::{fuse::fuse, hoist};
use latent_diffusion::rng::Noise;
use latent_diffusion::sampler::{Options, Sampler, Trajectory};
use latent_diffusion::schedule::Schedule;
use latent_diffusion::{Shape, Tensor, Weights};
use std::sync::Arc;

const LATENT: [usize; 3] = [8, 8, 4];
const STEPS: usize = 5;

fn cpu() -> Arc<Cpu> {
    Arc::new(Cpu::new(2, Arc::default()).unwrap())
}

fn trajectory(sampler: Sampler) -> Trajectory {
    planned(sampler, &Options::new(STEPS))
}

fn planned(sampler: Sampler, options: &Options) -> Trajectory {
    let schedule = Schedule::new(&networks::tiny().schedule).unwrap();
    sampler.plan(&schedule, options).unwrap()
}

/// An interval that holds the rows `first` to `last` of a trajectory and no other.
fn rows(trajectory: &Trajectory, [first, last]: [usize; 2]) -> Interval {
    let ratio = |row: usize| trajectory.rows[row].at.ratio();
    let start = trajectory
        .rows
        .get(last + 1)
        .map_or(0.0, |row| row.at.ratio());
    Interval::new(start, ratio(first)).unwrap()
}

fn normal(shape: &[usize], seed: u64) -> Tensor {
    let shape = Shape::new(shape);
    Tensor::new(shape, Noise::cpu(seed).normal(shape.len())).unwrap()
}

/// Two images, guided away from the same context, or from another.
fn guided(same: bool, interval: Option<Interval>) -> Guided {
    let told = normal(&[2, 9, 20], 1);
    let away = if same {
        told.clone()
    } else {
        normal(&[2, 9, 20], 2)
    };
    Guided {
        context: Some(Tensor::stack(&[away, told]).unwrap()),
        settings: Some([3.0, 0.0]),
        interval,
        ..Guided::unconditional(2)
    }
}

/// The last state, and the FLOPs of each row.
fn run<B: Backend>(
    device: &Arc<B>,
    config: &UNetConfig,
    guided: &Guided,
    trajectory: &Trajectory,
) -> (Tensor, Vec<u64>) {
    let [network, first_stage] = [3, 4].map(Weights::synthetic);
    let network = (config, &network.with(FIRST_STAGE, &first_stage));
    let mut denoiser = Denoiser::new(device, network, guided, LATENT, trajectory).unwrap();
    let shape = [guided.batch, LATENT[0], LATENT[1], LATENT[2]];
    let mut drawn = 10;
    let mut draw = || {
        drawn += 1;
        Ok(normal(&shape, drawn))
    };
    let last = denoiser.run(&normal(&shape, 4), &mut draw, &mut |_| ());
    let flops = denoiser.costs().map(|cost| cost.flops).collect();
    (last.unwrap(), flops)
}

/// Where both calls are told the same, guidance changes no bit. Then neither does an interval, whose ends are crossed with all that a sampler
/// remembers.
fn crosses_to_the_bit<B: Backend>(device: &Arc<B>, trajectory: &Trajectory, told: &Guided) {
    let config = networks::parts(networks::tiny()).0;
    let [always, sometimes] = [None, Some(rows(trajectory, [2, 2]))].map(|interval| {
        let told = Guided {
            interval,
            ..told.clone()
        };
        run(device, &config, &told, trajectory).0
    });
    assert_eq!(sometimes, always);
}

#[test]
fn a_samplers_state_crosses_the_ends_of_an_interval_to_the_bit() {
    for sampler in Sampler::ALL {
        crosses_to_the_bit(&cpu(), &trajectory(sampler), &guided(true, None));
    }
}

#[test]
fn so_it_does_from_an_image_around_a_part_that_is_kept_and_of_codes() {
    let shape = [2, LATENT[0], LATENT[1], LATENT[2]];
    let kept = Guided {
        kept: Some(Kept {
            latent: normal(&shape, 5),
            mask: Tensor::from_fn(shape, |i| (i / 4 % 2) as f32),
        }),
        ..guided(true, None)
    };
    let from_image = Options {
        strength: Some(0.6),
        ..Options::new(8)
    };
    for sampler in [Sampler::Ddim, Sampler::EulerAncestral, Sampler::UniPc] {
        crosses_to_the_bit(&cpu(), &trajectory(sampler), &kept);
        crosses_to_the_bit(&cpu(), &planned(sampler, &from_image), &guided(true, None));
    }
    let codes = Guided {
        codebook: Some(30),
        ..guided(true, None)
    };
    let quantised = Options {
        quantise: true,
        ..Options::new(STEPS)
    };
    for sampler in [Sampler::Ddpm, Sampler::Ddim] {
        crosses_to_the_bit(&cpu(), &planned(sampler, &quantised), &codes);
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn so_it_does_in_the_kernels() {
    let target = Target::a100(Precision::F16);
    let emulator = Cuda::emulator(Emulation::plain(2), target, Arc::default()).unwrap();
    let trajectory = trajectory(Sampler::DpmSolver2M);
    crosses_to_the_bit(&Arc::new(emulator), &trajectory, &guided(true, None));
}

#[test]
fn rows_in_the_interval_are_guided_and_the_others_take_less_work() {
    let config = networks::parts(networks::tiny()).0;
    let cpu = cpu();
    let trajectory = trajectory(Sampler::DpmSolver2M);
    let run = |interval| run(&cpu, &config, &guided(false, interval), &trajectory);
    let (always, all) = run(None);
    assert_eq!(
        run(Some(Interval::new(0.0, f64::INFINITY).unwrap())),
        (always.clone(), all.clone())
    );
    let alone = Guided {
        context: Some(normal(&[2, 9, 20], 1)),
        ..Guided::unconditional(2)
    };
    let (never, none) = self::run(&cpu, &config, &alone, &trajectory);
    let beyond = Interval::new(1e6, 2e6).unwrap();
    assert_eq!(run(Some(beyond)), (never.clone(), none.clone()));
    for between in [[0, 1], [2, 3], [STEPS - 1, STEPS - 1]] {
        let (last, flops) = run(Some(rows(&trajectory, between)));
        let expected = |row| {
            if (between[0]..=between[1]).contains(&row) {
                all[row]
            } else {
                none[row]
            }
        };
        assert_eq!(flops, (0..flops.len()).map(expected).collect::<Vec<_>>());
        assert!(last != always && last != never, "{between:?}");
    }
}

#[test]
fn classes_are_guided_in_an_interval_too() {
    let mut config = networks::parts(networks::tiny()).0;
    for level in &mut config.levels {
        level.attention = Attention::None;
    }
    (config.middle, config.context_dim) = (Attention::None, None);
    config.num_classes = Some(10);
    let trajectory = trajectory(Sampler::Plms);
    let told = |away: f32, interval| Guided {
        class_labels: Some(Tensor::new([4], vec![away, away, 7.0, 7.0]).unwrap()),
        settings: Some([3.0, 0.7]),
        interval,
        ..Guided::unconditional(2)
    };
    let cpu = cpu();
    let run = |guided| run(&cpu, &config, &guided, &trajectory).0;
    let interval = Some(rows(&trajectory, [1, 2]));
    let [guided, always] = [interval, None].map(|interval| run(told(9.0, interval)));
    let never = run(Guided {
        class_labels: Some(Tensor::full([2], 7.0)),
        ..Guided::unconditional(2)
    });
    assert!(guided != always && guided != never);
}

/// A step of Stable Diffusion without guidance is that with it less one call of the network.
#[test]
fn a_step_outside_asks_the_network_for_one_image_and_not_for_two() {
    let unet = ModelConfig::stable_diffusion_1().unet.unwrap();
    let body = |calls: usize, shared: bool| {
        let sizes = StepSizes {
            rows: 20,
            ..StepSizes::new(&unet, 77, 1, [64, 64], calls == 2)
        };
        let graph = step(&unet, &sizes).unwrap();
        let graph = hoist::hoist(&fuse(graph, |rule| shared || rule != "guided pair"));
        let once = hoist::constants(&graph);
        let every = graph.nodes().iter().zip(&once).filter(|(_, once)| !**once);
        let around =
            |op: &Op| matches!(op, Op::Guidance(_) | Op::Assign(_) | Op::CountNotFinite(_));
        let network = every.filter(|(node, _)| !around(&node.op));
        network
            .map(|(node, _)| graph.cost_of(node).flops)
            .sum::<u64>()
    };
    assert_eq!(body(2, false), 2 * body(1, false));
    println!(
        "{:.2} GFLOP with guidance, {:.2} without",
        body(2, true) as f64 / 1e9,
        body(1, true) as f64 / 1e9
    );
}
