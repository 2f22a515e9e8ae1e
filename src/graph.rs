//! A network as a list of operations, in the order they run.
//!
//! A graph is append-only: an operation can only use values that already exist, so the order of construction is an order
//! of execution, there are no cycles to detect and no sorting to do. A graph knows shapes and names, never element types
//! or devices: the same graph object runs in f32 on the CPU and in f16 on a GPU.
//!
//! Scopes name nodes. A model opens a scope per module, named as the checkpoint names it, so a node, an error, a profile
//! line and a PyTorch module all say `input_blocks.1.1.transformer_blocks.0.attn2`. The last node at a module's path, or
//! inside it, computes the module's answer.

use crate::error::{Error, Result};
use crate::ops::{Cost, Input, Op};
use crate::tensor::Shape;

/// A tensor that a node computes: the node's index in its graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Value(u32);

impl Value {
    /// The index of the node that computes this value.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The value computed by the node at `index`.
    pub(crate) fn at(index: usize) -> Self {
        Self(index as u32)
    }
}

/// A learnt tensor: its name in the checkpoint and its shape there (`[O, C, R, S]` for a convolution, `[O, C]` for a linear map).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Param {
    /// The checkpoint name, relative to the network's root.
    pub name: String,
    /// The checkpoint shape.
    pub shape: Shape,
}

/// One operation of a graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// From which values.
    pub inputs: Vec<Value>,
    /// The shape of the result.
    pub shape: Shape,
    /// The module path, equal to the checkpoint's.
    pub name: String,
}

/// A network of fixed shapes.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    outputs: Vec<(String, Value)>,
    scope: String,
}

impl Graph {
    /// A graph without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The nodes, in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that computes `value`.
    pub fn node(&self, value: Value) -> &Node {
        &self.nodes[value.index()]
    }

    /// The shape of `value`.
    pub fn shape(&self, value: Value) -> Shape {
        self.node(value).shape
    }

    /// The shapes of a node's operands.
    pub fn operands(&self, node: &Node) -> Vec<Shape> {
        node.inputs.iter().map(|&value| self.shape(value)).collect()
    }

    /// The work of running it once.
    pub fn cost(&self) -> Cost {
        let costs = self.nodes.iter().map(|node| self.cost_of(node));
        costs.fold(Cost::default(), |sum, cost| sum + cost)
    }

    /// The work of one of its nodes.
    pub fn cost_of(&self, node: &Node) -> Cost {
        node.op.operator().cost(&self.operands(node), node.shape)
    }

    /// The named results, in the order they were declared.
    pub fn outputs(&self) -> &[(String, Value)] {
        &self.outputs
    }

    /// The named inputs, in the order they were declared.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, Value)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| match &node.op {
                Op::Input(_) => Some((node.name.as_str(), Value::at(index))),
                _ => None,
            })
    }

    /// Every learnt tensor the graph uses, in the order of first use; one used twice is listed twice.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        self.nodes
            .iter()
            .flat_map(|node| node.op.operator().params())
    }

    /// Their names and shapes, as weights are [checked](crate::weights::Weights::check) for them.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Shape)> {
        self.params().map(|param| (&*param.name, param.shape))
    }

    /// Declares an input tensor, held at the device's working precision.
    pub fn input(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.push_input(name, shape.into(), [false, false])
    }

    /// Declares an input held in 32 bits on every device: token ids, timesteps, sampler coefficients.
    pub fn input_exact(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.push_input(name, shape.into(), [true, false])
    }

    /// Declares an input that is set once for many runs, as a prompt's context is for the steps of a sampler. What follows from
    /// constants alone is computed when one of them was set, and not at every run.
    pub fn constant(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.push_input(name, shape.into(), [false, true])
    }

    /// As [`constant`](Self::constant), held in 32 bits on every device.
    pub fn constant_exact(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.push_input(name, shape.into(), [true, true])
    }

    fn push_input(&mut self, name: &str, shape: Shape, [exact, constant]: [bool; 2]) -> Value {
        self.append(Node {
            op: Op::Input(Input { exact, constant }),
            inputs: Vec::new(),
            shape,
            name: name.to_owned(),
        })
    }

    /// Whether `value` is held in 32 bits on every device: an exact input, the same elements under another shape, a count,
    /// the number of a code, or statistics.
    pub fn is_exact(&self, value: Value) -> bool {
        let node = self.node(value);
        match (&node.op, node.inputs.first()) {
            (Op::Input(input), _) => input.exact,
            (Op::Reshape(_) | Op::Assign(_), Some(&operand)) => self.is_exact(operand),
            (Op::CountNotFinite(_) | Op::Codebook(_) | Op::GroupStatistics(_), _) => true,
            _ => false,
        }
    }

    /// Declares `value` to be the graph's result `name`.
    pub fn output(&mut self, name: &str, value: Value) {
        self.outputs.push((name.to_owned(), value));
    }

    /// Builds inside the module `name` of the current one.
    pub fn scope<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.scope.len();
        self.scope = self.path(name);
        let built = build(self);
        self.scope.truncate(outer);
        built
    }

    /// The path of `name` in the current scope; the scope itself for the empty name.
    pub fn path(&self, name: &str) -> String {
        match (self.scope.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => self.scope.clone(),
            (false, false) => format!("{}.{name}", self.scope),
        }
    }

    /// A learnt tensor `name` of the current scope.
    pub fn param(&self, name: &str, shape: impl Into<Shape>) -> Param {
        Param {
            name: self.path(name),
            shape: shape.into(),
        }
    }

    /// Appends an operation, named by the current scope.
    ///
    /// # Errors
    /// [`Error::Shape`] if the operands do not fit the operation, or one is an input's value from before it was
    /// [assigned](crate::ops::Assign).
    pub fn push(&mut self, op: impl Into<Op>, inputs: &[Value]) -> Result<Value> {
        let op = op.into();
        if let Some(stale) = inputs.iter().find_map(|&value| self.overwritten(value)) {
            let problem = format!("{}: `{stale}` has a new value by now", op.name());
            return Err(Error::shape(self.path(""), problem));
        }
        let shapes: Vec<Shape> = inputs.iter().map(|&v| self.shape(v)).collect();
        let shape = op
            .operator()
            .infer(&shapes)
            .map_err(|problem| Error::shape(self.path(""), format!("{}: {problem}", op.name())))?;
        let name = self.path("");
        Ok(self.append(Node {
            op,
            inputs: inputs.to_vec(),
            shape,
            name,
        }))
    }

    /// The input whose old elements `value` is, if that input has been assigned since.
    fn overwritten(&self, value: Value) -> Option<&str> {
        let node = self.node(value);
        match (&node.op, node.inputs.first()) {
            (Op::Reshape(_), Some(&operand)) => self.overwritten(operand),
            (Op::Input(_), _) => self
                .nodes
                .iter()
                .any(|later| {
                    let Op::Assign(assign) = &later.op else {
                        return false;
                    };
                    let paired = &later.inputs[..assign.paired(later.inputs.len())];
                    paired.iter().step_by(2).any(|target| *target == value)
                })
                .then_some(&*node.name),
            _ => None,
        }
    }

    /// Appends a finished node, as a pass over another graph does.
    pub(crate) fn append(&mut self, node: Node) -> Value {
        self.nodes.push(node);
        Value::at(self.nodes.len() - 1)
    }

    /// The value that answers for the module at `path`: the last node of that name or inside it.
    pub fn find(&self, path: &str) -> Option<Value> {
        let belongs = |name: &str| {
            name.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.nodes
            .iter()
            .rposition(|node| belongs(&node.name))
            .map(Value::at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_name_nodes_and_params_as_the_checkpoint_does() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 4, 8]);
        let y = g
            .scope("attn1", |g| {
                let q = g.scope("to_q", |g| g.linear(x, 16, true))?;
                g.add(q, q)
            })
            .unwrap();
        assert_eq!(g.node(y).name, "attn1");
        let names: Vec<_> = g.params().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["attn1.to_q.weight", "attn1.to_q.bias"]);
        assert_eq!(g.find("attn1"), Some(y));
        assert_eq!(
            g.find("attn1.to_q").map(|v| g.shape(v)),
            Some([1, 4, 16].into())
        );
        assert_eq!(g.find("attn"), None);
    }

    #[test]
    fn operands_that_do_not_fit_are_named() {
        let mut g = Graph::new();
        let a = g.input("a", [1, 4]);
        let b = g.input("b", [1, 5]);
        let error = g.scope("block", |g| g.add(a, b)).unwrap_err().to_string();
        assert!(
            error.contains("block") && error.contains("[1, 4]") && error.contains("[1, 5]"),
            "{error}"
        );
    }
}
