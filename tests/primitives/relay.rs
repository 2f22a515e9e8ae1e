//! Grids that read what the grid before has just written, one after another and as a recording, in which the next one starts early where the GPU
//! can: two buffers take turns, so a multiprocessor's cache holds what lay in them a moment ago.

use crate::tensor::Tensor;
use latent_diffusion::backend::{Backend, Step};
use latent_diffusion::cuda::tensor_map::{Swizzle, TensorMap};
use latent_diffusion::cuda::{Argument, Cuda, Kernel, Launch, Operand};
use latent_diffusion::ops::{Cost, Reshape};
use latent_diffusion::plan::Place;

/// The entry whose threads read and write floats.
pub const ENTRY: &str = "primitive_relay";

/// The one by which halves go one way by tensor maps and the other by threads, in clusters.
pub const HOPPER: &str = "primitive_relay_sm90";

const BLOCKS: usize = 40;

/// Grids of a run; an even number, as each turns what it reads around.
const GRIDS: usize = 16;

/// Numbers that a block hands on: of its threads, and of a box.
const OF_THREADS: usize = 256;
const OF_BOX: [usize; 2] = [64, 16];

/// What is wrong with what a device's grids hand on by an entry.
pub fn wrong(device: &Cuda, entry: &str) -> Option<String> {
    if entry == ENTRY {
        let arguments = [Argument::Output, Argument::Input(0)];
        return handed_on(device, entry, &arguments, [OF_THREADS, 0]);
    }
    let [columns, rows] = OF_BOX;
    let map: TensorMap = Tensor::new([columns, BLOCKS * rows], OF_BOX, Swizzle::None).map();
    let of = |of| Argument::Map { of, map };
    (0..2).find_map(|stores| {
        let arguments = [
            Argument::Output,
            of(Operand::Output),
            Argument::Input(0),
            of(Operand::Input(0)),
            Argument::Int(stores),
        ];
        handed_on(
            device,
            entry,
            &arguments,
            [columns * rows, 2 * columns * rows],
        )
    })
}

/// The same for these arguments, with so many numbers and bytes of shared memory for a block.
fn handed_on(
    device: &Cuda,
    entry: &str,
    arguments: &[Argument],
    [numbers, shared_bytes]: [usize; 2],
) -> Option<String> {
    let count = numbers * BLOCKS;
    let [first, even, odd] = [0, 1, 2].map(|buffer| Place {
        offset: 4 * count * buffer,
        shape: [count].into(),
        exact: entry == ENTRY,
    });
    let steps: Vec<Step<Cuda>> = (0..GRIDS)
        .map(|number| {
            let [from, to] = match number {
                0 => [first, even],
                _ if number % 2 == 0 => [odd, even],
                _ => [even, odd],
            };
            let launch = Launch {
                entry: entry.to_owned(),
                grid: [BLOCKS as u32, 1, 1],
                shared_bytes: shared_bytes as u32,
                arguments: arguments.to_vec(),
            };
            Step {
                name: format!("{entry} {number}"),
                op: Reshape { shape: to.shape }.into(),
                kernel: Kernel::single(launch, vec![]),
                inputs: vec![from],
                output: to,
                also: None,
                workspace: None,
                weights: vec![],
                cost: Cost::default(),
            }
        })
        .collect();
    let mut arena = device.alloc(4 * 3 * count).unwrap();
    let mut replay = Default::default();
    (0..4).find_map(|run| {
        // Halves hold whole numbers up to 2048.
        let numbers: Vec<f32> = (0..count)
            .map(|i| ((i * 5 + run * 3) % 1999) as f32)
            .collect();
        device.write(&mut arena, first, &numbers).unwrap();
        let done = device.run(&mut arena, &steps, &mut replay);
        done.unwrap_or_else(|error| panic!("{entry}: {error}"));
        let mut found = vec![0.0; count];
        device.read(&arena, odd, &mut found).unwrap();
        let expected = numbers.iter().map(|x| x + GRIDS as f32);
        let wrong = found.iter().zip(expected).filter(|(a, b)| *a != b).count();
        (wrong > 0).then(|| {
            format!(
                "{entry} {arguments:?}: in run {run}, {wrong} of {count} numbers are not handed on"
            )
        })
    })
}
