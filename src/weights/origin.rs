//! Where a network's weights come from: which files and tensors on disk, and whether they are numbers at all there.

use super::checkpoint::Checkpoint;
use super::view::TensorView;
use super::{Dtype, Kind, Weights, is_ignored};
use crate::tensor::Shape;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Weights {
    /// The sizes that a tensor has on disk, where it is a tensor of its own there.
    pub(super) fn dims(&self, name: &str) -> Option<Vec<usize>> {
        let (Kind::Checkpoint(checkpoint, naming), name) = self.owner(name) else {
            return None;
        };
        let sources = naming.sources(name);
        let found = sources
            .iter()
            .find(|source| checkpoint.contains(&source.name))?;
        let whole = found.third.is_none() && found.below.is_empty();
        whole.then(|| checkpoint.dims(&found.name).map(<[usize]>::to_vec))?
    }

    /// The checkpoint that holds the tensor `name`, and which of its tensors, or which part of them, that is; `None` for synthetic weights, and for
    /// what no tensor is called.
    pub fn origin(&self, name: &str) -> Option<(Arc<Checkpoint>, String)> {
        let (Kind::Checkpoint(checkpoint, naming), name) = self.owner(name) else {
            return None;
        };
        let mut sources = naming.sources(name).into_iter();
        let source = sources.find(|source| checkpoint.contains(&source.name))?;
        let mut stored = source.name;
        if let Some(third) = source.third {
            stored += &format!(" (third {third})");
        }
        let all = source
            .below
            .iter()
            .fold(stored, |all, other| all + " and " + other);
        Some((checkpoint.clone(), all))
    }

    /// The files the weights are in; none for synthetic ones.
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.kind {
            Kind::Synthetic(_) => vec![],
            Kind::Checkpoint(checkpoint, _) => checkpoint.files().map(Path::to_owned).collect(),
        }
    }

    /// Reads every weight of this network, and names those that hold NaN or infinities, with how many.
    pub fn not_finite(&self) -> Vec<(String, usize)> {
        let Some((checkpoint, names)) = self.stored() else {
            return vec![];
        };
        let mut found: Vec<(String, usize)> = names
            .into_par_iter()
            .filter_map(|name| {
                let (_, bytes, entry) = checkpoint.entry(name)?;
                if entry.strides.is_some() {
                    return None;
                }
                let dtype = Dtype::from_safetensors(entry.dtype)?;
                let shape = Shape::new(&[entry.shape.iter().product()]);
                let view = TensorView::new(dtype, shape, bytes.slice(entry.range.clone())?);
                let count = view.count_not_finite();
                (count > 0).then(|| (name.to_owned(), count))
            })
            .collect();
        found.sort();
        found
    }

    /// The checkpoint, and the names in it that belong to this network.
    fn stored(&self) -> Option<(&Checkpoint, Vec<&str>)> {
        let Kind::Checkpoint(checkpoint, naming) = &self.kind else {
            return None;
        };
        let prefix = naming.prefix();
        let own = |name: &&str| {
            name.strip_prefix(prefix)
                .is_some_and(|name| !is_ignored(name))
        };
        Some((checkpoint, checkpoint.names().filter(own).collect()))
    }
}
