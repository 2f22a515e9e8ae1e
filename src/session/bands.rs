//! A network over a large image, run in bands of rows within a bound of memory, with the very result of the whole.
//!
//! What is computed when is planned by [`plan::bands`](crate::plan::bands); here the passes are run. Each band is a [`Session`] of its own, which
//! lives only as long as bands of its height follow one another; what passes leave each other is on the host.

use super::program::{Program, select};
use super::{Session, unknown};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::ops::Op;
use crate::plan::bands::schedule::Schedule;
use crate::plan::bands::{self, Band, Network, Pass, Statistics, height};
use crate::tensor::{Shape, Tensor};
use crate::weights::Weights;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// A network planned in bands on a device.
pub struct Bands<B: Backend> {
    backend: Arc<B>,
    graph: Graph,
    schedule: Schedule,
}

/// What passes leave for later ones.
#[derive(Default)]
struct Host {
    values: HashMap<Value, Tensor>,
    statistics: HashMap<Statistics, Tensor>,
}

impl<B: Backend> Bands<B> {
    /// Plans `graph`, of one image, to run within `limit` bytes of the device's memory, without its weights.
    ///
    /// # Errors
    /// If that is too little, or the device has no kernel for a shape.
    pub fn new(backend: &Arc<B>, graph: Graph, limit: usize) -> Result<Self> {
        let program = Program::new(&**backend, graph)?;
        let graph = program.plan().graph.clone();
        if let Some((name, value)) = graph.inputs().find(|(_, v)| graph.shape(*v).batch() != 1) {
            let shape = graph.shape(value);
            return Err(Error::shape(
                name,
                format!("bands are of one image, not of {shape}"),
            ));
        }
        let network = Network::new(&graph, |norm| backend.blocks(&graph, norm));
        let whole: Vec<&B::Kernel> = program.kernels().collect();
        let measure = |pass: &Pass, part: &Graph| measure(&**backend, &graph, &whole, pass, part);
        let schedule = Schedule::new(&network, &measure, backend.transfer(), limit)?;
        Ok(Self {
            backend: backend.clone(),
            graph,
            schedule,
        })
    }

    /// The passes, and what they take.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The result `output` of the network for one image.
    ///
    /// # Errors
    /// If weights or an input are missing or unfit, a value is not finite, the device fails, or the user asked to stop.
    pub fn run(
        &self,
        weights: &Weights,
        inputs: &[(&str, &Tensor)],
        output: &str,
    ) -> Result<Tensor> {
        let params = self.graph.params();
        weights.check(params.map(|param| (param.name.as_str(), param.shape)))?;
        let results = || (self.graph.outputs().iter()).map(|(name, value)| (name.as_str(), *value));
        let wanted = results().find(|(name, _)| *name == output);
        let (_, wanted) = wanted.ok_or_else(|| unknown(output, results()))?;
        let mut given: HashMap<Value, &Tensor> = HashMap::new();
        for (name, value) in self.graph.inputs() {
            let found = inputs.iter().find(|(input, _)| *input == name);
            let (_, tensor) = found.ok_or_else(|| Error::shape(name, "this input is not given"))?;
            let (expected, found) = (self.graph.shape(value), tensor.shape());
            if expected != found {
                let problem = format!("the input is {expected}, not {found}");
                return Err(Error::shape(name, problem));
            }
            given.insert(value, tensor);
        }
        let mut host = Host::default();
        for (index, pass) in self.schedule.passes.iter().enumerate() {
            self.walk(pass, weights, &given, &mut host)?;
            let later = &self.schedule.passes[index + 1..];
            host.values.retain(|value, _| {
                *value == wanted || later.iter().any(|pass| pass.reads.contains(value))
            });
        }
        let result = host.values.remove(&wanted);
        result.ok_or_else(|| unknown(output, results()))
    }

    /// Runs a pass over all its bands.
    fn walk(
        &self,
        pass: &Pass,
        weights: &Weights,
        given: &HashMap<Value, &Tensor>,
        host: &mut Host,
    ) -> Result<()> {
        for value in &pass.keeps {
            host.values
                .insert(*value, Tensor::zeros(self.graph.shape(*value)));
        }
        for statistics in &pass.gathers {
            let shape = bands::statistics_shape(&self.graph, statistics);
            host.statistics.insert(*statistics, Tensor::zeros(shape));
        }
        let mut ready: Option<(usize, Session<B>)> = None;
        for band in &pass.bands {
            let mut session = match ready.take() {
                Some((rows, session)) if rows == band.rows => session,
                // The old one goes before the new one comes.
                other => {
                    drop(other);
                    self.session(pass, band, weights, host)?
                }
            };
            for value in &pass.reads {
                let source = given.get(value).copied().or_else(|| host.values.get(value));
                let source = source.ok_or_else(|| lost(&bands::name(*value)))?;
                let rows = band.first..band.first + band.rows;
                let part = crop(
                    source,
                    elements(source.shape(), pass.rows, rows.clone()),
                    |shape| bands::rows_of(shape, pass.rows, band.rows),
                );
                session.set(&bands::name(*value), &part?)?;
            }
            session.run()?;
            for value in &pass.keeps {
                let found = finite(session.get(&bands::name(*value))?, &mut session)?;
                let whole = host.values.get_mut(value);
                paste(whole, &found, pass.rows, band).ok_or_else(|| lost(&bands::name(*value)))?;
            }
            for statistics in &pass.gathers {
                let name = bands::statistics_name(statistics);
                let found = finite(session.get(&name)?, &mut session)?;
                let factor = height(&self.graph, statistics.of).unwrap_or(0) / pass.rows;
                let blocks = |row: usize| row * factor / statistics.blocks.rows;
                let whole = host.statistics.get_mut(statistics);
                let wanted = band.wanted.map(blocks);
                paste_blocks(whole, &found, blocks(band.first), wanted)
                    .ok_or_else(|| lost(&name))?;
            }
            ready = Some((band.rows, session));
        }
        Ok(())
    }

    /// The session for bands as high as `band`, with the statistics that all of them read.
    fn session(
        &self,
        pass: &Pass,
        band: &Band,
        weights: &Weights,
        host: &Host,
    ) -> Result<Session<B>> {
        let part = bands::part(&self.graph, pass, [pass.rows, band.rows])?;
        let program = Program::with_fusion(&*self.backend, part, |_| false)?;
        let mut session = Session::load(&self.backend, program, weights)?;
        for statistics in &pass.given {
            let name = bands::statistics_name(statistics);
            let values = host.statistics.get(statistics).ok_or_else(|| lost(&name))?;
            session.set(&name, values)?;
        }
        Ok(session)
    }
}

/// Bytes of the arena of a pass's graph; nothing, if one of its kernels does not sum as the whole image's.
fn measure<B: Backend>(
    backend: &B,
    graph: &Graph,
    whole: &[&B::Kernel],
    pass: &Pass,
    part: &Graph,
) -> Result<Option<usize>> {
    let before = pass.reads.len() + pass.given.len();
    for (node, &index) in part.nodes()[before..].iter().zip(&pass.nodes) {
        // A normalisation's blocks are those of the whole by construction.
        if matches!(graph.nodes()[index].op, Op::GroupNorm(_)) {
            continue;
        }
        let band = select(backend, part, node)?;
        if !backend.sums_alike(whole[index], &band.kernel) {
            return Ok(None);
        }
    }
    let program = Program::with_fusion(backend, part.clone(), |_| false)?;
    Ok(Some(program.plan().arena_bytes))
}

/// The elements of some of the `base` rows of one image; of anything else, all.
fn elements(shape: Shape, base: usize, rows: Range<usize>) -> Range<usize> {
    match shape.image() {
        Some([_, h, w, c]) => {
            let row = h / base * w * c;
            rows.start * row..rows.end * row
        }
        None => 0..shape.len(),
    }
}

/// Some elements of a tensor, in the shape that `shaped` makes of its own.
fn crop(source: &Tensor, range: Range<usize>, shaped: impl Fn(Shape) -> Shape) -> Result<Tensor> {
    Tensor::new(shaped(source.shape()), source.data()[range].to_vec())
}

/// Puts a band's wanted rows in their place.
fn paste(whole: Option<&mut Tensor>, found: &Tensor, base: usize, band: &Band) -> Option<()> {
    let whole = whole?;
    let [from, to] = band.wanted;
    let wanted = elements(whole.shape(), base, from..to);
    let skipped = elements(whole.shape(), base, band.first..from).len();
    let skipped = if whole.shape().image().is_some() {
        skipped
    } else {
        0
    };
    let rows = found.data().get(skipped..skipped + wanted.len())?;
    whole.data_mut().get_mut(wanted)?.copy_from_slice(rows);
    Some(())
}

/// Puts a band's wanted blocks, of which it has those from `first` on, in their place in every group or channel.
fn paste_blocks(
    whole: Option<&mut Tensor>,
    found: &Tensor,
    first: usize,
    [from, to]: [usize; 2],
) -> Option<()> {
    let whole = whole?;
    let [_, parts, all, _] = whole.shape().image()?;
    let [_, _, own, _] = found.shape().image()?;
    for part in 0..parts {
        let source = found.data().get((part * own + from - first) * 2..)?;
        let target = &mut whole.data_mut()[(part * all + from) * 2..(part * all + to) * 2];
        let len = target.len();
        target.copy_from_slice(source.get(..len)?);
    }
    Some(())
}

/// Refuses a part that holds NaN or infinity, naming the first node that made one.
fn finite<B: Backend>(found: Tensor, session: &mut Session<B>) -> Result<Tensor> {
    let bad = found.count_not_finite();
    if bad == 0 {
        return Ok(found);
    }
    let node = session.first_not_finite()?;
    Err(Error::NotFinite {
        stage: node.map_or(String::new(), |node| format!("node {node},")),
        what: format!("NaN or infinity in {bad} of {} values", found.shape().len()),
        hint: String::new(),
    })
}

fn lost(name: &str) -> Error {
    Error::shape(
        name,
        "was not kept by an earlier pass: a defect of this program, please report it",
    )
}
