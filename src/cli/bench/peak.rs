//! What this machine can do at best, measured in the same run: multiply-adds per second, and bytes per second.

use latent_diffusion::ops::Cost;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

/// The roofline's two lines.
pub(super) struct Peak {
    /// Floating-point operations per second, in registers, all threads.
    pub flops: f64,
    /// Bytes read per second from memory, all threads.
    pub bytes: f64,
}

impl Peak {
    /// Measures both on so many threads: a fraction of a second.
    pub(super) fn measure(threads: usize) -> Self {
        Self {
            flops: best(threads, || (), |_| multiply_adds()),
            bytes: best(threads, || vec![1u64; WORDS], |words| sum(words)),
        }
    }

    /// Which share of the time the work would take at best, at the nearer of the two lines.
    pub(super) fn share(&self, cost: Cost, weight_bytes: usize, seconds: f64) -> f64 {
        let compute = cost.flops as f64 / self.flops;
        let memory = cost.bytes(size_of::<f32>(), weight_bytes) as f64 / self.bytes;
        compute.max(memory) / seconds
    }
}

/// 64 MiB per thread: larger than its share of any cache.
const WORDS: usize = 8 << 20;

/// The best rate of `work`, which says how much it did, over several rounds on all threads at once.
fn best<T>(threads: usize, prepare: impl Fn() -> T + Sync, work: impl Fn(&T) -> f64 + Sync) -> f64 {
    const ROUNDS: usize = 8;
    let one = || {
        let data = prepare();
        let mut fastest = (0.0, Duration::MAX);
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let done = work(black_box(&data));
            fastest = (done, fastest.1.min(start.elapsed()));
        }
        fastest.0 / fastest.1.as_secs_f64()
    };
    thread::scope(|scope| {
        let rates: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        rates.into_iter().filter_map(|rate| rate.join().ok()).sum()
    })
}

fn multiply_adds() -> f64 {
    const LANES: usize = 64;
    const STEPS: usize = 1 << 18;
    let factor = black_box([0.5f32; LANES]);
    let mut sums = [1.0f32; LANES];
    for _ in 0..STEPS {
        for (sum, factor) in sums.iter_mut().zip(&factor) {
            *sum = *sum * factor + 1.0;
        }
    }
    black_box(sums);
    (2 * LANES * STEPS) as f64
}

fn sum(words: &[u64]) -> f64 {
    black_box(words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
    size_of_val(words) as f64
}
