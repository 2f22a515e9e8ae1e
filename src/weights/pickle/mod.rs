//! Reads the pickles that `torch.save` writes, and runs nothing.
//!
//! A pickle is a program: Python's machine looks up any function by its name and calls it. The one here knows what makes a
//! dictionary of tensors (an ordered dictionary, a tensor of a storage, a parameter of a tensor) and does these itself.
//! Whatever else a pickle makes or calls becomes [`Value::Opaque`], so that a checkpoint's callbacks and optimizers are
//! stepped over; names that only an attack has use for are refused. Texts stay where they are in the file, nothing
//! recurses, and a limit on steps bounds the memory.

mod machine;
mod rebuild;

use machine::Machine;
use safetensors::Dtype;
use std::collections::HashMap;

/// The most instructions of one pickle. A tensor takes about 40, and a model with its optimizer has some thousand.
const MAX_STEPS: usize = 1 << 21;

/// What a pickle makes, as far as weights need it.
#[derive(Clone, Copy, Default)]
pub(super) enum Value<'a> {
    #[default]
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    Long(&'a [u8]),
    Text(&'a str),
    /// A class or function: its module and its name.
    Global(&'a str, &'a str),
    /// A tuple or a list: an index into [`Pickle::sequences`].
    Sequence(usize),
    /// An index into [`Pickle::dictionaries`].
    Dictionary(usize),
    Storage(Storage<'a>),
    /// An index into [`Pickle::tensors`].
    Tensor(usize),
    /// Something that is not looked into.
    Opaque,
}

/// A run of elements beside the pickle.
#[derive(Clone, Copy)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    /// Number of elements.
    pub(super) count: usize,
    /// The type and size of an element, where it is one that can be told.
    pub(super) element: Option<(Dtype, usize)>,
}

/// A tensor: which elements of a storage.
pub(super) struct Tensor<'a> {
    pub(super) storage: Storage<'a>,
    /// In elements, as are the strides.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// What one pickle made.
#[derive(Default)]
pub(super) struct Pickle<'a> {
    pub(super) root: Value<'a>,
    pub(super) sequences: Vec<Vec<Value<'a>>>,
    /// Entries whose keys are text, in order; of equal keys the last counts.
    pub(super) dictionaries: Vec<Vec<(&'a str, Value<'a>)>>,
    pub(super) tensors: Vec<Tensor<'a>>,
    pub(super) storages: HashMap<&'a str, Storage<'a>>,
    /// Where the next pickle begins.
    pub(super) end: usize,
}

impl<'a> Pickle<'a> {
    /// Runs the pickle that begins at `start`.
    ///
    /// # Errors
    /// If the bytes are no pickle, or one that no checkpoint is, in words that follow the file's path.
    pub(super) fn load(bytes: &'a [u8], start: usize) -> Result<Self, String> {
        let mut machine = Machine::new(bytes, start);
        for _ in 0..MAX_STEPS {
            if machine.step()? {
                return machine.finish();
            }
        }
        Err(format!(
            "is no checkpoint: its pickle has more than {MAX_STEPS} instructions"
        ))
    }

    /// A dictionary's value of this key.
    pub(super) fn get(&self, dictionary: usize, key: &str) -> Option<Value<'a>> {
        let mut entries = self.dictionaries[dictionary].iter().rev();
        entries
            .find(|(found, _)| *found == key)
            .map(|(_, value)| *value)
    }
}

fn damaged(problem: &str) -> String {
    format!("holds a damaged pickle: {problem}")
}
