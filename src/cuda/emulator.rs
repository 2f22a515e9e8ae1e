//! The emulator behind the door: launches run on the processor, by the C functions of `kernels/emulator/emulator.h`.

use super::door::Door;
#[cfg(not(emulator))]
use super::table;
#[cfg(not(emulator))]
use crate::error::Error;
use crate::error::Result;
use std::sync::Arc;

/// How the emulator runs kernels.
#[derive(Clone, Copy, Debug)]
pub struct Emulation {
    /// Host threads that share the blocks of a launch; 0: one per core.
    pub threads: usize,
    /// Watch every access for races, bounds, alignment and what was never written. It takes two to three times as long.
    pub check: bool,
    /// The order in which threads and blocks take turns: 0 is one fixed order, others are random ones.
    pub seed: u64,
}

impl Emulation {
    /// As fast as it goes on so many threads, in the one fixed order.
    pub const fn plain(threads: usize) -> Self {
        Self {
            threads,
            check: false,
            seed: 0,
        }
    }

    /// The same, every access watched.
    pub const fn watched(threads: usize) -> Self {
        Self {
            check: true,
            ..Self::plain(threads)
        }
    }
}

/// Gets the emulator ready.
///
/// # Errors
/// If this build has none.
#[cfg(emulator)]
pub(super) fn open(emulation: Emulation) -> Result<Arc<dyn Door>> {
    Ok(Arc::new(emulated::Emulator::new(emulation)))
}

/// Refuses: this build has no emulator.
///
/// # Errors
/// Always, with the reason.
#[cfg(not(emulator))]
pub(super) fn open(_: Emulation) -> Result<Arc<dyn Door>> {
    let reason = table::EMULATOR.err().unwrap_or("it was left out");
    Err(Error::Device(format!(
        "this build has no emulator: {reason}"
    )))
}

#[cfg(emulator)]
mod emulated {
    use super::super::door::{Call, Door, Memory, Recording, Span, Value};
    use super::super::gpu::Gpu;
    use super::super::tensor_map::{Encoded, TensorMap};
    use super::Emulation;
    use crate::error::{Error, Result};
    use std::ffi::{CStr, CString, c_char, c_void};
    use std::sync::{Arc, Mutex, PoisonError};

    /// Bytes for what a launch did wrong: the first lines say it, the rest repeats it for other threads.
    const REPORT_BYTES: usize = 1 << 14;

    /// `ldm_region`.
    #[repr(C)]
    struct Region {
        address: *mut c_void,
        bytes: u64,
        writable: i32,
        early: i32,
    }

    /// `ldm_launch`.
    #[repr(C)]
    struct RawLaunch {
        entry: *const c_char,
        grid: [u32; 3],
        threads: u32,
        cluster: u32,
        shared_bytes: u32,
        arguments: *mut *mut c_void,
        regions: *const Region,
        region_count: u32,
        workers: u32,
        check: i32,
        seed: u64,
    }

    // SAFETY: the declarations are those of kernels/emulator/emulator.h.
    unsafe extern "C" {
        fn ldm_emulator_launch(
            launch: *const RawLaunch,
            report: *mut c_char,
            report_bytes: usize,
        ) -> i32;
        fn ldm_emulator_alloc(bytes: usize) -> *mut c_void;
        fn ldm_emulator_free(address: *mut c_void);
    }

    /// The emulator.
    pub(super) struct Emulator {
        emulation: Emulation,
        /// Launches follow one another, whichever thread makes them: they share counters.
        turn: Mutex<()>,
    }

    impl Emulator {
        pub(super) fn new(emulation: Emulation) -> Self {
            Self {
                emulation,
                turn: Mutex::default(),
            }
        }

        fn workers(&self) -> u32 {
            match self.emulation.threads {
                0 => std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
                threads => threads as u32,
            }
        }
    }

    /// A block of the emulator's memory.
    struct Block {
        /// An integer, as a device's address is one everywhere else.
        address: u64,
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
            // SAFETY: the address came from ldm_emulator_alloc, and a block is neither copied nor dropped twice.
            unsafe { ldm_emulator_free(self.address as *mut c_void) }
        }
    }

    impl Door for Emulator {
        fn name(&self) -> String {
            let check = if self.emulation.check {
                "checked"
            } else {
                "unchecked"
            };
            format!("emulator ({} threads, {check})", self.workers())
        }

        fn gpu(&self) -> Option<&Gpu> {
            None
        }

        fn alloc(&self, bytes: usize) -> Result<Arc<dyn Memory>> {
            // SAFETY: any size may be asked for.
            let address = unsafe { ldm_emulator_alloc(bytes.max(1)) } as u64;
            match address {
                0 => Err(Error::Memory(format!(
                    "the emulator needs {} MiB of memory and the system has not as much; use a smaller size or batch",
                    bytes >> 20
                ))),
                _ => Ok(Arc::new(Block { address, bytes })),
            }
        }

        fn free_bytes(&self) -> Result<Option<usize>> {
            Ok(None)
        }

        fn write(&self, to: &Span, bytes: &[u8]) -> Result<()> {
            let count = bytes.len().min(to.bytes());
            // SAFETY: a span lies inside a block that it keeps alive, and blocks are no Rust objects that anything else refers to.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address() as *mut u8, count) }
            Ok(())
        }

        fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<()> {
            let count = bytes.len().min(from.bytes());
            let address = from.address() as *const u8;
            // SAFETY: as for writing; the emulator gives out memory that is initialised throughout.
            unsafe { std::ptr::copy_nonoverlapping(address, bytes.as_mut_ptr(), count) }
            Ok(())
        }

        fn launch(&self, call: &Call) -> Result<()> {
            let entry = CString::new(call.entry.name)
                .map_err(|_| Error::Device("a kernel's name holds a zero byte".to_owned()))?;
            let mut words = call.words();
            let mut arguments = call.arguments(&mut words);
            let regions: Vec<Region> = call
                .values
                .iter()
                .filter_map(Value::memory)
                .map(|memory| Region {
                    address: memory.span.address() as *mut c_void,
                    bytes: memory.span.bytes() as u64,
                    writable: i32::from(memory.written),
                    early: i32::from(memory.weight),
                })
                .collect();
            let launch = RawLaunch {
                entry: entry.as_ptr(),
                grid: call.grid,
                threads: call.entry.threads,
                cluster: call.entry.cluster,
                shared_bytes: call.shared_bytes,
                arguments: arguments.as_mut_ptr(),
                regions: regions.as_ptr(),
                region_count: regions.len() as u32,
                workers: self.workers(),
                check: i32::from(self.emulation.check),
                seed: self.emulation.seed,
            };
            let mut report = vec![0u8; REPORT_BYTES];
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: every pointer in `launch` lives until the call returns, there is a word for each parameter of the entry (launch.rs
            // compared them with its signature), and the regions are alive. What the kernel does beyond them is what the checker stops;
            // without it, a kernel is trusted as any code of ours is.
            let status = unsafe {
                ldm_emulator_launch(&launch, report.as_mut_ptr().cast(), report.len() - 1)
            };
            if status == 0 {
                return Ok(());
            }
            let report = CStr::from_bytes_until_nul(&report).unwrap_or_default();
            let report = report.to_string_lossy();
            let (node, name) = (&call.node, call.entry.name);
            Err(Error::Device(format!(
                "node `{node}`, kernel {name}: {}",
                report.trim_end()
            )))
        }

        fn encode(&self, map: &TensorMap, address: u64) -> Result<Encoded> {
            Ok(map.described(address))
        }

        fn record(&self, _: &[Call]) -> Result<Option<Box<dyn Recording>>> {
            Ok(None)
        }
    }
}
