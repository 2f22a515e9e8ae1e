//! What `--device`, `--dtype`, `--accumulate`, `--kernels` and `--memory` may say.

use latent_diffusion::cuda::Kernels;
use std::str::FromStr;

/// A place to compute, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The fastest that is there.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, by number.
    Cuda(u32),
    /// The CUDA kernels, on the processor.
    Emulator,
}

impl FromStr for Choice {
    type Err = String;

    /// Reads `auto`, `cpu`, `cuda`, `cuda:1` (also `cuda1`, or a bare number) or `emulator`.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_lowercase();
        match name.as_str() {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" | "gpu" => return Ok(Self::Cuda(0)),
            "emulator" => return Ok(Self::Emulator),
            _ => {}
        }
        let number = name.strip_prefix("cuda").unwrap_or(&name);
        let number = number.strip_prefix(':').unwrap_or(number);
        let number = number.parse().map(Self::Cuda);
        number.map_err(|_| "expected auto, cpu, cuda, cuda:N or emulator".into())
    }
}

/// The precision of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// The device's own.
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// 16 bits with the range of 32.
    Bf16,
}

impl FromStr for Dtype {
    type Err = String;

    /// Reads a name as PyTorch, diffusers, stable-diffusion.cpp or CompVis has it.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" | "autocast" => Ok(Self::Auto),
            "f32" | "fp32" | "float32" | "float" | "full" => Ok(Self::F32),
            "f16" | "fp16" | "float16" | "half" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            _ => Err("expected auto, f32, f16 or bf16".into()),
        }
    }
}

/// What products are summed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// What is quickest on the device, where it is precise enough.
    Auto,
    /// 32 bits, always.
    F32,
}

impl FromStr for Accumulate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse()? {
            Dtype::Auto => Ok(Self::Auto),
            Dtype::F32 => Ok(Self::F32),
            _ => Err("expected auto or f32".into()),
        }
    }
}

/// The CUDA kernels to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// All, unless those for Hopper GPUs alone fail a check at the start.
    Auto,
    /// These, unchecked.
    Of(Kernels),
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::Of(Kernels::All)),
            "portable" => Ok(Self::Of(Kernels::Portable)),
            _ => Err("expected auto, all or portable".into()),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub usize);

impl FromStr for Memory {
    type Err = String;

    /// Reads `2GiB`, `1.5g`, `512 MiB`, `512mb` or a bare number of bytes; all units are powers of 1024.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        let unit = text
            .find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(unit);
        let shift = match unit {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err("expected an amount of memory such as 2GiB or 512MiB".into()),
        };
        match number.trim().parse::<f64>() {
            Ok(number) if (0.0..1e15).contains(&number) => {
                Ok(Self((number * (1u64 << shift) as f64) as usize))
            }
            _ => Err("expected an amount of memory such as 2GiB or 512MiB".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_every_program_writes_them() {
        let read = |text: &str| text.parse::<Choice>();
        assert_eq!(read("AUTO"), Ok(Choice::Auto));
        assert_eq!(read("cpu"), Ok(Choice::Cpu));
        for second in ["cuda:1", "cuda1", "1"] {
            assert_eq!(read(second), Ok(Choice::Cuda(1)));
        }
        let memory = |text: &str| text.parse::<Memory>().map(|Memory(bytes)| bytes);
        assert_eq!(memory("2GiB"), Ok(2 << 30));
        assert_eq!(memory("1.5 mb"), Ok(3 << 19));
        assert_eq!(memory("4096"), Ok(4096));
        assert!(memory("-1").is_err() && memory("2 apples").is_err());
        assert!(read("tpu").is_err() && read("cuda:x").is_err() && read("").is_err());
    }
}
