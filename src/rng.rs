//! The noise that everybody else's seeds make: PyTorch's normal deviates, on the CPU and on CUDA.
//!
//! A seed is a promise only if the noise behind it is the same, so both of torch's generators are written out here,
//! down to the order in which they spend their random words. One generator serves one image, seeded with the request's
//! seed plus the image's index; values come in the order torch fills a `[C, h, w]` tensor.
//!
//! Values agree with `torch.randn(..., dtype=torch.float32)` to 1e-6, not to the bit: torch itself takes logarithms and
//! sines from different libraries on different machines. Against ourselves they are exact: the same seed gives the same
//! values whatever the batch or the number of threads. (Torch's f16 noise on the CPU is another stream, and not offered.)

use std::f32::consts::TAU;

/// Whose normal deviates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoiseSource {
    /// `torch.randn` on the CPU, in f32: diffusers with a CPU generator, ComfyUI.
    #[default]
    Cpu,
    /// `torch.randn` on CUDA: AUTOMATIC1111, and diffusers with a CUDA generator.
    Cuda,
}

/// A stream of standard normal noise.
#[derive(Clone)]
pub struct Noise(Generator);

#[derive(Clone)]
enum Generator {
    Cpu(Box<TorchCpu>),
    Cuda(TorchCuda),
}

impl Noise {
    /// The stream of a seed.
    pub fn new(source: NoiseSource, seed: u64) -> Self {
        match source {
            NoiseSource::Cpu => Self::cpu(seed),
            NoiseSource::Cuda => Self::cuda(seed),
        }
    }

    /// Torch's CPU stream. Like torch's, it knows only the low 32 bits of the seed.
    pub fn cpu(seed: u64) -> Self {
        Self(Generator::Cpu(Box::new(TorchCpu {
            engine: MersenneTwister::new(seed as u32),
            spare: None,
        })))
    }

    /// Torch's CUDA stream, as a GPU makes it that has a thread for every value: 43,008 on an RTX 3060, 221,184 on an A100,
    /// where the latent of a 512x512 image takes 16,384. Beyond that torch's values depend on the GPU, and ours do not.
    pub fn cuda(seed: u64) -> Self {
        Self(Generator::Cuda(TorchCuda { seed, calls: 0 }))
    }

    /// The next `count` values: one call of `torch.randn`. How a stream is cut into calls matters, as it does in torch.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        match &mut self.0 {
            Generator::Cpu(cpu) => cpu.normal(count),
            Generator::Cuda(cuda) => cuda.normal(count),
        }
    }
}

/// Torch's CPU generator.
///
/// # Source
/// `aten/src/ATen/native/cpu/DistributionTemplates.h` and `aten/src/ATen/core/DistributionsHelper.h` of PyTorch.
#[derive(Clone)]
struct TorchCpu {
    engine: MersenneTwister,
    /// The second deviate of a pair, where a small call used only the first.
    spare: Option<f64>,
}

impl TorchCpu {
    /// Values are made in blocks of this many, eight pairs each.
    const BLOCK: usize = 16;

    fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < Self::BLOCK {
            return (0..count).map(|_| self.single() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform_f32()).collect();
        for block in values.chunks_exact_mut(Self::BLOCK) {
            box_muller_block(block);
        }
        // A last partial block is made again, whole, over the end of the block before it.
        if !count.is_multiple_of(Self::BLOCK) {
            let tail = &mut values[count - Self::BLOCK..];
            tail.fill_with(|| self.uniform_f32());
            box_muller_block(tail);
        }
        values
    }

    /// One value of a call of fewer than 16.
    fn single(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = std::f64::consts::TAU * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// 24 random bits in [0, 1).
    fn uniform_f32(&mut self) -> f32 {
        (self.engine.next() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// 53 random bits in [0, 1).
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.engine.next());
        let low = u64::from(self.engine.next());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

/// Sixteen uniform values to sixteen normal ones in place: value `j` is the radius and `j + 8` the angle of a pair.
///
/// Products are rounded to f32 where torch rounds them; only the elementary functions are taken in f64.
fn box_muller_block(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(TorchCpu::BLOCK / 2);
    for (a, b) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * f64::from(1.0 - *a).ln() as f32).sqrt();
        let angle = f64::from(TAU * *b);
        *a = radius * angle.cos() as f32;
        *b = radius * angle.sin() as f32;
    }
}

/// MT19937.
///
/// # Source
/// Matsumoto and Nishimura, ACM TOMACS 8 (1998), with their initialisation of 2002.
#[derive(Clone)]
struct MersenneTwister {
    state: [u32; Self::N],
    used: usize,
}

impl MersenneTwister {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self {
            state,
            used: Self::N,
        }
    }

    fn next(&mut self) -> u32 {
        if self.used == Self::N {
            self.twist();
        }
        let mut word = self.state[self.used];
        self.used += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::N {
            let joined =
                (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::N] & 0x7fff_ffff);
            let twisted = (joined >> 1) ^ if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ twisted;
        }
        self.used = 0;
    }
}

/// Torch's CUDA generator: value `i` of call `n` is a function of the seed, `i` and `n` alone.
///
/// # Source
/// `aten/src/ATen/native/cuda/DistributionTemplates.h` of PyTorch over cuRAND's Philox generator.
#[derive(Clone)]
struct TorchCuda {
    seed: u64,
    calls: u32,
}

impl TorchCuda {
    fn normal(&mut self, count: usize) -> Vec<f32> {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let call = self.calls;
        self.calls = call.wrapping_add(1);
        let value = |i: usize| {
            let words = philox([call, 0, i as u32, (i as u64 >> 32) as u32], key);
            curand_normal(words[0], words[1])
        };
        (0..count).map(value).collect()
    }
}

/// The first of the pair of normal values that cuRAND makes of two random words, in its f32 arithmetic with fused
/// multiply-adds.
fn curand_normal(a: u32, b: u32) -> f32 {
    const UNIT: f32 = 1.0 / (1u64 << 32) as f32;
    const TURN: f32 = TAU * UNIT;
    let u = (a as f32).mul_add(UNIT, UNIT / 2.0);
    let v = (b as f32).mul_add(TURN, TURN / 2.0);
    let radius = (-2.0 * f64::from(u).ln() as f32).sqrt();
    radius * f64::from(v).sin() as f32
}

/// Philox4x32-10.
///
/// # Source
/// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors published with Random123 (`tests/kat_vectors`, philox4x32 with 10 rounds).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        assert_eq!(
            philox(pi, [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    /// `torch.randn(12)` on CUDA after `torch.manual_seed(0)`, as AUTOMATIC1111 publishes it with its own generator.
    #[test]
    fn cuda_stream_gives_the_published_values() {
        let published = [
            -0.92466259,
            -0.42534415,
            -2.6438457,
            0.14518388,
            -0.12086647,
            -0.57972564,
            -0.62285122,
            -0.32838709,
            -1.07454231,
            -0.36314407,
            -1.67105067,
            2.26550497,
        ];
        let mut noise = Noise::cuda(0);
        for (ours, theirs) in noise.normal(12).iter().zip(published) {
            assert!((f64::from(*ours) - theirs).abs() <= 1e-6, "{ours} {theirs}");
        }
        assert_ne!(noise.normal(12), Noise::cuda(0).normal(12));
    }

    /// The 10000th word of the reference implementation's default seed, as the C++ standard requires of `mt19937`.
    #[test]
    fn mersenne_twister_gives_the_standard_word() {
        let mut engine = MersenneTwister::new(5489);
        let last = (0..10_000).map(|_| engine.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
