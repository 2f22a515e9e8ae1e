//! Where a network is cut: which nodes each pass computes, for a choice of values that are kept between passes.

use super::{Network, Pass, Statistics};
use crate::graph::Value;
use crate::ops::{Conv2d, Op, Upsampling};
use std::collections::BTreeSet;

impl Network<'_> {
    /// Values that may be kept or computed again: what is normalised, and what is about to grow.
    pub(super) fn candidates(&self) -> BTreeSet<Value> {
        let nodes = self.graph.nodes().iter().enumerate();
        let grows = |op: &Op| {
            matches!(
                op,
                Op::Upsample2x(_)
                    | Op::Conv2d(Conv2d {
                        upsampling: Upsampling::Repeated | Upsampling::Phases,
                        ..
                    })
            )
        };
        let found = nodes.filter_map(|(index, node)| match self.needs[index] {
            Some(statistics) => Some(statistics.of),
            None => grows(&node.op).then(|| node.inputs[0]),
        });
        found.filter(|v| self.local[v.index()]).collect()
    }

    /// The passes where `kept` are kept, and whatever must be; their bands are still open.
    pub(super) fn passes(&self, kept: &BTreeSet<Value>) -> Vec<Pass> {
        let (graph, local) = (self.graph, &self.local);
        let nodes = graph.nodes();
        let is_input = |v: Value| matches!(graph.node(v).op, Op::Input(_));
        let mut there: BTreeSet<Value> = graph.inputs().map(|(_, value)| value).collect();
        let mut gathered: BTreeSet<Statistics> = BTreeSet::new();
        let mut passes = Vec::new();
        let normalised: BTreeSet<Value> = self.needs.iter().flatten().map(|s| s.of).collect();
        let mut index = 0;
        while index < nodes.len() {
            let value = Value::at(index);
            if is_input(value) {
                index += 1;
                continue;
            }
            if !local[index] {
                let alike = |at: &usize| is_input(Value::at(*at)) || !local[*at];
                let end = (index..nodes.len()).take_while(alike).count() + index;
                let run: Vec<usize> = (index..end)
                    .filter(|&at| !is_input(Value::at(at)))
                    .collect();
                let reads: BTreeSet<Value> = (run.iter())
                    .flat_map(|&at| nodes[at].inputs.iter().copied())
                    .filter(|v| v.index() < index || is_input(*v))
                    .collect();
                for &read in &reads {
                    if !there.contains(&read) {
                        passes.push(self.pass(vec![read], vec![], &there));
                        there.insert(read);
                    }
                }
                let keeps: Vec<Value> = (run.iter().map(|&at| Value::at(at)))
                    .filter(|v| self.is_read_from(*v, end))
                    .collect();
                there.extend(&keeps);
                passes.push(Pass {
                    nodes: run,
                    reads: reads.into_iter().collect(),
                    keeps,
                    ..Pass::default()
                });
                index = end;
                continue;
            }
            if let Some(statistics) = self.needs[index]
                && gathered.insert(statistics)
            {
                let of = statistics.of;
                let keep = (kept.contains(&of) && !there.contains(&of)).then_some(of);
                passes.push(self.pass(keep.into_iter().collect(), vec![statistics], &there));
                there.extend(keep);
            }
            if kept.contains(&value) && !normalised.contains(&value) {
                passes.push(self.pass(vec![value], vec![], &there));
                there.insert(value);
            }
            index += 1;
        }
        let outputs: BTreeSet<Value> = graph.outputs().iter().map(|(_, value)| *value).collect();
        let left: Vec<Value> = outputs.difference(&there).copied().collect();
        if !left.is_empty() {
            passes.push(self.pass(left, vec![], &there));
        }
        passes
    }

    /// Whether a node from `end` on reads `value`, or it is a result.
    fn is_read_from(&self, value: Value, end: usize) -> bool {
        let graph = self.graph;
        let later = graph.nodes()[end..].iter();
        let read = later.flat_map(|node| &node.inputs).any(|v| *v == value);
        read || graph.outputs().iter().any(|(_, v)| *v == value)
    }

    /// The pass that computes `keeps` and what `gathers` are of, from values that are `there`.
    fn pass(&self, keeps: Vec<Value>, gathers: Vec<Statistics>, there: &BTreeSet<Value>) -> Pass {
        let mut open: Vec<Value> = keeps.clone();
        open.extend(gathers.iter().map(|statistics| statistics.of));
        let [mut nodes, mut reads] = [BTreeSet::new(), BTreeSet::new()];
        let mut given = BTreeSet::new();
        while let Some(value) = open.pop() {
            if there.contains(&value) {
                reads.insert(value);
            } else if nodes.insert(value) {
                open.extend(&self.graph.node(value).inputs);
                given.extend(self.needs[value.index()]);
            }
        }
        Pass {
            nodes: nodes.into_iter().map(Value::index).collect(),
            reads: reads.into_iter().collect(),
            given: given.into_iter().collect(),
            keeps,
            gathers,
            ..Pass::default()
        }
    }
}
