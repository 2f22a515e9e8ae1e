//! What a device can do at best, measured by kernels that do nothing else (`kernels/probe.cu`, `probe_sm90.cu`): the ceilings that times are held
//! against.

use super::door::{Call, Door, Span, Touched, Value};
use super::kernel::{Precision, Target};
use super::{Cuda, table};
use crate::error::{Error, Result};
use std::time::Duration;

/// Bytes that are copied: more than any second-level cache holds, and a millisecond or so.
const BYTES: usize = 256 << 20;

/// Products, one after another, in each accumulator: as long.
const STEPS: i32 = 4096;

/// Threads of a block that multiplies registers.
const THREADS: usize = 128;

/// The product of two warpgroups from shared memory: rows, columns and depth of a step.
const SHARED: [usize; 3] = [2 * 64, 256, 64];

/// A probe of products.
struct Multiply {
    entry: &'static str,
    /// For each multiprocessor.
    blocks: u32,
    /// Operations of a block in a step.
    flops: f64,
    /// Bytes of shared memory of a block.
    shared_bytes: u32,
    /// What is passed behind the sums.
    values: Vec<Value>,
}

impl Multiply {
    /// The fastest products that the target has in its precision.
    fn new(target: &Target, steps: i32) -> Self {
        match (target.precision, target.hopper()) {
            (Precision::F16, true) => {
                let [rows, columns, depth] = SHARED;
                Self {
                    entry: "probe_multiply_f16_sm90",
                    blocks: 1,
                    flops: (2 * rows * columns * depth) as f64,
                    shared_bytes: ((rows + columns) * depth * Precision::F16.bytes()) as u32,
                    values: vec![Value::Int(steps)],
                }
            }
            // Four warps with 16 fragments of 16 x 8 x 16 multiply-adds.
            (Precision::F16, _) => Self {
                entry: "probe_multiply_f16",
                blocks: 4,
                flops: (4 * 16 * 16 * 8 * 16 * 2) as f64,
                shared_bytes: 0,
                values: vec![Value::Int(steps)],
            },
            (Precision::F32, _) => Self {
                entry: "probe_multiply_f32",
                blocks: 8,
                flops: (THREADS * 32 * 2) as f64,
                shared_bytes: 0,
                values: vec![Value::Float(0.5), Value::Int(steps)],
            },
        }
    }
}

fn call(
    entry: &str,
    (blocks, shared_bytes): (u32, u32),
    values: Vec<Value>,
    target: &Target,
) -> Result<Call> {
    let entry = table::entry(entry)
        .ok_or_else(|| Error::Device(format!("there is no kernel `{entry}`")))?;
    Ok(Call {
        node: "ceilings".to_owned(),
        entry,
        grid: [blocks, 1, 1],
        shared_bytes,
        early: target.hopper(),
        values,
    })
}

impl Cuda {
    /// Floating-point operations that the device multiplies and adds per second at best, and bytes of memory that it reads and writes; `None`
    /// for the emulator, whose times say nothing.
    ///
    /// # Errors
    /// If the device fails, or has too little memory.
    pub fn measure_peak(&self) -> Result<Option<[f64; 2]>> {
        if self.hardware().is_none() {
            return Ok(None);
        }
        let (door, target) = (&*self.door, &self.target);
        let probe = Multiply::new(target, STEPS);
        let (multiplied, _) = multiply(door, target, &probe)?;
        let (copied, to) = copy(door, target, BYTES)?;
        let blocks = f64::from(probe.blocks * target.multiprocessors);
        Ok(Some([
            probe.flops * f64::from(STEPS) * blocks / multiplied.as_secs_f64(),
            2.0 * to.bytes() as f64 / copied.as_secs_f64(),
        ]))
    }
}

fn memory(span: &Span, written: bool) -> Value {
    Value::Pointer(Touched {
        span: span.clone(),
        written,
        weight: false,
    })
}

/// Copies so many bytes: how long it takes, and the copy.
fn copy(door: &dyn Door, target: &Target, bytes: usize) -> Result<(Duration, Span)> {
    let [from, to] = [door.alloc(bytes)?, door.alloc(bytes)?].map(|memory| Span::whole(&memory));
    door.write(&from, &vec![0x11; bytes])?;
    let count = i32::try_from(bytes / 16);
    let count =
        count.map_err(|_| Error::Memory("a copy of 32 GiB or more is not timed".to_owned()))?;
    let values = vec![memory(&to, true), memory(&from, false), Value::Int(count)];
    let blocks = 8 * target.multiprocessors;
    let taken = door.time(&call("probe_copy", (blocks, 0), values, target)?)?;
    Ok((taken, to))
}

/// Multiplies: how long it takes, and each thread's sum.
fn multiply(door: &dyn Door, target: &Target, probe: &Multiply) -> Result<(Duration, Span)> {
    let blocks = probe.blocks * target.multiprocessors;
    let mut call = call(probe.entry, (blocks, probe.shared_bytes), vec![], target)?;
    let threads = (blocks * call.entry.threads) as usize;
    let sums = door.alloc(threads * Precision::F32.bytes())?;
    let sums = Span::whole(&sums);
    call.values = [&[memory(&sums, true)], &probe.values[..]].concat();
    Ok((door.time(&call)?, sums))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::emulator::{self, Emulation};

    fn floats(door: &dyn Door, span: &Span) -> Vec<f32> {
        let mut bytes = vec![0; span.bytes()];
        door.read(span, &mut bytes).unwrap();
        bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }

    const FEW: usize = 30;

    /// The sum that a thread ends with. By registers it is of products of ones, or near a limit.
    fn expected(target: &Target, thread: usize) -> f32 {
        match (target.precision, target.compute_capability) {
            (Precision::F16, 90) => {
                // Rows of A and of B by their number in shared memory, each of eight halves again and again.
                let [rows, columns, depth] = SHARED;
                let value = |row: usize, i: usize| {
                    let step = [0, 3][i % 2] + 6 * (i / 2);
                    (2 * ((row * 5 + step) & 15)) as f32 / 16.0 - 15.0 / 16.0
                };
                let product = |row: usize, column: usize| -> f32 {
                    let pairs = (0..8).map(|i| value(row, i) * value(rows + column, i));
                    pairs.sum::<f32>() * (depth / 8) as f32
                };
                // Two rows, eight apart, and two columns of every eight.
                let first = 16 * (thread / 32) + thread % 32 / 4;
                let places = [first, first + 8].into_iter().flat_map(|row| {
                    let columns = (0..columns).filter(move |column| column % 8 / 2 == thread % 4);
                    columns.map(move |column| (row, column))
                });
                places
                    .map(|(row, column)| product(row, column))
                    .sum::<f32>()
                    * FEW as f32
            }
            (Precision::F16, _) => (64 * 16 * FEW) as f32,
            (Precision::F32, _) => 64.0,
        }
    }

    #[test]
    #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
    fn probes_do_the_work_that_they_are_timed_for() {
        let door = emulator::open(Emulation::watched(2)).unwrap();
        for (precision, compute_capability) in [
            (Precision::F16, 80),
            (Precision::F16, 90),
            (Precision::F32, 80),
        ] {
            let target = Target {
                multiprocessors: 2,
                compute_capability,
                ..Target::a100(precision)
            };
            let probe = Multiply::new(&target, FEW as i32);
            let (_, sums) = multiply(&*door, &target, &probe).unwrap();
            let sums = floats(&*door, &sums);
            let threads = table::entry(probe.entry).unwrap().threads as usize;
            assert_eq!(sums.len(), (probe.blocks * 2) as usize * threads);
            for (thread, sum) in sums.into_iter().enumerate() {
                let expected = expected(&target, thread % threads);
                let error = (sum - expected).abs();
                assert!(error < 1e-3, "{}: {sum}, not {expected}", probe.entry);
            }
        }
        let target = Target::a100(Precision::F16);
        let (_, copied) = copy(&*door, &target, 100_000).unwrap();
        let mut bytes = vec![0; 100_000];
        door.read(&copied, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0x11));
    }
}
