//! A sampler's step: what is done once a run is left out of every step, and changes nothing.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::backend::{Backend, Selection, Step};
use latent_diffusion::cpu::Cpu;
use latent_diffusion::graph::{Node, Param};
use latent_diffusion::models::config::{self, ModelConfig};
use latent_diffusion::models::unet;
use latent_diffusion::ops::Op;
use latent_diffusion::pipeline::{self, Denoiser, Guided, Kept, StepSizes};
use latent_diffusion::plan::{Place, Plan, fuse::fuse, hoist::hoist};
use latent_diffusion::sampler::{Options, Sampler};
use latent_diffusion::schedule::Schedule;
use latent_diffusion::{Error, Graph, Result, Session, Shape, Tensor, Weights};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The same graph without constants, so that everything is computed at every run.
fn everything_every_time(graph: &Graph) -> Graph {
    let mut plain = Graph::new();
    let mut values = vec![];
    for node in graph.nodes() {
        let inputs: Vec<_> = node.inputs.iter().map(|v| values[v.index()]).collect();
        values.push(match &node.op {
            Op::Input(input) if input.exact => plain.input_exact(&node.name, node.shape),
            Op::Input(_) => plain.input(&node.name, node.shape),
            op => plain.scope(&node.name, |g| g.push(op.clone(), &inputs).unwrap()),
        });
    }
    for (name, value) in graph.outputs() {
        plain.output(name, values[value.index()]);
    }
    plain
}

#[test]
fn what_is_computed_once_is_what_would_be_computed_every_time() {
    keeps_what_it_computed_once(
        &networks::step(&networks::tiny(), 2, [8, 8]).graph,
        "context",
    );
    for network in networks::unets(2, [8, 8]) {
        match network.name {
            "churches' step" => keeps_what_it_computed_once(&network.graph, "class_labels"),
            "class's step" => keeps_what_it_computed_once(&network.graph, "context"),
            _ => {}
        }
    }
}

/// A sampling run, its condition changed on the way, gives the same bits whether or not anything is kept from step to step.
fn keeps_what_it_computed_once(step: &Graph, condition: &str) {
    let inputs = networks::inputs(step);
    let cpu = Arc::new(Cpu::new(2, Arc::default()).unwrap());
    let weights = Weights::synthetic(3);
    let graphs = [step.clone(), everything_every_time(step)];
    let mut sessions = graphs.map(|graph| Session::new(&cpu, graph, &weights).unwrap());
    let [kept, plain] = sessions.each_ref().map(|session| session.plan().prologue);
    assert!(kept > 0 && plain == 0, "{kept} and {plain}");
    let work = sessions.each_ref().map(|session| session.cost().flops);
    assert!(work[0] < work[1], "{work:?}");
    let mut earlier = vec![];
    for run in 0..4 {
        let results = sessions.each_mut().map(|session| {
            if run == 0 {
                inputs
                    .iter()
                    .for_each(|(name, x)| session.set(name, x).unwrap());
            }
            if run == 2 {
                let (name, told) = inputs.iter().find(|(name, _)| name == condition).unwrap();
                let other = told.data().iter().map(|x| (1.0 - x).abs()).collect();
                let other = Tensor::new(told.shape(), other).unwrap();
                session.set(name, &other).unwrap();
            }
            session.set("step", &Tensor::full([1], run as f32)).unwrap();
            session.run().unwrap();
            let names = step.outputs().iter().map(|(name, _)| name);
            names
                .map(|name| session.get(name).unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(results[0], results[1], "run {run}");
        assert_ne!(results[0], earlier, "run {run} does something");
        earlier.clone_from(&results[0]);
    }
}

/// The steps of each call of a device that computes nothing.
#[derive(Default)]
struct Recorder(Mutex<Vec<Vec<String>>>);

impl Backend for Recorder {
    type Arena = ();
    type Kernel = ();
    type Weight = ();
    type Replay = ();

    fn name(&self) -> String {
        "recorder".into()
    }

    fn element_bytes(&self) -> usize {
        4
    }

    fn alloc(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn write(&self, (): &mut (), _: Place, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn read(&self, (): &(), _: Place, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn select(&self, _: &Node, _: &[Shape]) -> Result<Selection<Self>> {
        Ok(Selection {
            kernel: (),
            workspace_bytes: 0,
            tail_bytes: 0,
            also: None,
        })
    }

    fn load(&self, (): &(), _: &[&Param], _: &Weights) -> Result<Vec<()>> {
        Ok(vec![])
    }

    fn run(&self, (): &mut (), steps: &[Step<Self>], (): &mut ()) -> Result<()> {
        let names = steps.iter().map(|step| step.name.clone());
        self.0.lock().unwrap().push(names.collect());
        Ok(())
    }
}

#[test]
fn what_follows_from_constants_runs_when_one_was_set() {
    let mut g = Graph::new();
    let x = g.input("x", [1, 4]);
    let context = g.constant("context", [1, 4]);
    let k = g.scope("k", |g| g.linear(context, 4, true)).unwrap();
    let y = g.scope("y", |g| g.add(x, k)).unwrap();
    g.output("y", y);
    let recorder = Arc::new(Recorder::default());
    let mut session = Session::new(&recorder, g, &Weights::synthetic(0)).unwrap();
    let ran = || std::mem::take(&mut *recorder.0.lock().unwrap()).concat();
    for (set, expected) in [
        (None, &["k", "y"][..]),
        (None, &["y"]),
        (Some("x"), &["y"]),
        (Some("context"), &["k", "y"]),
        (None, &["y"]),
    ] {
        if let Some(name) = set {
            session.set(name, &Tensor::zeros([1, 4])).unwrap();
        }
        session.run().unwrap();
        assert_eq!(ran(), expected, "{set:?} was set");
    }
    let once: Vec<bool> = session.profile().unwrap().iter().map(|t| t.once).collect();
    assert_eq!(once, [true, false]);
}

/// The tiny network in the hands of a sampler.
fn denoiser(
    sampler: Sampler,
    steps: usize,
    guidance: [f32; 2],
    kept: Option<Kept>,
) -> Denoiser<Cpu> {
    let model = networks::tiny();
    let schedule = Schedule::new(&model.schedule).unwrap();
    let trajectory = sampler.plan(&schedule, &Options::new(steps)).unwrap();
    let unet = networks::parts(model).0;
    let guided = Guided {
        context: Some(Tensor::full([2, 9, 20], 0.5)),
        settings: Some(guidance),
        kept,
        ..Guided::unconditional(1)
    };
    let cpu = Arc::new(Cpu::new(2, Arc::default()).unwrap());
    let network = (&unet, &Weights::synthetic(3));
    Denoiser::new(&cpu, network, &guided, [8, 8, 4], &trajectory).unwrap()
}

/// A run of it, with noise from `draw`.
fn run(denoiser: &mut Denoiser<Cpu>, draw: impl Fn(usize) -> f32) -> Result<Tensor> {
    let mut drawn = 0;
    let mut draw = || {
        drawn += 1;
        Ok(Tensor::full([1, 8, 8, 4], draw(drawn)))
    };
    let x = Tensor::from_fn([1, 8, 8, 4], |i| (i % 7) as f32 - 3.0);
    denoiser.run(&x, &mut draw, &mut |_| ())
}

#[test]
fn a_step_that_fails_is_run_again_from_the_state_before_it() {
    let mut denoiser = denoiser(Sampler::EulerAncestral, 4, [3.0, 0.7], None);
    let healthy = run(&mut denoiser, |_| 0.1).unwrap();
    // The state after the third step is full of NaN; what made it is the update, and not the first node that a NaN state meets.
    let fault = run(
        &mut denoiser,
        |drawn| if drawn == 3 { f32::NAN } else { 0.1 },
    );
    let Err(Error::NotFinite { stage, what, .. }) = fault else {
        panic!("NaN went through a step: {fault:?}")
    };
    assert_eq!(stage, "the UNet, step 3 of 4, node sampler,");
    assert_eq!(what, "NaN or infinity in 256 of 256 values");
    let again = run(&mut denoiser, |_| 0.1).unwrap();
    assert_eq!(again, healthy, "a run leaves nothing behind");
}

/// Two DDIM steps on the tiny network from the state `x`, with noise of `0.1 draws` where a part of the image is kept.
fn kept(x: &Tensor, kept: Option<Kept>) -> Tensor {
    let mut denoiser = denoiser(Sampler::Ddim, 2, [3.0, 0.0], kept);
    let mut drawn = 0.0;
    let mut draw = || {
        drawn += 0.1;
        Ok(Tensor::full([1, 8, 8, 4], drawn))
    };
    denoiser.run(x, &mut draw, &mut |_| ()).unwrap()
}

#[test]
fn what_is_kept_of_an_image_stands_in_the_state_at_its_level_of_noise() {
    let shape: Shape = [1, 8, 8, 4].into();
    let x = Tensor::from_fn(shape, |i| (i % 7) as f32 - 3.0);
    let image = Tensor::from_fn(shape, |i| (i % 5) as f32 / 4.0);
    let masked = |mask| Kept {
        latent: image.clone(),
        mask,
    };
    let all = masked(Tensor::full(shape, 1.0));
    assert_eq!(kept(&x, Some(all)), kept(&x, None), "all is drawn");
    let none = kept(&x, Some(masked(Tensor::zeros(shape))));
    let elsewhere = kept(&Tensor::zeros(shape), Some(masked(Tensor::zeros(shape))));
    assert_eq!(none, elsewhere, "all is kept, wherever it begins");

    // The left half is kept: before the first step, that is the image at the first level, with the first noise.
    let left = |i: usize| i / 4 % 8 < 4;
    let mask = Tensor::from_fn(shape, |i| if left(i) { 0.0 } else { 1.0 });
    let schedule = Schedule::new(&networks::tiny().schedule).unwrap();
    let first = Sampler::Ddim
        .plan(&schedule, &Options::new(2))
        .unwrap()
        .rows[0]
        .at;
    let [alpha, sigma] = [first.alpha as f32, first.sigma as f32].map(f64::from);
    let noised = |i: usize| (alpha * f64::from(image.data()[i]) + sigma * f64::from(0.1f32)) as f32;
    let begun = Tensor::from_fn(shape, |i| if left(i) { noised(i) } else { x.data()[i] });
    let half = kept(&x, Some(masked(mask.clone())));
    assert_eq!(half, kept(&begun, Some(masked(mask))));
    assert_ne!(half, kept(&x, None));
}

/// GFLOP of some nodes of a graph.
fn work(graph: &Graph, nodes: &[Node]) -> f64 {
    let flops = nodes.iter().map(|node| graph.cost_of(node).flops);
    flops.sum::<u64>() as f64 / 1e9
}

/// A step of a sampler is the network, less what is done once a run: keys and values of the context, and what follows from the timesteps.
#[test]
fn a_step_of_stable_diffusion_leaves_out_what_is_done_once() {
    let unet = ModelConfig::stable_diffusion_1().unet.unwrap();
    let sizes = StepSizes {
        rows: 20,
        ..StepSizes::new(&unet, 77, 1, [64, 64], true)
    };
    let step = hoist(&fuse(pipeline::step(&unet, &sizes).unwrap(), |_| true));
    let workspaces = vec![0; step.nodes().len()];
    let plan = Plan::new(step, 2, &workspaces);
    let (once, every) = plan.graph.nodes().split_at(plan.prologue);
    let kernels = |nodes: &[Node]| {
        let runs = |node: &&Node| !matches!(node.op, Op::Input(_) | Op::Reshape(_));
        nodes.iter().filter(runs).count()
    };
    // Two products for the timesteps, and one for each of 22 blocks; keys and values for each of 16 transformers.
    assert_eq!(kernels(once), 1 + 2 + 22 + 2 * 16);
    // Besides the network: guidance, the update and the count. What both halves of the batch share is not copied: queries and their residual, the
    // transformer's residual, and the skip connection around everything.
    assert_eq!(kernels(every), 273 + 3);

    let blocks = |level: usize| [320, 640, 1280, 1280][level] * [5, 5, 5, 7][level];
    let projected: usize = (0..4).map(blocks).sum();
    let per_timestep = 2 * (320 * 1280 + 1280 * 1280 + 1280 * projected);
    let context = 2 * 2 * 154 * 768 * (320 * 5 + 640 * 5 + 1280 * 6);
    let expected = (20 * per_timestep + context) as f64 / 1e9;
    let done = work(&plan.graph, once);
    assert!(
        (done / expected - 1.0).abs() < 1e-3,
        "{done} GFLOP, not {expected}"
    );

    let network = fuse(unet::build(&unet, 2, [64, 64], 77).unwrap(), |_| true);
    // Computed once for both halves: a convolution, a residual block of two, six products of a transformer and its attention on itself.
    let pixels = 64 * 64;
    let convolutions = 9 * (4 * 320 + 2 * 320 * 320);
    let shared = 2 * pixels * (convolutions + 6 * 320 * 320 + 2 * pixels * 320);
    let expected =
        work(&network, network.nodes()) - (2 * per_timestep + context + shared) as f64 / 1e9;
    let left = work(&plan.graph, every);
    assert!(
        (left / expected - 1.0).abs() < 1e-4,
        "{left} GFLOP, not {expected}"
    );
    println!(
        "once {done:.2} GFLOP; every step {left:.2} GFLOP in {} kernels, {:.1} MB of activations",
        kernels(every),
        plan.arena_bytes as f64 / 1e6
    );
}

/// Classes as a context of one token: what asked for it disappears from every step, and what it answers is computed once a run.
#[test]
fn a_context_of_one_token_costs_a_step_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/systems/cin256.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap();
    let unet = config::from_yaml(&path, &yaml).unwrap().unet.unwrap();
    let sizes = StepSizes {
        rows: 20,
        ..StepSizes::new(&unet, 1, 1, [32, 32], true)
    };
    let step = |enabled: fn(&str) -> bool| {
        let graph = hoist(&fuse(pipeline::step(&unet, &sizes).unwrap(), enabled));
        let workspaces = vec![0; graph.nodes().len()];
        Plan::new(graph, 2, &workspaces)
    };
    let [with, without] = [
        step(|rule| rule != "guided pair"),
        step(|rule| !["guided pair", "attention over one key"].contains(&rule)),
    ];
    let asks = |node: &&Node| node.name.contains("attn2") || node.name.contains("norm2");
    let body = |plan: &Plan| plan.graph.nodes()[plan.prologue..].to_vec();
    let asking: Vec<Node> = body(&without).iter().filter(asks).cloned().collect();
    assert_eq!(body(&with).iter().filter(asks).count(), 0);
    // Queries, which normalise first, the attention and its projection in each of 16 transformers.
    assert_eq!(asking.len(), 3 * 16);
    let [less, more] = [&with, &without].map(|plan| work(&plan.graph, &body(plan)));
    let saved = work(&without.graph, &asking);
    assert!(
        (less + saved - more).abs() < 1e-9 * more,
        "{less} + {saved} GFLOP, not {more}"
    );
    println!("{less:.2} GFLOP at every step, and {more:.2} with the attention over one key");
}
