//! Reading a dump: a safetensors file of inputs, outputs and module answers that PyTorch code wrote.

use crate::error::{Error, Result};
use crate::models::config::from_python_json;
use crate::tensor::{Shape, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What one component was given and what the reference answered.
///
/// Tensors are as they are in the file: images and latents `[N, C, H, W]`, integers as f32.
#[derive(Debug)]
pub struct Dump {
    path: PathBuf,
    component: Component,
    metadata: BTreeMap<String, Json>,
    inputs: BTreeMap<String, Tensor>,
    outputs: BTreeMap<String, Tensor>,
    nodes: BTreeMap<String, Tensor>,
}

/// The part of a model that a dump is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Component {
    /// The denoising network, called once.
    UNet,
    /// From latents to images.
    Decoder,
    /// From images to latents.
    Encoder,
    /// From token ids to hidden states.
    TextEncoder,
    /// From token ids to what the UNet attends to.
    Condition,
    /// From noise to latents: every step of a sampler.
    Sampler,
}

impl Component {
    const ALL: [Self; 6] = [
        Self::UNet,
        Self::Decoder,
        Self::Encoder,
        Self::TextEncoder,
        Self::Condition,
        Self::Sampler,
    ];

    /// The name that dumps have.
    pub fn name(self) -> &'static str {
        match self {
            Self::UNet => "unet",
            Self::Decoder => "autoencoder.decode",
            Self::Encoder => "autoencoder.encode",
            Self::TextEncoder => "text_encoder",
            Self::Condition => "condition",
            Self::Sampler => "sampler",
        }
    }

    /// The inputs that are read, each where the model takes it.
    fn inputs(self) -> &'static [&'static str] {
        match self {
            Self::UNet => &["sample", "timestep", "context", "class_labels"],
            Self::Decoder => &["latent"],
            Self::Encoder => &["image"],
            Self::TextEncoder => &["input_ids", "attention_mask"],
            Self::Condition => &[
                "input_ids",
                "attention_mask",
                "class_labels",
                "segmentation",
            ],
            Self::Sampler => &[
                "noise",
                "context",
                "uncond_context",
                "concat",
                "class_labels",
            ],
        }
    }
}

impl Dump {
    /// Reads a dump.
    ///
    /// # Errors
    /// If the file is missing, is no safetensors file, or does not follow the format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let refuse = |problem: String| Error::file(path, problem);
        let bytes = fs::read(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let damaged = |error| refuse(format!("is not a safetensors file: {error}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let written = header.metadata().clone().unwrap_or_default();
        let name = written
            .get("component")
            .ok_or_else(|| refuse("is no dump: its metadata has no `component`".into()))?;
        let mut dump = Self {
            path: path.to_owned(),
            component: component(name).map_err(refuse)?,
            metadata: written
                .iter()
                .map(|(key, value)| (key.clone(), decoded(value)))
                .collect(),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        for (name, view) in file.tensors() {
            let group = match name.split_once('.') {
                Some(("input", rest)) => Some((&mut dump.inputs, rest)),
                Some(("output", rest)) => Some((&mut dump.outputs, rest)),
                Some(("node", rest)) => Some((&mut dump.nodes, rest)),
                _ => None,
            };
            let Some((group, rest)) = group else {
                return Err(refuse(format!(
                    "holds tensor `{name}`, and a dump's tensors begin with `input.`, `output.` or `node.`"
                )));
            };
            let tensor = tensor(&view)
                .map_err(|problem| refuse(format!("holds tensor `{name}`, which {problem}")))?;
            group.insert(rest.to_owned(), tensor);
        }
        if dump.outputs.is_empty() {
            return Err(refuse(
                "holds no `output.` tensor to compare with".to_owned(),
            ));
        }
        Ok(dump)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the dump is about.
    pub fn component(&self) -> Component {
        self.component
    }

    /// The metadata value `key`, decoded.
    pub fn metadata(&self, key: &str) -> Option<&Json> {
        self.metadata.get(key).filter(|value| !value.is_null())
    }

    /// The input `name`, where the dump has it.
    pub fn input(&self, name: &str) -> Option<&Tensor> {
        self.inputs.get(name)
    }

    /// The input `name`, of `rank` sizes.
    ///
    /// # Errors
    /// If there is no such input, or it has another rank, or no elements.
    pub fn required(&self, name: &str, rank: usize) -> Result<&Tensor> {
        let tensor = self.inputs.get(name).ok_or_else(|| {
            self.refuse(format!(
                "has no `input.{name}`, which `{}` needs",
                self.component.name()
            ))
        })?;
        let shape = tensor.shape();
        if shape.rank() != rank || shape.is_empty() {
            return Err(self.refuse(format!(
                "has an `input.{name}` of shape {shape}, where {rank} sizes above 0 are needed"
            )));
        }
        Ok(tensor)
    }

    /// Inputs that nothing reads, whatever the model, by name.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        let read = self.component.inputs();
        let names = self.inputs.keys().map(String::as_str);
        names.filter(|name| !read.contains(name))
    }

    /// What the reference answered, by name.
    pub fn outputs(&self) -> &BTreeMap<String, Tensor> {
        &self.outputs
    }

    /// What the reference's modules answered, by path.
    pub fn nodes(&self) -> &BTreeMap<String, Tensor> {
        &self.nodes
    }

    /// An error about this file.
    pub(super) fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.path, problem)
    }
}

fn component(name: &str) -> Result<Component, String> {
    // Some writers encode this value too, as they do all others.
    let name = name.trim_matches('"');
    let known = Component::ALL.into_iter().find(|c| c.name() == name);
    known.ok_or_else(|| {
        let names = Component::ALL.map(Component::name).join(", ");
        format!("is a dump of `{name}`, and the components are {names}")
    })
}

/// A metadata value; text that is not JSON stands for itself.
fn decoded(value: &str) -> Json {
    from_python_json(value).unwrap_or_else(|_| Json::String(value.to_owned()))
}

fn tensor(view: &TensorView) -> Result<Tensor, String> {
    let dims = view.shape();
    if dims.len() > 4 {
        return Err(format!("has {} sizes, and four are the most", dims.len()));
    }
    let bytes = view.data();
    let data: Vec<f32> = match view.dtype() {
        Dtype::F32 => values(bytes, f32::from_le_bytes),
        Dtype::F64 => values(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::I32 => values(bytes, |b| i32::from_le_bytes(b) as f32),
        Dtype::I64 => values(bytes, |b| i64::from_le_bytes(b) as f32),
        other => {
            return Err(format!(
                "is {other:?}, and a dump holds F32 and I32 (or F64 and I64)"
            ));
        }
    };
    Tensor::new(Shape::new(dims), data).map_err(|error| error.to_string())
}

fn values<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| read(chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// A file of tensors of two elements each, all of one type.
    fn written(component: Option<&str>, names: &[&str], dtype: Dtype) -> Result<Dump> {
        let bytes = vec![0u8; 2 * dtype.bitsize() / 8];
        let views = names
            .iter()
            .map(|name| (*name, TensorView::new(dtype, vec![1, 2], &bytes).unwrap()));
        let metadata = component.map(|c| HashMap::from([("component".to_owned(), c.to_owned())]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump.safetensors");
        fs::write(&path, safetensors::serialize(views, metadata).unwrap()).unwrap();
        Dump::open(path)
    }

    #[test]
    fn a_dump_is_read_by_the_names_of_its_tensors() {
        let names = ["input.latent", "output.image", "node.decoder.conv_in"];
        let dump = written(Some("autoencoder.decode"), &names, Dtype::F32).unwrap();
        assert_eq!(dump.component(), Component::Decoder);
        assert!(dump.input("latent").is_some() && dump.outputs().contains_key("image"));
        assert!(dump.nodes().contains_key("decoder.conv_in"));
        assert_eq!(dump.unread().next(), None);
        let error = dump.required("latent", 4).unwrap_err().to_string();
        assert!(
            error.contains("input.latent") && error.contains("[1, 2]"),
            "{error}"
        );
        let error = dump.required("context", 3).unwrap_err().to_string();
        assert!(error.contains("input.context"), "{error}");
    }

    #[test]
    fn numbers_of_both_widths_are_read() {
        for (dtype, two) in [
            (Dtype::F32, 2f32.to_le_bytes().to_vec()),
            (Dtype::F64, 2f64.to_le_bytes().to_vec()),
            (Dtype::I32, 2i32.to_le_bytes().to_vec()),
            (Dtype::I64, 2i64.to_le_bytes().to_vec()),
        ] {
            let view = TensorView::new(dtype, vec![1], &two).unwrap();
            assert_eq!(tensor(&view).unwrap().data(), [2.0], "{dtype:?}");
        }
    }

    #[test]
    fn what_is_no_dump_is_refused_in_a_sentence() {
        let output = ["output.sample"];
        for (dump, sentence) in [
            (written(None, &output, Dtype::F32), "no `component`"),
            (
                written(Some("vocoder"), &output, Dtype::F32),
                "the components are unet",
            ),
            (
                written(Some("unet"), &["input.sample"], Dtype::F32),
                "no `output.` tensor",
            ),
            (
                written(Some("unet"), &["sample"], Dtype::F32),
                "begin with `input.`",
            ),
            (
                // Rounded to halves, a reference is further off than our answers may be.
                written(Some("unet"), &output, Dtype::F16),
                "holds F32 and I32",
            ),
        ] {
            let error = dump.unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains(sentence), "{error}");
        }
        let page = tempfile::NamedTempFile::new().unwrap();
        fs::write(&page, "<!doctype html><title>Not found</title>").unwrap();
        assert_eq!(Dump::open(page.path()).unwrap_err().exit_code(), 3);
    }
}
