//! Bands of an image that is normalised by the moments of its channels: found in what is stored, in the order of the product that would have found
//! them in the whole image.

use super::super::kernel::{self, Argument, Kernel, Launch, Layout, Target};
use super::super::moments;
use super::{ALONE, FACTORS, Image, Tile, UNSCALED, entry, launch};
use crate::ops::{Blocks, GroupNormalise, Summed};
use crate::tensor::Shape;

/// Channels of a block: a warp's lanes.
const CHANNELS: usize = 32;

/// The moments of every piece of a band `x`.
pub(super) fn statistics(
    blocks: Blocks,
    x: Shape,
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    kernel::elements(x)?;
    let phases = match blocks.summed {
        Summed::Phases => 4,
        Summed::Groups | Summed::Channels => 1,
    };
    let [_, height, width, channels] = x.image().ok_or("takes images")?;
    if !moments::are_pieces(blocks.rows, width, phases) {
        return Err(format!(
            "finds no moments of channels in {} rows of {width} pixels made in {phases} phases: a defect of this program",
            blocks.rows
        ));
    }
    let sizes = [channels, width, blocks.rows * width, phases];
    let sizes: Vec<Argument> = (sizes.into_iter().map(kernel::int)).collect::<Result<_, _>>()?;
    let suffix = target.precision.suffix();
    let launch: Launch = launch(
        format!("channel_statistics_{suffix}"),
        [
            height / blocks.rows,
            channels.div_ceil(CHANNELS),
            output.batch(),
        ],
        &[&[Argument::Output, Argument::Input(0)], &sizes],
    )?;
    Ok(Kernel::single(launch, vec![]))
}

/// The launch for a band and the `moments` of its image.
pub(super) fn normalise(
    op: &GroupNormalise,
    (image, tile, sizes): (Image, Tile, Vec<Argument>),
    moments: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    if !tile.packed {
        return Err(format!(
            "takes the moments of channels in whole packs of 16 bytes, not of {} in groups of {}",
            image.channels, image.group
        ));
    }
    let [_, _, pieces, _] = moments.image().ok_or("takes moments of an image")?;
    let piece = op.blocks.rows * image.pixels / image.height.max(1);
    let launch = launch(
        entry("given", op.silu, tile, target),
        [
            image.slices(tile, target),
            image.tiles(tile),
            moments.batch(),
        ],
        &[
            &[Argument::Output],
            &ALONE,
            &FACTORS,
            &UNSCALED,
            &[Argument::Input(1), Argument::Null],
            &sizes,
            &[Argument::Float(op.eps)],
            &[kernel::int(pieces * piece)?, kernel::int(piece)?],
        ],
    )?;
    Ok(Kernel::single(launch, vec![Layout::Vector; 2]))
}
