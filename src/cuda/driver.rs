//! NVIDIA's driver behind the door: launches run on a GPU, in order, on a stream of our own.
//!
//! The driver is a library that is opened when it is first asked for (`driver/start.rs`), so that a program runs where there is none. From
//! then on every call is checked. What a code means to a person is said in `diagnosis.rs`.

mod staging;
mod start;

pub use start::gpus;
pub(super) use start::open;

mod clock;

use super::diagnosis;
use super::door::{Call, Door, Memory, Recording, Span};
use super::gpu::Gpu;
use super::table::{self, Entry};
use super::tensor_map::{Encoded, Swizzle, TensorMap};
use crate::error::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaModule, CudaStream};
use staging::Staging;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

fn running(call: &Call) -> String {
    format!("node `{}`, kernel {}", call.node, call.entry.name)
}

fn copying() -> String {
    "copying".to_owned()
}

fn recording() -> String {
    "recording launches".to_owned()
}

/// As the driver spells it.
fn swizzle(swizzle: Swizzle) -> sys::CUtensorMapSwizzle {
    match swizzle {
        Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    }
}

/// An open GPU.
struct Driver {
    gpu: Gpu,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Functions by entry, their modules by file; loaded when first launched. Whoever puts something on the stream holds the lock: what a second
    /// thread adds while the stream is captured would become part of the recording.
    functions: Arc<Mutex<Functions>>,
    /// For weights; made when the first is loaded, and none where memory cannot be pinned.
    staging: OnceLock<Option<Mutex<Staging>>>,
}

#[derive(Default)]
struct Functions {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    /// With the dynamic shared memory that each was told it may be launched with. None needs telling up to 48 KiB less its fixed arrays, which
    /// nobody here knows: so all that take any are told.
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

fn lock(functions: &Mutex<Functions>) -> MutexGuard<'_, Functions> {
    // A map of functions is whole after every statement.
    functions.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    fn lock(&self) -> MutexGuard<'_, Functions> {
        lock(&self.functions)
    }

    /// Makes an error of what the driver refused while `doing` something.
    fn failed(&self, doing: impl FnOnce() -> String) -> impl FnOnce(DriverError) -> Error {
        move |error| diagnosis::while_doing(&self.gpu, &doing(), error)
    }

    /// The same of a launch.
    fn failed_launch(&self, call: &Call) -> impl FnOnce(DriverError) -> Error {
        |error| diagnosis::while_running(&self.gpu, &running(call), call.early, error)
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
            functions.entries.insert(entry.name, (function, 0));
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

    /// The ring that weights go through, if it can be had: making it is not worth a refusal.
    fn staging(&self) -> Option<MutexGuard<'_, Staging>> {
        let ring = || Staging::new(&self.context).ok().map(Mutex::new);
        let ring = self.staging.get_or_init(ring).as_ref()?;
        Some(ring.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until everything that was staged is there.
    fn arrive(&self) -> Result<()> {
        let Some(Some(ring)) = self.staging.get() else {
            return Ok(());
        };
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.wait().map_err(self.failed(copying))
    }

    /// Puts a launch on the stream.
    fn start(&self, functions: &mut Functions, call: &Call) -> Result<()> {
        let function = self.function(functions, call.entry, call.shared_bytes)?;
        let mut words = call.words();
        let mut values = call.arguments(&mut words);
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let [x, y, z] = call.grid;
        // Clusters are part of the function.
        let launch = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: call.entry.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: call.shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: u32::from(call.early),
        };
        // SAFETY: the function's module is kept by `functions`; there is a value for each parameter (launch.rs compared them with the
        // signature), read before the call returns as the attribute is; addresses are of memory that the call keeps until the launch has
        // ended, as everyone who starts one waits for it.
        let started = unsafe {
            sys::cuLaunchKernelEx(
                &raw const launch,
                function.cu_function(),
                values.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        started.result().map_err(self.failed_launch(call))
    }
}

impl Door for Driver {
    fn name(&self) -> String {
        self.gpu.to_string()
    }

    fn gpu(&self) -> Option<&Gpu> {
        Some(&self.gpu)
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

    fn stage(&self, to: &Span, bytes: &[u8]) -> Result<()> {
        let Some(mut staging) = self.staging() else {
            return self.write(to, bytes);
        };
        let bytes = &bytes[..bytes.len().min(to.bytes())];
        let bound = self.context.bind_to_thread();
        bound
            .and_then(|()| staging.send(to.address(), bytes))
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

    fn encode(&self, map: &TensorMap, address: u64) -> Result<Encoded> {
        let axes = map.axes();
        let extents: Vec<u64> = axes.iter().map(|axis| axis.extent as u64).collect();
        let pitches: Vec<u64> = axes[1..].iter().map(|axis| axis.pitch as u64).collect();
        let spans: Vec<u32> = axes.iter().map(|axis| axis.span as u32).collect();
        let steps: Vec<u32> = axes.iter().map(|axis| axis.step as u32).collect();
        let start = address + map.offset() as u64;
        let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: the lists are as long as there are axes, the pitches one less; all are read before the call returns. Nobody looks at the
        // address before a launch does, whose call keeps the memory.
        let done = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut encoded,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                axes.len() as u32,
                start as *mut c_void,
                extents.as_ptr(),
                pitches.as_ptr(),
                spans.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle(map.swizzle()),
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        let refused = self.failed(|| format!("describing a tensor ({map})"));
        done.result().map_err(refused)?;
        Ok(Encoded(encoded.opaque))
    }

    fn launch(&self, call: &Call) -> Result<()> {
        self.arrive()?;
        let mut functions = self.lock();
        self.context
            .bind_to_thread()
            .map_err(self.failed(|| running(call)))?;
        self.start(&mut functions, call)?;
        self.stream.synchronize().map_err(self.failed_launch(call))
    }

    fn record(&self, calls: &[Call]) -> Result<Option<Box<dyn Recording>>> {
        self.arrive()?;
        let mut functions = self.lock();
        // Nothing can be loaded while the stream is captured.
        for call in calls {
            self.function(&mut functions, call.entry, call.shared_bytes)?;
        }
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
            functions: self.functions.clone(),
            gpu: self.gpu.clone(),
            calls: calls.to_vec(),
        })))
    }
}

/// A recorded list of launches.
struct Recorded {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
    functions: Arc<Mutex<Functions>>,
    gpu: Gpu,
    /// Their addresses are in the graph, so the memory must stay.
    calls: Vec<Call>,
}

impl Recorded {
    /// Makes an error of what became of them.
    fn failed(&self, doing: &str) -> impl FnOnce(DriverError) -> Error {
        let early = self.calls.iter().any(|call| call.early);
        move |error| diagnosis::while_running(&self.gpu, doing, early, error)
    }
}

impl Recording for Recorded {
    fn replay(&self) -> Result<()> {
        let _lock = lock(&self.functions);
        let launched = self.graph.launch();
        launched
            .and_then(|()| self.stream.synchronize())
            .map_err(self.failed("replaying"))
    }

    fn time(&self) -> Result<Duration> {
        let _lock = lock(&self.functions);
        let timed = clock::time(&self.stream, || self.graph.launch());
        timed.map_err(self.failed("timing"))
    }
}
