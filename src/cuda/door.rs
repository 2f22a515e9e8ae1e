//! The door to whoever runs kernels: a GPU behind its driver, or the emulator. Behind it are bytes and launches; nothing of models.

use super::gpu::Gpu;
use super::table::Entry;
use super::tensor_map::{Encoded, TensorMap};
use crate::error::Result;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who runs kernels. Calls take effect in the order they are made.
pub(super) trait Door: Send + Sync {
    /// The device's name, for people.
    fn name(&self) -> String;

    /// The GPU; `None` where there is none, and time means nothing.
    fn gpu(&self) -> Option<&Gpu>;

    /// Memory of `bytes` bytes that holds anything, freed when it is dropped.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if there is not as much.
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Memory>>;

    /// Bytes that can still be had; `None` where nobody knows.
    fn free_bytes(&self) -> Result<Option<usize>>;

    /// Stores `bytes` at the start of `to`, which is as long at least.
    fn write(&self, to: &Span, bytes: &[u8]) -> Result<()>;

    /// As [`write`](Self::write), but may return before the bytes are there; every launch that comes later finds them.
    fn stage(&self, to: &Span, bytes: &[u8]) -> Result<()> {
        self.write(to, bytes)
    }

    /// Fetches `bytes` from the start of `from`, which is as long at least.
    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<()>;

    /// What kernels are passed for the map of a tensor at `address`.
    fn encode(&self, map: &TensorMap, address: u64) -> Result<Encoded>;

    /// Runs one launch to its end.
    fn launch(&self, call: &Call) -> Result<()>;

    /// Records launches, so that all can be made by one call; `None` where that would gain nothing.
    fn record(&self, calls: &[Call]) -> Result<Option<Box<dyn Recording>>>;

    /// What one launch takes, with its operands where the last left them: the mean of a recording of many, or of one where none can be made.
    fn time(&self, call: &Call) -> Result<Duration> {
        const LAUNCHES: u32 = 20;
        match self.record(&vec![call.clone(); LAUNCHES as usize]) {
            Ok(Some(recording)) => {
                recording.replay()?;
                Ok(recording.time()? / LAUNCHES)
            }
            _ => {
                let start = Instant::now();
                self.launch(call)?;
                Ok(start.elapsed())
            }
        }
    }
}

/// A block of a device's memory, in the same place until it is dropped.
pub(super) trait Memory: Send + Sync {
    /// Where it starts, as kernels see it.
    fn address(&self) -> u64;

    /// How long it is.
    fn bytes(&self) -> usize;
}

/// Launches recorded by [`Door::record`]. It keeps the memory that they touch.
pub(super) trait Recording {
    /// Makes all of them again, to their end.
    fn replay(&self) -> Result<()>;

    /// Makes all of them again, and says how long they take by the device's own clock.
    fn time(&self) -> Result<Duration>;
}

/// A run of bytes inside a block that it keeps alive.
#[derive(Clone)]
pub(super) struct Span {
    memory: Arc<dyn Memory>,
    offset: usize,
    bytes: usize,
}

impl Span {
    /// `bytes` bytes from `offset` on; `None` if the block ends before.
    pub(super) fn new(memory: &Arc<dyn Memory>, offset: usize, bytes: usize) -> Option<Self> {
        Self::whole(memory).part(offset, bytes)
    }

    /// All of a block.
    pub(super) fn whole(memory: &Arc<dyn Memory>) -> Self {
        Self {
            memory: memory.clone(),
            offset: 0,
            bytes: memory.bytes(),
        }
    }

    /// `bytes` bytes of this run from `offset` on; `None` if it ends before.
    pub(super) fn part(&self, offset: usize, bytes: usize) -> Option<Self> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then(|| Self {
            memory: self.memory.clone(),
            offset: self.offset + offset,
            bytes,
        })
    }

    /// Where it starts, as kernels see it.
    pub(super) fn address(&self) -> u64 {
        self.memory.address() + self.offset as u64
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// One launch with everything in its place, checked by [`launch`](super::launch).
#[derive(Clone)]
pub(super) struct Call {
    /// For which node.
    pub node: String,
    /// What runs.
    pub entry: &'static Entry,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// Whether it may start before the one before it has ended, whose end its threads wait for themselves.
    pub early: bool,
    /// One per parameter of the entry.
    pub values: Vec<Value>,
}

/// Memory that a launch may touch.
#[derive(Clone)]
pub(super) struct Touched {
    pub span: Span,
    /// Whether the entry may write there.
    pub written: bool,
    /// Whether it is a weight, which no launch ever writes.
    pub weight: bool,
}

/// What is passed for a parameter.
#[derive(Clone)]
pub(super) enum Value {
    /// The address of memory.
    Pointer(Touched),
    /// A tensor map of memory.
    Map(Touched, Encoded),
    /// A null pointer.
    Null,
    /// An `int`.
    Int(i32),
    /// A `float`.
    Float(f32),
}

#[cfg(any(emulator, test))]
impl Value {
    /// The memory that it gives access to.
    pub(super) fn memory(&self) -> Option<&Touched> {
        match self {
            Self::Pointer(memory) | Self::Map(memory, _) => Some(memory),
            Self::Null | Self::Int(_) | Self::Float(_) => None,
        }
    }
}

impl Call {
    /// Where each value lies, given the [`words`](Self::words): what a launch reads its parameters through.
    pub(super) fn arguments(&self, words: &mut [u64]) -> Vec<*mut c_void> {
        let places = self.values.iter().zip(words);
        places
            .map(|(value, word)| match value {
                // It is only read.
                Value::Map(_, map) => std::ptr::from_ref(map).cast_mut().cast(),
                _ => std::ptr::from_mut(word).cast(),
            })
            .collect()
    }

    /// Each value in the low bytes of eight, zero for those that are longer.
    pub(super) fn words(&self) -> Vec<u64> {
        let word = |value: &Value| match value {
            Value::Pointer(memory) => memory.span.address(),
            Value::Null | Value::Map(..) => 0,
            Value::Int(value) => u64::from(value.cast_unsigned()),
            Value::Float(value) => u64::from(value.to_bits()),
        };
        self.values.iter().map(word).collect()
    }
}

/// A device that has memory and runs nothing.
#[cfg(test)]
pub(super) mod fake {
    use super::{Arc, Call, Door, Encoded, Gpu, Memory, Recording, Result, Span, TensorMap};
    use crate::error::Error;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Has so many bytes to give.
    pub struct Fake {
        free: Arc<AtomicUsize>,
        /// How often it was to record.
        pub asked: AtomicUsize,
    }

    /// Gives its bytes back when it is dropped.
    pub struct Block {
        pub address: u64,
        pub bytes: usize,
        free: Arc<AtomicUsize>,
    }

    impl Fake {
        pub fn new(free: usize) -> Self {
            Self {
                free: Arc::new(AtomicUsize::new(free)),
                asked: AtomicUsize::default(),
            }
        }
    }

    impl Block {
        pub fn at(address: u64, bytes: usize) -> Arc<dyn Memory> {
            let free = Arc::default();
            Arc::new(Self {
                address,
                bytes,
                free,
            })
        }
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
            self.free.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }

    impl Door for Fake {
        fn name(&self) -> String {
            "a small GPU".to_owned()
        }

        fn gpu(&self) -> Option<&Gpu> {
            None
        }

        fn alloc(&self, bytes: usize) -> Result<Arc<dyn Memory>> {
            let left = self.free.load(Ordering::Relaxed).checked_sub(bytes);
            let left = left.ok_or_else(|| Error::Memory("full".to_owned()))?;
            self.free.store(left, Ordering::Relaxed);
            Ok(Arc::new(Block {
                address: 256,
                bytes,
                free: self.free.clone(),
            }))
        }

        fn free_bytes(&self) -> Result<Option<usize>> {
            Ok(Some(self.free.load(Ordering::Relaxed)))
        }

        fn write(&self, _: &Span, _: &[u8]) -> Result<()> {
            Ok(())
        }

        fn read(&self, _: &Span, _: &mut [u8]) -> Result<()> {
            Ok(())
        }

        fn encode(&self, map: &TensorMap, address: u64) -> Result<Encoded> {
            Ok(map.described(address))
        }

        fn launch(&self, _: &Call) -> Result<()> {
            Ok(())
        }

        fn record(&self, _: &[Call]) -> Result<Option<Box<dyn Recording>>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Err(Error::Device("it records nothing".to_owned()))
        }
    }
}
