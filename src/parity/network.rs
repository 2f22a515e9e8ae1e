//! The network that a dump's component is, at the dump's shapes.

use super::dump::{Component, Dump};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::models::config::{Condition, TextConfig};
use crate::models::{autoencoder, clip, condition, text, unet};
use crate::pipeline::Model;
use crate::session::Session;
use crate::tensor::Tensor;
use crate::weights::Weights;
use std::sync::Arc;

/// A component's graph, its weights, and the inputs that the dump has for it.
pub(super) struct Network<'a> {
    pub(super) graph: Graph,
    weights: &'a Weights,
    inputs: Vec<(&'static str, Tensor)>,
}

impl<'a> Network<'a> {
    /// The network of one forward pass.
    pub(super) fn new(model: &'a Model, dump: &Dump) -> Result<Self> {
        match dump.component() {
            Component::UNet => Self::unet(model, dump),
            Component::Decoder => Self::decoder(model, dump),
            Component::Encoder => Self::encoder(model, dump),
            Component::TextEncoder => Self::text_encoder(model, dump),
            Component::Condition => Self::condition(model, dump),
            Component::Sampler => Err(dump.refuse("is a dump of a trajectory, not of one network")),
        }
    }

    fn unet(model: &'a Model, dump: &Dump) -> Result<Self> {
        let (config, weights) = model.unet()?;
        let sample = dump.required("sample", 4)?.nchw_to_nhwc();
        let [batch, height, width, _] = sizes(&sample);
        let timestep = match dump.input("timestep").map(Tensor::data) {
            // One that all images share, as PyTorch's networks take it too.
            Some(&[shared]) => Tensor::full([batch], shared),
            _ => dump.required("timestep", 1)?.clone(),
        };
        let mut inputs = vec![("sample", sample), ("timestep", timestep)];
        let mut tokens = 0;
        if config.context_dim.is_some() {
            let context = dump.required("context", 3)?;
            tokens = context.shape().dims()[1];
            inputs.push(("context", context.clone()));
        }
        if let Some(classes) = config.num_classes {
            inputs.push(("class_labels", ids(dump, "class_labels", 1, classes)?));
        }
        Ok(Self {
            graph: unet::build(config, batch, [height, width], tokens)?,
            weights,
            inputs,
        })
    }

    fn decoder(model: &'a Model, dump: &Dump) -> Result<Self> {
        let (config, weights) = model.autoencoder()?;
        let latent = dump.required("latent", 4)?.nchw_to_nhwc();
        let [batch, height, width, _] = sizes(&latent);
        Ok(Self {
            graph: autoencoder::build_decoder(config, batch, [height, width])?,
            weights,
            inputs: vec![("latent", latent)],
        })
    }

    fn encoder(model: &'a Model, dump: &Dump) -> Result<Self> {
        let (config, weights) = model.autoencoder()?;
        let image = dump.required("image", 4)?.nchw_to_nhwc();
        let [batch, height, width, _] = sizes(&image);
        let latent_alone = dump.outputs().keys().all(|name| name == "latent");
        let graph = match config.codebook {
            Some(_) if !latent_alone => autoencoder::build_codes(config, batch, [height, width])?,
            _ => autoencoder::build_encoder(config, batch, [height, width])?,
        };
        Ok(Self {
            graph,
            weights,
            inputs: vec![("image", image)],
        })
    }

    fn text_encoder(model: &'a Model, dump: &Dump) -> Result<Self> {
        let (config, weights) = model.text()?;
        let input_ids = ids(dump, "input_ids", 2, config.vocab())?;
        let mask = dump.input("attention_mask");
        if mask.is_some_and(|mask| mask.data().iter().any(|&seen| seen != 1.0)) {
            return Err(dump.refuse(
                "has an `input.attention_mask` that hides tokens, and no text encoder here takes one: in CompVis's models and in \
                 diffusers' pipelines of them, padding is seen. Write a dump of the encoder without a mask",
            ));
        }
        let (batch, tokens) = (input_ids.shape().batch(), input_ids.shape().channels());
        let mut inputs = vec![("input_ids", input_ids.clone())];
        if let TextConfig::Clip(clip) = config {
            let pooled = input_ids.data().chunks_exact(tokens).map(|row| {
                let row: Vec<u32> = row.iter().map(|&id| id as u32).collect();
                clip::pooled_token(clip, &row) as f32
            });
            inputs.push(("pooled_token", Tensor::new([batch], pooled.collect())?));
        }
        Ok(Self {
            graph: text::build(config, batch, tokens)?,
            weights,
            inputs,
        })
    }

    /// Whatever makes the model's condition.
    fn condition(model: &'a Model, dump: &Dump) -> Result<Self> {
        let (condition, weights) = match model.condition() {
            (condition, Some(weights)) => (condition, weights),
            _ => {
                let mut network = Self::text_encoder(model, dump)?;
                if !network.answers("projected") {
                    let hidden = network.graph.outputs()[0].1;
                    network.graph.output("context", hidden);
                }
                return Ok(network);
            }
        };
        let (graph, input) = match condition {
            Condition::Class { classes, width } => {
                let labels = ids(dump, "class_labels", 1, *classes)?;
                let batch = labels.shape().batch();
                let labels = Tensor::new([batch, 1], labels.into_data())?;
                let graph = condition::build_class_embedder(*classes, *width, batch)?;
                (graph, ("class_labels", labels))
            }
            Condition::Segmentation(config) => {
                let map = dump.required("segmentation", 4)?.nchw_to_nhwc();
                let [batch, height, width, _] = sizes(&map);
                let graph = condition::build_rescaler(config, batch, [height, width])?;
                (graph, ("segmentation", map))
            }
            _ => return Err(dump.refuse("is of a condition that this model has no network for")),
        };
        Ok(Self {
            graph,
            weights,
            inputs: vec![input],
        })
    }

    /// Whether the network has the output `name`.
    fn answers(&self, name: &str) -> bool {
        self.graph
            .outputs()
            .iter()
            .any(|(output, _)| output == name)
    }

    /// A session of `graph`, this network's own or one that observes more of it, after its run.
    pub(super) fn run<B: Backend>(&self, backend: &Arc<B>, graph: Graph) -> Result<Session<B>> {
        // A choice of codes is made in 32 bits on every device.
        let wider = self.answers("indices").then(|| backend.wider()).flatten();
        let backend = wider.map_or(backend.clone(), Arc::new);
        let mut session = Session::new(&backend, graph, self.weights)?;
        for (name, tensor) in &self.inputs {
            session.set(name, tensor)?;
        }
        session.run()?;
        Ok(session)
    }
}

/// The result that a dump calls `name`.
pub(super) fn output<B: Backend>(
    network: &Network,
    session: &Session<B>,
    component: Component,
    name: &str,
) -> Result<Tensor> {
    let moments = || autoencoder::split_moments(&session.get("moments")?);
    match (component, name) {
        (Component::Encoder, "mean") => Ok(moments()?.0),
        (Component::Encoder, "logvar") => Ok(moments()?.1),
        // What retrieval-augmented models attend to of a prompt.
        (Component::Condition, "context") if network.answers("projected") => {
            Ok(clip::unit_length(&session.get("projected")?))
        }
        _ => session.get(name),
    }
}

/// An input of whole numbers below `count`.
pub(super) fn ids(dump: &Dump, name: &str, rank: usize, count: usize) -> Result<Tensor> {
    let ids = dump.required(name, rank)?;
    let known = 0.0..count as f32;
    let unknown = |id: &&f32| !known.contains(id) || id.fract() != 0.0;
    match ids.data().iter().find(unknown) {
        None => Ok(ids.clone()),
        Some(id) => Err(dump.refuse(format!(
            "has {id} in `input.{name}`, where this model knows whole numbers from 0 to {}",
            count.saturating_sub(1)
        ))),
    }
}

/// `[n, h, w, c]` of an image.
pub(super) fn sizes(image: &Tensor) -> [usize; 4] {
    image.shape().image().unwrap_or_default()
}

/// Turns a refused request, and operands that do not fit, into a refused file: what is asked, and of what sizes, is what the dump says.
pub(super) fn about(dump: &Dump) -> impl Fn(Error) -> Error {
    |error| match error {
        Error::Request(sentence) => dump.refuse(sentence),
        Error::Shape { node, problem } => {
            dump.refuse(format!("does not fit the model: node `{node}`: {problem}"))
        }
        other => other,
    }
}
