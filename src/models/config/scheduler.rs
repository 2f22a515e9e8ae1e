//! Reads the settings of diffusers' schedulers, as a folder's `scheduler_config.json` or a dump's metadata has them.

use super::section::Section;
use super::{BetaSchedule, Prediction, ScheduleConfig, TimestepSpacing};
use crate::error::Result;
use serde_json::{Map, Value, json};

/// A scheduler's settings; what is left out is as in the class that the file names.
pub(super) fn schedule(root: &Section) -> Result<ScheduleConfig> {
    root.only(&[("trained_betas", Value::Null)])?;
    let class = root.text("_class_name")?.unwrap_or("DDIMScheduler");
    let latent_consistency = class == "LCMScheduler";
    let beta_schedule = match root.text("beta_schedule")? {
        None if latent_consistency => BetaSchedule::ScaledLinear,
        None | Some("linear") => BetaSchedule::Linear,
        Some("scaled_linear") => BetaSchedule::ScaledLinear,
        Some("squaredcos_cap_v2") => BetaSchedule::SquaredCosine,
        Some(_) => {
            return Err(root.unfit(
                "beta_schedule",
                "linear, scaled_linear or squaredcos_cap_v2",
            ));
        }
    };
    let prediction = match root.text("prediction_type")? {
        None | Some("epsilon") => Prediction::Epsilon,
        Some("v_prediction") => Prediction::V,
        Some("sample") => Prediction::Sample,
        Some(_) => {
            return Err(root.unfit("prediction_type", "epsilon, v_prediction or sample"));
        }
    };
    let spacing = root.text("timestep_spacing")?.map(|name| {
        TimestepSpacing::parse(name)
            .ok_or_else(|| root.unfit("timestep_spacing", TimestepSpacing::EXPECTED))
    });
    let low_betas = latent_consistency || class == "HeunDiscreteScheduler";
    Ok(ScheduleConfig {
        beta_schedule,
        beta_start: root
            .real("beta_start")?
            .unwrap_or(if low_betas { 0.00085 } else { 1e-4 }),
        beta_end: root
            .real("beta_end")?
            .unwrap_or(if low_betas { 0.012 } else { 2e-2 }),
        timesteps: root.size("num_train_timesteps")?.unwrap_or(1000),
        prediction,
        zero_terminal_snr: root.flag("rescale_betas_zero_snr", false)?,
        steps_offset: root.size("steps_offset")?.unwrap_or(0),
        set_alpha_to_one: root.flag("set_alpha_to_one", class != "PNDMScheduler")?,
        timestep_spacing: spacing.transpose()?,
    })
}

/// How the noise ratios are spread, where the class is one of those that ask.
pub(super) fn spacing(root: &Section) -> Result<Option<&'static str>> {
    const ASKING: [&str; 4] = [
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "UniPCMultistepScheduler",
    ];
    // The others keep such keys of a class that they were made from.
    let asks = root
        .text("_class_name")?
        .is_some_and(|class| ASKING.contains(&class));
    Ok(match asks {
        true if root.flag("use_karras_sigmas", false)? => Some("karras"),
        true if root.flag("use_exponential_sigmas", false)? => Some("exponential"),
        _ => None,
    })
}

/// The settings that change what a scheduler computes to what no sampler here does, each as the end of a sentence.
pub fn unsupported_settings(settings: &Map<String, Value>) -> Vec<String> {
    // Of each setting the values that are computed here; most are the default of every class that has it.
    let computed = [
        (
            "algorithm_type",
            vec![json!("dpmsolver++"), json!("sde-dpmsolver++")],
        ),
        ("clip_sample", vec![json!(false)]),
        ("disable_corrector", vec![json!([])]),
        ("final_sigmas_type", vec![json!("zero")]),
        ("interpolation_type", vec![json!("linear")]),
        ("lower_order_final", vec![json!(true)]),
        ("predict_x0", vec![json!(true)]),
        ("sigma_max", vec![]),
        ("sigma_min", vec![]),
        ("skip_prk_steps", vec![json!(true)]),
        ("solver_order", vec![json!(2)]),
        ("solver_p", vec![]),
        ("solver_type", vec![json!("midpoint"), json!("bh2")]),
        ("thresholding", vec![json!(false)]),
        ("timestep_type", vec![json!("discrete")]),
        ("use_beta_sigmas", vec![json!(false)]),
        ("use_flow_sigmas", vec![json!(false)]),
        ("use_lu_lambdas", vec![json!(false)]),
    ];
    let set = computed.into_iter().filter_map(|(key, values)| {
        let value = settings.get(key).filter(|value| !value.is_null())?;
        let unsupported = !values.contains(value);
        unsupported.then(|| format!("`{key}` is {value}, which no sampler here computes"))
    });
    set.collect()
}

#[cfg(test)]
mod tests {
    use super::super::ModelConfig;
    use super::*;
    use std::path::Path;

    #[test]
    fn schedulers_have_the_defaults_of_their_class() {
        let read = |json| {
            let mut config = ModelConfig::default();
            config
                .read_scheduler(Path::new("scheduler_config.json"), &json)
                .map(|()| config)
        };
        let refused = |json| read(json).unwrap_err().to_string();
        let ddim = read(json!({"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}))
            .unwrap();
        assert_eq!(ddim.schedule.timestep_spacing, None);
        assert_eq!(
            (ddim.schedule.steps_offset, ddim.schedule.set_alpha_to_one),
            (0, true)
        );
        assert_eq!(
            (ddim.schedule.prediction, ddim.schedule.beta_end),
            (Prediction::V, 0.02)
        );
        let euler =
            read(json!({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "linspace"}))
                .unwrap();
        assert_eq!(
            euler.schedule.timestep_spacing,
            Some(TimestepSpacing::Linspace)
        );
        let spread = |class| {
            let json = json!({"_class_name": class, "use_karras_sigmas": true});
            read(json).unwrap().sampling.sigmas
        };
        assert_eq!(
            spread("DPMSolverMultistepScheduler").as_deref(),
            Some("karras")
        );
        assert_eq!(spread("DDIMScheduler"), None);
        let lcm = read(json!({"_class_name": "LCMScheduler"})).unwrap();
        assert_eq!(lcm.schedule.beta_schedule, BetaSchedule::ScaledLinear);
        assert_eq!(lcm.sampling.sampler.as_deref(), Some("LCMScheduler"));
        assert_eq!(
            read(json!({"_class_name": "OtherScheduler"}))
                .unwrap()
                .sampling
                .sampler,
            None
        );
        assert!(refused(json!({"trained_betas": [0.1]})).contains("trained_betas"));
        assert!(refused(json!({"beta_schedule": "wavy"})).contains("\"wavy\""));
    }

    #[test]
    fn settings_that_no_sampler_computes_are_named() {
        let unsupported = |json: serde_json::Value| unsupported_settings(json.as_object().unwrap());
        let as_released = json!({"skip_prk_steps": true, "clip_sample": false, "solver_type": "bh2", "sigma_min": null,
            "final_sigmas_type": "zero", "disable_corrector": [], "use_karras_sigmas": true});
        assert!(unsupported(as_released).is_empty());
        let others = unsupported(
            json!({"thresholding": true, "solver_order": 3, "timestep_spacing": "trailing"}),
        );
        assert_eq!(others.len(), 2, "{others:?}");
        assert!(others[0].contains("`solver_order` is 3"), "{others:?}");
    }
}
