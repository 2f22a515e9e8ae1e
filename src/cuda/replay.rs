//! What a list of steps becomes between its runs: launches made one after another, waiting for each; then one recording of them all.

use super::door::{Call, Recording};
use super::{Arena, Cuda, launch};
use crate::backend::Step;
use crate::error::Result;
use std::time::{Duration, Instant};

/// What a list of steps became.
#[derive(Default)]
pub struct Replay(State);

#[derive(Default)]
enum State {
    /// Never run.
    #[default]
    New,
    /// Run once: each launch with its addresses.
    Prepared(Vec<Call>),
    /// Run more than once: all launches as one.
    Recorded(Box<dyn Recording>),
}

impl Replay {
    /// Runs the steps.
    ///
    /// # Errors
    /// If a launch fails, or the user asked to stop.
    pub(super) fn run(&mut self, device: &Cuda, arena: &Arena, steps: &[Step<Cuda>]) -> Result<()> {
        device.stopped()?;
        self.record(device)?;
        match &self.0 {
            State::New => self.0 = State::Prepared(first_run(device, arena, steps)?),
            State::Prepared(calls) => one_by_one(device, calls)?,
            State::Recorded(recording) => recording.replay()?,
        }
        Ok(())
    }

    /// Runs the steps, and says how long they take: by the device's own clock where there is a recording.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) fn time(
        &mut self,
        device: &Cuda,
        arena: &Arena,
        steps: &[Step<Cuda>],
    ) -> Result<Duration> {
        if self.record(device)? {
            self.run(device, arena, steps)?;
        }
        if let State::Recorded(recording) = &self.0 {
            device.stopped()?;
            return recording.time();
        }
        let start = Instant::now();
        self.run(device, arena, steps)?;
        Ok(start.elapsed())
    }

    /// Records what was run once; whether it did.
    fn record(&mut self, device: &Cuda) -> Result<bool> {
        let State::Prepared(calls) = &self.0 else {
            return Ok(false);
        };
        let recording = device.door.record(calls)?;
        let done = recording.is_some();
        if let Some(recording) = recording {
            self.0 = State::Recorded(recording);
        }
        Ok(done)
    }
}

/// The first run of steps, so that a failure carries the name of its node.
fn first_run(device: &Cuda, arena: &Arena, steps: &[Step<Cuda>]) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    for step in steps {
        let launches = launch::calls(
            step,
            &arena.0,
            &device.target,
            (&*device.door, &device.counters),
        )?;
        one_by_one(device, &launches)?;
        calls.extend(launches);
    }
    Ok(calls)
}

fn one_by_one(device: &Cuda, calls: &[Call]) -> Result<()> {
    calls.iter().try_for_each(|call| {
        device.stopped()?;
        device.door.launch(call)
    })
}
