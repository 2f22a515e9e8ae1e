//! The order in which a product sums over its depth, and so reads its weights: pure functions of sizes.
//!
//! A convolution is a matrix product whose rows are the pixels under the filter. A checkpoint holds one output channel after
//! another, each as `[C, R, S]`; activations are `[.., C]`. Cut into blocks of channels, and within a block sorted by filter tap
//! first, both sides are runs of channels: an image is read as whole runs, a weight as one contiguous stretch per output channel and
//! block. A linear map is the case of one tap.
//!
//! Blocks follow from the number of channels and taps alone, so sums run in the same order whatever the batch or the device's load.

use std::ops::Range;

/// Channels are cut at multiples of this number where there are enough of them.
const RUN: usize = 16;

/// The sum over input channels and filter taps, cut into blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depth {
    channels: usize,
    /// For each tap of the stored filter, the place under which it is summed.
    taps: Vec<usize>,
    /// Places: pixels that a result is made from.
    places: usize,
    /// Channels per block; the last block may have fewer.
    per_block: usize,
}

impl Depth {
    /// `channels` under each of `taps` filter taps, in blocks of at most `most` products, as even as whole runs allow;
    /// `None` if a block cannot hold one channel.
    pub fn new(channels: usize, taps: usize, most: usize) -> Option<Self> {
        Self::folded(channels, (0..taps).collect(), most)
    }

    /// As [`new`](Self::new), for a filter several of whose taps fall on one pixel: tap `t` on place `taps[t]`, places being counted
    /// from zero. Their weights are added up first.
    pub fn folded(channels: usize, taps: Vec<usize>, most: usize) -> Option<Self> {
        let places = taps.iter().max()? + 1;
        let limit = Some(most / places).filter(|&limit| limit > 0)?;
        let run = if limit >= RUN { RUN } else { 1 };
        let limit = limit / run * run;
        let blocks = channels.div_ceil(limit).max(1);
        let per_block = channels.div_ceil(blocks).max(1).next_multiple_of(run);
        Some(Self {
            channels,
            taps,
            places,
            per_block,
        })
    }

    /// Input channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Taps of the stored filter.
    pub fn taps(&self) -> usize {
        self.taps.len()
    }

    /// Pixels under the filter.
    pub fn places(&self) -> usize {
        self.places
    }

    /// The channels of every block, in the order they are summed.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let (channels, per_block) = (self.channels, self.per_block);
        (0..channels.div_ceil(per_block))
            .map(move |i| i * per_block..((i + 1) * per_block).min(channels))
    }

    /// Where each element of a block of `channels` channels goes that a checkpoint stores as `[channels, taps]`: its index among
    /// `[places, channels]`.
    pub fn order(&self, channels: usize) -> Vec<usize> {
        (0..channels)
            .flat_map(|c| self.taps.iter().map(move |place| place * channels + c))
            .collect()
    }
}

/// Of a 3x3 filter over an image upsampled by two: for each combination of even and odd rows and columns of the result, which of the 2x2 pixels
/// of the image is under each of the nine taps. The pixel above and to the left of a result of even row and column is under the filter's first
/// row and column alone, and its other pixels are each under two rows or columns; mirrored for odd ones.
pub const PHASES: [[usize; 9]; 4] = [
    [0, 1, 1, 2, 3, 3, 2, 3, 3],
    [0, 0, 1, 2, 2, 3, 2, 2, 3],
    [0, 1, 1, 0, 1, 1, 2, 3, 3],
    [0, 0, 1, 0, 0, 1, 2, 2, 3],
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn common_sizes_divide_evenly() {
        let sizes = |channels, taps| {
            let depth = Depth::new(channels, taps, 320).unwrap();
            depth.blocks().map(|b| b.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(320, 1), [320]);
        assert_eq!(sizes(768, 1), [256; 3]);
        assert_eq!(sizes(320, 9), [32; 10]);
        assert_eq!(sizes(4, 9), [4]);
        assert_eq!(sizes(5, 49), [5]);
        assert_eq!(sizes(13, 49), [5, 5, 3]);
        assert!(Depth::new(8, 321, 320).is_none());
        assert!(Depth::new(8, 0, 320).is_none());
    }

    #[test]
    fn folded_taps_share_a_place() {
        let depth = Depth::folded(80, vec![0, 1, 1], 320).unwrap();
        assert_eq!((depth.taps(), depth.places()), (3, 2));
        assert_eq!(depth.order(2), [0, 2, 2, 1, 3, 3]);
    }

    proptest! {
        #[test]
        fn every_product_belongs_to_one_place_of_one_block(channels in 0usize..400, taps in 1usize..50) {
            let depth = Depth::new(channels, taps, 320).unwrap();
            let mut next = 0;
            for block in depth.blocks() {
                prop_assert_eq!(block.start, next);
                next = block.end;
                let order = depth.order(block.len());
                prop_assert!(order.len() <= 320 && !order.is_empty());
                let mut places = order.clone();
                places.sort_unstable();
                prop_assert!(places.iter().copied().eq(0..order.len()));
            }
            prop_assert_eq!(next, channels);
        }
    }
}
