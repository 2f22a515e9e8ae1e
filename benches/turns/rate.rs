//! How fast the tensor cores take products of what is there already, from registers by `mma.sync` or on Hopper GPUs from shared memory by `wgmma`:
//! what a kernel of ours could reach at the very most.

use crate::work::Run;
use latent_diffusion::Result;
use latent_diffusion::backend::{Backend, Step};
use latent_diffusion::cuda::{Argument, Cuda, Kernel, Launch};
use latent_diffusion::ops::{Cost, Reshape};
use latent_diffusion::plan::Place;
use std::sync::Arc;

const THREADS: usize = 256;
const WARP: usize = 32;

/// Words of fragments that `primitive_rate` reads.
const FRAGMENTS: usize = 6 * WARP;

/// A kernel that multiplies and does nothing else.
struct Probe {
    entry: &'static str,
    /// Of [`THREADS`] threads, for each multiprocessor.
    blocks: usize,
    /// FLOPs of a block in a round.
    flops: u64,
    shared_bytes: u32,
    arguments: Vec<Argument>,
}

impl Probe {
    fn new(device: &Cuda, rounds: usize, portable: bool) -> Self {
        let rounds = Argument::Int(rounds as i32);
        match device.target().hopper() && !portable {
            // Two warpgroups, each 64 x 256 x 64, of operands of 64 columns.
            true => Self {
                entry: "probe_multiply_f16_sm90",
                blocks: 1,
                flops: 2 * 2 * 64 * 256 * 64,
                shared_bytes: (2 * 64 + 256) * 64 * 2,
                arguments: vec![Argument::Output, rounds],
            },
            // Four blocks one after the other; each warp 4 x 8 fragments of 16 x 8 x 16 products.
            false => Self {
                entry: "primitive_rate",
                blocks: 4,
                flops: (THREADS / WARP) as u64 * 4 * 8 * 2 * 16 * 8 * 16,
                shared_bytes: 0,
                arguments: vec![Argument::Output, Argument::Input(0), rounds],
            },
        }
    }
}

/// `rounds` rounds on every multiprocessor, and the FLOPs that they are; `portable` by the instruction that every GPU has.
///
/// # Errors
/// If the device cannot run it.
pub fn tensor_cores(device: &Arc<Cuda>, rounds: usize, portable: bool) -> Result<(Run, u64)> {
    let probe = Probe::new(device, rounds, portable);
    let blocks = device.target().multiprocessors as usize * probe.blocks;
    let place = |offset: usize, count: usize| Place {
        offset,
        shape: [count].into(),
        exact: true,
    };
    let (x, y) = (place(0, FRAGMENTS), place(4096, blocks * THREADS));
    let mut arena = device.alloc(y.offset + 4 * y.shape.len())?;
    // Halves of small numbers, which are no zeros: those take less power.
    let words: Vec<f32> = (0..FRAGMENTS as u32)
        .map(|i| f32::from_bits(0x2c01_2e03 + i * 0x0007_0013))
        .collect();
    device.write(&mut arena, x, &words)?;
    let launch = Launch {
        entry: probe.entry.to_owned(),
        grid: [blocks as u32, 1, 1],
        shared_bytes: probe.shared_bytes,
        arguments: probe.arguments,
    };
    let step = Step {
        name: launch.entry.clone(),
        op: Reshape { shape: y.shape }.into(),
        kernel: Kernel::single(launch, vec![]),
        inputs: vec![x],
        output: y,
        also: None,
        workspace: None,
        weights: vec![],
        cost: Cost::default(),
    };
    let (device, steps, mut replay) = (device.clone(), [step], Default::default());
    let flops = (blocks * rounds) as u64 * probe.flops;
    let run = move || device.run(&mut arena, &steps, &mut replay);
    Ok((Box::new(run), flops))
}
