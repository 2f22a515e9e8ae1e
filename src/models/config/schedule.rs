//! The forward process a model was trained with, and its authors' sampling settings.

/// The noise schedule of training, and the rules for choosing a few of its timesteps.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleConfig {
    /// The curve from the first beta to the last.
    pub beta_schedule: BetaSchedule,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// Number of training timesteps.
    pub timesteps: usize,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Whether the betas are rescaled so that the last timestep is pure noise (arXiv:2305.08891, algorithm 1).
    pub zero_terminal_snr: bool,
    /// Added to every timestep of the leading rule.
    pub steps_offset: usize,
    /// Whether the step after the last has no noise left (`alpha_bar = 1`), rather than the first timestep's.
    pub set_alpha_to_one: bool,
    /// How a few timesteps are chosen among all; `None` leaves it to the sampler, as most published configurations do.
    pub timestep_spacing: Option<TimestepSpacing>,
}

impl Default for ScheduleConfig {
    /// The schedule of Stable Diffusion, as CompVis samples it.
    fn default() -> Self {
        Self {
            beta_schedule: BetaSchedule::ScaledLinear,
            beta_start: 0.00085,
            beta_end: 0.012,
            timesteps: 1000,
            prediction: Prediction::Epsilon,
            zero_terminal_snr: false,
            steps_offset: 1,
            set_alpha_to_one: false,
            timestep_spacing: None,
        }
    }
}

/// The curve of the betas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetaSchedule {
    /// Linear (CompVis `sqrt_linear`).
    Linear,
    /// Square of a line between the square roots (CompVis `linear`).
    ScaledLinear,
    /// From the squared cosine of arXiv:2102.09672 (CompVis `cosine`).
    SquaredCosine,
}

/// What the network predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity of arXiv:2202.00512, `sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * x0`.
    V,
    /// The image.
    Sample,
}

/// How a few timesteps are chosen among all (arXiv:2305.08891, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestepSpacing {
    /// Multiples of a whole stride from the first.
    Leading,
    /// Evenly spread, both ends included.
    Linspace,
    /// Evenly spread, the last included.
    Trailing,
}

impl TimestepSpacing {
    /// The names that [`parse`](Self::parse) knows.
    pub(super) const EXPECTED: &str = "leading, linspace or trailing";

    /// The rule of this name, as diffusers names them.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "leading" => Some(Self::Leading),
            "linspace" => Some(Self::Linspace),
            "trailing" => Some(Self::Trailing),
            _ => None,
        }
    }
}

/// What the model's authors recommend; a request overrides each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// Name of the sampler.
    pub sampler: Option<String>,
    /// Name of the spacing of its noise ratios, where it counts by them.
    pub sigmas: Option<String>,
    /// Number of steps.
    pub steps: Option<usize>,
    /// Share of fresh noise per step.
    pub eta: Option<f64>,
    /// Scale of classifier-free guidance.
    pub guidance_scale: Option<f64>,
}
