//! Weights on the device: packed once, shared by every session over the same checkpoint.
//!
//! They stay when the last session that used them is gone, for the next size or image to find, and give way when memory is short.

use super::door::{Door, Memory, Span};
use super::packed::Shelf;
use super::{Layout, Precision, pack};
use crate::error::{Error, Result};
use crate::graph::Param;
use crate::weights::{Identity, TensorView, Weights};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What makes two weights the same bytes on the device.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    tensors: Vec<(Identity, Param)>,
    layout: Layout,
    precision: Precision,
}

/// Every weight on the device.
#[derive(Default)]
pub(super) struct Store {
    held: Mutex<HashMap<Key, Arc<dyn Memory>>>,
    shelf: Option<Shelf>,
    /// Bytes that were loaded as they were kept, and all that were loaded.
    loaded: [AtomicUsize; 2],
}

impl Store {
    /// Empty, and looking for packed weights where they are kept.
    pub(super) fn with_shelf(shelf: Shelf) -> Self {
        Self {
            shelf: Some(shelf),
            ..Self::default()
        }
    }

    /// `params` together in `layout`, loaded if they are not there.
    ///
    /// # Errors
    /// If one of them is missing, has another shape, or does not fit the others or the device.
    pub(super) fn load(
        &self,
        door: &dyn Door,
        params: &[&Param],
        weights: &Weights,
        layout: Layout,
        precision: Precision,
    ) -> Result<Arc<dyn Memory>> {
        let key = Key::new(params, weights, layout, precision);
        if let Some(memory) = self.lock().get(&key) {
            return Ok(memory.clone());
        }
        let tensors = (params.iter())
            .map(|param| weights.get(&param.name, &param.shape))
            .collect::<Result<Vec<TensorView>>>()?;
        let refused = |problem| Error::shape(names(params), problem);
        let shapes: Vec<_> = params.iter().map(|param| param.shape).collect();
        let size = pack::bytes(layout, precision, &shapes).map_err(refused)?;
        let memory = self.alloc(door, size)?;
        let shelf = self.shelf.as_ref();
        let kept = shelf.and_then(|shelf| shelf.find(params, weights, (layout, precision), size));
        match &kept {
            Some(kept) => {
                door.stage(&Span::whole(&memory), kept.bytes())?;
                kept.release();
                self.loaded[0].fetch_add(size, Ordering::Relaxed);
            }
            None => {
                let bytes = pack::pack(layout, precision, &tensors).map_err(refused)?;
                door.stage(&Span::whole(&memory), &bytes)?;
                tensors.iter().for_each(TensorView::release);
            }
        }
        self.loaded[1].fetch_add(size, Ordering::Relaxed);
        self.lock().insert(key, memory.clone());
        Ok(memory)
    }

    /// Bytes that were loaded so far: as they were kept, and all.
    pub(super) fn loaded(&self) -> [usize; 2] {
        [0, 1].map(|which| self.loaded[which].load(Ordering::Relaxed))
    }

    /// Memory for `bytes` bytes, made by letting go of weights that nobody uses if there is no other.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is not as much even so.
    pub(super) fn alloc(&self, door: &dyn Door, bytes: usize) -> Result<Arc<dyn Memory>> {
        match door.alloc(bytes) {
            Err(Error::Memory(_)) if self.drop_unused() > 0 => door.alloc(bytes),
            result => result,
        }
    }

    /// Bytes that loading weights, each made of some tensors in a layout, would take beside what is there.
    ///
    /// # Errors
    /// If a layout does not fit its tensors.
    pub(super) fn missing_bytes<'a>(
        &self,
        made: impl Iterator<Item = (Vec<&'a Param>, Layout)>,
        weights: &Weights,
        precision: Precision,
    ) -> Result<usize> {
        let stored = self.lock();
        let mut missing = HashMap::new();
        for (params, layout) in made {
            let key = Key::new(&params, weights, layout, precision);
            if !stored.contains_key(&key) {
                let shapes: Vec<_> = params.iter().map(|param| param.shape).collect();
                let bytes = pack::bytes(layout, precision, &shapes)
                    .map_err(|problem| Error::shape(names(&params), problem))?;
                missing.insert(key, bytes);
            }
        }
        Ok(missing.values().sum())
    }

    /// Bytes of all that is there.
    pub(super) fn bytes(&self) -> usize {
        self.lock().values().map(|memory| memory.bytes()).sum()
    }

    /// Lets go of weights that no session holds; how many bytes that freed.
    pub(super) fn drop_unused(&self) -> usize {
        let mut freed = 0;
        self.lock().retain(|_, memory| {
            let used = Arc::strong_count(memory) > 1;
            freed += if used { 0 } else { memory.bytes() };
            used
        });
        freed
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<dyn Memory>>> {
        // Nothing between lock and unlock leaves the map half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    fn new(params: &[&Param], weights: &Weights, layout: Layout, precision: Precision) -> Self {
        let tensor = |param: &&Param| (weights.identity(&param.name), (*param).clone());
        Self {
            tensors: params.iter().map(tensor).collect(),
            layout,
            precision: layout.precision(precision),
        }
    }
}

/// What a message calls tensors that make up one weight.
fn names(params: &[&Param]) -> String {
    let names: Vec<&str> = params.iter().map(|param| param.name.as_str()).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::super::door::fake::Fake;
    use super::*;
    use crate::weights::Weights;

    const LAYOUT: Layout = Layout::Table;

    fn param(name: &str) -> Param {
        Param {
            name: name.to_owned(),
            shape: [8, 16].into(),
        }
    }

    #[test]
    fn a_weight_is_loaded_once_per_checkpoint_layout_and_precision() {
        let (store, door) = (Store::default(), Fake::new(1 << 20));
        let weights = Weights::synthetic(1);
        let load = |weights: &Weights, layout, precision| {
            let loaded = store.load(&door, &[&param("w")], weights, layout, precision);
            loaded.unwrap_or_else(|error| panic!("{error}"))
        };
        let first = load(&weights, LAYOUT, Precision::F16);
        let shared = load(&weights.clone(), LAYOUT, Precision::F16);
        assert!(Arc::ptr_eq(&first, &shared));
        let wide = load(&weights, LAYOUT, Precision::F32);
        let other = load(&Weights::synthetic(1), LAYOUT, Precision::F16);
        assert!(!Arc::ptr_eq(&first, &wide) && !Arc::ptr_eq(&first, &other));
        // Vectors are floats whatever the precision.
        let vector = load(&weights, Layout::Vector, Precision::F16);
        let same = load(&weights, Layout::Vector, Precision::F32);
        assert!(Arc::ptr_eq(&vector, &same));
    }

    #[test]
    fn unused_weights_give_way_and_used_ones_stay() {
        let (store, door) = (Store::default(), Fake::new(600));
        let weights = Weights::synthetic(1);
        let load = |name| store.load(&door, &[&param(name)], &weights, LAYOUT, Precision::F16);
        let used = load("used").unwrap_or_else(|error| panic!("{error}"));
        assert!(load("unused").is_ok());
        let both = [param("used"), param("unused"), param("new")];
        let missing = || {
            let all = both.iter().map(|param| (vec![param], LAYOUT));
            store.missing_bytes(all, &weights, Precision::F16).unwrap()
        };
        assert_eq!(missing(), 256);
        assert!(load("new").is_ok(), "256 of 600 bytes can be freed");
        assert_eq!(missing(), 256, "the unused one is gone");
        assert!(Arc::strong_count(&used) > 1, "the used one is still there");
        let refused = store.alloc(&door, 400).err();
        assert!(matches!(refused, Some(Error::Memory(_))));
    }
}
