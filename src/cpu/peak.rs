//! What this machine can do at best, measured: the two lines of a roofline.

use super::Cpu;
use super::simd::{Loop, vectorised};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The best rates of a machine, all threads together.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Floating-point operations per second: fused multiply-adds on values in registers, each counted as two.
    pub flops: f64,
    /// Bytes read per second from memory.
    pub bytes: f64,
}

impl Cpu {
    /// Measures both rates on all threads at once, in a fraction of a second. What else the machine does lowers them.
    pub fn measure_peak(&self) -> Peak {
        // The widest vectors need twice as many sums to keep their units busy, which are too many for narrower ones.
        let narrow = self.best_rate(|| (), |()| multiply_adds::<96>());
        let wide = self.best_rate(|| (), |()| multiply_adds::<192>());
        // 64 MiB per thread: more than its share of any cache.
        let bytes = self.best_rate(|| vec![1u64; 8 << 20], |words| read(words));
        Peak {
            flops: narrow.max(wide),
            bytes,
        }
    }

    /// The rate of `work`, which says how much it did, at the best of several rounds.
    fn best_rate<T>(&self, prepare: impl Fn() -> T + Sync, work: impl Fn(&T) -> f64 + Sync) -> f64 {
        const ROUNDS: usize = 8;
        let rates = self.pool.broadcast(|_| {
            let data = prepare();
            let round = || {
                let start = Instant::now();
                let done = work(black_box(&data));
                done / start.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
            };
            (0..ROUNDS).map(|_| round()).fold(0.0, f64::max)
        });
        rates.into_iter().sum()
    }
}

/// As many independent sums as `N`, each multiplied and added to again and again.
struct MultiplyAdds<const N: usize> {
    sums: [f32; N],
}

/// Multiply-adds per sum.
const STEPS: usize = 1 << 16;

impl<const N: usize> Loop for &mut MultiplyAdds<N> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let (factor, term) = (black_box(0.5f32), black_box(1.0f32));
        let mut sums = self.sums;
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, term);
            }
        }
        self.sums = sums;
    }
}

fn multiply_adds<const N: usize>() -> f64 {
    let mut work = MultiplyAdds { sums: [1.0; N] };
    vectorised(&mut work);
    black_box(work.sums);
    (2 * N * STEPS) as f64
}

fn read(words: &[u64]) -> f64 {
    black_box(words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
    size_of_val(words) as f64
}
