//! A run as a trace that browsers draw (chrome://tracing, Perfetto): one row of operations, and below it one of the kernels they ran.
//!
//! Operations are timed one by one, so they are drawn one after another; a recorded run has less between them.

use super::Measured;
use latent_diffusion::Result;
use latent_diffusion::cpu::Peak;
use latent_diffusion::{Error, session::Timing};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Rows of a network.
const OPERATIONS: u32 = 1;
const KERNELS: u32 = 2;

/// A file for the events of all networks.
pub(super) struct Trace {
    path: PathBuf,
    file: File,
    events: Vec<Value>,
    networks: u32,
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Trace {
    /// Makes the file, so that one that cannot be made is known before anything is timed.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| Error::output(path, error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            events: vec![],
            networks: 0,
        })
    }

    /// Appends a network: its operations in the order they ran.
    pub(super) fn add(&mut self, name: &str, measured: &Measured, peak: Option<Peak>) {
        self.networks += 1;
        let network = self.networks;
        let named = |what: &str, row: u32, name: &str| json!({"ph": "M", "name": what, "pid": network, "tid": row, "args": {"name": name}});
        self.events.extend([
            named("process_name", OPERATIONS, name),
            named("thread_name", OPERATIONS, "operations"),
            named("thread_name", KERNELS, "kernels"),
        ]);
        let mut now = Duration::ZERO;
        for step in &measured.steps {
            self.events.push(json!({
                "ph": "X", "name": step.name, "cat": step.op, "pid": network, "tid": OPERATIONS,
                "ts": microseconds(now), "dur": microseconds(step.time),
                "args": figures(step, measured, peak),
            }));
            for lap in &step.laps {
                self.events.push(json!({
                    "ph": "X", "name": lap.kernel, "cat": "kernel", "pid": network, "tid": KERNELS,
                    "ts": microseconds(now), "dur": microseconds(lap.time), "args": {"node": step.name},
                }));
                now += lap.time;
            }
        }
    }

    /// Writes the events.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn write(mut self) -> Result<()> {
        let text = json!({"displayTimeUnit": "ms", "traceEvents": self.events}).to_string();
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|error| Error::output(self.path, error.to_string()))
    }
}

/// What an operation did, and how well.
fn figures(step: &Timing, measured: &Measured, peak: Option<Peak>) -> Value {
    let seconds = step.time.as_secs_f64();
    let bytes = measured.bytes(step.cost);
    json!({
        "once": step.once,
        "gflop": step.cost.flops as f64 / 1e9,
        "mb": bytes as f64 / 1e6,
        "gflops": step.cost.flops as f64 / seconds / 1e9,
        "gbs": bytes as f64 / seconds / 1e9,
        "roofline": peak.map(|peak| measured.share(peak, step.cost, seconds)),
    })
}
