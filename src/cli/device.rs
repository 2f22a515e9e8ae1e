//! Where to compute: the `--device` option, and the `devices` command.

mod options;

pub use options::{Accumulate, Choice, Dtype, Memory, Tier};

use super::console::Console;
use super::engine::EngineArgs;
use super::stop::Stop;
use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::{Cpu, Peak};
use latent_diffusion::cuda::{
    self, Cuda, Emulation, Gpu, Kernels, Precision, Target, Tuned, table,
};
use latent_diffusion::{Error, Result, selfcheck};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

/// More threads than any machine has cores.
const MAX_THREADS: usize = 1024;

/// A device that is ready.
pub enum Device {
    /// The processor.
    Cpu(Arc<Cpu>),
    /// A GPU, or the emulator.
    Cuda(Arc<Cuda>),
}

impl Device {
    /// Its name, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu(device) => device.name(),
            Self::Cuda(device) => device.name(),
        }
    }

    /// What it can do at best, measured; an emulator has no such thing.
    ///
    /// # Errors
    /// If it fails.
    pub fn measure_peak(&self) -> Result<Option<Peak>> {
        match self {
            Self::Cpu(device) => Ok(Some(device.measure_peak())),
            Self::Cuda(device) => {
                let rates = device.measure_peak()?;
                Ok(rates.map(|[flops, bytes]| Peak { flops, bytes }))
            }
        }
    }
}

/// Gets the device ready that the arguments name.
///
/// # Errors
/// [`Error::Device`] if it is not there.
pub fn open(args: &EngineArgs, console: &Console, stop: &Stop) -> Result<Device> {
    if args.threads > MAX_THREADS {
        return Err(Error::request(format!(
            "--threads {}: at most {MAX_THREADS}; one per core is best, and the default",
            args.threads
        )));
    }
    if args.target.is_some() && args.device != Choice::Emulator {
        return Err(Error::request(
            "--target: a GPU is what it is; --device emulator stands for any of them",
        ));
    }
    let device = match args.device {
        Choice::Cpu => cpu(args, console, stop)?,
        Choice::Cuda(ordinal) => configured(gpu(ordinal, args, stop)?, args, console)?,
        Choice::Emulator => {
            let precision = precision(args.dtype)?;
            let target = match &args.target {
                Some(name) => Gpu::named(name)?.target(precision),
                None => Target::a100(precision),
            };
            // Its purpose is to find faults, so it looks for them.
            let emulation = Emulation::watched(args.threads);
            let device = Cuda::emulator(emulation, target, stop.flag())?;
            configured(device, args, console)?
        }
        // A GPU that is there and fails is not passed over.
        Choice::Auto => match gpu(0, args, stop) {
            Ok(gpu) => configured(gpu, args, console)?,
            Err(reason) => {
                console.detail(&format!("computing on the CPU: {reason}"));
                cpu(args, console, stop)?
            }
        },
    };
    console.detail(&format!("device: {}", device.name()));
    Ok(device)
}

/// The refusal of a device, for what can be answered of a GPU that is not here.
pub fn elsewhere(error: Error) -> Error {
    match error {
        Error::Device(problem) => Error::Device(format!(
            "{problem}, or, for a GPU that is elsewhere, --device emulator --target H200"
        )),
        other => other,
    }
}

fn cpu(args: &EngineArgs, console: &Console, stop: &Stop) -> Result<Device> {
    if let Dtype::F16 | Dtype::Bf16 = args.dtype {
        console.note(
            "note: the CPU computes in f32 whatever --dtype says; weights stay as they are stored",
        );
    }
    let device = Cpu::new(args.threads, stop.flag())?;
    let device = device.with_limit(limit(args)).with_cuts(args.cuts);
    Ok(Device::Cpu(Arc::new(device)))
}

fn gpu(ordinal: u32, args: &EngineArgs, stop: &Stop) -> Result<Cuda> {
    let precision = precision(args.dtype)?;
    Cuda::gpu(ordinal, precision, args.threads, stop.flag())
}

/// A device as the arguments want it.
fn configured(device: Cuda, args: &EngineArgs, console: &Console) -> Result<Device> {
    let device = device.warned(Arc::new(console.warner()));
    let device = match args.packed {
        true => device.with_packed(),
        false => device,
    };
    let device = match args.accumulate {
        Accumulate::Auto => device,
        Accumulate::F32 => device.with_f32_sums(),
    };
    let device = match args.kernels {
        Tier::Of(Kernels::Portable) => device.portable(),
        _ => device,
    };
    let device = tuned(device, args, console)?;
    let device = match args.kernels {
        Tier::Auto => selfcheck::checked(device)?,
        Tier::Of(_) => device,
    };
    let device = device.with_limit(limit(args)).with_cuts(args.cuts);
    Ok(Device::Cuda(Arc::new(device)))
}

/// Where `ldm tune` writes its table, and every command looks for it.
pub fn tuned_path() -> Option<PathBuf> {
    let folder = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let settings = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
    Some(settings?.join("ldm").join("tuned.txt"))
}

/// The device with the table of tiles that was asked for, or with the usual one if that is of this device.
fn tuned(device: Cuda, args: &EngineArgs, console: &Console) -> Result<Cuda> {
    let read = |path: &Path| -> Result<Tuned> {
        let text =
            fs::read_to_string(path).map_err(|error| Error::file(path, error.to_string()))?;
        Tuned::parse(&text).map_err(|problem| Error::file(path, problem))
    };
    if let Some(path) = &args.tuned {
        return device.with_tuned(read(path)?);
    }
    let Some(path) = tuned_path().filter(|path| path.is_file()) else {
        return Ok(device);
    };
    let table = read(&path)?;
    if table.device() != device.described() {
        console.detail(&format!(
            "{} is of {}, and not used",
            path.display(),
            table.device()
        ));
        return Ok(device);
    }
    console.detail(&format!("tiles: {}", path.display()));
    device.with_tuned(table)
}

/// The most bytes of memory to use.
fn limit(args: &EngineArgs) -> Option<usize> {
    args.memory.map(|Memory(bytes)| bytes)
}

/// What the kernels compute in.
fn precision(dtype: Dtype) -> Result<Precision> {
    match dtype {
        Dtype::Auto | Dtype::F16 => Ok(Precision::F16),
        Dtype::F32 => Ok(Precision::F32),
        Dtype::Bf16 => Err(Error::request(
            "--dtype bf16: the CUDA kernels compute in f16 or f32; weights stored as bf16 are read in either",
        )),
    }
}

/// Lists what can compute, or checks the one device that is asked for.
///
/// # Errors
/// If the device is not there, or the list cannot be written.
pub fn list(args: &EngineArgs, console: &Console, stop: &Stop) -> Result<()> {
    if args.device != Choice::Auto {
        return console.result(&open(args, console, stop)?.name());
    }
    let cpu = Cpu::new(args.threads, stop.flag())?;
    console.result(&format!(
        "cpu\t{} threads, f32, {}",
        cpu.threads(),
        features()
    ))?;
    match cuda::gpus() {
        Ok(gpus) => {
            for gpu in gpus {
                let usable = match gpu.check() {
                    Ok(()) => String::new(),
                    Err(error) => format!("; not usable: {error}"),
                };
                console.result(&format!(
                    "cuda:{}\t{}, {:.1} GiB, sm_{}, {} multiprocessors{usable}",
                    gpu.ordinal,
                    gpu.name,
                    gpu.memory_bytes as f64 / f64::from(1 << 30),
                    gpu.compute_capability,
                    gpu.multiprocessors,
                ))?;
            }
        }
        Err(error) => console.result(&format!("cuda\tabsent: {error}"))?,
    }
    console.result(&match table::EMULATOR {
        Ok(compiler) => format!("emulator\tthe CUDA kernels on the CPU, compiled by {compiler}"),
        Err(reason) => format!("emulator\tabsent: {reason}"),
    })?;
    console.note(&match table::NVCC {
        Ok(version) => format!(
            "CUDA kernels: {} of {} files, compiled by nvcc {version} for {}",
            table::ENTRIES.len(),
            table::MODULES.len(),
            table::ARCHITECTURES
                .iter()
                .map(|architecture| format!("sm_{architecture}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Err(reason) => reason.to_owned(),
    });
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
