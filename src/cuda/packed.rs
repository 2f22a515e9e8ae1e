//! Weights as `pack.rs` makes them, kept beside the checkpoint they were made from (`weights/packed.rs`), so that a start reads them and packs
//! nothing.
//!
//! One file for each checkpoint, kind of GPU and precision. It holds weights by what they are made of and how they lie, so what a size or a sampler
//! needs beyond it is packed as ever; and what is wrong with it is said, and costs nothing but its use.

use super::memory::made;
use super::weights::Store;
use super::{Cuda, Layout, Precision, Target, Warn, pack};
use crate::backend::Load;
use crate::error::{Error, Result};
use crate::graph::Param;
use crate::tensor::Shape;
use crate::weights::{Checkpoint, Dtype, Made, Packed, TensorView, Weights};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The files of the checkpoints that were asked for so far.
pub(super) struct Shelf {
    target: Target,
    warn: Arc<Warn>,
    files: Mutex<Vec<Kept>>,
}

/// A file, if there is one and it can be used.
struct Kept {
    checkpoint: Weak<Checkpoint>,
    precision: Precision,
    packed: Option<Arc<Packed>>,
}

impl Shelf {
    /// `params` together in `layout`, of `bytes` bytes, if they are kept.
    pub(super) fn find(
        &self,
        params: &[&Param],
        weights: &Weights,
        (layout, precision): (Layout, Precision),
        bytes: usize,
    ) -> Option<TensorView> {
        let (checkpoint, name) = name(params, weights, layout)?;
        let target = Target {
            precision,
            ..self.target
        };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |kept: &Kept| {
            kept.precision == precision
                && std::ptr::eq(kept.checkpoint.as_ptr(), Arc::as_ptr(&checkpoint))
        };
        let index = files.iter().position(same).unwrap_or_else(|| {
            let packed = self.used(open(&checkpoint, &target));
            files.push(Kept {
                checkpoint: Arc::downgrade(&checkpoint),
                precision,
                packed: packed.map(Arc::new),
            });
            files.len() - 1
        });
        let packed = files[index].packed.clone()?;
        let found = packed.get(&name);
        if found.is_err() {
            // What is damaged in one place is not trusted in another.
            files[index].packed = None;
        }
        drop(files);
        let found = self.used(found)?;
        (found.bytes().len() == bytes).then_some(found)
    }

    /// What was found, or a word on why it cannot be used.
    fn used<T>(&self, found: Result<Option<T>>) -> Option<T> {
        found.unwrap_or_else(|error| {
            (self.warn)(&format!(
                "{error}; weights are packed anew, and `ldm pack` writes it again"
            ));
            None
        })
    }
}

/// The file of a checkpoint.
fn path(checkpoint: &Checkpoint, target: &Target) -> PathBuf {
    let Target {
        compute_capability,
        precision,
        ..
    } = target;
    let ending = format!("sm{compute_capability}-{}.packed", precision.suffix());
    checkpoint.path().with_added_extension(ending)
}

/// What a file says of its format.
fn format(target: &Target) -> String {
    let precision = target.precision.suffix();
    format!("layouts {}, {precision}", pack::VERSION)
}

fn open(checkpoint: &Checkpoint, target: &Target) -> Result<Option<Packed>> {
    let path = path(checkpoint, target);
    // Most have none, and are not looked at any closer then.
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    match checkpoint.fingerprint()? {
        Some(fingerprint) => Packed::open(&path, &format(target), &fingerprint),
        None => Ok(None),
    }
}

/// The checkpoint that holds all of `params`, and what they are called together.
fn name(params: &[&Param], weights: &Weights, layout: Layout) -> Option<(Arc<Checkpoint>, String)> {
    let origin = |param: &&Param| Some((weights.origin(&param.name)?, param.shape));
    let origins: Vec<_> = params.iter().map(origin).collect::<Option<_>>()?;
    let ((checkpoint, _), _) = origins.first()?;
    let one = origins
        .iter()
        .all(|((other, _), _)| Arc::ptr_eq(other, checkpoint));
    let parts = origins
        .iter()
        .map(|((_, stored), shape)| format!("{stored} {shape}"));
    let parts: Vec<String> = parts.collect();
    one.then(|| {
        (
            checkpoint.clone(),
            format!("{layout:?} of {}", parts.join(", ")),
        )
    })
}

/// A weight that is to be kept.
struct Wanted<'a> {
    params: Vec<&'a Param>,
    layout: Layout,
    weights: &'a Weights,
}

impl Cuda {
    /// The same device, reading packed weights beside a checkpoint where they are kept. Files that cannot be used are [warned](Self::warned) of.
    pub fn with_packed(self) -> Self {
        let shelf = Shelf {
            target: self.target,
            warn: self.warn.clone(),
            files: Mutex::default(),
        };
        Self {
            store: Arc::new(Store::with_shelf(shelf)),
            ..self
        }
    }

    /// Bytes of weights that were loaded so far: those that were read as they were kept, and all.
    pub fn packed_bytes(&self) -> [usize; 2] {
        self.store.loaded()
    }

    /// Packs the weights of `networks` and writes them beside their checkpoints, a file for each. `progress` is told how many bytes are done, of how
    /// many, and may stop it.
    ///
    /// # Errors
    /// If weights are missing, do not fit or lie in no file, a file cannot be written, or as `progress` does.
    pub fn pack_beside(
        &self,
        networks: &[(Vec<Load<'_, Self>>, &Weights)],
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<PathBuf>> {
        let mut files: BTreeMap<PathBuf, (Arc<Checkpoint>, BTreeMap<String, Wanted>)> =
            BTreeMap::new();
        for (loads, weights) in networks {
            for (params, layout) in made(loads).filter(|(params, _)| !params.is_empty()) {
                let (checkpoint, name) = name(&params, weights, layout).ok_or_else(|| {
                    Error::request(format!(
                        "`{}` is in no file, so nothing can be kept beside it",
                        params[0].name
                    ))
                })?;
                let file = files.entry(path(&checkpoint, &self.target));
                let (_, wanted) = file.or_insert_with(|| (checkpoint, BTreeMap::new()));
                wanted.insert(
                    name,
                    Wanted {
                        params,
                        layout,
                        weights,
                    },
                );
            }
        }
        let files: Vec<_> = (files.into_iter())
            .map(|(path, (checkpoint, wanted))| {
                Ok((path, checkpoint, self.sizes(&wanted)?, wanted))
            })
            .collect::<Result<_>>()?;
        let all = files.iter().flat_map(|(.., made, _)| made);
        let total = all.map(|made| made.count * made.dtype.bytes()).sum();
        let (mut done, mut paths) = (0, vec![]);
        for (path, checkpoint, made, wanted) in files {
            let fingerprint = checkpoint.fingerprint()?.ok_or_else(|| {
                Error::request("the built-in models are packed at every start: they are small")
            })?;
            let about = (&*format(&self.target), &*fingerprint);
            Packed::write(&path, about, made, &mut |made| {
                let bytes = self.packed(&wanted[&made.name])?;
                done += bytes.len();
                progress(done, total)?;
                Ok(bytes)
            })?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// What is to be written, by name.
    fn sizes(&self, wanted: &BTreeMap<String, Wanted>) -> Result<Vec<Made>> {
        let made = |(name, wanted): (&String, &Wanted)| {
            let shapes: Vec<Shape> = wanted.params.iter().map(|param| param.shape).collect();
            let precision = wanted.layout.precision(self.target.precision);
            let bytes = pack::bytes(wanted.layout, self.target.precision, &shapes)
                .map_err(|problem| Error::shape(name, problem))?;
            Ok(Made {
                name: name.clone(),
                dtype: match precision {
                    Precision::F16 => Dtype::F16,
                    Precision::F32 => Dtype::F32,
                },
                count: bytes / precision.bytes(),
            })
        };
        wanted.iter().map(made).collect()
    }

    fn packed(&self, wanted: &Wanted) -> Result<Vec<u8>> {
        let Wanted {
            params,
            layout,
            weights,
        } = wanted;
        let tensors = (params.iter())
            .map(|param| weights.get(&param.name, &param.shape))
            .collect::<Result<Vec<TensorView>>>()?;
        let pack = || pack::pack(*layout, self.target.precision, &tensors);
        let bytes = (self.pool.install(pack))
            .map_err(|problem| Error::shape(params[0].name.as_str(), problem))?;
        tensors.iter().for_each(TensorView::release);
        Ok(bytes)
    }
}
