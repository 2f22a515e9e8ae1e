//! Starting NVIDIA's driver: what would end the process otherwise (a library that is missing, or lacks functions) is found out first.

use super::Driver;
use crate::cuda::diagnosis;
use crate::cuda::door::Door;
use crate::cuda::gpu::Gpu;
use crate::error::{Error, Result};
use cudarc::driver::CudaContext;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};

/// What the driver says of GPU number `ordinal`.
fn describe(ordinal: u32) -> Result<Gpu, DriverError> {
    let device = result::device::get(ordinal as i32)?;
    // SAFETY: the device came from the driver just now.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let number = |which| attribute(which).map(|value| value.unsigned_abs());
    let major = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Gpu {
        ordinal,
        name: result::device::get_name(device)?,
        compute_capability: 10 * major + minor,
        multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_per_block: number(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?,
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }?,
        // Two transfers per clock, which the driver gives in kHz, over a bus of so many bits.
        memory_rate: 2e3
            * f64::from(number(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?)
            * f64::from(number(
                Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH,
            )?)
            / 8.0,
        cache_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        clock_rate: 1e3 * f64::from(number(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?),
    })
}

/// Every GPU that the driver shows, whether or not this program has code for it.
///
/// # Errors
/// If there is no driver, or it shows none: a sentence that says why.
pub fn gpus() -> Result<Vec<Gpu>> {
    quietly(|| {
        let count = start()?;
        let gpus = (0..count).map(|ordinal| {
            describe(ordinal).map_err(|error| diagnosis::at_start(&who(ordinal), error))
        });
        gpus.collect()
    })
}

/// Gets GPU number `ordinal` ready.
///
/// # Errors
/// If there is no driver, it is too old, there is no such GPU, no code for it, or somebody else has it to himself.
pub(in crate::cuda) fn open(ordinal: u32) -> Result<(Arc<dyn Door>, Gpu)> {
    quietly(|| {
        let count = start()?;
        if ordinal >= count {
            return Err(diagnosis::no_such_gpu(ordinal, count));
        }
        let gpu = describe(ordinal);
        let gpu = gpu.map_err(|error| diagnosis::at_start(&who(ordinal), error))?;
        gpu.check()?;
        let ready = || {
            let context = CudaContext::new(ordinal as usize)?;
            // SAFETY: all work is on one stream, so nothing needs the events that order several; capturing forbids them.
            unsafe { context.disable_event_tracking() };
            let stream = context.new_stream()?;
            Ok(Driver {
                gpu: gpu.clone(),
                context,
                stream,
                functions: Arc::default(),
                staging: OnceLock::new(),
            })
        };
        let driver: Driver =
            ready().map_err(|error| diagnosis::at_start(&gpu.to_string(), error))?;
        Ok((Arc::new(driver) as Arc<dyn Door>, gpu))
    })
}

/// Starts the driver: how many GPUs it shows.
fn start() -> Result<u32> {
    // SAFETY: opens and closes a library, as loading it does.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device(diagnosis::NO_DRIVER.to_owned()));
    }
    // SAFETY: the library is there.
    let library = unsafe { sys::culib() };
    let missing = diagnosis::FUNCTIONS.iter().find(|name| {
        // SAFETY: only whether the symbol exists is asked; it is not called through this type.
        unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err()
    });
    if let Some(missing) = missing {
        return Err(diagnosis::lacks(missing));
    }
    let mut version = 0;
    // SAFETY: the function exists and stores one integer. It may be called before cuInit.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    let refused = |error| diagnosis::at_start("the NVIDIA driver", error);
    asked.map_err(refused)?;
    diagnosis::check_version(version)?;
    result::init().map_err(refused)?;
    let count = result::device::get_count().map_err(refused)?;
    match u32::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::Device(diagnosis::NO_GPU.to_owned())),
    }
}

/// Runs what may make cudarc panic (a library that lies about its symbols), and makes an error of it.
fn quietly<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    panic::set_hook(hook);
    outcome.unwrap_or_else(|_| Err(Error::Device(diagnosis::BROKEN_DRIVER.to_owned())))
}

/// A GPU of which nothing but the number is known.
fn who(ordinal: u32) -> String {
    format!("the GPU cuda:{ordinal}")
}
