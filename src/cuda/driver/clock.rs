//! Time as the GPU counts it, between two events on a stream.

use cudarc::driver::CudaStream;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUevent_flags;
use std::time::Duration;

/// How long the GPU works on what `start` puts on `stream`.
pub(super) fn time(
    stream: &CudaStream,
    start: impl FnOnce() -> Result<(), DriverError>,
) -> Result<Duration, DriverError> {
    let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
    let before = stream.record_event(flags)?;
    start()?;
    let after = stream.record_event(flags)?;
    let milliseconds = before.elapsed_ms(&after)?;
    Ok(Duration::from_secs_f64(
        f64::from(milliseconds.max(0.0)) / 1e3,
    ))
}
