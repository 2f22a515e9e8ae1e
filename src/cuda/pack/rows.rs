//! Tensors as the rows of one matrix, in the order in which a product reads them.

use crate::tensor::Shape;
use crate::weights::TensorView;

/// Tensors below one another, or side by side.
pub(super) struct Rows {
    pieces: Vec<Piece>,
    beside: bool,
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
        let beside = false;
        Self { pieces, beside }
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
        match self.beside {
            true => rows.max().unwrap_or(0),
            false => rows.sum(),
        }
    }

    /// Elements of a row.
    pub(super) fn width(&self) -> usize {
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
}
