//! What the network is told besides the noisy latent: from a request, by what the model takes.

use super::{Event, Given, Interval, Model, Pipeline, Request, Task, compute};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::models::condition::{build_class_embedder, build_rescaler};
use crate::models::config::{Condition, RescalerConfig};
use crate::rng::Noise;
use crate::schedule::Level;
use crate::tensor::{Shape, Tensor};

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
    /// The noise levels at which it is, if not at all.
    pub interval: Option<Interval>,
    /// The part of the image that is known beforehand, where the network is not told of it.
    pub kept: Option<Kept>,
    /// Entries of the first stage's codebook.
    pub codebook: Option<usize>,
}

/// What a run keeps to outside of a mask: there, the state of every step is this latent with noise.
#[derive(Clone, Debug)]
pub struct Kept {
    /// `[N, h, w, C]`.
    pub latent: Tensor,
    /// Of the same shape: 1 where the image is drawn, 0 where it is kept.
    pub mask: Tensor,
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
            interval: None,
            kept: None,
            codebook: None,
        }
    }

    /// Whether the network is asked twice at a level.
    pub fn guides(&self, at: Level) -> bool {
        self.settings.is_some() && self.interval.is_none_or(|interval| interval.holds(at))
    }

    /// What guided calls are told without guidance: the condition's half.
    pub(super) fn without_guidance(&self) -> Result<Self> {
        let conditional = |value: &Option<Tensor>| {
            let half = value.as_ref().map(|value| {
                let half = value.data()[value.data().len() / 2..].to_vec();
                Tensor::new(value.shape().with_batch(self.batch), half)
            });
            half.transpose()
        };
        Ok(Self {
            context: conditional(&self.context)?,
            class_labels: conditional(&self.class_labels)?,
            settings: None,
            ..self.clone()
        })
    }
}

impl Request {
    /// Refuses what the model is not told, and the lack of what it is.
    pub(super) fn check_given(&self, model: &Model) -> Result<()> {
        let condition = &model.config.condition;
        let reads_prompts = matches!(
            condition,
            Condition::Text | Condition::TextAndMaskedImage | Condition::Vectors
        );
        let prompted = !self.prompt.is_empty() || !self.negative_prompt.is_empty();
        if prompted && !reads_prompts {
            return Err(model.cannot(Task::Prompt));
        }
        self.check_shown(model, reads_prompts)?;
        self.check_guidance(model)
    }

    /// Refuses what the model and what the request shows it do not have in common.
    fn check_shown(&self, model: &Model, reads_prompts: bool) -> Result<()> {
        match (&model.config.condition, &self.given) {
            (Condition::None | Condition::Text, Given::Nothing) => Ok(()),
            (Condition::MaskedImage | Condition::TextAndMaskedImage, Given::Nothing)
                if self.mask().is_some() =>
            {
                Ok(())
            }
            (Condition::Class { .. } | Condition::Label, Given::Class(class)) => {
                let classes = model.classes();
                if *class >= classes {
                    return Err(Error::request(format!(
                        "class {class}: {} knows {classes}, numbered from 0",
                        model.name
                    )));
                }
                Ok(())
            }
            (Condition::LowResolution, Given::LowResolution(image)) => {
                let [height, width, _] = model.latent_shape(self)?;
                expect_shape("the image to enlarge", image, [1, height, width, 3].into())
            }
            (Condition::Vectors, Given::Vectors(vectors)) => {
                let width = model.unet()?.0.context_dim.unwrap_or(0);
                let rows = vectors.shape().rows();
                expect_shape("what is attended to", vectors, [rows, width].into())
            }
            (Condition::Segmentation(_), Given::Segmentation(labels)) => {
                let expected = [1, self.height, self.width, 1].into();
                expect_shape("the map of labels", labels, expected)
            }
            (
                Condition::Layout,
                Given::Layout {
                    tokens,
                    unconditional,
                },
            ) => {
                let positions = model.text()?.0.positions();
                for tokens in [tokens, unconditional] {
                    if tokens.len() != positions {
                        return Err(Error::request(format!(
                            "the layout is of {} tokens, and the model reads {positions}",
                            tokens.len()
                        )));
                    }
                }
                Ok(())
            }
            (_, Given::Class(_)) => Err(model.cannot(Task::Class)),
            (_, Given::Segmentation(_)) => Err(model.cannot(Task::Segmentation)),
            (_, Given::Layout { .. }) => Err(model.cannot(Task::Layout)),
            (_, Given::LowResolution(_)) => Err(model.cannot(Task::Upscale)),
            (_, Given::Vectors(_)) => Err(model.cannot(Task::Retrieval)),
            (_, Given::Nothing) if reads_prompts => Err(model.cannot(Task::Prompt)),
            (_, Given::Nothing) => Err(model.cannot(Task::Unconditional)),
        }
    }

    /// Refuses guidance of a model that cannot be guided away from the lack of what it is told, and an interval of no guidance.
    ///
    /// # Errors
    /// [`Error::Request`], with what would be possible.
    pub fn check_guidance(&self, model: &Model) -> Result<()> {
        let guidable = match model.config.condition {
            Condition::Text
            | Condition::TextAndMaskedImage
            | Condition::Vectors
            | Condition::Layout => true,
            Condition::Class { .. } | Condition::Label => model.unconditional_class().is_some(),
            Condition::None
            | Condition::MaskedImage
            | Condition::LowResolution
            | Condition::Segmentation(_) => false,
        };
        match self.guidance() {
            Some([scale, _]) if !guidable => Err(Error::request(format!(
                "guidance scale {scale}: {} was not trained without its condition, so there is nothing to guide away from; the scale must be 1",
                model.name
            ))),
            None => match self.guidance_interval {
                Some(interval) if guidable => Err(Error::request(format!(
                    "guidance interval {interval}: the guidance scale is 1, so there is no guidance to keep to it; ask for another scale with `--cfg-scale`"
                ))),
                Some(interval) => Err(Error::request(format!(
                    "guidance interval {interval}: {} was not trained without its condition, so there is no guidance to keep to it",
                    model.name
                ))),
                None => Ok(()),
            },
            Some(_) => Ok(()),
        }
    }

    /// What attends to `context`, that of each call, for every image.
    fn attending(&self, context: &Tensor) -> Result<Guided> {
        Ok(Guided {
            context: Some(repeated(context, self.batch)?),
            settings: self.guidance(),
            ..Guided::unconditional(self.batch)
        })
    }
}

impl Model {
    /// How many classes the model knows: none, if it is told something else.
    pub fn classes(&self) -> usize {
        match (&self.config.condition, &self.config.unet) {
            (Condition::Class { classes, .. }, _) => *classes,
            (Condition::Label, Some(unet)) => unet.num_classes.unwrap_or(0),
            _ => 0,
        }
    }

    /// The class that stands for none of them, where there is one: to ImageNet's 1000 CompVis adds it as the last.
    fn unconditional_class(&self) -> Option<usize> {
        (self.classes() == 1001).then_some(1000)
    }
}

impl<B: Backend> Pipeline<B> {
    /// What the network is told to carry out a request that has been checked.
    pub(super) fn guided(
        &self,
        request: &Request,
        streams: &mut [Noise],
        report: &mut dyn FnMut(Event),
    ) -> Result<Guided> {
        match (&self.model.config.condition, &request.given) {
            (Condition::None, Given::Nothing) => Ok(Guided::unconditional(request.batch)),
            (Condition::Text, Given::Nothing) => self.prompted(request, report),
            (Condition::MaskedImage, Given::Nothing) => Ok(Guided {
                concat: Some(self.masked_image(request, streams, report)?),
                ..Guided::unconditional(request.batch)
            }),
            (Condition::TextAndMaskedImage, Given::Nothing) => Ok(Guided {
                concat: Some(self.masked_image(request, streams, report)?),
                ..self.prompted(request, report)?
            }),
            (Condition::Class { classes, width }, Given::Class(class)) => {
                let labels = self.labels(*class, request);
                request.attending(&self.classes((*classes, *width), &labels)?)
            }
            (Condition::Label, Given::Class(class)) => {
                let labels = self.labels(*class, request);
                let labels = labels.iter().flat_map(|&label| vec![label; request.batch]);
                let labels: Vec<f32> = labels.collect();
                Ok(Guided {
                    class_labels: Some(Tensor::new([labels.len()], labels)?),
                    settings: request.guidance(),
                    ..Guided::unconditional(request.batch)
                })
            }
            (Condition::LowResolution, Given::LowResolution(image)) => Ok(Guided {
                concat: Some(repeated(image, request.batch)?),
                ..Guided::unconditional(request.batch)
            }),
            (Condition::Vectors, Given::Vectors(vectors)) => {
                let [rows, width] = [vectors.shape().rows(), vectors.shape().channels()];
                let vectors = Tensor::new([1, rows, width], vectors.data().to_vec())?;
                let context = match request.guidance() {
                    Some(_) => Tensor::stack(&[Tensor::zeros(vectors.shape()), vectors])?,
                    None => vectors,
                };
                request.attending(&context)
            }
            (Condition::Segmentation(rescaler), Given::Segmentation(labels)) => {
                let rescaled = self.rescaled(rescaler, labels)?;
                Ok(Guided {
                    concat: Some(repeated(&rescaled, request.batch)?),
                    ..Guided::unconditional(request.batch)
                })
            }
            (
                Condition::Layout,
                Given::Layout {
                    tokens,
                    unconditional,
                },
            ) => {
                let context = match request.guidance() {
                    Some(_) => self.encoded(&[unconditional.clone(), tokens.clone()], report)?,
                    None => self.encoded(std::slice::from_ref(tokens), report)?,
                };
                request.attending(&context)
            }
            // The check has told what the model takes.
            _ => Err(self.model.refused("cannot draw what the request gives it")),
        }
    }

    /// The class, and before it the one that stands for none where the request is guided.
    fn labels(&self, class: usize, request: &Request) -> Vec<f32> {
        let none = request
            .guidance()
            .and_then(|_| self.model.unconditional_class());
        none.into_iter()
            .chain([class])
            .map(|label| label as f32)
            .collect()
    }

    /// The learnt vector of each class: `[classes, 1, width]`.
    fn classes(&self, (classes, width): (usize, usize), labels: &[f32]) -> Result<Tensor> {
        let (_, Some(weights)) = self.model.condition() else {
            return Err(self.model.refused("has no vectors of its classes"));
        };
        let graph = build_class_embedder(classes, width, labels.len())?;
        let ids = Tensor::new([labels.len(), 1], labels.to_vec())?;
        let (network, input) = ((graph, weights), ("class_labels", &ids));
        compute(
            &self.backend,
            network,
            input,
            "context",
            "the class embedder",
        )
    }

    /// A map of labels as the UNet takes it: a channel for each label, brought to the latent's size and to few channels.
    fn rescaled(&self, config: &RescalerConfig, labels: &Tensor) -> Result<Tensor> {
        let (_, Some(weights)) = self.model.condition() else {
            return Err(self.model.refused("has no rescaler of label maps"));
        };
        let [_, height, width, _] = labels.shape().image().unwrap_or_default();
        let classes = config.in_channels;
        let one_hot = Tensor::from_fn([1, height, width, classes], |index| {
            let label = labels.data()[index / classes] as usize;
            f32::from(u8::from(label == index % classes))
        });
        let graph = build_rescaler(config, 1, [height, width])?;
        let input = ("segmentation", &one_hot);
        compute(
            &self.backend,
            (graph, weights),
            input,
            "concat",
            "the rescaler",
        )
    }

    /// Context from a prompt, and from the negative one where the request is guided.
    fn prompted(&self, request: &Request, report: &mut dyn FnMut(Event)) -> Result<Guided> {
        let context = match request.guidance() {
            None => self.context(&[&request.prompt], report)?,
            Some(_) => self.context(&[&request.negative_prompt, &request.prompt], report)?,
        };
        request.attending(&context)
    }
}

/// Refuses a tensor of another shape.
fn expect_shape(what: &str, tensor: &Tensor, expected: Shape) -> Result<()> {
    match tensor.shape() == expected {
        true => Ok(()),
        false => Err(Error::request(format!(
            "{what} is {}, where the request and the model need {expected}",
            tensor.shape()
        ))),
    }
}

/// Every item of a batch `times` times in a row: for each image of a batch what is the same for all.
pub(super) fn repeated(items: &Tensor, times: usize) -> Result<Tensor> {
    let mut all = Vec::with_capacity(items.shape().batch() * times);
    for index in 0..items.shape().batch() {
        all.extend(std::iter::repeat_n(items.item(index)?, times));
    }
    Tensor::stack(&all)
}
