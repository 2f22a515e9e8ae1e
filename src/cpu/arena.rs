//! One block of f32 memory, lent out in pieces that the plan keeps apart.

use crate::backend::Taken;
use crate::error::{Error, Result};
use crate::ops::Slice;
use crate::plan::Place;
use std::ops::Range;

/// The values of one session.
pub struct Arena {
    values: Vec<f32>,
    _taken: Taken,
}

/// What one operation may touch.
pub(super) struct Views<'a> {
    /// Its operands.
    pub inputs: Vec<Slice<'a>>,
    /// Its result.
    pub output: &'a mut [f32],
    /// Its scratch memory.
    pub workspace: &'a mut [f32],
}

impl Arena {
    /// Zeroed memory for `bytes` bytes.
    pub(super) fn new(bytes: usize, taken: Taken) -> Result<Self> {
        let elements = bytes.div_ceil(size_of::<f32>());
        let mut memory = Vec::new();
        memory.try_reserve_exact(elements).map_err(|_| {
            let mib = bytes >> 20;
            Error::Memory(format!(
                "the plan needs {mib} MiB of memory and the system has not as much; use a smaller size or batch"
            ))
        })?;
        memory.resize(elements, 0.0);
        Ok(Self {
            values: memory,
            _taken: taken,
        })
    }

    /// The values at a place.
    pub(super) fn slice(&self, place: Place) -> Result<&[f32]> {
        self.values.get(range(place)).ok_or_else(outside)
    }

    /// The values at a place, to be set.
    pub(super) fn slice_mut(&mut self, place: Place) -> Result<&mut [f32]> {
        self.values.get_mut(range(place)).ok_or_else(outside)
    }

    /// Copies the values at one place to another.
    pub(super) fn copy(&mut self, from: Place, to: Place) -> Result<()> {
        let (from, to) = (range(from), range(to).start);
        if from.end.max(to + from.len()) > self.values.len() {
            return Err(outside());
        }
        self.values.copy_within(from, to);
        Ok(())
    }

    /// Operands to read, a result and scratch memory (offset and size in bytes) to write. Operands may overlap one another, but nothing that is
    /// written.
    pub(super) fn views(
        &mut self,
        inputs: &[Place],
        output: Place,
        workspace: Option<(usize, usize)>,
    ) -> Result<Views<'_>> {
        let output = range(output);
        let workspace = workspace.map_or(output.end..output.end, |(offset, bytes)| {
            offset / 4..(offset + bytes) / 4
        });
        let swapped = workspace.start < output.start;
        let (first, second) = if swapped {
            (&workspace, &output)
        } else {
            (&output, &workspace)
        };
        if first.end > second.start || second.end > self.values.len() {
            return Err(outside());
        }
        // Two pieces are written; the three that lie around them are read.
        let (before, rest) = self.values.split_at_mut(first.start);
        let (written_first, rest) = rest.split_at_mut(first.len());
        let (between, rest) = rest.split_at_mut(second.start - first.end);
        let (written_second, after) = rest.split_at_mut(second.len());
        let readable = [(0, &*before), (first.end, &*between), (second.end, &*after)];
        let inputs = inputs
            .iter()
            .map(|place| {
                let wanted = range(*place);
                let data = readable.iter().find_map(|(start, piece)| {
                    piece.get(wanted.start.checked_sub(*start)?..wanted.end - start)
                });
                data.map(|data| Slice {
                    shape: place.shape,
                    data,
                })
                .ok_or_else(outside)
            })
            .collect::<Result<Vec<_>>>()?;
        let (output, workspace) = if swapped {
            (written_second, written_first)
        } else {
            (written_first, written_second)
        };
        Ok(Views {
            inputs,
            output,
            workspace,
        })
    }
}

fn range(place: Place) -> Range<usize> {
    let start = place.offset / size_of::<f32>();
    start..start + place.shape.len()
}

fn outside() -> Error {
    Error::Memory("a plan that overlaps itself: a defect of this program, please report it".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Meter;
    use std::sync::Arc;

    fn arena(bytes: usize) -> Arena {
        Arena::new(bytes, Arc::<Meter>::default().take(bytes)).unwrap()
    }

    fn place(offset: usize, len: usize) -> Place {
        Place {
            offset: offset * 4,
            shape: [len].into(),
            exact: false,
        }
    }

    #[test]
    fn operands_lie_around_what_is_written() {
        let mut arena = arena(40);
        for (i, value) in arena
            .slice_mut(place(0, 10))
            .unwrap()
            .iter_mut()
            .enumerate()
        {
            *value = i as f32;
        }
        let inputs = [place(0, 2), place(0, 1), place(5, 1), place(8, 2)];
        let views = arena.views(&inputs, place(6, 2), Some((8, 12))).unwrap();
        let read: Vec<_> = views.inputs.iter().map(|s| s.data.to_vec()).collect();
        assert_eq!(read, [vec![0.0, 1.0], vec![0.0], vec![5.0], vec![8.0, 9.0]]);
        assert_eq!((views.output.len(), views.workspace.len()), (2, 3));
        assert_eq!(views.output[0], 6.0);
    }

    #[test]
    fn overlaps_are_refused() {
        let mut arena = arena(40);
        assert!(arena.views(&[place(0, 3)], place(2, 2), None).is_err());
        assert!(arena.views(&[], place(2, 2), Some((12, 4))).is_err());
        assert!(arena.views(&[], place(9, 2), None).is_err());
    }
}
