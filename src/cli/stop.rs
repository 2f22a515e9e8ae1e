//! Stopping on request: Ctrl-C and SIGTERM set a flag that the engine looks at between operations.
//!
//! A second signal ends the process at once, and so does the first while nobody looks at the flag yet: who is waiting for a prompt from
//! standard input has nothing to finish. A file size limit must not kill it either: ignored, SIGXFSZ becomes an error
//! of the write, which is reported like a full disk.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether, and how, the user asked to stop.
pub struct Stop {
    asked: Arc<AtomicBool>,
    /// Nobody looks at `asked` yet.
    unwatched: Arc<AtomicBool>,
    code: Arc<AtomicUsize>,
}

impl Stop {
    /// Listens to the signals from now on.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen() -> Result<Self> {
        let stop = Self {
            asked: Arc::new(AtomicBool::new(false)),
            unwatched: Arc::new(AtomicBool::new(true)),
            code: Arc::new(AtomicUsize::new(130)),
        };
        for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
            // The order matters: the second signal finds what the first has set.
            flag::register_conditional_shutdown(signal, code, stop.asked.clone())
                .and_then(|_| {
                    flag::register_conditional_shutdown(signal, code, stop.unwatched.clone())
                })
                .and_then(|_| flag::register_usize(signal, stop.code.clone(), code as usize))
                .and_then(|_| flag::register(signal, stop.asked.clone()))
                .context("cannot listen to signals")?;
        }
        #[cfg(unix)]
        flag::register(signal_hook::consts::SIGXFSZ, Arc::default())
            .context("cannot listen to signals")?;
        Ok(stop)
    }

    /// The flag that is set when a signal has come; who takes it looks at it from now on.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.unwatched.store(false, Ordering::Relaxed);
        self.asked.clone()
    }

    /// The exit code of the signal that came: 128 plus its number.
    pub fn exit_code(&self) -> u8 {
        self.code.load(Ordering::Relaxed) as u8
    }
}
