//! A sampler's whole trajectory, from the dump's noise to its latent, through the loop that samples for users.

use super::dump::Dump;
use super::network::{ids, sizes};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::models::config::{
    BetaSchedule, ModelConfig, Prediction, ScheduleConfig, TimestepSpacing, UNetConfig,
    unsupported_settings,
};
use crate::pipeline::{Denoiser, Guided, Model};
use crate::sampler::{Options, Sampler, SigmaSpacing, Trajectory};
use crate::schedule::Schedule;
use crate::tensor::Tensor;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// The latent after the last step; full of NaN where a step made one.
pub(super) fn run<B: Backend>(backend: &Arc<B>, model: &Model, dump: &Dump) -> Result<Tensor> {
    let (config, weights) = model.unet()?;
    let trajectory = planned(model, dump)?;
    let noise = dump.required("noise", 4)?.nchw_to_nhwc();
    let [batch, height, width, channels] = sizes(&noise);
    let guided = guided(config, dump, batch)?;
    let scaled = noise.data().iter();
    let scaled = scaled.map(|&n| (trajectory.start.noise * f64::from(n)) as f32);
    let first = Tensor::new(noise.shape(), scaled.collect())?;
    let size = [height, width, channels];
    let mut denoiser = Denoiser::new(backend, (config, weights), &guided, size, &trajectory)?;
    let mut draw = || {
        Err(dump.refuse(
            "is of a sampler that draws noise at its steps, which a dump does not hold: DDIM and Euler a with an `eta` of 0 draw none, nor do \
             PLMS, Euler, Heun, DPM++ 2M and UniPC",
        ))
    };
    match denoiser.run(&first, &mut draw, &mut |_| {}) {
        Err(Error::NotFinite { .. }) => Ok(Tensor::full(noise.shape(), f32::NAN)),
        ended => ended,
    }
}

/// The trajectory that the dump's metadata describes, on the model's schedule.
fn planned(model: &Model, dump: &Dump) -> Result<Trajectory> {
    let sampler = dump.metadata("sampler").and_then(Json::as_str);
    let sampler = sampler.ok_or_else(|| dump.refuse("does not name its `sampler`"))?;
    let sampler = Sampler::parse(sampler)?;
    let steps = dump.metadata("steps").and_then(Json::as_u64);
    let steps = steps.ok_or_else(|| dump.refuse("does not say how many `steps` it is of"))?;
    let mut options = Options::new(usize::try_from(steps).unwrap_or(usize::MAX));
    if matches!(sampler, Sampler::Ddim | Sampler::EulerAncestral) {
        options.eta = Some(number(dump, "eta", 0.0)?);
    }
    let mut config = model.config.clone();
    let asks = matches!(
        sampler,
        Sampler::Euler
            | Sampler::Heun
            | Sampler::DpmSolver2M
            | Sampler::DpmSolver2MSde
            | Sampler::UniPc
    );
    if let (true, Some(name)) = (asks, &config.sampling.sigmas) {
        options.sigmas = SigmaSpacing::parse(name)?;
    }
    match dump.metadata("scheduler") {
        None => {}
        // A class says no more than `sampler` does.
        Some(Json::String(name)) if Sampler::parse(name).is_ok_and(|named| named == sampler) => {}
        Some(Json::String(name)) if RULES.contains(&name.as_str()) => {
            change(&mut config, dump, [("timestep_spacing", &json!(name))])?;
        }
        Some(Json::String(name)) => options.sigmas = SigmaSpacing::parse(name)?,
        Some(Json::Object(settings)) => {
            options.sigmas = sigmas(settings, options.sigmas, dump)?;
            let settings = settings.iter().map(|(key, value)| (key.as_str(), value));
            change(&mut config, dump, settings)?;
        }
        Some(other) => {
            return Err(dump.refuse(format!(
                "has the `scheduler` {other}: a spacing's name or diffusers' settings are expected"
            )));
        }
    }
    let schedule = Schedule::new(&config.schedule)?;
    if let Some(least) = least_lambda(dump)
        && sampler == Sampler::DpmSolver2M
        && -schedule.ratio_range().1.ln() < least
    {
        return Err(dump.refuse(format!(
            "has a `scheduler` whose `lambda_min_clipped` is {least}, and no sampler here leaves out timesteps of this schedule"
        )));
    }
    let rule = schedule.or_spacing(sampler.usual_spacing()).spacing();
    if steps == 1 && rule == TimestepSpacing::Linspace && spreads_timesteps(sampler) {
        return one_evenly_spread(sampler, config.schedule, &options);
    }
    let mut trajectory = sampler.plan(&schedule, &options)?;
    let cut = matches!(sampler, Sampler::DpmSolver2M | Sampler::UniPc)
        && options.sigmas == SigmaSpacing::Exponential;
    if let (true, Some(first)) = (cut, trajectory.rows.first_mut()) {
        // diffusers finds this timestep, the last trained one, by two logarithms of which one is in f32, and cuts what is behind the
        // point: 998.99 on the schedules of Stable Diffusion and of most of the paper's models. On others this is one short.
        first.at.timestep = schedule.timestep_count() as f64 - 2.0;
    }
    Ok(trajectory)
}

/// Whether diffusers spreads timesteps for this sampler, and not the intervals between them or those of a list.
fn spreads_timesteps(sampler: Sampler) -> bool {
    !matches!(
        sampler,
        Sampler::DpmSolver2M | Sampler::DpmSolver2MSde | Sampler::UniPc | Sampler::Lcm
    )
}

/// One step of evenly spread timesteps, which diffusers begins at the first of them, with hardly any noise to remove. Who samples with this program
/// gets the last.
fn one_evenly_spread(
    sampler: Sampler,
    schedule: ScheduleConfig,
    options: &Options,
) -> Result<Trajectory> {
    let from_first = ScheduleConfig {
        timestep_spacing: Some(TimestepSpacing::Leading),
        steps_offset: 0,
        ..schedule
    };
    let mut trajectory = sampler.plan(&Schedule::new(&from_first)?, options)?;
    let by_ratio = matches!(
        sampler,
        Sampler::Euler | Sampler::EulerAncestral | Sampler::Heun
    );
    if let (true, Some(row)) = (by_ratio, trajectory.rows.first()) {
        trajectory.start.noise = row.at.sigma;
    }
    Ok(trajectory)
}

/// Half the logarithm of the signal-to-noise ratio below which a dump's scheduler leaves timesteps out, where it says one.
fn least_lambda(dump: &Dump) -> Option<f64> {
    let settings = dump.metadata("scheduler")?.as_object()?;
    settings.get("lambda_min_clipped")?.as_f64()
}

/// The rules for choosing timesteps, as diffusers names them.
const RULES: [&str; 3] = ["leading", "linspace", "trailing"];

/// How diffusers' settings spread the noise ratios; as is usual where they do not say.
fn sigmas(settings: &Map<String, Json>, usual: SigmaSpacing, dump: &Dump) -> Result<SigmaSpacing> {
    let set = |key: &str| settings.get(key).and_then(Json::as_bool);
    if let Some(setting) = unsupported_settings(settings).first() {
        return Err(dump.refuse(format!("has a `scheduler` whose {setting}")));
    }
    let asked = [set("use_karras_sigmas"), set("use_exponential_sigmas")];
    Ok(match asked {
        [Some(true), _] => SigmaSpacing::Karras,
        [_, Some(true)] => SigmaSpacing::Exponential,
        [None, None] => usual,
        _ => SigmaSpacing::Normal,
    })
}

/// Changes some of the model's schedule, by diffusers' names.
fn change<'a>(
    config: &mut ModelConfig,
    dump: &Dump,
    changes: impl IntoIterator<Item = (&'a str, &'a Json)>,
) -> Result<()> {
    let mut whole = diffusers_settings(&config.schedule);
    for (key, value) in changes {
        whole[key] = value.clone();
    }
    config.read_scheduler(dump.path(), &whole)
}

/// The schedule as diffusers would write it.
fn diffusers_settings(schedule: &ScheduleConfig) -> Json {
    json!({
        "beta_schedule": match schedule.beta_schedule {
            BetaSchedule::Linear => "linear",
            BetaSchedule::ScaledLinear => "scaled_linear",
            BetaSchedule::SquaredCosine => "squaredcos_cap_v2",
        },
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "num_train_timesteps": schedule.timesteps,
        "prediction_type": match schedule.prediction {
            Prediction::Epsilon => "epsilon",
            Prediction::V => "v_prediction",
            Prediction::Sample => "sample",
        },
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "steps_offset": schedule.steps_offset,
        "set_alpha_to_one": schedule.set_alpha_to_one,
        "timestep_spacing": schedule.timestep_spacing.map(|rule| match rule {
            TimestepSpacing::Leading => "leading",
            TimestepSpacing::Linspace => "linspace",
            TimestepSpacing::Trailing => "trailing",
        }),
    })
}

/// What the network is told, and guidance between two contexts where the scale is not 1.
fn guided(config: &UNetConfig, dump: &Dump, batch: usize) -> Result<Guided> {
    let scale = number(dump, "guidance_scale", 1.0)?;
    let rescale = number(dump, "guidance_rescale", 0.0)?;
    let mut guided = Guided::unconditional(batch);
    if dump.input("concat").is_some() {
        let concat = dump.required("concat", 4)?.nchw_to_nhwc();
        guided.concat = Some(per_image(&concat, batch)?);
    }
    if let Some(classes) = config.num_classes {
        guided.class_labels = Some(ids(dump, "class_labels", 1, classes)?);
    }
    if config.context_dim.is_none() {
        return Ok(guided);
    }
    let context = per_image(dump.required("context", 3)?, batch)?;
    guided.context = Some(context.clone());
    if scale != 1.0 {
        let unconditional = per_image(dump.required("uncond_context", 3)?, batch)?;
        guided.context = Some(Tensor::stack(&[unconditional, context])?);
        if let Some(labels) = guided.class_labels.take() {
            guided.class_labels = Some(Tensor::stack(&[labels.clone(), labels])?);
        }
        guided.settings = Some([scale as f32, rescale as f32]);
    }
    Ok(guided)
}

/// A context for each image: a dump may hold one that all of them share.
fn per_image(context: &Tensor, batch: usize) -> Result<Tensor> {
    match context.shape().batch() {
        1 => Tensor::stack(&vec![context.clone(); batch]),
        _ => Ok(context.clone()),
    }
}

/// The number `key` of the metadata.
fn number(dump: &Dump, key: &str, absent: f64) -> Result<f64> {
    let Some(value) = dump.metadata(key) else {
        return Ok(absent);
    };
    value
        .as_f64()
        .ok_or_else(|| dump.refuse(format!("has the `{key}` {value}, which is no number")))
}
