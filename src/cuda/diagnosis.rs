//! What a driver's refusal means to a person: one sentence each, with what was found, what is needed and what to do.

use super::gpu::Gpu;
use super::table;
use crate::error::Error;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult as Code;

/// Every function of the driver that is called in `driver.rs`, by us or by cudarc.
pub(super) const FUNCTIONS: [&str; 41] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuTensorMapEncodeTiled",
];

/// There is no driver.
pub(super) const NO_DRIVER: &str =
    "there is no NVIDIA driver (no libcuda is found): use --device cpu";

/// The driver shows no GPU.
pub(super) const NO_GPU: &str =
    "the NVIDIA driver shows no GPU (is CUDA_VISIBLE_DEVICES set?): use --device cpu";

/// The driver did what no driver does.
pub(super) const BROKEN_DRIVER: &str =
    "the NVIDIA driver is damaged: reinstall it, or use --device cpu";

/// The driver's library lacks a function.
pub(super) fn lacks(function: &str) -> Error {
    Error::Device(format!(
        "the libcuda that is found is no driver this program can use, as it lacks {function}: install NVIDIA's driver for CUDA {} or \
         newer, or use --device cpu",
        needed().unwrap_or(OLDEST)
    ))
}

/// There is no GPU of that number.
pub(super) fn no_such_gpu(ordinal: u32, count: u32) -> Error {
    let there = match count {
        1 => "the only one is cuda:0".to_owned(),
        _ => format!("there are cuda:0 to cuda:{}", count - 1),
    };
    Error::Device(format!(
        "there is no GPU cuda:{ordinal}: {there}; --device cpu needs none"
    ))
}

/// The CUDA version whose drivers had every function that is used here, a year before this was written.
const OLDEST: i32 = 12;

/// The major version of CUDA whose machine code the program holds: a driver runs code of its own and older major versions.
fn needed() -> Option<i32> {
    table::NVCC.ok()?.split('.').next()?.parse().ok()
}

/// Refuses a driver that is older than the machine code in this program; `found` is 1000 * major + 10 * minor.
pub(super) fn check_version(found: i32) -> Result<(), Error> {
    let needed = needed().unwrap_or(OLDEST);
    if found / 1000 >= needed {
        return Ok(());
    }
    Err(Error::Device(format!(
        "the NVIDIA driver is for CUDA {}.{}, and this program needs one for CUDA {needed}.0 or newer: update the driver, or use --device \
         cpu",
        found / 1000,
        found % 1000 / 10
    )))
}

/// Refuses a GPU that this program has no code for.
pub(super) fn check_code(gpu: &Gpu) -> Result<(), Error> {
    if let Err(reason) = table::NVCC {
        return Err(no_code(reason));
    }
    match table::PTX {
        Some(oldest) if gpu.compute_capability >= oldest => Ok(()),
        _ => Err(unsupported(gpu)),
    }
}

/// This build holds no machine code.
pub(super) fn no_code(reason: &str) -> Error {
    Error::Device(format!("this build cannot use a GPU: {reason}"))
}

fn unsupported(gpu: &Gpu) -> Error {
    let known: Vec<String> = table::ARCHITECTURES
        .iter()
        .map(|sm| format!("sm_{sm}"))
        .collect();
    Error::Device(format!(
        "{gpu} is sm_{}, and this program has machine code for {} (nvcc {}) and PTX from sm_{} on: use another GPU, a newer driver, or \
         --device cpu",
        gpu.compute_capability,
        known.join(", "),
        table::NVCC.unwrap_or("none"),
        table::PTX.unwrap_or_default(),
    ))
}

/// The error of a call that the driver refused before a GPU was known.
pub(super) fn at_start(who: &str, DriverError(code): DriverError) -> Error {
    Error::Device(match code {
        Code::CUDA_ERROR_NO_DEVICE => NO_GPU.to_owned(),
        Code::CUDA_ERROR_STUB_LIBRARY => {
            "the libcuda that is found is the toolkit's stub, which drives no GPU: put the driver's own before it in LD_LIBRARY_PATH, or \
             use --device cpu"
                .to_owned()
        }
        Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "the NVIDIA driver's library and kernel module are of different versions: restart the machine, or use --device cpu".to_owned()
        }
        Code::CUDA_ERROR_DEVICE_UNAVAILABLE => format!(
            "{who} is busy: another process has it to itself, or its administrator has closed it; wait, choose another GPU, or use \
             --device cpu"
        ),
        _ => format!("{who} cannot be used: {}; try --device cpu", said(code)),
    })
}

/// The error of a call that the driver refused while `doing` something on a GPU.
pub(super) fn while_doing(gpu: &Gpu, doing: &str, error: DriverError) -> Error {
    match error.0 {
        Code::CUDA_ERROR_OUT_OF_MEMORY => Error::Memory(format!(
            "{gpu} has too little memory left for {doing}; use a smaller size or batch"
        )),
        Code::CUDA_ERROR_NO_BINARY_FOR_GPU
        | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | Code::CUDA_ERROR_INVALID_PTX
        | Code::CUDA_ERROR_INVALID_IMAGE
        | Code::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => unsupported(gpu),
        code => Error::Device(format!("{gpu}, {doing}: {}", said(code))),
    }
}

/// As [`while_doing`], of launches; those that may start `early` are of a plan with what only Hopper GPUs run, which can be left out.
pub(super) fn while_running(gpu: &Gpu, doing: &str, early: bool, error: DriverError) -> Error {
    match while_doing(gpu, doing, error) {
        Error::Device(problem) if early => Error::Device(format!(
            "{problem}; --kernels portable leaves out what only Hopper GPUs run"
        )),
        other => other,
    }
}

/// The driver's own name and words for a code.
fn said(code: Code) -> String {
    let error = DriverError(code);
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(
            |_| format!("{code:?}"),
            |text| text.to_string_lossy().into_owned(),
        )
    };
    format!(
        "{} ({})",
        text(error.error_string()),
        text(error.error_name())
    )
}
