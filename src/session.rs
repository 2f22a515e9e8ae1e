//! A graph made runnable: fused, planned and loaded on a device at fixed shapes.
//!
//! ```text
//! Graph --fuse--> --hoist--> Graph --select--> kernels --lifetimes--> offsets --load--> steps --run-->
//! ```
//!
//! Steps are in two parts: the prologue, what follows from constants alone, runs only when one of them was set since; the body runs every time.
//!
//! Everything that can fail because of a model or a request fails in [`Session::new`]; after that a run only computes. Another size or
//! batch is another session over the same weights.

mod bands;
mod program;

pub use bands::Bands;
pub use program::Program;

use crate::backend::{Backend, Lap, Step};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::ops::{Cost, Op};
use crate::plan::Plan;
use crate::tensor::Tensor;
use crate::weights::Weights;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// A graph on a device.
pub struct Session<B: Backend> {
    backend: Arc<B>,
    plan: Plan,
    steps: Vec<Step<B>>,
    /// How many steps, the first, are the prologue.
    prologue: usize,
    /// Whether the prologue's results are not those of the constants.
    stale: bool,
    arena: B::Arena,
    /// Of the prologue and of the body.
    replays: [B::Replay; 2],
}

/// What one step of a run took.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The module path.
    pub name: String,
    /// The operation's name.
    pub op: &'static str,
    /// The work, from shapes.
    pub cost: Cost,
    /// Whether it is part of the prologue, which most runs leave out.
    pub once: bool,
    /// What its kernels take, in order.
    pub laps: Vec<Lap>,
    /// How long it takes.
    pub time: Duration,
}

impl<B: Backend> Session<B> {
    /// Makes `graph` runnable with `weights` on `backend`.
    ///
    /// # Errors
    /// If weights are missing or unfit, or the device has too little memory or no kernel for a shape.
    pub fn new(backend: &Arc<B>, graph: Graph, weights: &Weights) -> Result<Self> {
        Self::with_fusion(backend, graph, weights, |rule| backend.gains_by(rule))
    }

    /// As [`new`](Self::new), with the fusion rules that `enabled` lets through, and not those that the device gains by. Without any, every node of
    /// the graph can be observed.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_fusion(
        backend: &Arc<B>,
        graph: Graph,
        weights: &Weights,
        enabled: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        weights.check(graph.tensors())?;
        let program = Program::with_fusion(&**backend, graph, enabled)?;
        Self::load(backend, program, weights)
    }

    /// As [`new`](Self::new) for several graphs whose values are all there at the same time.
    ///
    /// # Errors
    /// As [`new`](Self::new), where the device must have memory for all.
    pub fn together(backend: &Arc<B>, graphs: Vec<Graph>, weights: &Weights) -> Result<Vec<Self>> {
        let mut programs = Vec::with_capacity(graphs.len());
        for graph in graphs {
            weights.check(graph.tensors())?;
            programs.push(Program::new(&**backend, graph)?);
        }
        let arena_bytes = programs.iter().map(|program| program.plan.arena_bytes);
        let loads: Vec<_> = programs.iter().flat_map(Program::loads).collect();
        backend.admit(arena_bytes.sum(), &loads, weights)?;
        drop(loads);
        let programs = programs.into_iter();
        programs
            .map(|program| Self::load(backend, program, weights))
            .collect()
    }

    /// Loads a program with `weights`.
    ///
    /// # Errors
    /// If weights are missing or unfit, or the device has too little memory.
    pub fn load(backend: &Arc<B>, program: Program<B>, weights: &Weights) -> Result<Self> {
        backend.admit(program.plan.arena_bytes, &program.loads(), weights)?;
        let Program { plan, selections } = program;
        let also: HashSet<Value> = selections.iter().filter_map(|s| s.also).collect();
        let (mut steps, mut prologue) = (Vec::new(), 0);
        for (index, (node, selection)) in plan.graph.nodes().iter().zip(selections).enumerate() {
            // What another step computes too has none of its own.
            let done = also.contains(&Value::at(index));
            if done || matches!(node.op, Op::Input(_) | Op::Reshape(_)) {
                continue;
            }
            let inputs: Vec<_> = node.inputs.iter().map(|&v| plan.place(v)).collect();
            let params = program::params(&plan.graph, node, &selection);
            let weights = backend.load(&selection.kernel, &params, weights)?;
            steps.push(Step {
                name: node.name.clone(),
                op: node.op.clone(),
                kernel: selection.kernel,
                inputs,
                output: plan.places[index],
                also: selection.also.map(|value| plan.place(value)),
                workspace: plan.workspaces[index].map(|offset| (offset, selection.workspace_bytes)),
                weights,
                cost: program::nodes(&plan.graph, node, selection.also)
                    .map(|node| plan.graph.cost_of(node))
                    .fold(Cost::default(), |sum, cost| sum + cost),
            });
            if index < plan.prologue {
                prologue = steps.len();
            }
        }
        let mut arena = backend.alloc(plan.arena_bytes)?;
        for (_, input) in plan.graph.inputs() {
            let place = plan.place(input);
            backend.write(&mut arena, place, &vec![0.0; place.shape.len()])?;
        }
        Ok(Self {
            backend: backend.clone(),
            plan,
            steps,
            prologue,
            stale: true,
            arena,
            replays: Default::default(),
        })
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The work of one run, without the prologue's.
    pub fn cost(&self) -> Cost {
        self.steps[self.prologue..]
            .iter()
            .fold(Cost::default(), |sum, step| sum + step.cost)
    }

    /// Sets the input `name`. It is zero before, and keeps its value over runs, unless they assign it.
    ///
    /// # Errors
    /// If there is no such input, or it has another shape.
    pub fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let mut inputs = self.plan.graph.inputs();
        let value = inputs
            .find(|(input, _)| *input == name)
            .map(|(_, value)| value);
        let value = value.ok_or_else(|| unknown(name, self.plan.graph.inputs()))?;
        let place = self.plan.place(value);
        let constant = matches!(self.plan.graph.node(value).op, Op::Input(input) if input.constant);
        drop(inputs);
        if place.shape != tensor.shape() {
            let found = tensor.shape();
            return Err(Error::shape(
                name,
                format!("the input is {}, not {found}", place.shape),
            ));
        }
        self.stale |= constant;
        self.backend.write(&mut self.arena, place, tensor.data())
    }

    /// Runs the graph once; its prologue only if a constant was set since it ran last.
    ///
    /// # Errors
    /// If the device fails, or the user asked to stop.
    pub fn run(&mut self) -> Result<()> {
        self.prepare()?;
        let body = &self.steps[self.prologue..];
        self.backend
            .run(&mut self.arena, body, &mut self.replays[1])
    }

    /// As [`run`](Self::run), and says how long it takes without the prologue, by the device's own clock if it has one.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn time(&mut self) -> Result<Duration> {
        self.prepare()?;
        let body = &self.steps[self.prologue..];
        self.backend
            .time(&mut self.arena, body, &mut self.replays[1])
    }

    /// Runs the prologue, if a constant was set since it ran last.
    fn prepare(&mut self) -> Result<()> {
        let prologue = &self.steps[..self.prologue];
        if self.stale && !prologue.is_empty() {
            self.backend
                .run(&mut self.arena, prologue, &mut self.replays[0])?;
        }
        self.stale = false;
        Ok(())
    }

    /// The result `name` of the last run.
    ///
    /// # Errors
    /// If there is no such result, or the device fails.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let outputs = || {
            self.plan
                .graph
                .outputs()
                .iter()
                .map(|(name, value)| (name.as_str(), *value))
        };
        let value = outputs()
            .find(|(output, _)| *output == name)
            .map(|(_, value)| value);
        let place = self
            .plan
            .place(value.ok_or_else(|| unknown(name, outputs()))?);
        let mut tensor = Tensor::zeros(place.shape);
        self.backend.read(&self.arena, place, tensor.data_mut())?;
        Ok(tensor)
    }

    /// Runs the graph, prologue and body, step by step and times each.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn profile(&mut self) -> Result<Vec<Timing>> {
        let mut timings = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            let laps = self.backend.profile(&mut self.arena, step)?;
            timings.push(Timing {
                name: step.name.clone(),
                op: step.op.name(),
                cost: step.cost,
                once: index < self.prologue,
                time: laps.iter().map(|lap| lap.time).sum(),
                laps,
            });
        }
        Ok(timings)
    }

    /// Runs the graph again, prologue and body, step by step, and names the first whose result holds NaN or infinity. Inputs that runs
    /// assign must first be set to what they were.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn first_not_finite(&mut self) -> Result<Option<String>> {
        for step in &self.steps {
            self.backend.run(
                &mut self.arena,
                std::slice::from_ref(step),
                &mut B::Replay::default(),
            )?;
            let mut result = Tensor::zeros(step.output.shape);
            self.backend
                .read(&self.arena, step.output, result.data_mut())?;
            if result.count_not_finite() > 0 {
                return Ok(Some(step.name.clone()));
            }
        }
        Ok(None)
    }
}

/// A name that a graph does not have, with those it has.
fn unknown<'a>(name: &str, known: impl Iterator<Item = (&'a str, Value)>) -> Error {
    let known: Vec<&str> = known.map(|(name, _)| name).collect();
    Error::shape(
        name,
        format!("is no tensor of this graph, which has {}", known.join(", ")),
    )
}
