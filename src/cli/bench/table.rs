//! Timings as tables and as JSON.

use super::super::console::Console;
use super::Measured;
use latent_diffusion::Result;
use latent_diffusion::cpu::Peak;
use latent_diffusion::ops::Cost;
use latent_diffusion::session::Timing;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time and work of one kind of operation, or of one node.
#[derive(Clone)]
struct Row {
    name: String,
    calls: usize,
    time: Duration,
    cost: Cost,
}

impl Row {
    fn seconds(&self) -> f64 {
        self.time.as_secs_f64()
    }

    fn gflops(&self) -> f64 {
        self.cost.flops as f64 / self.seconds() / 1e9
    }

    fn gbs(&self, measured: &Measured) -> f64 {
        measured.bytes(self.cost) as f64 / self.seconds() / 1e9
    }
}

/// The operations of every run.
fn every(measured: &Measured) -> impl Iterator<Item = &Timing> {
    measured.steps.iter().filter(|step| !step.once)
}

/// What is done once, for all runs, if there is any.
fn once(measured: &Measured) -> Option<Row> {
    let steps: Vec<&Timing> = measured.steps.iter().filter(|step| step.once).collect();
    (!steps.is_empty()).then(|| Row {
        name: "once, before the first run".into(),
        calls: steps.len(),
        time: steps.iter().map(|step| step.time).sum(),
        cost: steps
            .iter()
            .fold(Cost::default(), |sum, step| sum + step.cost),
    })
}

/// The operations by kind, slowest first.
fn by_kind(measured: &Measured) -> Vec<Row> {
    let mut kinds: BTreeMap<&str, Row> = BTreeMap::new();
    for step in every(measured) {
        let row = kinds.entry(step.op).or_insert_with(|| Row {
            name: step.op.to_owned(),
            calls: 0,
            time: Duration::ZERO,
            cost: Cost::default(),
        });
        row.calls += 1;
        row.time += step.time;
        row.cost = row.cost + step.cost;
    }
    slowest_first(kinds.into_values().collect())
}

/// The nodes, slowest first.
fn by_node(measured: &Measured) -> Vec<Row> {
    let row = |step: &Timing| Row {
        name: format!("{} {}", step.op, step.name),
        calls: 1,
        time: step.time,
        cost: step.cost,
    };
    slowest_first(every(measured).map(row).collect())
}

fn slowest_first(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| std::cmp::Reverse(row.time));
    rows
}

/// Prints a network's timings.
///
/// # Errors
/// If standard output cannot be written to.
pub(super) fn print(
    name: &str,
    measured: &Measured,
    peak: Option<Peak>,
    top: usize,
    console: &Console,
) -> Result<()> {
    let sum: Duration = every(measured).map(|step| step.time).sum();
    let whole = Row {
        name: "whole run".into(),
        calls: every(measured).count(),
        time: measured.total,
        cost: measured.cost,
    };
    let best = match peak {
        Some(peak) => format!(
            "peak here: {:.0} GFLOP/s, {:.1} GB/s",
            peak.flops / 1e9,
            peak.bytes / 1e9
        ),
        None => "an emulator, whose times say nothing of any GPU".to_owned(),
    };
    console.result(&format!(
        "{name}\n  {best}; activations {:.1} MB; planned and loaded in {:.1} ms",
        measured.arena_bytes as f64 / 1e6,
        measured.setup.as_secs_f64() * 1e3,
    ))?;
    let head = [
        "calls", "ms", "GFLOP", "GFLOP/s", "GB/s", "roofline", "share",
    ];
    let [calls, ms, gflop, gflops, gbs, roofline, share] = head;
    let line = |row: &Row| {
        let share = |peak| measured.share(peak, row.cost, row.seconds()) * 100.0;
        let share = peak.map_or("-".to_owned(), |peak| format!("{:.0} %", share(peak)));
        format!(
            "  {:>5} {:>10.3} {:>9.3} {:>8.1} {:>6.1} {:>9} {:>4.0} %  {}",
            row.calls,
            row.seconds() * 1e3,
            row.cost.flops as f64 / 1e9,
            row.gflops(),
            row.gbs(measured),
            share,
            row.seconds() / sum.as_secs_f64() * 100.0,
            row.name,
        )
    };
    console.result(&format!(
        "  {calls:>5} {ms:>10} {gflop:>9} {gflops:>8} {gbs:>6} {roofline:>9} {share:>6}  operation"
    ))?;
    for row in by_kind(measured)
        .iter()
        .chain([&whole])
        .chain(&once(measured))
    {
        console.result(&line(row))?;
    }
    let nodes = by_node(measured);
    if top > 0 {
        console.result(&format!("  the slowest of {} nodes:", nodes.len()))?;
    }
    nodes
        .iter()
        .take(top)
        .try_for_each(|row| console.result(&line(row)))
}

/// A network's timings as JSON, in seconds, FLOPs and bytes.
pub(super) fn as_json(name: &str, measured: &Measured, peak: Option<Peak>) -> Value {
    let row = |row: &Row| {
        json!({
            "name": row.name,
            "calls": row.calls,
            "seconds": row.seconds(),
            "flops": row.cost.flops,
            "bytes": measured.bytes(row.cost),
            "roofline": peak.map(|peak| measured.share(peak, row.cost, row.seconds())),
        })
    };
    json!({
        "network": name,
        "seconds": measured.total.as_secs_f64(),
        "setup_seconds": measured.setup.as_secs_f64(),
        "flops": measured.cost.flops,
        "arena_bytes": measured.arena_bytes,
        "once": once(measured).as_ref().map(row),
        "operations": by_kind(measured).iter().map(row).collect::<Vec<_>>(),
        "nodes": by_node(measured).iter().map(row).collect::<Vec<_>>(),
    })
}
