//! A 3x3 convolution over an image upsampled by two, as four 2x2 convolutions over the image itself.
//!
//! A result is made from 2x2 pixels of the image, some of which are under several taps ([`PHASES`](crate::plan::depth::PHASES)). Their weights are
//! added up first, which leaves 4/9 of the products. The sums differ from those of the nine taps as any two orders of a sum do.

use crate::graph::Node;
use crate::ops::{Op, Upsampling};

/// What messages and tests call it.
pub(super) const NAME: &str = "upsample as phases";

/// Columns of the smallest image for which it pays: the four filters have 16/9 of the weights, and each is read for all of them.
const FEWEST_COLUMNS: usize = 8;

/// Turns a convolution over an upsampled image into one in phases, if it is one of those.
pub(super) fn fold(node: &mut Node) {
    let Op::Conv2d(conv) = &mut node.op else {
        return;
    };
    let wide = node
        .shape
        .image()
        .is_some_and(|[_, _, w, _]| w >= 2 * FEWEST_COLUMNS);
    if wide && conv.upsampling == Upsampling::Repeated && conv.has_phases() {
        conv.upsampling = Upsampling::Phases;
    }
}
