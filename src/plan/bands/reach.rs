//! How far the edge of a band reaches into what is computed from it.

use crate::ops::{Conv2d, Op, Upsampling};

/// Rows of a value at the inner edges of a band that are not those of the whole image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edges {
    pub(super) above: usize,
    pub(super) below: usize,
}

impl Edges {
    pub(super) fn widest(self, other: Self) -> Self {
        Self {
            above: self.above.max(other.above),
            below: self.below.max(other.below),
        }
    }

    /// The edges of what `op` computes from a value with these.
    pub(super) fn after(self, op: &Op) -> Self {
        match op {
            Op::Conv2d(conv) => self.filtered(conv),
            Op::Upsample2x(_) => self.doubled(),
            _ => self,
        }
    }

    fn doubled(self) -> Self {
        Self {
            above: 2 * self.above,
            below: 2 * self.below,
        }
    }

    /// Result row `i` is made from rows `i stride - top` to `i stride - top + R - 1`, which must all be good.
    fn filtered(self, conv: &Conv2d) -> Self {
        let Self { above, below } = match conv.upsampling {
            Upsampling::None => self,
            Upsampling::Repeated | Upsampling::Phases => self.doubled(),
        };
        let filter = filter_rows(conv);
        let last = (below + filter).saturating_sub(conv.padding.top);
        Self {
            above: (above + conv.padding.top).div_ceil(conv.stride),
            below: last.div_ceil(conv.stride).saturating_sub(1),
        }
    }
}

fn filter_rows(conv: &Conv2d) -> usize {
    conv.weight.shape.dims().get(2).copied().unwrap_or(1)
}

/// Whether a convolution makes of every `stride` rows one, wherever an image ends.
pub(super) fn keeps_rows(conv: &Conv2d) -> bool {
    let around = conv.padding.top + conv.padding.bottom + conv.stride;
    let filter = filter_rows(conv);
    conv.stride > 0 && (filter..filter + conv.stride).contains(&around)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::ops::Padding;

    fn edges(filter: usize, stride: usize, padding: Padding, before: Edges) -> Edges {
        let mut g = Graph::new();
        let x = g.input("x", [1, 32, 8, 1]);
        let y = g.conv2d(x, 1, filter, stride, padding).unwrap();
        let Op::Conv2d(conv) = &g.node(y).op else {
            panic!("a convolution")
        };
        assert!(keeps_rows(conv));
        before.after(&g.node(y).op)
    }

    #[test]
    fn each_convolution_spoils_what_it_reaches() {
        let none = Edges::default();
        let one = Edges { above: 1, below: 1 };
        assert_eq!(edges(3, 1, Padding::all(1), none), one);
        assert_eq!(edges(1, 1, Padding::default(), one), one);
        assert_eq!(
            edges(5, 1, Padding::all(2), one),
            Edges { above: 3, below: 3 }
        );
        // Every second row, from the row itself to the second after it.
        let down = edges(3, 2, Padding::bottom_right(), none);
        assert_eq!(down, Edges { above: 0, below: 1 });
        let down = edges(3, 2, Padding::bottom_right(), Edges { above: 3, below: 2 });
        assert_eq!(down, Edges { above: 2, below: 2 });
    }
}
