//! Group normalisation: how an image is cut into tiles of channels and slices of pixels.
//!
//! A tile is whole groups of channels, and whole 16-byte packs, if some number of groups is: then a block reads rows of whole packs, and
//! joins its statistics by itself. Small images take one launch, others two with partial statistics between them. All of it follows from
//! one image's shape, so an image's bytes do not depend on its batch. Slices are whole rows wherever the height has a fitting divisor: then
//! an image can be normalised in bands, and gets the same bits.

mod channels;
mod image;

pub(super) use image::rows_of_block;

use super::elementwise::{of_channels, pack};
use super::kernel::{self, Argument, Kernel, Launch, Layout, Recipe, Target};
use super::moments;
use crate::ops::{GroupNorm, GroupNormalise, GroupStatistics, Summed};
use crate::tensor::Shape;
use image::{Choice, Image, SLICE_THREADS, Tile, choose, image};

/// Blocks along y and z that a grid may have.
const MOST_BLOCKS: usize = 65_535;

/// An entry's name, for tiles of whole packs or not.
fn entry(stage: &str, silu: bool, tile: Tile, target: &Target) -> String {
    let silu = if silu { "_silu" } else { "" };
    let ragged = if tile.packed { "" } else { "_ragged" };
    let suffix = target.precision.suffix();
    format!("group_norm_{stage}{silu}{ragged}_{suffix}")
}

/// A launch over `slices`, the tiles and the images.
fn launch(
    entry: String,
    [slices, tiles, batch]: [usize; 3],
    arguments: &[&[Argument]],
) -> Result<Launch, String> {
    if batch > MOST_BLOCKS || tiles > MOST_BLOCKS {
        return Err(format!(
            "takes at most {MOST_BLOCKS} images and as many tiles of channels, not {batch} and {tiles}"
        ));
    }
    Ok(Launch {
        entry,
        grid: [slices as u32, tiles.max(1) as u32, batch.max(1) as u32],
        shared_bytes: 0,
        arguments: arguments.concat(),
    })
}

/// The sizes that every entry takes; `sources` as in [`Operands`].
fn sizes(image: Image, sources: [usize; 3], tile: Tile) -> Result<Vec<Argument>, String> {
    let sizes = [
        image.pixels,
        sources[0],
        sources[1],
        sources[2],
        image.group,
        tile.channels,
    ];
    sizes.into_iter().map(kernel::int).collect()
}

const FACTORS: [Argument; 2] = [Argument::Weight(0), Argument::Weight(1)];
const UNSCALED: [Argument; 3] = [Argument::Null, Argument::Null, Argument::Int(0)];
const ALONE: [Argument; 2] = [Argument::Input(0), Argument::Null];

/// The channels of both operands and the images of the second (1 where there is none), those operands, and what scales and shifts them, as entries
/// take them.
struct Operands {
    sources: [usize; 3],
    pointers: [Argument; 2],
    scale_shift: [Argument; 3],
}

fn operands(op: &GroupNorm, inputs: &[Shape]) -> Result<Operands, String> {
    let (sources, pointers) = match &inputs[..op.sources] {
        [x] => ([x.channels(), 0, 1], ALONE),
        [x, beside] => (
            [x.channels(), beside.channels(), beside.batch()],
            [Argument::Input(0), Argument::Input(1)],
        ),
        _ => return Err(format!("joins at most 2 operands, not {}", op.sources)),
    };
    let scale_shift = match op.scale_shift {
        Some(channels) => of_channels(channels, inputs, op.sources)?,
        None => UNSCALED,
    };
    Ok(Operands {
        sources,
        pointers,
        scale_shift,
    })
}

/// Whether an image is so small that one launch finds its statistics and normalises it.
pub(super) fn in_one(op: &GroupNorm, inputs: &[Shape], output: Shape, target: &Target) -> bool {
    let mut sources = inputs[..op.sources].iter();
    let packed = sources.all(|x| x.channels().is_multiple_of(pack(target)));
    choose(image(output, op.groups), packed, target).in_one
}

/// The launch for operands behind which their moments lie, of pieces of so many pixels; `None` where another way is chosen, as one image's shape
/// says.
pub(super) fn given(
    op: &GroupNorm,
    inputs: &[Shape],
    output: Shape,
    (piece, target): (usize, &Target),
) -> Result<Option<Kernel>, String> {
    let image = image(output, op.groups);
    let Operands {
        sources,
        pointers,
        scale_shift,
    } = operands(op, inputs)?;
    let packed = sources[..2].iter().all(|c| c.is_multiple_of(pack(target)));
    let tile = image.tile(packed, 128, SLICE_THREADS, target);
    if !tile.packed || image.parts(tile) > 1 {
        return Ok(None);
    }
    let tail = |index: usize| match inputs[..op.sources].get(index) {
        Some(&x) => Argument::InputTail(index, moments::bytes(x, piece)),
        None => Argument::Null,
    };
    let launch = launch(
        entry("given", op.silu, tile, target),
        [
            image.slices(tile, target),
            image.tiles(tile),
            output.batch(),
        ],
        &[
            &[Argument::Output],
            &pointers,
            &FACTORS,
            &scale_shift,
            &[tail(0), tail(1)],
            &sizes(image, sources, tile)?,
            &[Argument::Float(op.eps)],
            &[kernel::int(image.pixels)?, kernel::int(piece)?],
        ],
    )?;
    Ok(Some(Kernel::single(launch, vec![Layout::Vector; 2])))
}

pub(super) fn select(
    op: &GroupNorm,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    kernel::elements(output)?;
    let (batch, image) = (output.batch(), image(output, op.groups));
    let Operands {
        sources,
        pointers,
        scale_shift,
    } = operands(op, inputs)?;
    let packed = sources[..2].iter().all(|c| c.is_multiple_of(pack(target)));
    let Choice { tile, in_one, .. } = choose(image, packed, target);
    let tiles = image.tiles(tile);
    let sizes = sizes(image, sources, tile)?;
    let eps = [Argument::Float(op.eps)];
    let layouts = vec![Layout::Vector; 2];
    if in_one {
        let arguments = [
            &[Argument::Output],
            &pointers[..],
            &FACTORS,
            &scale_shift,
            &sizes,
            &eps,
        ];
        let entry = entry("whole", op.silu, tile, target);
        let launch = launch(entry, [1, tiles, batch], &arguments)?;
        return Ok(Kernel::single(launch, layouts));
    }
    let slices = image.slices(tile, target);
    let workspace_bytes = batch * op.groups * slices * image.parts(tile) * 2 * 4;
    let partials = [Argument::Workspace {
        offset: 0,
        bytes: workspace_bytes,
    }];
    let all = [kernel::int(image.pixels)?, kernel::int(slices)?];
    let grid = [slices, tiles, batch];
    let statistics = [&partials, &pointers[..], &sizes];
    let normalise = [
        &[Argument::Output],
        &pointers[..],
        &FACTORS,
        &scale_shift,
        &partials,
        &sizes,
        &eps,
        &all,
    ];
    let launches = vec![
        launch(entry("statistics", false, tile, target), grid, &statistics)?,
        launch(entry("normalise", op.silu, tile, target), grid, &normalise)?,
    ];
    Ok(Kernel {
        launches,
        workspace_bytes,
        recipes: Recipe::each(layouts),
    })
}

/// The tile of an image, or of a band of one.
fn band(x: Shape, groups: usize, target: &Target) -> Result<(Image, Tile), String> {
    kernel::elements(x)?;
    let image = image(x, groups);
    let packed = x.channels().is_multiple_of(pack(target));
    let tile = image.tile(packed, 128, SLICE_THREADS, target);
    match image.parts(tile) {
        1 => Ok((image, tile)),
        _ => Err(format!(
            "has groups of {} channels, more than a block takes of a band",
            image.group
        )),
    }
}

pub(super) fn statistics(
    op: &GroupStatistics,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let x = inputs[0];
    if op.blocks.summed != Summed::Groups {
        return channels::statistics(op.blocks, x, output, target);
    }
    let (image, tile) = band(x, op.groups, target)?;
    let sizes = sizes(image, [x.channels(), 0, 1], tile)?;
    let blocks = output.len() / (2 * op.groups * x.batch().max(1)).max(1);
    let launch = launch(
        entry("statistics", false, tile, target),
        [blocks, image.tiles(tile), x.batch()],
        &[&[Argument::Output], &ALONE, &sizes],
    )?;
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn normalise(
    op: &GroupNormalise,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let (image, tile) = band(output, op.groups, target)?;
    let sizes = sizes(image, [output.channels(), 0, 1], tile)?;
    if op.blocks.summed != Summed::Groups {
        return channels::normalise(op, (image, tile, sizes), inputs[1], target);
    }
    let slices = image.height / op.blocks.rows;
    let all_slices = inputs[1].len() / (2 * op.groups * output.batch().max(1)).max(1);
    let each = image.pixels / slices.max(1);
    let all = [kernel::int(each * all_slices)?, kernel::int(all_slices)?];
    let launch = launch(
        entry("normalise", op.silu, tile, target),
        [slices, image.tiles(tile), output.batch()],
        &[
            &[Argument::Output],
            &ALONE,
            &FACTORS,
            &UNSCALED,
            &[Argument::Input(1)],
            &sizes,
            &[Argument::Float(op.eps)],
            &all,
        ],
    )?;
    Ok(Kernel::single(launch, vec![Layout::Vector; 2]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Precision;
    use crate::graph::Param;

    const TARGET: Target = Target::h200(Precision::F16);

    fn kernel(shape: impl Into<Shape>, groups: usize) -> Kernel {
        let shape = shape.into();
        let param = Param {
            name: String::new(),
            shape: [shape.channels()].into(),
        };
        let op = GroupNorm {
            sources: 1,
            groups,
            eps: 1e-5,
            weight: param.clone(),
            bias: param,
            scale_shift: None,
            silu: true,
        };
        select(&op, &[shape], shape, &TARGET).unwrap()
    }

    #[test]
    fn slices_are_fixed_by_one_image_and_never_empty() {
        for side in [40, 64, 65, 512] {
            let single = kernel([1, side, side, 320], 32);
            let batch = kernel([5, side, side, 320], 32);
            let [a, b] = [&single, &batch].map(|k| &k.launches);
            assert_eq!(a.len(), 2);
            assert_eq!(a[0].grid[..2], b[0].grid[..2]);
            assert_eq!(batch.workspace_bytes, 5 * single.workspace_bytes);
            let slices = a[0].grid[0] as usize;
            let each = (side * side).div_ceil(slices);
            assert!((slices - 1) * each < side * side);
        }
    }

    #[test]
    fn small_images_take_one_launch_and_odd_channels_the_ragged_one() {
        assert_eq!(
            kernel([2, 8, 8, 1280], 32).launches[0].entry,
            "group_norm_whole_silu_f16"
        );
        assert_eq!(
            kernel([2, 3, 3, 33], 3).launches[0].entry,
            "group_norm_whole_silu_ragged_f16"
        );
        let wide = kernel([1, 1, 2, 2002], 2);
        assert_eq!(wide.launches[0].grid, [1, 8, 1]);
    }
}
