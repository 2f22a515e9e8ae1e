//! What holds for samplers whoever published them.

use super::*;
use crate::models::config::ScheduleConfig;

fn schedule(change: impl FnOnce(&mut ScheduleConfig)) -> Schedule {
    let mut config = ScheduleConfig {
        set_alpha_to_one: true,
        ..ScheduleConfig::default()
    };
    change(&mut config);
    Schedule::new(&config).unwrap()
}

/// Images of whole numbers, as a codebook would make them: every step takes the nearest, as CompVis's loops do.
#[test]
fn quantised_images_take_the_place_of_predicted_ones() {
    let round = |image: &[f64]| image.iter().map(|x| x.round()).collect::<Vec<_>>();
    let schedule = schedule(|_| ());
    let network = |x: &[f64], t: f64| vec![0.9 * x[0] + 0.1 * (t + 3.0 * x[0]).sin()];
    for (sampler, eta) in [
        (Sampler::Ddim, 0.0),
        (Sampler::Ddim, 0.6),
        (Sampler::Ddpm, 1.0),
    ] {
        let options = Options {
            eta: (sampler == Sampler::Ddim).then_some(eta),
            quantise: true,
            ..Options::new(7)
        };
        let trajectory = sampler.plan(&schedule, &options).unwrap();
        let mut draws = 0.0;
        let mut draw = |_| {
            draws += 0.3;
            vec![draws]
        };
        let found = trajectory.run_quantised(vec![1.3], &mut draw, network, round);

        let (mut x, mut fresh) = (1.3f64, 0.0);
        for (index, row) in trajectory.rows.iter().enumerate() {
            let [a, s] = [row.at.alpha, row.at.sigma];
            let last = trajectory.rows.get(index + 1);
            let [a_next, s_next] = last.map_or([1.0, 0.0], |next| [next.at.alpha, next.at.sigma]);
            let noise = network(&[x], row.at.timestep)[0];
            let image = ((x - s * noise) / a).round();
            let added = 1.0 - (a / a_next).powi(2);
            let variance = (s_next / s).powi(2) * added;
            let deviation = eta * variance.sqrt();
            if row.draws_noise() {
                fresh += 0.3;
            }
            x = match sampler {
                Sampler::Ddim => {
                    a_next * image + (s_next.powi(2) - deviation.powi(2)).sqrt() * noise
                }
                _ => (a_next * added * image + a / a_next * s_next.powi(2) * x) / s.powi(2),
            } + deviation * fresh;
        }
        assert!(
            (found[0] - x).abs() < 1e-9,
            "{sampler:?} {eta}: {found:?}, not {x}"
        );
    }
    let options = Options {
        quantise: true,
        ..Options::new(7)
    };
    for sampler in Sampler::ALL {
        let quantises = matches!(sampler, Sampler::Ddim | Sampler::Ddpm);
        assert_eq!(
            sampler.plan(&schedule, &options).is_ok(),
            quantises,
            "{sampler:?}"
        );
    }
}

/// No solver errs where the noise the network sees never changes.
#[test]
fn a_network_that_knows_the_image_leads_every_sampler_to_it() {
    const IMAGE: f64 = 0.75;
    let schedule = schedule(|_| ());
    for sampler in Sampler::ALL.into_iter().filter(|s| *s != Sampler::Lcm) {
        for steps in [1, 2, 3, 20, 500] {
            let trajectory = sampler.plan(&schedule, &Options::new(steps)).unwrap();
            let end = trajectory.run(
                vec![trajectory.start.noise * 1.3],
                |_| vec![-0.4],
                |x, timestep| {
                    let level = schedule.level_between(timestep);
                    vec![(x[0] - level.alpha * IMAGE) / level.sigma]
                },
            );
            assert!(
                (end[0] - IMAGE).abs() < 1e-9,
                "{sampler:?} {steps}: {end:?}"
            );
        }
    }
}

#[test]
fn noise_is_drawn_only_where_it_is_used() {
    let schedule = schedule(|_| ());
    let draws = |sampler: Sampler| {
        let trajectory = sampler.plan(&schedule, &Options::new(4)).unwrap();
        trajectory
            .rows
            .iter()
            .map(Row::draws_noise)
            .collect::<Vec<_>>()
    };
    assert_eq!(draws(Sampler::Ddim), [false; 4]);
    assert_eq!(draws(Sampler::EulerAncestral), [true, true, true, false]);
    assert_eq!(draws(Sampler::Lcm), [true, true, true, false]);
}

#[test]
fn rows_use_no_more_memory_than_they_say() {
    let schedule = schedule(|_| ());
    for (sampler, memory) in [
        (Sampler::Euler, 0),
        (Sampler::Heun, 1),
        (Sampler::DpmSolver2M, 1),
        (Sampler::UniPc, 2),
        (Sampler::Plms, 3),
    ] {
        let trajectory = sampler.plan(&schedule, &Options::new(8)).unwrap();
        assert_eq!(trajectory.memory, memory);
        for combination in trajectory.rows.iter().flat_map(|row| &row.next) {
            let past = &combination.coefficients()[3 + memory..];
            assert!(
                past.iter().all(|c| *c == 0.0),
                "{sampler:?}: {combination:?}"
            );
        }
        assert!(
            trajectory
                .rows
                .iter()
                .all(|row| row.next.len() == 1 + memory)
        );
    }
}

#[test]
fn ddim_plans_every_number_of_steps() {
    let schedule = schedule(|c| c.set_alpha_to_one = false);
    for steps in 1..=1000 {
        for compvis_timesteps in [false, true] {
            let options = Options {
                compvis_timesteps,
                ..Options::new(steps)
            };
            let trajectory = Sampler::Ddim.plan(&schedule, &options).unwrap();
            assert!(compvis_timesteps || trajectory.rows.len() == steps);
            assert!(trajectory.rows.iter().all(|row| row.at.timestep <= 999.0));
        }
    }
}

#[test]
fn impossible_requests_are_refused() {
    let message = |schedule: &Schedule, sampler: Sampler, options: Options| {
        sampler.plan(schedule, &options).unwrap_err().to_string()
    };
    let plain = schedule(|_| ());
    let ddim = |options| message(&plain, Sampler::Ddim, options);
    assert!(ddim(Options::new(0)).contains("ask for 1 to 1000"));
    assert!(ddim(Options::new(1001)).contains("ask for 1 to 1000"));
    let strength = |strength| Options {
        strength: Some(strength),
        ..Options::new(20)
    };
    assert!(ddim(strength(0.01)).contains("leaves none to run"));
    assert!(ddim(strength(f64::NAN)).contains("between 0 and 1"));
    let karras = Options {
        sigmas: SigmaSpacing::Karras,
        ..Options::new(20)
    };
    assert!(ddim(karras).contains("visits whole timesteps"));
    assert!(message(&plain, Sampler::UniPc, Options::new(1000)).contains("ask for fewer"));
    assert!(message(&plain, Sampler::Lcm, Options::new(51)).contains("at most 50 steps"));
    let pure_noise = schedule(|c| {
        c.zero_terminal_snr = true;
        c.timestep_spacing = Some(TimestepSpacing::Trailing);
    });
    for sampler in Sampler::ALL {
        assert!(message(&pure_noise, sampler, Options::new(20)).contains("v-prediction"));
    }
}
