//! Prompts to context.

use super::{Event, Pipeline, finite};
use crate::backend::Backend;
use crate::error::Result;
use crate::graph::Graph;
use crate::models::config::TextConfig;
use crate::models::{clip, text};
use crate::session::Session;
use crate::tensor::Tensor;

impl<B: Backend> Pipeline<B> {
    /// The text encoder's answer to each prompt.
    ///
    /// # Shapes
    /// `[prompts, tokens, width]`.
    ///
    /// # Errors
    /// If the model has no text encoder or tokenizer, or a prompt is too long to be read.
    pub fn context(&self, prompts: &[&str], report: &mut dyn FnMut(Event)) -> Result<Tensor> {
        self.encoded(&self.tokens(prompts, report)?, report)
    }

    /// The tokens of each prompt, as many as the text encoder reads.
    fn tokens(&self, prompts: &[&str], report: &mut dyn FnMut(Event)) -> Result<Vec<Vec<u32>>> {
        let (config, _) = self.model.text()?;
        let tokenizer = self.model.tokenizer()?;
        let mut ids = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let encoding = tokenizer.encode(prompt)?;
            if let Some(dropped) = encoding.dropped {
                report(Event::Warning(format!(
                    "the prompt has {} tokens and the text encoder reads {}; dropped from its end: \"{dropped}\"",
                    encoding.count,
                    config.positions() - 2
                )));
            }
            ids.push(encoding.ids);
        }
        Ok(ids)
    }

    /// CLIP's vector of a prompt, in the space that prompts share with images: of length 1.
    ///
    /// # Shapes
    /// `[projection]`.
    ///
    /// # Errors
    /// If the model has no text encoder of CLIP's with the map to that space, or no tokenizer.
    pub fn embed(&self, prompt: &str, report: &mut dyn FnMut(Event)) -> Result<Tensor> {
        let (TextConfig::Clip(config), weights) = self.model.text()? else {
            return Err(self.model.refused("has a text encoder that is not CLIP's"));
        };
        let Some(width) = config.projection else {
            return Err(self.model.refused(
                "has no map from prompts to vectors: take a folder of a CLIPModel or CLIPTextModelWithProjection",
            ));
        };
        let ids = self.tokens(&[prompt], report)?.concat();
        let position = clip::pooled_token(config, &ids);
        let graph = clip::build(config, 1, config.positions)?;
        let mut session = Session::new(&self.backend, graph, weights)?;
        let ids = ids.iter().map(|&id| id as f32).collect();
        session.set("input_ids", &Tensor::new([1, config.positions], ids)?)?;
        session.set("pooled_token", &Tensor::full([1], position as f32))?;
        session.run()?;
        let vector = finite(session.get("projected")?, "the text encoder", &mut session)?;
        Tensor::new([width], clip::unit_length(&vector).into_data())
    }

    /// The text encoder's answer to each text of token ids.
    ///
    /// # Shapes
    /// `[texts, tokens, width]`.
    ///
    /// # Errors
    /// If the model has no text encoder, or it reads another number of tokens, or does not know one of them.
    pub fn encoded(&self, texts: &[Vec<u32>], report: &mut dyn FnMut(Event)) -> Result<Tensor> {
        let (config, weights) = self.model.text()?;
        let most = texts.iter().flatten().max();
        if let Some(id) = most.filter(|&&id| id as usize >= config.vocab()) {
            return Err(self.model.refused(&format!(
                "has a text encoder of {} tokens, and its tokenizer knows token {id}: take both from the same model",
                config.vocab()
            )));
        }
        let ids = texts.iter().flatten().map(|&id| id as f32).collect();
        let shape = [texts.len(), config.positions()];
        let mut graph = Graph::new();
        let input = graph.input_exact("input_ids", shape);
        let hidden = text::forward(&mut graph, config, input)?;
        graph.output("context", hidden);
        let input = ("input_ids", &Tensor::new(shape, ids)?);
        let network = (graph, weights);
        self.compute_wide(network, input, "context", "the text encoder", report)
    }
}
