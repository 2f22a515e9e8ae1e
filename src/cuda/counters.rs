//! Counters at which the blocks of a launch meet: a few integers on the device that are zero between launches.
//!
//! Launches follow one another on a device, and each leaves its counters at zero, so all of them share one array.

use super::door::{Door, Memory, Span};
use crate::error::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Counters that an array has at least: more than most launches take.
const LEAST: usize = 1 << 14;

/// The array of a device.
#[derive(Default)]
pub(super) struct Counters(Mutex<Option<Arc<dyn Memory>>>);

impl Counters {
    /// `count` counters, all zero. What was given out before stays where it is.
    ///
    /// # Errors
    /// If the device fails, or has no memory for them.
    pub(super) fn take(&self, door: &dyn Door, count: usize) -> Result<Span> {
        let bytes = count * size_of::<i32>();
        let mut array = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = array.as_ref().and_then(|array| Span::new(array, 0, bytes));
        if let Some(there) = there {
            return Ok(there);
        }
        let zeros = vec![0; count.max(LEAST).next_power_of_two() * size_of::<i32>()];
        let memory = door.alloc(zeros.len())?;
        let span = Span::whole(&memory);
        door.write(&span, &zeros)?;
        *array = Some(memory);
        Ok(span)
    }
}
