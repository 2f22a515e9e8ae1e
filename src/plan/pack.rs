//! The order in which weights are laid out for a product: pure functions of sizes.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    channels: usize,
    taps: usize,
    /// Channels per block; the last block may have fewer.
    per_block: usize,
}

impl Depth {
    /// `channels` under each of `taps` filter taps, in blocks of at most `most` products, as even as whole runs allow;
    /// `None` if a block cannot hold one channel.
    pub fn new(channels: usize, taps: usize, most: usize) -> Option<Self> {
        let limit = most.checked_div(taps).filter(|&limit| limit > 0)?;
        let run = if limit >= RUN { RUN } else { 1 };
        let limit = limit / run * run;
        let blocks = channels.div_ceil(limit).max(1);
        let per_block = channels.div_ceil(blocks).next_multiple_of(run);
        Some(Self {
            channels,
            taps,
            per_block,
        })
    }

    /// Input channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Filter taps.
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// The channels of every block, in the order they are summed.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let Self {
            channels,
            per_block,
            ..
        } = *self;
        (0..channels.div_ceil(per_block))
            .map(move |i| i * per_block..((i + 1) * per_block).min(channels))
    }

    /// Where each element of a block goes that a checkpoint stores as `[channels, taps]`: its place among `[taps, channels]`.
    pub fn order(&self, block: &Range<usize>) -> Vec<usize> {
        let channels = block.len();
        (0..channels)
            .flat_map(|c| (0..self.taps).map(move |tap| tap * channels + c))
            .collect()
    }
}

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

    proptest! {
        #[test]
        fn every_product_belongs_to_one_place_of_one_block(channels in 0usize..400, taps in 1usize..50) {
            let depth = Depth::new(channels, taps, 320).unwrap();
            let mut next = 0;
            for block in depth.blocks() {
                prop_assert_eq!(block.start, next);
                next = block.end;
                let order = depth.order(&block);
                prop_assert!(order.len() <= 320 && !order.is_empty());
                let mut places = order.clone();
                places.sort_unstable();
                prop_assert!(places.iter().copied().eq(0..order.len()));
            }
            prop_assert_eq!(next, channels);
        }
    }
}
