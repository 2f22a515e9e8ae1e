//! The weights of networks: mapped from safetensors files and PyTorch checkpoints, or made up from a seed.
//!
//! A network asks for its weights by the names and shapes its graph has; what they are called on disk is settled by a
//! [`Naming`]. Files stay as they are: mapped, shared by everyone who opened the model, in the precision they were saved
//! in, and converted where they are used. So opening a model costs no memory and a few milliseconds.

mod archive;
mod checkpoint;
mod header;
mod identity;
mod lookup;
mod map;
mod names;
mod origin;
mod packed;
mod pickle;
mod save;
mod synthetic;
mod view;
mod zip;

pub use checkpoint::Checkpoint;
pub use identity::Identity;
pub use names::{Naming, UNetLayout};
pub use packed::{Made, Packed};
pub use save::{Written, save, save_as};
pub use view::{Dtype, TensorView};

use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};
use identity::Which;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synthetic::Synthetic;

/// How many names a message lists.
const SHOWN: usize = 10;

/// The weights of one network, by the names its graph has. Cloning shares them.
#[derive(Clone)]
pub struct Weights {
    kind: Kind,
    /// Another network's, under a scope of this one's names.
    inner: Option<Arc<(String, Weights)>>,
}

#[derive(Clone)]
enum Kind {
    Checkpoint(Arc<Checkpoint>, Arc<Naming>),
    Synthetic(Arc<Synthetic>),
}

impl Weights {
    /// Opens a safetensors file that has the graph's own names.
    ///
    /// # Errors
    /// If the file is missing or damaged, or is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Arc::new(Checkpoint::open(path)?).weights(Naming::bare()))
    }

    /// Weights that are in memory, by the graph's names: for what a request brings along.
    ///
    /// # Errors
    /// If two have one name.
    pub fn of<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Self> {
        let bytes = save::to_bytes(tensors)?;
        let checkpoint = Checkpoint::from_bytes("memory", bytes)?;
        Ok(Arc::new(checkpoint).weights(Naming::bare()))
    }

    /// Weights that exist for every name and shape: deterministic in the seed, the name and the shape, in f16, and scaled
    /// so that activations stay near 1. A tensor is made when it is first asked for, and kept.
    pub fn synthetic(seed: u64) -> Self {
        Self::of_kind(Kind::Synthetic(Arc::new(Synthetic::new(seed))))
    }

    /// These weights, and under `scope` those of another network.
    pub fn with(&self, scope: &str, inner: &Self) -> Self {
        Self {
            kind: self.kind.clone(),
            inner: Some(Arc::new((format!("{scope}."), inner.clone()))),
        }
    }

    /// Whose the tensor `name` is, and what it is called there.
    fn owner<'a>(&'a self, name: &'a str) -> (&'a Kind, &'a str) {
        let inner = self.inner.as_deref();
        match inner.and_then(|(scope, inner)| Some((inner, name.strip_prefix(scope.as_str())?))) {
            Some((inner, rest)) => inner.owner(rest),
            None => (&self.kind, name),
        }
    }

    /// Which weights the tensor `name` is of, for whoever keeps something made from them.
    pub fn identity(&self, name: &str) -> Identity {
        Identity::new(match self.owner(name).0 {
            Kind::Checkpoint(checkpoint, naming) => {
                Which::Checkpoint(Arc::downgrade(checkpoint), Arc::downgrade(naming))
            }
            Kind::Synthetic(synthetic) => Which::Synthetic(Arc::downgrade(synthetic)),
        })
    }

    fn of_checkpoint(checkpoint: Arc<Checkpoint>, naming: Naming) -> Self {
        Self::of_kind(Kind::Checkpoint(checkpoint, Arc::new(naming)))
    }

    fn of_kind(kind: Kind) -> Self {
        Self { kind, inner: None }
    }

    /// The tensor that the graph calls `name`.
    ///
    /// `shape` is the checkpoint's logical one: `[O, C, R, S]` for a convolution, `[O, C]` for a linear layer. Trailing
    /// ones do not matter, so that a 1x1 convolution on disk is a linear layer.
    ///
    /// # Errors
    /// If there is no such tensor, or it has another shape, or a type that no weight has.
    pub fn get(&self, name: &str, shape: &Shape) -> Result<TensorView> {
        let (kind, name) = self.owner(name);
        match kind {
            Kind::Synthetic(synthetic) => Ok(synthetic.get(name, *shape)),
            Kind::Checkpoint(checkpoint, naming) => {
                let sources = naming.sources(name);
                match sources
                    .iter()
                    .find(|source| checkpoint.contains(&source.name))
                {
                    Some(source) => lookup::view(checkpoint, source, name, *shape),
                    None => Err(lookup::missing(checkpoint, &sources, name)),
                }
            }
        }
    }

    /// Bytes that the tensor `name` takes as it is stored. Nothing is read, or made up.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn stored_bytes(&self, name: &str, shape: &Shape) -> Result<usize> {
        let dtype = match &self.kind {
            Kind::Synthetic(_) => Dtype::F16,
            Kind::Checkpoint(..) => self.get(name, shape)?.dtype(),
        };
        Ok(shape.len() * dtype.bytes())
    }

    /// Checks that every tensor of a network is there, in one message for all that are not.
    ///
    /// # Errors
    /// As [`get`](Self::get) where one tensor does not fit; where several do not, with how many and the first few names.
    pub fn check<'a>(&self, tensors: impl IntoIterator<Item = (&'a str, Shape)>) -> Result<()> {
        let Kind::Checkpoint(checkpoint, _) = &self.kind else {
            return Ok(());
        };
        let (mut all, mut absent, mut unfit) = (0, vec![], vec![]);
        for (name, shape) in tensors {
            all += 1;
            // The nearest name is searched for once, not for each of a thousand names of another architecture.
            if !self.contains(name) {
                absent.push((name, shape));
            } else if let Err(error) = self.get(name, &shape) {
                unfit.push(error);
            }
        }
        match (absent.as_slice(), unfit.len()) {
            ([], 0) => Ok(()),
            ([], 1) => Err(unfit.swap_remove(0)),
            ([(name, shape)], 0) => self.get(name, shape).map(drop),
            _ => {
                let mut problem = format!("does not hold this network ({all} tensors)");
                if let Some(kind) = checkpoint.kind() {
                    problem += &format!("; it looks like {kind}");
                }
                if !absent.is_empty() {
                    let names: Vec<&str> = absent.iter().map(|(name, _)| *name).collect();
                    problem += &format!("; {} missing: {}", names.len(), listed(&names));
                }
                if let Some(first) = unfit.first() {
                    problem += &format!("; {} unfit, the first: {first}", unfit.len());
                }
                Err(Error::file(checkpoint.path(), problem))
            }
        }
    }

    /// Whether there is a tensor that the graph calls `name`.
    pub fn contains(&self, name: &str) -> bool {
        let (kind, name) = self.owner(name);
        match kind {
            Kind::Synthetic(_) => true,
            Kind::Checkpoint(checkpoint, naming) => naming
                .sources(name)
                .iter()
                .any(|source| checkpoint.contains(&source.name)),
        }
    }

    /// Whether there is a tensor that the graph calls `name`, of this shape. It does not count as being asked for.
    pub fn fits(&self, name: &str, shape: &Shape) -> bool {
        let (Kind::Checkpoint(checkpoint, naming), name) = self.owner(name) else {
            return true;
        };
        let sources = naming.sources(name);
        let mut held = sources
            .iter()
            .filter(|source| checkpoint.contains(&source.name));
        held.next()
            .is_some_and(|source| lookup::fits(checkpoint, source, *shape))
    }

    /// The names in the file, of this network, that were never asked for; buffers that no network needs are left out.
    pub fn unused(&self) -> Vec<String> {
        match &self.kind {
            Kind::Synthetic(_) => vec![],
            Kind::Checkpoint(checkpoint, naming) => {
                let prefix = naming.prefix();
                let mut names = checkpoint.unused(prefix);
                names.retain(|name| !is_ignored(&name[prefix.len()..]));
                names
            }
        }
    }

    /// [`unused`](Self::unused) as one sentence that names at most ten, or `None` if all were used.
    pub fn unused_sentence(&self) -> Option<String> {
        let unused = self.unused();
        let names: Vec<&str> = unused.iter().map(String::as_str).collect();
        (!names.is_empty()).then(|| {
            let path = self.path().unwrap_or_default();
            let (path, count) = (path.display(), names.len());
            format!("{path}: unused tensors ({count}): {}", listed(&names))
        })
    }

    /// The file the weights are in; `None` for synthetic ones.
    pub fn path(&self) -> Option<PathBuf> {
        match &self.kind {
            Kind::Synthetic(_) => None,
            Kind::Checkpoint(checkpoint, _) => Some(checkpoint.path().to_owned()),
        }
    }
}

/// Whether a name that no graph asks for is no cause for a remark: buffers, training's losses, heads that
/// generation does not need, and the other networks of a file whose networks have prefixes.
fn is_ignored(name: &str) -> bool {
    const PREFIXES: [&str; 19] = [
        "model.diffusion_model.",
        "model_ema.",
        "first_stage_model.",
        "cond_stage_model.",
        "loss.",
        "betas",
        "alphas_cumprod",
        "sqrt_",
        "posterior_",
        "log_one_minus_",
        "lvlb_weights",
        "logvar",
        "scale_factor",
        "logit_scale",
        "text_projection",
        "vision_model.",
        "visual_projection",
        "transformer.to_logits.",
        "to_logits.",
    ];
    const BUFFERS: [&str; 2] = ["decay", "num_updates"];
    BUFFERS.contains(&name)
        || name.ends_with("position_ids")
        || name.ends_with("attn_mask")
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// At most ten names, and how many more there are.
fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| printable(name))
        .collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A name from a file, safe to print: control characters escaped, and not endless.
fn printable(name: &str) -> String {
    const LONGEST: usize = 160;
    let shown: String = name
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(LONGEST).is_some() {
        shown + "..."
    } else {
        shown
    }
}
