//! Samplers and spacings by name: ours are the names that AUTOMATIC1111 stores in images; everybody else's are understood.

use crate::error::{Error, Result, nearest};

/// A way of turning noise into an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// Ancestral sampling: arXiv:2006.11239.
    Ddpm,
    /// arXiv:2010.02502.
    Ddim,
    /// arXiv:2202.09778.
    Plms,
    /// Euler's method in the noise ratio: arXiv:2206.00364.
    Euler,
    /// Euler's method with the posterior's noise drawn afresh.
    EulerAncestral,
    /// Heun's method in the noise ratio: arXiv:2206.00364.
    Heun,
    /// DPM-Solver++ (2M): arXiv:2211.01095.
    DpmSolver2M,
    /// Its solver of the stochastic equation.
    DpmSolver2MSde,
    /// arXiv:2302.04867.
    UniPc,
    /// Latent consistency models: arXiv:2310.04378.
    Lcm,
}

impl Sampler {
    /// Every sampler, in the order lists show them.
    pub const ALL: [Self; 10] = [
        Self::Ddpm,
        Self::Ddim,
        Self::Plms,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::DpmSolver2M,
        Self::DpmSolver2MSde,
        Self::UniPc,
        Self::Lcm,
    ];

    /// The name shown, and stored in images.
    pub fn name(self) -> &'static str {
        self.names()[0]
    }

    /// The sampler of a name. Case, spaces, `_` and `-` do not matter, and `pp` is `++`.
    ///
    /// # Errors
    /// If no sampler has that name; the nearest name and all names are in the message.
    pub fn parse(name: &str) -> Result<Self> {
        find(name, Self::ALL.map(|sampler| (sampler, sampler.names()))).ok_or_else(|| {
            let every_name = Self::ALL.iter().flat_map(|sampler| sampler.names());
            unknown("sampler", name, every_name, Self::ALL.map(Self::name))
        })
    }

    /// The name shown, then those of CompVis, k-diffusion, ComfyUI, stable-diffusion.cpp and diffusers.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Ddpm => &["DDPM", "vanilla", "ancestral", "DDPMScheduler"],
            Self::Ddim => &["DDIM", "DDIMScheduler"],
            Self::Plms => &["PLMS", "pndm", "PNDMScheduler"],
            Self::Euler => &["Euler", "k_euler", "EulerDiscreteScheduler"],
            Self::EulerAncestral => &[
                "Euler a",
                "euler_ancestral",
                "k_euler_a",
                "k_euler_ancestral",
                "EulerAncestralDiscreteScheduler",
            ],
            Self::Heun => &["Heun", "k_heun", "HeunDiscreteScheduler"],
            Self::DpmSolver2M => &[
                "DPM++ 2M",
                "k_dpmpp_2m",
                "dpm_solver",
                "DPMSolverMultistepScheduler",
            ],
            Self::DpmSolver2MSde => &["DPM++ 2M SDE", "k_dpmpp_2m_sde"],
            Self::UniPc => &["UniPC", "uni_pc_bh2", "UniPCMultistepScheduler"],
            Self::Lcm => &["LCM", "LCMScheduler"],
        }
    }
}

/// How the noise ratios of a trajectory are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SigmaSpacing {
    /// By the model's timestep spacing.
    #[default]
    Normal,
    /// Evenly in the seventh root: arXiv:2206.00364, equation 5.
    Karras,
    /// Evenly in the logarithm.
    Exponential,
    /// Evenly in time from the last timestep, as Stability's generative-models does.
    SgmUniform,
    /// Every n-th timestep from the last, as ComfyUI does.
    Simple,
}

impl SigmaSpacing {
    /// Every spacing.
    pub const ALL: [Self; 5] = [
        Self::Normal,
        Self::Karras,
        Self::Exponential,
        Self::SgmUniform,
        Self::Simple,
    ];

    /// The name shown, and stored in images as the schedule type.
    pub fn name(self) -> &'static str {
        self.names()[0]
    }

    /// The spacing of a name. Case, spaces, `_` and `-` do not matter.
    ///
    /// # Errors
    /// If no spacing has that name; where it names a sampler, the message says so.
    pub fn parse(name: &str) -> Result<Self> {
        find(name, Self::ALL.map(|spacing| (spacing, spacing.names()))).ok_or_else(|| {
            if let Ok(sampler) = Sampler::parse(name) {
                return Error::request(format!(
                    "`{name}` is a sampler, not a spacing of noise levels: did you mean `--sampler \"{}\"`?",
                    sampler.name()
                ));
            }
            let every_name = Self::ALL.iter().flat_map(|spacing| spacing.names());
            unknown("scheduler", name, every_name, Self::ALL.map(Self::name))
        })
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Normal => &["Normal", "discrete", "default", "Automatic"],
            Self::Karras => &["Karras"],
            Self::Exponential => &["Exponential"],
            Self::SgmUniform => &["SGM Uniform"],
            Self::Simple => &["Simple"],
        }
    }

    /// `points` ratios from the larger to the smaller of `(smallest, largest)`, where the spacing is one of ratios.
    pub(super) fn spread(self, (smallest, largest): (f64, f64), points: usize) -> Option<Vec<f64>> {
        const RHO: f64 = 7.0;
        let ramp = || (0..points).map(|i| i as f64 / (points.max(2) - 1) as f64);
        let between = |from: f64, to: f64| move |r: f64| from + r * (to - from);
        match self {
            Self::Karras => {
                let root = between(largest.powf(1.0 / RHO), smallest.powf(1.0 / RHO));
                Some(ramp().map(|r| root(r).powf(RHO)).collect())
            }
            Self::Exponential => {
                let logarithm = between(largest.ln(), smallest.ln());
                Some(ramp().map(|r| logarithm(r).exp()).collect())
            }
            Self::Normal | Self::SgmUniform | Self::Simple => None,
        }
    }
}

/// The value one of whose names is `wanted`, up to spelling.
fn find<T: Copy>(
    wanted: &str,
    table: impl IntoIterator<Item = (T, &'static [&'static str])>,
) -> Option<T> {
    let wanted = fold(wanted);
    table
        .into_iter()
        .find(|(_, names)| names.iter().any(|name| fold(name) == wanted))
        .map(|(value, _)| value)
}

/// A name without the differences that do not matter.
fn fold(name: &str) -> String {
    let kept = name.chars().filter(|c| !matches!(c, ' ' | '_' | '-'));
    let folded: String = kept.flat_map(char::to_lowercase).collect();
    folded.replace("++", "pp")
}

/// The refusal of a name nobody knows.
fn unknown<'a>(
    what: &str,
    name: &str,
    every_name: impl Iterator<Item = &'a &'static str>,
    shown: impl IntoIterator<Item = &'static str>,
) -> Error {
    let folded: Vec<(String, &str)> = every_name.map(|n| (fold(n), *n)).collect();
    let near = nearest(&fold(name), folded.iter().map(|(f, _)| f.as_str()))
        .and_then(|near| folded.iter().find(|(f, _)| f == near))
        .map(|(_, name)| format!("; did you mean `{name}`?"))
        .unwrap_or_default();
    let shown: Vec<_> = shown.into_iter().collect();
    Error::request(format!(
        "there is no {what} called `{name}`{near} (known: {})",
        shown.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_s_names_are_understood() {
        for (name, sampler) in [
            ("euler_a", Sampler::EulerAncestral),
            ("Euler ancestral", Sampler::EulerAncestral),
            ("dpm++2m", Sampler::DpmSolver2M),
            ("dpmpp_2m", Sampler::DpmSolver2M),
            ("DPM++ 2M SDE", Sampler::DpmSolver2MSde),
            ("uni-pc", Sampler::UniPc),
            ("PNDMScheduler", Sampler::Plms),
            ("VANILLA", Sampler::Ddpm),
        ] {
            assert_eq!(Sampler::parse(name).unwrap(), sampler);
        }
        for sampler in Sampler::ALL {
            assert_eq!(Sampler::parse(sampler.name()).unwrap(), sampler);
        }
        let sgm = SigmaSpacing::parse("sgm_uniform").unwrap();
        assert_eq!(sgm, SigmaSpacing::SgmUniform);
    }

    #[test]
    fn no_two_samplers_share_a_name() {
        let mut names: Vec<_> = Sampler::ALL
            .iter()
            .flat_map(|s| s.names())
            .map(|n| fold(n))
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn unknown_names_are_answered_with_the_nearest() {
        let message = Sampler::parse("dpm++ 2n").unwrap_err().to_string();
        assert!(message.contains("did you mean `DPM++ 2M`?"), "{message}");
        let message = Sampler::parse("xyzzyplugh").unwrap_err().to_string();
        assert!(
            !message.contains("mean") && message.contains("Euler a, Heun"),
            "{message}"
        );
        let message = SigmaSpacing::parse("euler").unwrap_err().to_string();
        assert!(message.contains("--sampler \"Euler\""), "{message}");
    }
}
