//! What only sampling asks for.

use super::elementwise::{by_rows, pack, streaming};
use super::kernel::{self, Argument, Kernel, Launch, Target};
use crate::ops::TimestepEmbedding;
use crate::tensor::Shape;

/// Terms of a combination that the kernel takes.
const TERMS: usize = 8;

/// Threads of a block of the guidance kernel.
const GUIDANCE_THREADS: usize = 512;

/// Blocks along y that a grid may have.
const MOST_IMAGES: usize = 65_535;

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
    if images > MOST_IMAGES {
        return Err(format!("takes at most {MOST_IMAGES} images, not {images}"));
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
    let terms = inputs.len() - 2;
    if terms > TERMS {
        return Err(format!("combines at most {TERMS} terms, not {terms}"));
    }
    let mut arguments = vec![Argument::Output, Argument::Input(0), Argument::Input(1)];
    arguments.extend((0..TERMS).map(|term| match term < terms {
        true => Argument::Input(2 + term),
        false => Argument::Null,
    }));
    arguments.extend([kernel::int(inputs[0].batch())?, kernel::int(terms)?]);
    let launch = streaming("combine", arguments, output.len(), target)?;
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

    const TARGET: Target = Target {
        precision: Precision::F32,
        compute_capability: 86,
        multiprocessors: 82,
        shared_bytes_per_block: 99 << 10,
        prefer: None,
    };

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
    fn guidance_gives_every_image_its_own_blocks() {
        let kernel = guidance(&[[6, 33, 33, 4].into()], [3, 33, 33, 4].into(), &TARGET).unwrap();
        assert_eq!(kernel.launches[0].grid, [3, 3, 1]);
        assert_eq!(kernel.launches[0].entry, "guidance_f32");
        let odd = guidance(&[[2, 3, 5].into()], [1, 3, 5].into(), &TARGET).unwrap();
        assert_eq!(odd.launches[0].entry, "guidance_ragged_f32");
    }
}
