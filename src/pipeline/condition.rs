//! What the network is told besides the noisy latent: from a request, by what the model takes.

use super::{Event, Pipeline, Request};
use crate::backend::Backend;
use crate::error::Result;
use crate::models::config::Condition;
use crate::tensor::Tensor;

/// What the network is told besides the noisy latent.
///
/// With guidance, what the network attends to and classes are of `2 N` calls, the unconditional half first. What comes as channels is the
/// same in both.
#[derive(Clone, Debug)]
pub struct Guided {
    /// Images.
    pub batch: usize,
    /// What the transformers attend to, `[N, L, D]` or `[2 N, L, D]`.
    pub context: Option<Tensor>,
    /// Channels after the latent's, `[N, h, w, K]`.
    pub concat: Option<Tensor>,
    /// Classes, `[N]` or `[2 N]`, where their embedding is added to the timestep's.
    pub class_labels: Option<Tensor>,
    /// Scale and rescaling of guidance, if the network is asked twice.
    pub settings: Option<[f32; 2]>,
}

impl Guided {
    /// No condition at all.
    pub fn unconditional(batch: usize) -> Self {
        Self {
            batch,
            context: None,
            concat: None,
            class_labels: None,
            settings: None,
        }
    }
}

impl<B: Backend> Pipeline<B> {
    /// What the network is told to carry out a request.
    pub(super) fn guided(
        &self,
        request: &Request,
        report: &mut dyn FnMut(Event),
    ) -> Result<Guided> {
        match &self.model.config.condition {
            Condition::None => Ok(Guided::unconditional(request.batch)),
            Condition::Text => self.prompted(request, report),
            other => Err(self.model.refused(&format!(
                "is conditioned on more than a prompt ({other:?}), which is not supported yet"
            ))),
        }
    }

    /// Context from a prompt, and from the negative one where the request is guided.
    fn prompted(&self, request: &Request, report: &mut dyn FnMut(Event)) -> Result<Guided> {
        let settings = request.guidance();
        let context = match settings {
            None => self.context(&[&request.prompt], report)?,
            Some(_) => self.context(&[&request.negative_prompt, &request.prompt], report)?,
        };
        Ok(Guided {
            context: Some(repeated(&context, request.batch)?),
            settings,
            ..Guided::unconditional(request.batch)
        })
    }
}

/// Every item of a batch `times` times in a row: for each image of a batch what is the same for all.
fn repeated(items: &Tensor, times: usize) -> Result<Tensor> {
    let mut all = Vec::with_capacity(items.shape().batch() * times);
    for index in 0..items.shape().batch() {
        all.extend(std::iter::repeat_n(items.item(index)?, times));
    }
    Tensor::stack(&all)
}
