//! Tensors as the rows of one matrix, in the order in which a product reads them.

use crate::plan::depth::PHASES;
use crate::tensor::Shape;
use crate::weights::TensorView;

/// Tensors below one another, or side by side.
pub(super) struct Rows {
    pieces: Vec<Piece>,
    beside: bool,
    /// All rows are there once for each phase of a filter, whose nine taps fall on four pixels.
    phases: bool,
}

/// One of them, `[rows, channels, taps]`.
struct Piece {
    rows: usize,
    channels: usize,
    taps: usize,
}

impl Piece {
    fn width(&self) -> usize {
        self.channels * self.taps
    }
}

impl Rows {
    /// Each tensor's first size counts its rows; what follows the second are taps.
    pub(super) fn of_matrices(shapes: &[Shape]) -> Self {
        let piece = |shape: &Shape| {
            let taps: usize = shape.dims().iter().skip(2).product();
            let row = shape.len().checked_div(shape.batch()).unwrap_or(0);
            Piece {
                rows: shape.batch(),
                channels: row.checked_div(taps).unwrap_or(0),
                taps,
            }
        };
        Self::below(shapes.iter().map(piece).collect())
    }

    /// As [`of_matrices`](Self::of_matrices), of one tensor: in [phases](PHASES), if its filter has them.
    pub(super) fn of_phases(shapes: &[Shape]) -> Option<Self> {
        let rows = Self::of_matrices(shapes);
        let phases = true;
        let fits = rows.pieces.len() == 1 && rows.pieces[0].taps == PHASES[0].len();
        fits.then_some(Self { phases, ..rows })
    }

    /// As [`of_matrices`](Self::of_matrices), the elements of a row in the order they are stored.
    pub(super) fn of_table(shapes: &[Shape]) -> Self {
        let piece = |shape: &Shape| Piece {
            rows: shape.batch(),
            channels: shape.len().checked_div(shape.batch()).unwrap_or(0),
            taps: 1,
        };
        Self::below(shapes.iter().map(piece).collect())
    }

    /// Every element is a row.
    pub(super) fn of_vectors(shapes: &[Shape]) -> Self {
        let piece = |shape: &Shape| Piece {
            rows: shape.len(),
            channels: 1,
            taps: 1,
        };
        Self::below(shapes.iter().map(piece).collect())
    }

    fn below(pieces: Vec<Piece>) -> Self {
        Self {
            pieces,
            beside: false,
            phases: false,
        }
    }

    /// The same tensors side by side.
    pub(super) fn beside(self) -> Self {
        let beside = true;
        Self { beside, ..self }
    }

    /// Whether all tensors have as many rows, or columns, as they must to stand where they stand.
    pub(super) fn fit(&self) -> bool {
        let sizes = self.pieces.iter().map(|piece| match self.beside {
            true => piece.rows,
            false => piece.width(),
        });
        let first = sizes.clone().next();
        first.is_some() && sizes.clone().all(|size| Some(size) == first)
    }

    pub(super) fn count(&self) -> usize {
        let rows = self.pieces.iter().map(|piece| piece.rows);
        match (self.phases, self.beside) {
            (true, _) => PHASES.len() * rows.sum::<usize>(),
            (false, true) => rows.max().unwrap_or(0),
            (false, false) => rows.sum(),
        }
    }

    /// Elements of a row.
    pub(super) fn width(&self) -> usize {
        if self.phases {
            return self.pieces.iter().map(|piece| 4 * piece.channels).sum();
        }
        self.stored_width()
    }

    /// Elements of the tensors from which a row is made.
    pub(super) fn stored_width(&self) -> usize {
        let widths = self.pieces.iter().map(Piece::width);
        match self.beside {
            true => widths.sum(),
            false => widths.max().unwrap_or(0),
        }
    }

    /// Row `row`, which `tensors` hold, into the front of `ordered`: taps first, and channels within them. `stored` is room for as much.
    pub(super) fn read(
        &self,
        tensors: &[TensorView],
        mut row: usize,
        stored: &mut [f32],
        ordered: &mut [f32],
    ) {
        if self.phases {
            return self.read_phase(tensors, row, stored, ordered);
        }
        let mut at = 0;
        for (piece, tensor) in self.pieces.iter().zip(tensors) {
            if !self.beside && row >= piece.rows {
                row -= piece.rows;
                continue;
            }
            let stored = &mut stored[..piece.width()];
            tensor.read_f32(row * piece.width(), stored);
            for (channel, taps) in stored.chunks(piece.taps).enumerate() {
                for (tap, value) in taps.iter().enumerate() {
                    ordered[at + tap * piece.channels + channel] = *value;
                }
            }
            at += piece.width();
            if !self.beside {
                return;
            }
        }
    }

    /// As [`read`](Self::read), of a filter in phases: what falls on one pixel is added up.
    fn read_phase(
        &self,
        tensors: &[TensorView],
        row: usize,
        stored: &mut [f32],
        ordered: &mut [f32],
    ) {
        for (piece, tensor) in self.pieces.iter().zip(tensors) {
            let places = PHASES[row / piece.rows];
            tensor.read_f32(row % piece.rows * piece.width(), stored);
            ordered.fill(0.0);
            for (channel, taps) in stored.chunks(piece.taps).enumerate() {
                for (place, value) in places.iter().zip(taps) {
                    ordered[place * piece.channels + channel] += value;
                }
            }
        }
    }
}
