//! Which weights something was made from.

use super::Checkpoint;
use super::names::Naming;
use super::synthetic::Synthetic;
use std::hash::{Hash, Hasher};
use std::sync::Weak;

/// Equal for weights that share one origin and are called the same, and for no others ever. It does not keep them.
#[derive(Clone)]
pub struct Identity(Which);

/// The origins that there are.
#[derive(Clone)]
pub(super) enum Which {
    Checkpoint(Weak<Checkpoint>, Weak<Naming>),
    Synthetic(Weak<Synthetic>),
}

impl Identity {
    pub(super) fn new(which: Which) -> Self {
        Self(which)
    }

    /// A weak reference keeps its address from being used again, so equal addresses are the same object.
    fn addresses(&self) -> [usize; 2] {
        match &self.0 {
            Which::Checkpoint(checkpoint, naming) => {
                [checkpoint.as_ptr().addr(), naming.as_ptr().addr()]
            }
            Which::Synthetic(synthetic) => [synthetic.as_ptr().addr(), 0],
        }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.addresses() == other.addresses()
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.addresses().hash(state);
    }
}
