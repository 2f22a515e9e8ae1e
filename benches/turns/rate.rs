//! How fast the tensor cores take products from registers by `mma.sync`: what a kernel of ours could reach at the very most.

use crate::work::Run;
use latent_diffusion::Result;
use latent_diffusion::backend::{Backend, Step};
use latent_diffusion::cuda::{Argument, Cuda, Kernel, Launch};
use latent_diffusion::ops::{Cost, Reshape};
use latent_diffusion::plan::Place;
use std::sync::Arc;

const THREADS: usize = 256;
const WARP: usize = 32;

/// Blocks per multiprocessor, one after the other.
const BLOCKS: usize = 4;

/// FLOPs of one round of a warp of `primitive_rate`: 4 x 8 fragments of 16 x 8 x 16 products.
const ROUND: u64 = 4 * 8 * 2 * 16 * 8 * 16;

/// `rounds` rounds on every multiprocessor, and the FLOPs that they are.
///
/// # Errors
/// If the device cannot run it.
pub fn tensor_cores(device: &Arc<Cuda>, rounds: usize) -> Result<(Run, u64)> {
    let blocks = device.target().multiprocessors as usize * BLOCKS;
    let place = |offset: usize, count: usize| Place {
        offset,
        shape: [count].into(),
        exact: true,
    };
    let (x, y) = (place(0, 6 * WARP), place(4096, blocks * THREADS));
    let mut arena = device.alloc(y.offset + 4 * y.shape.len())?;
    // Halves of small numbers, which are no zeros: those take less power.
    let words: Vec<f32> = (0..6 * WARP as u32)
        .map(|i| f32::from_bits(0x2c01_2e03 + i * 0x0007_0013))
        .collect();
    device.write(&mut arena, x, &words)?;
    let launch = Launch {
        entry: "primitive_rate".to_owned(),
        grid: [blocks as u32, 1, 1],
        shared_bytes: 0,
        arguments: vec![
            Argument::Output,
            Argument::Input(0),
            Argument::Int(rounds as i32),
        ],
    };
    let step = Step {
        name: launch.entry.clone(),
        op: Reshape { shape: y.shape }.into(),
        kernel: Kernel::single(launch, vec![]),
        inputs: vec![x],
        output: y,
        workspace: None,
        weights: vec![],
        cost: Cost::default(),
    };
    let (device, steps, mut replay) = (device.clone(), [step], Default::default());
    let flops = (blocks * THREADS / WARP * rounds) as u64 * ROUND;
    let run = move || device.run(&mut arena, &steps, &mut replay);
    Ok((Box::new(run), flops))
}
