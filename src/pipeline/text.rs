//! Prompts to context.

use super::{Event, Guided, Pipeline, Request};
use crate::backend::Backend;
use crate::error::Result;
use crate::graph::Graph;
use crate::models::clip;
use crate::tensor::Tensor;

impl<B: Backend> Pipeline<B> {
    /// What the UNet attends to, with the unconditional half first where the request is guided.
    pub(super) fn guided_context(
        &self,
        request: &Request,
        report: &mut dyn FnMut(Event),
    ) -> Result<Guided> {
        let (unet, _) = self.model.unet()?;
        let settings = request
            .guided()
            .then_some([request.guidance_scale, request.guidance_rescale]);
        let (batch, context) = match (unet.context_dim, settings) {
            (None, _) => return Ok(Guided::unconditional(request.batch)),
            (Some(_), None) => (1, self.context(&[&request.prompt], report)?),
            (Some(_), Some(_)) => {
                let prompts = [request.negative_prompt.as_str(), &request.prompt];
                (2, self.context(&prompts, report)?)
            }
        };
        let mut repeated = Vec::with_capacity(batch * request.batch);
        for half in 0..batch {
            let one = context.item(half)?;
            repeated.extend(std::iter::repeat_n(one, request.batch));
        }
        Ok(Guided {
            batch: request.batch,
            context: Some(Tensor::stack(&repeated)?),
            settings,
        })
    }

    /// The text encoder's answer to each prompt.
    ///
    /// # Shapes
    /// `[prompts, tokens, width]`.
    ///
    /// # Errors
    /// If the model has no text encoder or tokenizer, or a prompt is too long to be read.
    pub fn context(&self, prompts: &[&str], report: &mut dyn FnMut(Event)) -> Result<Tensor> {
        let (config, weights) = self.model.text()?;
        let tokenizer = self.model.tokenizer()?;
        let mut ids = Vec::with_capacity(prompts.len() * config.positions);
        for prompt in prompts {
            let encoding = tokenizer.encode(prompt)?;
            if let Some(dropped) = encoding.dropped {
                report(Event::Warning(format!(
                    "the prompt has {} tokens and the text encoder reads {}; dropped from its end: \"{dropped}\"",
                    encoding.count,
                    config.positions - 2
                )));
            }
            ids.extend(encoding.ids.iter().map(|&id| id as f32));
        }
        let shape = [prompts.len(), config.positions];
        let mut graph = Graph::new();
        let input = graph.input_exact("input_ids", shape);
        let hidden = clip::forward(&mut graph, config, input)?;
        graph.output("context", hidden);
        let input = ("input_ids", &Tensor::new(shape, ids)?);
        let network = (graph, weights);
        self.compute_wide(network, input, "context", "the text encoder", report)
    }
}
