//! What only sampling asks for.

use super::elementwise::{by_rows, pack, streaming};
use super::kernel::{self, Argument, Kernel, Launch, MOST_BLOCKS, Target};
use crate::ops::{Assign, TimestepEmbedding};
use crate::tensor::Shape;

/// Terms of a combination that the kernel takes.
const TERMS: usize = 8;

/// Combinations, and copies beside them, that one launch assigns.
const VECTORS: usize = 4;

/// Threads of a block of the guidance kernel.
const GUIDANCE_THREADS: usize = 512;

pub(super) fn timestep_embedding(
    op: &TimestepEmbedding,
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let half = op.features / 2;
    let count = output.batch() * half;
    let launch = Launch {
        entry: format!("timestep_embedding_{}", target.precision.suffix()),
        grid: [count.div_ceil(256).max(1) as u32, 1, 1],
        shared_bytes: 0,
        arguments: vec![
            Argument::Output,
            Argument::Input(0),
            kernel::int(half)?,
            kernel::int(count)?,
        ],
    };
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn guidance(inputs: &[Shape], output: Shape, target: &Target) -> Result<Kernel, String> {
    kernel::elements(inputs[0])?;
    let images = output.batch();
    if images > MOST_BLOCKS {
        return Err(format!("takes at most {MOST_BLOCKS} images, not {images}"));
    }
    let image = output.len() / images.max(1);
    let entry = by_rows("guidance", image, target);
    let launch = Launch {
        entry: format!("{entry}_{}", target.precision.suffix()),
        grid: [
            image.div_ceil(GUIDANCE_THREADS * pack(target)).max(1) as u32,
            images.max(1) as u32,
            1,
        ],
        shared_bytes: 0,
        arguments: vec![
            Argument::Output,
            Argument::Input(0),
            Argument::Input(1),
            kernel::int(image)?,
        ],
    };
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn combine(inputs: &[Shape], output: Shape, target: &Target) -> Result<Kernel, String> {
    let mut arguments = vec![Argument::Output, Argument::Input(0)];
    arguments.extend(shared(inputs, inputs[0], 1)?);
    let launch = streaming("combine", arguments, output.len(), target)?;
    Ok(Kernel::single(launch, vec![]))
}

/// What follows the coefficients, of shape `table`: the row, which is operand `row`, the terms, and how many rows and terms there are.
fn shared(inputs: &[Shape], table: Shape, row: usize) -> Result<Vec<Argument>, String> {
    let terms = inputs.len() - row - 1;
    if terms > TERMS {
        return Err(format!("combines at most {TERMS} terms, not {terms}"));
    }
    let mut arguments = vec![Argument::Input(row)];
    arguments.extend((0..TERMS).map(|term| match term < terms {
        true => Argument::Input(row + 1 + term),
        false => Argument::Null,
    }));
    arguments.extend([kernel::int(table.batch())?, kernel::int(terms)?]);
    Ok(arguments)
}

/// Assignments of combinations, and of copies before them.
pub(super) fn update(
    op: &Assign,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let paired = op.paired(inputs.len());
    let [combined, copied] = [0..op.combined, op.combined..paired / 2];
    let most = combined.len().max(copied.len());
    if most > VECTORS {
        return Err(format!("assigns at most {VECTORS} vectors, not {most}"));
    }
    let mut arguments = vec![];
    for pairs in [combined, copied] {
        for side in [0, 1] {
            arguments.extend((pairs.start..pairs.start + VECTORS).map(|pair| {
                match pairs.contains(&pair) {
                    true => Argument::Input(2 * pair + side),
                    false => Argument::Null,
                }
            }));
        }
    }
    arguments.extend(shared(inputs, inputs[1], paired)?);
    let launch = streaming("update", arguments, output.len(), target)?;
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn blend(output: Shape, target: &Target) -> Result<Kernel, String> {
    let arguments = vec![
        Argument::Output,
        Argument::Input(0),
        Argument::Input(1),
        Argument::Input(2),
    ];
    let launch = streaming("blend", arguments, output.len(), target)?;
    Ok(Kernel::single(launch, vec![]))
}

/// A block per image.
pub(super) fn count_not_finite(
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    kernel::elements(inputs[0])?;
    let images = output.len();
    let image = inputs[0].len() / images.max(1);
    let entry = by_rows("count_not_finite", image, target);
    let launch = Launch {
        entry: format!("{entry}_{}", target.precision.suffix()),
        grid: [images.max(1) as u32, 1, 1],
        shared_bytes: 0,
        arguments: vec![Argument::Output, Argument::Input(0), kernel::int(image)?],
    };
    Ok(Kernel::single(launch, vec![]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Precision;

    const TARGET: Target = Target::rtx_3090(Precision::F32);

    #[test]
    fn terms_that_are_not_there_are_null_and_too_many_are_refused() {
        let output: Shape = [1, 8, 8, 4].into();
        let inputs = |terms: usize| {
            let mut all: Vec<Shape> = vec![[20, terms].into(), [1].into()];
            all.extend(vec![output; terms]);
            all
        };
        let kernel = combine(&inputs(5), output, &TARGET).unwrap();
        let pointers = &kernel.launches[0].arguments[3..3 + TERMS];
        assert_eq!(pointers[4], Argument::Input(6));
        assert_eq!(pointers[5..], [Argument::Null; 3]);
        assert!(combine(&inputs(9), output, &TARGET).is_err());
    }

    #[test]
    fn an_update_takes_combinations_before_copies() {
        let [latent, table, row]: [Shape; 3] = [[1, 8, 8, 4].into(), [20, 5].into(), [1].into()];
        let assign = |vectors: usize| {
            let combined = [latent, table].repeat(vectors);
            let copied = [latent, latent].repeat(vectors);
            let inputs = [combined, copied, vec![row], vec![latent; 5]].concat();
            let op = Assign {
                combined: vectors,
                terms: 5,
            };
            update(&op, &inputs, latent, &TARGET)
        };
        let kernel = assign(2).unwrap();
        let arguments = &kernel.launches[0].arguments;
        let operands = [0, 2, 1, 3, 4, 6, 5, 7].map(Argument::Input);
        for (pair, operands) in operands.chunks(2).enumerate() {
            assert_eq!(arguments[VECTORS * pair..][..2], *operands);
            assert_eq!(arguments[VECTORS * pair + 2..][..2], [Argument::Null; 2]);
        }
        let shared = &arguments[4 * VECTORS..];
        assert_eq!(shared[..2], [Argument::Input(8), Argument::Input(9)]);
        assert!(assign(5).is_err());
    }

    #[test]
    fn guidance_gives_every_image_its_own_blocks() {
        let kernel = guidance(&[[6, 33, 33, 4].into()], [3, 33, 33, 4].into(), &TARGET).unwrap();
        assert_eq!(kernel.launches[0].grid, [3, 3, 1]);
        assert_eq!(kernel.launches[0].entry, "guidance_f32");
        let odd = guidance(&[[2, 3, 5].into()], [1, 3, 5].into(), &TARGET).unwrap();
        assert_eq!(odd.launches[0].entry, "guidance_ragged_f32");
    }
}
