//! Comparing the engine with PyTorch: a dump's inputs are run, and every answer is held against the reference's.
//!
//! A dump says what one component of a model was given and what it answered. Outputs come from the graph as it runs for
//! users, fused. Where the dump also holds what modules answered inside, a second run observes those nodes and names the
//! first that departs, which is where to look for the fault.

mod dump;
mod network;
mod trajectory;

pub use dump::{Component, Dump};

use crate::backend::Backend;
use crate::error::Result;
use crate::graph::Value;
use crate::pipeline::Model;
use crate::tensor::{Shape, Tensor};
use network::Network;
use std::sync::Arc;

/// What came of comparing one dump.
#[derive(Debug)]
pub struct Report {
    /// What was compared.
    pub component: Component,
    /// Largest relative L2 error that passes.
    pub tolerance: f64,
    /// A comparison per output.
    pub outputs: Vec<Comparison>,
    /// The first node that departs by more than the tolerance, in the order nodes run.
    pub departure: Option<Comparison>,
    /// Paths of the dump's nodes that the graph has no value of the same shape for.
    pub unknown_nodes: Vec<String>,
}

/// One tensor held against the reference's.
#[derive(Debug)]
pub struct Comparison {
    /// The output's name, or the node's path.
    pub name: String,
    /// The reference's sizes, as the dump has them.
    pub shape: Shape,
    /// `|ours - reference| / |reference|`, summed in f64; of indices, the share that differs. NaN where either holds one;
    /// infinite where the shapes differ.
    pub relative_error: f64,
    /// Largest relative error that passes.
    pub tolerance: f64,
    /// Largest absolute difference; infinite where the shapes differ.
    pub max_abs_error: f32,
    /// Whether the relative error is within the tolerance.
    pub pass: bool,
}

impl Report {
    /// Whether every output is within the tolerance.
    pub fn pass(&self) -> bool {
        self.outputs.iter().all(|output| output.pass)
    }
}

/// The largest relative L2 error that passes unless the caller says otherwise.
///
/// A trajectory adds up the errors of its steps, and guidance multiplies them.
fn default_tolerance(component: Component, element_bytes: usize) -> f64 {
    match (component, element_bytes >= size_of::<f32>()) {
        (Component::Sampler, true) => 5e-4,
        (Component::Sampler, false) => 3e-2,
        (_, true) => 1e-4,
        (_, false) => 1e-2,
    }
}

/// Runs a dump's component on `backend` and compares.
///
/// # Errors
/// If the model has no such component, the dump's inputs do not fit it, or the device fails. An answer that differs is no
/// error but a report.
pub fn check<B: Backend>(
    backend: &Arc<B>,
    model: &Model,
    dump: &Dump,
    tolerance: Option<f64>,
) -> Result<Report> {
    let component = dump.component();
    let tolerance =
        tolerance.unwrap_or_else(|| default_tolerance(component, backend.element_bytes()));
    let mut report = Report {
        component,
        tolerance,
        outputs: vec![],
        departure: None,
        unknown_nodes: vec![],
    };
    let compared = match component {
        Component::Sampler => check_trajectory(backend, model, dump, &mut report),
        _ => check_network(backend, model, dump, &mut report),
    };
    compared.map_err(network::about(dump))?;
    Ok(report)
}

fn check_network<B: Backend>(
    backend: &Arc<B>,
    model: &Model,
    dump: &Dump,
    report: &mut Report,
) -> Result<()> {
    let network = Network::new(model, dump)?;
    let session = network.run(backend, network.graph.clone())?;
    for (name, reference) in dump.outputs() {
        let ours = network::output(&network, &session, report.component, name)?;
        report.outputs.push(match &**name {
            "indices" => compare_indices(name, &ours, reference),
            _ => compare(name, ours, reference, report.tolerance)?,
        });
    }
    drop(session);
    observe(backend, &network, dump, report)
}

/// Runs the network again with every node of the dump observed, and notes the first that departs.
fn observe<B: Backend>(
    backend: &Arc<B>,
    network: &Network,
    dump: &Dump,
    report: &mut Report,
) -> Result<()> {
    let mut observed = vec![];
    for (path, reference) in dump.nodes() {
        let found = network.graph.find(path);
        let fits = |value: &Value| alike(network.graph.shape(*value), nhwc(reference.shape()));
        match found.filter(fits) {
            Some(value) => observed.push((value, path)),
            None => report.unknown_nodes.push(path.clone()),
        }
    }
    if observed.is_empty() {
        return Ok(());
    }
    observed.sort();
    let label = |path: &str| format!("node.{path}");
    let mut graph = network.graph.clone();
    for (value, path) in &observed {
        graph.output(&label(path), *value);
    }
    let session = network.run(backend, graph)?;
    for (_, path) in observed {
        let (ours, reference) = (session.get(&label(path))?, &dump.nodes()[path]);
        let not_finite = ours.count_not_finite() + reference.count_not_finite() > 0;
        let comparison = compare(path, ours, reference, report.tolerance)?;
        if !comparison.pass && report.departure.is_none() {
            report.departure = Some(comparison);
        }
        if not_finite {
            // What is made of such a value proves nothing, however it came out.
            report
                .outputs
                .iter_mut()
                .for_each(|output| output.pass = false);
            break;
        }
    }
    Ok(())
}

fn check_trajectory<B: Backend>(
    backend: &Arc<B>,
    model: &Model,
    dump: &Dump,
    report: &mut Report,
) -> Result<()> {
    for (name, reference) in dump.outputs() {
        if name != "latent" {
            return Err(dump.refuse(format!(
                "has an `output.{name}`, and a sampler answers `latent`"
            )));
        }
        let ours = trajectory::run(backend, model, dump)?;
        report
            .outputs
            .push(compare(name, ours, reference, report.tolerance)?);
    }
    Ok(())
}

/// Holds `ours`, channels last, against `reference`, as the dump has it.
fn compare(name: &str, ours: Tensor, reference: &Tensor, tolerance: f64) -> Result<Comparison> {
    let expected = reference.nchw_to_nhwc();
    let ours = match alike(ours.shape(), expected.shape()) {
        true => Tensor::new(expected.shape(), ours.into_data())?,
        false => ours,
    };
    let relative_error = ours.relative_error(&expected);
    let comparable = ours.shape() == expected.shape();
    Ok(Comparison {
        name: name.to_owned(),
        shape: reference.shape(),
        relative_error,
        tolerance,
        max_abs_error: match comparable {
            true => ours.max_abs_error(&expected),
            false => f32::INFINITY,
        },
        pass: relative_error <= tolerance,
    })
}

/// Holds numbers of codes against the reference's, in one row or in rows of an image: nearly all must be equal, as two codes may be
/// equally near but for rounding.
fn compare_indices(name: &str, ours: &Tensor, reference: &Tensor) -> Comparison {
    const MOST_DIFFERENT: f64 = 1e-3;
    let pairs = || ours.data().iter().zip(reference.data());
    let relative_error = if ours.data().len() != reference.data().len() {
        f64::INFINITY
    } else if ours.count_not_finite() + reference.count_not_finite() > 0 {
        f64::NAN
    } else {
        pairs().filter(|(a, b)| a != b).count() as f64 / ours.data().len() as f64
    };
    Comparison {
        name: name.to_owned(),
        shape: reference.shape(),
        relative_error,
        tolerance: MOST_DIFFERENT,
        max_abs_error: pairs().fold(0.0, |most, (a, b)| most.max((a - b).abs())),
        pass: relative_error <= MOST_DIFFERENT,
    }
}

/// Whether two shapes may be of one tensor, as an image and as tokens: the elements are in the same order then.
fn alike(found: Shape, expected: Shape) -> bool {
    found.len() == expected.len()
        && found.batch() == expected.batch()
        && found.channels() == expected.channels()
}

/// A dump's sizes, channels last.
fn nhwc(shape: Shape) -> Shape {
    match shape.image() {
        Some([n, c, h, w]) => [n, h, w, c].into(),
        None => shape,
    }
}
