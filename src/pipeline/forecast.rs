//! What a request will take of the device's memory, before anything is loaded: from the very programs that would run; and of its time, where there is
//! a model of that.

use super::{FIRST_STAGE, Pipeline, Request, StepSizes, patches, step};
use crate::backend::{Backend, Expected};
use crate::error::Result;
use crate::graph::Graph;
use crate::models::config::Condition;
use crate::models::{autoencoder, text};
use crate::sampler::Row;
use crate::schedule::Schedule;
use crate::session::Program;
use crate::weights::Weights;

/// What one network of a run takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Which.
    pub name: &'static str,
    /// Bytes of its weights, as the device keeps them.
    pub weight_bytes: usize,
    /// Bytes of its values: of the whole, or of the largest band.
    pub arena_bytes: usize,
    /// How it runs in bands, if it does.
    pub bands: Option<InBands>,
    /// What a run of the whole should take, or a step of it; a prediction, where there is one.
    pub expected: Option<Expected>,
    /// The steps that a guidance interval leaves out, if it leaves out some and not all.
    pub unguided: Option<Unguided>,
}

/// Steps without guidance, beside those with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unguided {
    /// How many.
    pub steps: usize,
    /// Of how many steps in all.
    pub of: usize,
    /// Bytes of their values, a part of the network's.
    pub arena_bytes: usize,
    /// What one of them should take; a prediction, where there is one.
    pub expected: Option<Expected>,
}

/// What a network in bands takes besides its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBands {
    /// Bytes that the whole image's arena would have.
    pub whole_bytes: usize,
    /// The most bands of a pass.
    pub bands: usize,
    /// Bytes of values on the host.
    pub host_bytes: usize,
    /// Bytes of the device's memory at the worst moment, without weights.
    pub peak_bytes: usize,
}

impl Stage {
    /// Bytes of the device's memory at the worst moment.
    pub fn peak_bytes(&self) -> usize {
        self.weight_bytes
            + self
                .bands
                .map_or(self.arena_bytes, |bands| bands.peak_bytes)
    }
}

impl<B: Backend> Pipeline<B> {
    /// What each network takes that carries out `request`: text encoder, UNet and decoder, and the encoder for requests with an image.
    ///
    /// # Errors
    /// If the request's size does not fit the model, or a network does not fit the device even in bands.
    pub fn forecast(&self, request: &Request) -> Result<Vec<Stage>> {
        let mut stages = Vec::new();
        let config = &self.model.config;
        let calls = if request.guidance().is_some() { 2 } else { 1 };
        let prompts = matches!(
            config.condition,
            Condition::Text | Condition::TextAndMaskedImage
        );
        if let (true, Ok((text, weights))) = (prompts, self.model.text()) {
            let mut graph = Graph::new();
            let input = graph.input_exact("input_ids", [calls, text.positions()]);
            let hidden = text::forward(&mut graph, text, input)?;
            graph.output("context", hidden);
            stages.push(self.stage("text encoder", &[self.program(graph)?], weights)?);
        }
        if self.model.unet().is_ok() {
            stages.push(self.unet(request, calls)?);
        }
        if let Ok((config, weights)) = self.model.autoencoder() {
            let [height, width, _] = self.model.latent_shape(request)?;
            let decoder = |batch| autoencoder::build_decoder(config, batch, [height, width]);
            stages.push(self.half("decoder", &decoder, weights)?);
            if request.init.is_some() || self.model.reads_masks() {
                let size = [request.height, request.width];
                let encoder = |batch| autoencoder::build_encoder(config, batch, size);
                stages.push(self.half("encoder", &encoder, weights)?);
            }
        }
        Ok(stages)
    }

    /// The UNet: a program of guided steps, one of those that are not, or both.
    fn unet(&self, request: &Request, calls: usize) -> Result<Stage> {
        let config = &self.model.config;
        let (unet, mut weights) = self.model.unet()?;
        let schedule = Schedule::new(&config.schedule)?;
        let trajectory = request.sampler.plan(&schedule, &request.options)?;
        let tokens = config.context_tokens();
        let (mut codebook, quantising) = (None, &mut None);
        if let (true, Ok((first_stage, codes))) = (trajectory.quantises(), self.model.autoencoder())
        {
            codebook = first_stage.codebook;
            weights = quantising.insert(weights.with(FIRST_STAGE, codes));
        }
        let [height, width, _] = self.model.latent_shape(request)?;
        if let Some(patch) = self.model.patch([height, width]) {
            let graph = patches::network(unet, request.batch, patch)?;
            return self.stage("UNet", &[self.program(graph)?], weights);
        }
        let kept = request.mask().is_some() && !self.model.reads_masks();
        let graph = |calls: usize| {
            let sizes = StepSizes {
                kept,
                codebook,
                rows: trajectory.rows.len(),
                memory: trajectory.memory,
                ..StepSizes::new(unet, tokens, request.batch, [height, width], calls == 2)
            };
            step(unet, &sizes)
        };
        let interval = request.guidance_interval.filter(|_| calls == 2);
        let left_out = |row: &&Row| interval.is_some_and(|interval| !interval.holds(row.at));
        let (of, steps) = (
            trajectory.rows.len(),
            trajectory.rows.iter().filter(left_out).count(),
        );
        let mut programs = vec![];
        if steps < of {
            programs.push(self.program(graph(calls)?)?);
        }
        if steps > 0 {
            programs.push(self.program(graph(1)?)?);
        }
        let mut stage = self.stage("UNet", &programs, weights)?;
        stage.unguided = programs.get(1).map(|program| Unguided {
            steps,
            of,
            arena_bytes: program.plan().arena_bytes,
            expected: self.expected(program),
        });
        Ok(stage)
    }

    fn program(&self, graph: Graph) -> Result<Program<B>> {
        Program::new(&*self.backend, graph)
    }

    fn expected(&self, program: &Program<B>) -> Option<Expected> {
        self.backend.expected(program.plan(), program.kernels())
    }

    /// What programs take whose values are there at the same time; of the time, the first.
    fn stage(
        &self,
        name: &'static str,
        programs: &[Program<B>],
        weights: &Weights,
    ) -> Result<Stage> {
        let loads: Vec<_> = programs.iter().flat_map(Program::loads).collect();
        let arenas = programs.iter().map(|program| program.plan().arena_bytes);
        Ok(Stage {
            name,
            weight_bytes: self.backend.weight_bytes(&loads, weights)?,
            arena_bytes: arenas.sum(),
            bands: None,
            expected: programs.first().and_then(|program| self.expected(program)),
            unguided: None,
        })
    }

    /// Half of the autoencoder, which takes one image at a time.
    fn half(
        &self,
        name: &'static str,
        build: &dyn Fn(usize) -> Result<Graph>,
        weights: &Weights,
    ) -> Result<Stage> {
        let whole = self.stage(name, &[self.program(build(1)?)?], weights)?;
        let bands = self.tiling.bands(&self.backend, build, (1, weights))?;
        let Some(bands) = bands else {
            return Ok(whole);
        };
        let schedule = bands.schedule();
        let count = schedule.passes.iter().map(|pass| pass.bands.len()).max();
        Ok(Stage {
            arena_bytes: schedule.arena_bytes,
            bands: Some(InBands {
                whole_bytes: whole.arena_bytes,
                bands: count.unwrap_or(0),
                host_bytes: schedule.host_bytes,
                peak_bytes: schedule.peak_bytes,
            }),
            expected: None,
            ..whole
        })
    }
}
