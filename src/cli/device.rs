//! Where to compute: the `--device` option, and the `devices` command.

use super::args::EngineArgs;
use super::console::Console;
use super::stop::Stop;
use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::{Error, Result};
use std::str::FromStr;
use std::sync::Arc;

/// More threads than any machine has cores.
const MAX_THREADS: usize = 1024;

/// A place to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The fastest that is there.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, by number.
    Cuda(u32),
    /// The CUDA kernels, on the processor.
    Emulator,
}

impl FromStr for Device {
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

/// Gets the device ready.
///
/// # Errors
/// [`Error::Device`] if it is not there.
pub fn open(args: &EngineArgs, console: &Console, stop: &Stop) -> Result<Arc<Cpu>> {
    match args.device {
        Device::Cpu => {}
        Device::Auto => {
            console.detail("computing on the CPU: this build has no CUDA kernels yet");
        }
        Device::Cuda(_) | Device::Emulator => {
            return Err(Error::Device(
                "this build has no CUDA kernels yet: use --device cpu".into(),
            ));
        }
    }
    if let Dtype::F16 | Dtype::Bf16 = args.dtype {
        console.note(
            "note: the CPU computes in f32 whatever --dtype says; weights stay as they are stored",
        );
    }
    if args.threads > MAX_THREADS {
        return Err(Error::request(format!(
            "--threads {}: at most {MAX_THREADS}; one per core is best, and the default",
            args.threads
        )));
    }
    let cpu = Cpu::new(args.threads, stop.flag())?;
    console.detail(&format!("device: {}", cpu.name()));
    Ok(Arc::new(cpu))
}

/// Lists what can compute, or checks the one device that is asked for.
///
/// # Errors
/// If the device is not there, or the list cannot be written.
pub fn list(args: &EngineArgs, console: &Console, stop: &Stop) -> Result<()> {
    let cpu = open(args, console, stop)?;
    console.result(&format!(
        "cpu\t{} threads, f32, {}",
        cpu.threads(),
        features()
    ))?;
    console.note("CUDA: this build has no CUDA kernels yet, so every --device but cpu is refused.");
    Ok(())
}

/// The vector instructions that matter here.
fn features() -> String {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found = [("portable code", true)];
    let names: Vec<&str> = found
        .iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| *name)
        .collect();
    format!("{} {}", std::env::consts::ARCH, names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_every_program_writes_them() {
        let read = |text: &str| text.parse::<Device>();
        assert_eq!(read("AUTO"), Ok(Device::Auto));
        assert_eq!(read("cpu"), Ok(Device::Cpu));
        for second in ["cuda:1", "cuda1", "1"] {
            assert_eq!(read(second), Ok(Device::Cuda(1)));
        }
        assert!(read("tpu").is_err() && read("cuda:x").is_err() && read("").is_err());
    }
}
