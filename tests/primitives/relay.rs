//! Grids that read what the grid before has just written, one after another and as a recording, in which the next one starts early where the GPU
//! can: two buffers take turns, so a multiprocessor's cache holds what lay in them a moment ago.

use latent_diffusion::backend::{Backend, Step};
use latent_diffusion::cuda::{Argument, Cuda, Kernel, Launch};
use latent_diffusion::ops::{Cost, Reshape};
use latent_diffusion::plan::Place;

/// The entry that is asked.
pub const ENTRY: &str = "primitive_relay";

/// Threads of a block.
const THREADS: usize = 256;

const BLOCKS: usize = 40;

/// Grids of a run; an even number, as each turns the numbers around.
const GRIDS: usize = 16;

/// What is wrong with what a device's grids hand on.
pub fn wrong(device: &Cuda) -> Option<String> {
    let count = THREADS * BLOCKS;
    let [first, even, odd] = [0, 1, 2].map(|buffer| Place {
        offset: 4 * count * buffer,
        shape: [count].into(),
        exact: true,
    });
    let steps: Vec<Step<Cuda>> = (0..GRIDS)
        .map(|number| {
            let [from, to] = match number {
                0 => [first, even],
                _ if number % 2 == 0 => [odd, even],
                _ => [even, odd],
            };
            let launch = Launch {
                entry: ENTRY.to_owned(),
                grid: [BLOCKS as u32, 1, 1],
                shared_bytes: 0,
                arguments: vec![Argument::Output, Argument::Input(0)],
            };
            Step {
                name: format!("{ENTRY} {number}"),
                op: Reshape { shape: to.shape }.into(),
                kernel: Kernel::single(launch, vec![]),
                inputs: vec![from],
                output: to,
                workspace: None,
                weights: vec![],
                cost: Cost::default(),
            }
        })
        .collect();
    let mut arena = device.alloc(4 * 3 * count).unwrap();
    let mut replay = Default::default();
    (0..4).find_map(|run| {
        let numbers: Vec<f32> = (0..count).map(|i| (i * 5 + run * 3) as f32).collect();
        device.write(&mut arena, first, &numbers).unwrap();
        let done = device.run(&mut arena, &steps, &mut replay);
        done.unwrap_or_else(|error| panic!("{ENTRY}: {error}"));
        let mut found = vec![0.0; count];
        device.read(&arena, odd, &mut found).unwrap();
        let expected = numbers.iter().map(|x| x + GRIDS as f32);
        let wrong = found.iter().zip(expected).filter(|(a, b)| *a != b).count();
        (wrong > 0)
            .then(|| format!("{ENTRY}: in run {run}, {wrong} of {count} numbers are not handed on"))
    })
}
