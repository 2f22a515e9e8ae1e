//! Samplers against the trajectories that tools/trajectories.py wrote, and noise against what tools/noise.py wrote.

use latent_diffusion::models::config::{BetaSchedule, Prediction, ScheduleConfig, TimestepSpacing};
use latent_diffusion::rng::Noise;
use latent_diffusion::sampler::{Options, Sampler, SigmaSpacing, Trajectory};
use latent_diffusion::schedule::Schedule;
use serde::Deserialize;

/// One line of trajectories.json.
#[derive(Debug, Deserialize)]
struct Case {
    sampler: String,
    betas: String,
    prediction: String,
    spacing: String,
    steps: usize,
    sigmas: Option<String>,
    #[serde(default)]
    eta: f64,
    #[serde(default)]
    large_variance: f64,
    strength: Option<f64>,
    #[serde(default)]
    zero_terminal_snr: bool,
    #[serde(default)]
    compvis: bool,
    calls: usize,
    times: f64,
    inputs: [f64; SIZE],
    r#final: [f64; SIZE],
}

const SIZE: usize = 3;
const FIRST_NOISE: [f64; SIZE] = [0.8, -1.1, 0.3];
const LATENT: [f64; SIZE] = [0.5, 0.9, -0.4];

fn schedule(case: &Case) -> Schedule {
    let (beta_schedule, beta_start, beta_end) = match case.betas.as_str() {
        "sd" => (BetaSchedule::ScaledLinear, 0.00085, 0.012),
        "linear" => (BetaSchedule::Linear, 0.0015, 0.0195),
        "cosine" => (BetaSchedule::SquaredCosine, 0.0001, 0.02),
        other => panic!("betas {other}"),
    };
    let config = ScheduleConfig {
        beta_schedule,
        beta_start,
        beta_end,
        prediction: match case.prediction.as_str() {
            "epsilon" => Prediction::Epsilon,
            "v" => Prediction::V,
            "sample" => Prediction::Sample,
            other => panic!("prediction {other}"),
        },
        timestep_spacing: Some(match case.spacing.as_str() {
            "leading" => TimestepSpacing::Leading,
            "linspace" => TimestepSpacing::Linspace,
            "trailing" => TimestepSpacing::Trailing,
            other => panic!("spacing {other}"),
        }),
        zero_terminal_snr: case.zero_terminal_snr,
        ..ScheduleConfig::default()
    };
    Schedule::new(&config).unwrap()
}

fn plan(case: &Case) -> Trajectory {
    let options = Options {
        sigmas: case.sigmas.as_deref().map_or(SigmaSpacing::Normal, |name| {
            SigmaSpacing::parse(name).unwrap()
        }),
        eta: (case.eta > 0.0).then_some(case.eta),
        large_variance: case.large_variance,
        strength: case.strength,
        compvis_timesteps: case.compvis,
        ..Options::new(case.steps)
    };
    let sampler = Sampler::parse(&case.sampler).unwrap();
    sampler.plan(&schedule(case), &options).unwrap()
}

/// What a run asked the network, and where it ended.
struct Run {
    calls: usize,
    times: f64,
    inputs: [f64; SIZE],
    end: Vec<f64>,
}

/// The trajectory with the network and the noise of tools/trajectories.py.
fn run(trajectory: &Trajectory) -> Run {
    let (mut calls, mut times, mut inputs) = (0, 0.0, [0.0; SIZE]);
    let mut draws = 0;
    let start = trajectory.start;
    let x = (0..SIZE).map(|i| start.latent * LATENT[i] + start.noise * FIRST_NOISE[i]);
    let end = trajectory.run(
        x.collect(),
        |size| {
            let k = draws as f64;
            draws += 1;
            let value = |i: usize| 1.4 * (1.0 + 0.7 * i as f64 + 1.3 * k).sin();
            (0..size).map(value).collect()
        },
        |x, t| {
            calls += 1;
            times += t;
            for (sum, x) in inputs.iter_mut().zip(x) {
                *sum += x;
            }
            let answer =
                |(i, x): (usize, &f64)| 0.5 * x + 0.4 * (1.5 * x + 0.002 * t + i as f64).sin();
            x.iter().enumerate().map(answer).collect()
        },
    );
    Run {
        calls,
        times,
        inputs,
        end,
    }
}

fn relative_error(ours: &[f64], theirs: &[f64]) -> f64 {
    let difference: f64 = ours.iter().zip(theirs).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = theirs.iter().map(|b| b * b).sum();
    (difference / norm).sqrt()
}

/// How far a trajectory may be from the published one, both in f64.
fn tolerance(case: &Case) -> f64 {
    const ROUNDOFF: f64 = f64::EPSILON / 2.0;
    match case.sampler.as_str() {
        // diffusers draws noise of variance 1e-20 where the posterior's is 0: at most 1.4e-10 against states of 0.3 and more.
        "DDPM" => 1e-9,
        // From no signal, the noise kept is the root of a difference that is 0, or in other arithmetic its rounding.
        "DDIM" if case.eta == 1.0 && case.zero_terminal_snr => 2.0 * ROUNDOFF.sqrt(),
        // One rounding per call, each made `1 / alpha` (14.6) times larger by an estimate of the image, up to 1000 calls; the
        // file's 13 digits are finer.
        _ => 1000.0 * 14.6 * 4.0 * ROUNDOFF,
    }
}

#[test]
fn trajectories_are_those_of_diffusers_and_compvis() {
    let file = include_str!("data/samplers/trajectories.json");
    let cases: Vec<Case> = serde_json::from_str(file).unwrap();
    assert!(cases.len() > 300);
    for case in &cases {
        let run = run(&plan(case));
        assert_eq!(run.calls, case.calls, "{case:?}");
        for (what, ours, theirs) in [
            ("last state", &run.end[..], &case.r#final[..]),
            ("network inputs", &run.inputs, &case.inputs),
            ("timesteps", &[run.times], &[case.times]),
        ] {
            let error = relative_error(ours, theirs);
            assert!(error <= tolerance(case), "{what}: {error:e} in {case:?}");
        }
    }
}

/// One line of noise.json.
#[derive(Deserialize)]
struct NoiseCase {
    seed: u64,
    calls: Vec<NoiseCall>,
}

/// One call of `torch.randn`, and the values that were kept.
#[derive(Deserialize)]
struct NoiseCall {
    size: usize,
    kept: Vec<f32>,
}

#[test]
fn cpu_noise_is_that_of_torch() {
    let cases: Vec<NoiseCase> =
        serde_json::from_str(include_str!("data/samplers/noise.json")).unwrap();
    for case in &cases {
        let mut noise = Noise::cpu(case.seed);
        for call in &case.calls {
            let size = call.size;
            let values = noise.normal(size);
            assert_eq!(values.len(), size);
            let is_kept = |i: &usize| size <= 64 || i.is_multiple_of(97) || *i >= size - 32;
            let ours = (0..size).filter(is_kept).map(|i| values[i]);
            assert_eq!(ours.clone().count(), call.kept.len());
            for (ours, theirs) in ours.zip(&call.kept) {
                let seed = case.seed;
                assert!(
                    (ours - theirs).abs() <= 1e-6,
                    "seed {seed}, size {size}: {ours} {theirs}"
                );
            }
        }
    }
}
