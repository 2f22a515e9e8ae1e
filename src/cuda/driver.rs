//! NVIDIA's driver behind the door: launches run on a GPU, in order, on a stream of our own.
//!
//! The driver is a library that is opened when it is first asked for, so that a program runs where there is none. It is asked for only
//! through [`open`] and [`gpus`], which find out first what would end the process otherwise: a library that is missing, or lacks functions.
//! From then on every call is checked. What a code means to a person is said in `diagnosis.rs`.

use super::diagnosis;
use super::door::{Call, Door, Memory, Recording, Span};
use super::gpu::Gpu;
use super::kernel::Precision;
use super::table::{self, Entry};
use crate::error::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaModule, CudaStream};
use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared memory that a launch may ask for without the function's being told before.
const USUAL_SHARED_BYTES: u32 = 48 << 10;

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
pub(super) fn open(ordinal: u32) -> Result<(Arc<dyn Door>, Gpu)> {
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
                functions: Mutex::default(),
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

fn running(call: &Call) -> String {
    format!("node `{}`, kernel {}", call.node, call.entry.name)
}

fn copying() -> String {
    "copying".to_owned()
}

fn recording() -> String {
    "recording launches".to_owned()
}

/// An open GPU.
struct Driver {
    gpu: Gpu,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Functions by entry, their modules by file; loaded when first launched. The lock also keeps two threads from mixing their launches.
    functions: Mutex<Functions>,
}

#[derive(Default)]
struct Functions {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    /// With the dynamic shared memory that each may be launched with.
    entries: HashMap<&'static str, (CudaFunction, u32)>,
}

/// A block of the GPU's memory.
struct Block {
    context: Arc<CudaContext>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Memory for Block {
    fn address(&self) -> u64 {
        self.address
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: the address came from the driver and is freed once. It waits for launches that still use the memory.
        let freed = unsafe { result::memory_free(self.address) };
        self.context.record_err(freed);
    }
}

impl Driver {
    fn lock(&self) -> MutexGuard<'_, Functions> {
        // A map of functions is whole after every statement.
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an error of what the driver refused while `doing` something.
    fn failed(&self, doing: impl FnOnce() -> String) -> impl FnOnce(DriverError) -> Error {
        move |error| diagnosis::while_doing(&self.gpu, &doing(), error)
    }

    /// The function of an entry, which may be launched with as much shared memory.
    fn function(
        &self,
        functions: &mut Functions,
        entry: &'static Entry,
        shared_bytes: u32,
    ) -> Result<CudaFunction> {
        if !functions.entries.contains_key(entry.name) {
            let module = self.module(functions, entry)?;
            let function = module
                .load_function(entry.name)
                .map_err(self.failed(|| format!("loading {}", entry.file)))?;
            functions
                .entries
                .insert(entry.name, (function, USUAL_SHARED_BYTES));
        }
        let Some((function, allowed)) = functions.entries.get_mut(entry.name) else {
            return Err(Error::Device(format!("kernel {} is lost", entry.name)));
        };
        if shared_bytes > *allowed {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(attribute, shared_bytes as i32)
                .map_err(self.failed(|| {
                    format!("{shared_bytes} bytes of shared memory for {}", entry.name)
                }))?;
            *allowed = shared_bytes;
        }
        Ok(function.clone())
    }

    fn module(&self, functions: &mut Functions, entry: &'static Entry) -> Result<Arc<CudaModule>> {
        if let Some(module) = functions.modules.get(entry.file) {
            return Ok(module.clone());
        }
        let stem = entry.file.trim_end_matches(".cu");
        let module = table::MODULES.iter().find(|module| module.stem == stem);
        let module = module.ok_or_else(|| diagnosis::no_code("its kernels were not compiled"))?;
        let image = cudarc::nvrtc::Ptx::from_binary(module.fatbin.to_vec());
        let loaded = self
            .context
            .load_module(image)
            .map_err(self.failed(|| format!("loading {}", entry.file)))?;
        functions.modules.insert(entry.file, loaded.clone());
        Ok(loaded)
    }

    /// Puts a launch on the stream.
    fn start(&self, functions: &mut Functions, call: &Call) -> Result<()> {
        let function = self.function(functions, call.entry, call.shared_bytes)?;
        let mut words = call.words();
        let mut values: Vec<*mut c_void> = words
            .iter_mut()
            .map(|word| std::ptr::from_mut(word).cast())
            .collect();
        let ([x, y, z], threads) = (call.grid, call.entry.threads);
        // SAFETY: the function's module is kept by `functions`; there is a word for each parameter (launch.rs compared them with the
        // signature), read before the call returns; addresses are of memory that the call keeps until the launch has ended, as everyone who
        // starts one waits for it.
        let started = unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (threads, 1, 1),
                call.shared_bytes,
                self.stream.cu_stream(),
                &mut values,
            )
        };
        started.map_err(self.failed(|| running(call)))
    }
}

impl Door for Driver {
    fn name(&self) -> String {
        self.gpu.to_string()
    }

    fn peak(&self, precision: Precision) -> Option<[f64; 2]> {
        Some([self.gpu.flops(precision), self.gpu.memory_rate])
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Memory>> {
        let bound = self.context.bind_to_thread();
        // SAFETY: nobody reads the memory as a Rust object.
        let address = || unsafe { result::malloc_sync(bytes.max(1)) };
        let address = bound.and_then(|()| address());
        Ok(Arc::new(Block {
            context: self.context.clone(),
            address: address.map_err(self.failed(|| format!("{} MiB", bytes.div_ceil(1 << 20))))?,
            bytes,
        }))
    }

    fn free_bytes(&self) -> Result<Option<usize>> {
        let (free, _) = self.context.mem_get_info().map_err(self.failed(copying))?;
        Ok(Some(free))
    }

    fn write(&self, to: &Span, bytes: &[u8]) -> Result<()> {
        let _lock = self.lock();
        let bytes = &bytes[..bytes.len().min(to.bytes())];
        let bound = self.context.bind_to_thread();
        // SAFETY: the span lies inside memory that it keeps, and both sides live until the stream has done the copy.
        let copy =
            || unsafe { result::memcpy_htod_async(to.address(), bytes, self.stream.cu_stream()) };
        bound
            .and_then(|()| copy())
            .and_then(|()| self.stream.synchronize())
            .map_err(self.failed(copying))
    }

    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<()> {
        let _lock = self.lock();
        let count = bytes.len().min(from.bytes());
        let bytes = &mut bytes[..count];
        let bound = self.context.bind_to_thread();
        // SAFETY: as for writing.
        let mut copy =
            || unsafe { result::memcpy_dtoh_async(bytes, from.address(), self.stream.cu_stream()) };
        bound
            .and_then(|()| copy())
            .and_then(|()| self.stream.synchronize())
            .map_err(self.failed(copying))
    }

    fn launch(&self, call: &Call) -> Result<()> {
        let mut functions = self.lock();
        self.context
            .bind_to_thread()
            .map_err(self.failed(|| running(call)))?;
        self.start(&mut functions, call)?;
        self.stream
            .synchronize()
            .map_err(self.failed(|| running(call)))
    }

    fn record(&self, calls: &[Call]) -> Result<Option<Box<dyn Recording>>> {
        let mut functions = self.lock();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let begun = self.stream.begin_capture(mode);
        begun.map_err(self.failed(recording))?;
        let started = calls
            .iter()
            .try_for_each(|call| self.start(&mut functions, call));
        // Capturing ends even where a launch was refused: the stream could do nothing else until then.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        started?;
        let Some(graph) = graph.map_err(self.failed(recording))? else {
            return Ok(None);
        };
        graph.upload().map_err(self.failed(recording))?;
        Ok(Some(Box::new(Recorded {
            graph,
            stream: self.stream.clone(),
            gpu: self.gpu.clone(),
            _calls: calls.to_vec(),
        })))
    }
}

/// A recorded list of launches.
struct Recorded {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
    gpu: Gpu,
    /// Their addresses are in the graph, so the memory must stay.
    _calls: Vec<Call>,
}

impl Recording for Recorded {
    fn replay(&self) -> Result<()> {
        let launched = self.graph.launch();
        launched
            .and_then(|()| self.stream.synchronize())
            .map_err(|error| diagnosis::while_doing(&self.gpu, "replaying", error))
    }
}
