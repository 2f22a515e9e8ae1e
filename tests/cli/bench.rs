//! `bench`, and the trace it writes.

use super::support::Place;
use latent_diffusion::cuda::table;
use serde_json::Value;
use std::fs;

/// The trace of a sampler's step of the small model, and how many operations it has.
fn trace(device: &str) -> (Vec<Value>, usize) {
    let place = Place::new();
    let line = "bench --what step --repeat 1 -t 2 --trace trace.json --json";
    let run = place.on_model(line, &["--device", device]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let text = fs::read_to_string(place.path().join("trace.json")).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap();
    let answer: Value = serde_json::from_str(run.lines()[0]).unwrap();
    let network = &answer["networks"][0];
    let calls = |row: &Value| row["calls"].as_u64().unwrap() as usize;
    let every: usize = network["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(calls)
        .sum();
    let events = trace["traceEvents"].as_array().unwrap().clone();
    (events, calls(&network["once"]) + every)
}

/// The events of a row, each with its start and end.
fn row(events: &[Value], row: u64) -> Vec<(&Value, [f64; 2])> {
    let drawn = events.iter().filter(|e| e["ph"] == "X" && e["tid"] == row);
    drawn
        .map(|event| {
            let [start, taken] = ["ts", "dur"].map(|key| event[key].as_f64().unwrap());
            (event, [start, start + taken])
        })
        .collect()
}

/// Every operation once, one after another, each over its kernels.
fn is_whole(events: &[Value], count: usize) {
    let [operations, kernels] = [1, 2].map(|number| row(events, number));
    assert_eq!(operations.len(), count);
    for row in [&operations, &kernels] {
        assert!(
            row.windows(2)
                .all(|pair| pair[0].1[1] <= pair[1].1[0] + 1e-3)
        );
    }
    for (kernel, [start, end]) in &kernels {
        let node = &kernel["args"]["node"];
        let within = operations.iter().any(|(operation, [from, to])| {
            operation["name"] == *node && from - 1e-3 <= *start && *end <= to + 1e-3
        });
        assert!(within, "{kernel}");
    }
    let prologue = operations
        .iter()
        .take_while(|(e, _)| e["args"]["once"] == true)
        .count();
    assert!(
        prologue > 0
            && operations[prologue..]
                .iter()
                .all(|(e, _)| e["args"]["once"] == false)
    );
    assert!(
        operations
            .iter()
            .any(|(e, _)| e["args"]["gflop"].as_f64().unwrap() > 0.0)
    );
}

#[test]
fn a_trace_has_every_operation_once_and_in_order() {
    let (events, count) = trace("cpu");
    is_whole(&events, count);
    assert_eq!(row(&events, 1).len(), row(&events, 2).len());
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_trace_of_the_kernels_names_each_of_them() {
    let (events, count) = trace("emulator");
    is_whole(&events, count);
    for (kernel, _) in row(&events, 2) {
        let name = kernel["name"].as_str().unwrap();
        assert!(table::entry(name).is_some(), "{name}");
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_an_output_that_cannot() {
    let line = "bench --what text --repeat 1 --device cpu --trace no/where.json";
    let run = Place::new().on_model(line, &[]);
    run.refused(6, &["no/where.json"]);
}
