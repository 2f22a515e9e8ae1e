//! What a list of steps becomes between its runs: launches made one after another, waiting for each; then one recording of them all, where the
//! device can record.

use super::door::{Call, Recording};
use super::{Arena, Cuda, launch};
use crate::backend::Step;
use crate::error::Result;
use std::sync::atomic::Ordering;
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
    /// The same where they cannot be recorded.
    Single(Vec<Call>),
}

impl Replay {
    /// Runs the steps.
    ///
    /// # Errors
    /// If a launch fails, or the user asked to stop.
    pub(super) fn run(&mut self, device: &Cuda, arena: &Arena, steps: &[Step<Cuda>]) -> Result<()> {
        device.stopped()?;
        self.record(device);
        match &self.0 {
            State::New => self.0 = State::Prepared(first_run(device, arena, steps)?),
            State::Prepared(calls) | State::Single(calls) => one_by_one(device, calls)?,
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
        if self.record(device) {
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

    /// Records what was run once; whether it did. What cannot be recorded is launched as it was, and so is all that comes later: what broke the
    /// device besides is said by the next launch.
    fn record(&mut self, device: &Cuda) -> bool {
        let State::Prepared(calls) = &mut self.0 else {
            return false;
        };
        let calls = std::mem::take(calls);
        let recorded = match device.records.load(Ordering::Relaxed) {
            true => device.door.record(&calls),
            false => Ok(None),
        };
        if let Err(problem) = &recorded {
            device.records.store(false, Ordering::Relaxed);
            device.warn(&format!(
                "{problem}; launches are made one after another, which is slower"
            ));
        }
        self.0 = match recorded {
            Ok(Some(recording)) => State::Recorded(recording),
            _ => State::Single(calls),
        };
        matches!(self.0, State::Recorded(_))
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

#[cfg(test)]
mod tests {
    use super::super::door::fake::Fake;
    use super::super::{Precision, Target};
    use super::*;
    use crate::backend::Backend;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_device_that_cannot_record_is_asked_and_says_so_once() {
        let door = Arc::new(Fake::new(1 << 20));
        let said = Arc::new(Mutex::new(vec![]));
        let hears = said.clone();
        let target = Target::a100(Precision::F16);
        let device = Cuda::new(door.clone(), target, 1, Arc::default()).unwrap();
        let device = device.warned(Arc::new(move |said| {
            hears.lock().unwrap().push(said.to_owned())
        }));
        let arena = device.alloc(256).unwrap();
        for _session in 0..2 {
            let mut replay = Replay::default();
            for _run in 0..3 {
                replay.run(&device, &arena, &[]).unwrap();
            }
            assert!(matches!(replay.0, State::Single(_)));
        }
        assert_eq!(door.asked.load(Ordering::Relaxed), 1);
        let said = said.lock().unwrap();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("it records nothing; launches are made one after another"));
    }
}
