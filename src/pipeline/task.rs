//! What a model can be asked for: its condition decides, and who asks for something else is told.

use super::Model;
use crate::error::Error;
use crate::models::config::Condition;
use std::fmt::{self, Display, Formatter};

/// Something that models are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Images of whatever the model was trained on.
    Unconditional,
    /// Images of a prompt.
    Prompt,
    /// Images of a class.
    Class,
    /// An image with a part of it drawn anew.
    Inpaint,
    /// An image, larger.
    Upscale,
    /// Images of a map of labels.
    Segmentation,
    /// Images of objects in boxes.
    Layout,
    /// Images of a prompt, with the help of a database's images.
    Retrieval,
}

impl Display for Task {
    /// What a model `can` or `cannot`, with the command that asks for it.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unconditional => "draw without being told what (`ldm sample`)",
            Self::Prompt => "draw a prompt (`ldm sample --prompt`)",
            Self::Class => "draw a class (`ldm sample --class`)",
            Self::Inpaint => "draw a part of an image anew (`ldm inpaint`)",
            Self::Upscale => "enlarge an image (`ldm upscale`)",
            Self::Segmentation => "draw a map of labels (`ldm segment2img`)",
            Self::Layout => "draw objects in boxes (`ldm layout2img`)",
            Self::Retrieval => {
                "draw a prompt and its neighbours in a database (`ldm retrieve2img`)"
            }
        })
    }
}

impl Task {
    /// What a model with this condition can be asked for. A model that was not trained to fill in masks does so by keeping to the
    /// noised image outside of the mask at every step.
    pub fn of(condition: &Condition) -> &'static [Self] {
        match condition {
            Condition::None => &[Self::Unconditional, Self::Inpaint],
            Condition::Text => &[Self::Prompt, Self::Inpaint],
            Condition::Class { .. } | Condition::Label => &[Self::Class, Self::Inpaint],
            Condition::MaskedImage | Condition::TextAndMaskedImage => &[Self::Inpaint],
            Condition::LowResolution => &[Self::Upscale],
            Condition::Segmentation(_) => &[Self::Segmentation],
            Condition::Layout => &[Self::Layout],
            Condition::Vectors => &[Self::Retrieval],
        }
    }
}

impl Task {
    /// The command that asks for it.
    pub fn command(self) -> &'static str {
        match self {
            Self::Unconditional | Self::Prompt | Self::Class => "sample",
            Self::Inpaint => "inpaint",
            Self::Upscale => "upscale",
            Self::Segmentation => "segment2img",
            Self::Layout => "layout2img",
            Self::Retrieval => "retrieve2img",
        }
    }
}

impl Model {
    /// What this model can be asked for; nothing, if it has no UNet.
    pub fn tasks(&self) -> &'static [Task] {
        match self.config.unet {
            Some(_) => Task::of(&self.config.condition),
            None => &[],
        }
    }

    /// Whether the UNet is told of an image and a mask, rather than kept to the image by the sampler.
    pub(super) fn reads_masks(&self) -> bool {
        matches!(
            self.config.condition,
            Condition::MaskedImage | Condition::TextAndMaskedImage
        )
    }

    /// The refusal of a task that is not among [`tasks`](Self::tasks), with those that are.
    pub fn cannot(&self, task: Task) -> Error {
        let able: Vec<String> = self.tasks().iter().map(Task::to_string).collect();
        let able = match able.as_slice() {
            [] => "its networks can only be run one by one (`ldm encode`, `ldm decode`)".to_owned(),
            _ => format!("it can {}", able.join(", or ")),
        };
        Error::request(format!("{} cannot {task}; {able}", self.name))
    }
}
