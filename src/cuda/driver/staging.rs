//! Copies to the GPU that are under way while the host prepares the next weight, or plans the next network.
//!
//! The GPU's copy engine reads only memory that the system has pinned, so what it is to copy goes through a ring of pinned blocks, on a
//! stream beside the one that launches are on. A block is filled again once all that was copied from it has arrived; everything has arrived when
//! the first launch that could read it waits for the stream.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, PinnedHostSlice};
use std::sync::Arc;

/// Blocks of the ring: one is filled while others are copied.
const BLOCKS: usize = 4;

/// Bytes of a block: half a millisecond on the bus, so that starting a copy is nothing beside it.
const BLOCK_BYTES: usize = 8 << 20;

/// The ring and its stream.
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    blocks: Vec<Block>,
    /// The block that is being filled, and how far.
    current: usize,
    filled: usize,
    /// Whether a copy may be under way.
    busy: bool,
}

struct Block {
    memory: PinnedHostSlice<u8>,
    /// What was copied from it has arrived.
    copied: CudaEvent,
}

impl Staging {
    /// Pins the ring.
    ///
    /// # Errors
    /// The driver's, if the system has too little memory that can be pinned, say.
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let block = |_| {
            Ok(Block {
                // SAFETY: every byte is written before it is read.
                memory: unsafe { context.alloc_pinned(BLOCK_BYTES) }?,
                copied: context.new_event(None)?,
            })
        };
        Ok(Self {
            blocks: (0..BLOCKS).map(block).collect::<Result<_, DriverError>>()?,
            stream: context.new_stream()?,
            current: 0,
            filled: 0,
            busy: false,
        })
    }

    /// Starts to copy `bytes` to the address `to`, which they may have reached only after [`wait`](Self::wait). The memory there must stay until
    /// then.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn send(&mut self, mut to: u64, mut bytes: &[u8]) -> Result<(), DriverError> {
        while !bytes.is_empty() {
            if self.filled == BLOCK_BYTES {
                self.turn()?;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            let block = self.blocks[self.current].memory.as_mut_slice()?;
            let pinned = &mut block[self.filled..][..piece.len()];
            pinned.copy_from_slice(piece);
            self.busy = true;
            // SAFETY: the caller keeps the memory at `to`, which is as long; these bytes of the block are written again only after `turn` has
            // waited for it.
            unsafe { result::memcpy_htod_async(to, pinned, self.stream.cu_stream()) }?;
            self.filled += piece.len();
            to += piece.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Goes on to the next block, once it is free.
    fn turn(&mut self) -> Result<(), DriverError> {
        self.blocks[self.current].copied.record(&self.stream)?;
        self.current = (self.current + 1) % BLOCKS;
        self.filled = 0;
        self.blocks[self.current].copied.synchronize()
    }

    /// Waits until everything has arrived.
    ///
    /// # Errors
    /// The driver's, also of a copy that failed since it was started.
    pub(super) fn wait(&mut self) -> Result<(), DriverError> {
        if self.busy {
            self.stream.synchronize()?;
            self.busy = false;
        }
        Ok(())
    }
}

impl Drop for Staging {
    /// The blocks must outlive the copies from them.
    fn drop(&mut self) {
        let waited = self.wait();
        self.stream.context().record_err(waited);
    }
}
