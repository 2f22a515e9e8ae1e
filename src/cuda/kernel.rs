//! A kernel choice as data: which entries run, on which grid, with which arguments.
//!
//! The files beside this one each choose for one operation, as pure functions of shapes and of the [`Target`]: no GPU is needed to call
//! them, their choices can be printed and reviewed, and one place (`launch.rs`) turns them into launches.

pub use super::recipe::{Layout, Recipe};
use super::tensor_map::TensorMap;
use crate::graph::Value;
use crate::tensor::Shape;
use std::fmt;

/// Blocks along y and z that a grid may have.
pub(super) const MOST_BLOCKS: usize = 65_535;

/// What a choice may depend on besides shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Bytes and range of activations.
    pub precision: Precision,
    /// Compute capability, 10 * major + minor: 80, 86, 89, 90.
    pub compute_capability: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that one block may ask for.
    pub shared_bytes_per_block: u32,
    /// The tile to take where there is one of these rows and columns, or queries and keys, instead of the one that should be quickest.
    pub prefer: Option<[usize; 2]>,
    /// What products of halves are summed in.
    pub sums: Sums,
    /// Which kernels there are to choose from.
    pub kernels: Kernels,
}

impl Target {
    /// An A100: the oldest GPU that there is machine code for, and what the emulator is by default.
    pub const fn a100(precision: Precision) -> Self {
        Self {
            precision,
            compute_capability: 80,
            multiprocessors: 108,
            shared_bytes_per_block: 163 << 10,
            prefer: None,
            sums: Sums::F32,
            kernels: Kernels::All,
        }
    }

    /// A GeForce RTX 3090.
    pub const fn rtx_3090(precision: Precision) -> Self {
        Self {
            compute_capability: 86,
            multiprocessors: 82,
            ..Self::rtx_4090(precision)
        }
    }

    /// A GeForce RTX 4090.
    pub const fn rtx_4090(precision: Precision) -> Self {
        Self {
            compute_capability: 89,
            multiprocessors: 128,
            shared_bytes_per_block: 99 << 10,
            sums: Sums::of_geforce(89),
            ..Self::a100(precision)
        }
    }

    /// An H200, and an H100 of as many multiprocessors.
    pub const fn h200(precision: Precision) -> Self {
        Self {
            compute_capability: 90,
            multiprocessors: 132,
            shared_bytes_per_block: 227 << 10,
            ..Self::a100(precision)
        }
    }

    /// The same with other multiprocessors: on few of them small shapes take the kernels that large ones take elsewhere.
    pub const fn with_multiprocessors(self, multiprocessors: u32) -> Self {
        Self {
            multiprocessors,
            ..self
        }
    }
}

/// Which kernels a choice is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Those of the GPU: on a Hopper GPU also what no other runs, which are tensor maps, products of warpgroups, clusters, and launches that start
    /// before the one before them has ended.
    All,
    /// Those that every GPU runs.
    Portable,
}

/// The element type of activations and of the weights of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Halves, accumulated in f32: the tensor cores' own.
    F16,
    /// Floats, for what leaves the range of halves.
    F32,
}

impl Precision {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// As entries spell it.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// What products of halves are summed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sums {
    /// f32.
    F32,
    /// Halves, promoted to f32 every 64 products, where a node's place in its network allows it (`sums.rs`).
    Allowed,
    /// So wherever a kernel can: what `Allowed` becomes for such a node.
    Halves,
}

impl Sums {
    /// What GeForce cards of a compute capability gain by: they multiply twice as fast with sums in halves, where professional cards of the same
    /// capability are as fast with sums in f32.
    pub const fn of_geforce(compute_capability: u32) -> Self {
        match compute_capability {
            86 | 89 => Self::Allowed,
            _ => Self::F32,
        }
    }
}

/// What runs for one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// In this order.
    pub launches: Vec<Launch>,
    /// Bytes of scratch memory that the launches share.
    pub workspace_bytes: usize,
    /// The weights that the launches read, by number.
    pub recipes: Vec<Recipe>,
}

/// One entry on a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The entry's name in `kernels/`.
    pub entry: String,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Bytes of dynamic shared memory. Threads per block are the entry's own.
    pub shared_bytes: u32,
    /// One per parameter of the entry.
    pub arguments: Vec<Argument>,
}

/// What is passed to an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// The node's result.
    Output,
    /// The node's operand of this number.
    Input(usize),
    /// The kernel's weight of this number.
    Weight(usize),
    /// Scratch memory: offset and length in bytes.
    Workspace {
        /// Where it starts.
        offset: usize,
        /// How long it is.
        bytes: usize,
    },
    /// A tensor map of an operand.
    Map {
        /// Whose elements it moves.
        of: Operand,
        /// Where they lie in it.
        map: TensorMap,
    },
    /// What lies behind the node's result: so many bytes, which the node leaves for those who read it.
    Tail(usize),
    /// What lies behind the operand of this number: so many bytes.
    InputTail(usize, usize),
    /// The result of another, later node, which the kernel computes too.
    Also(Value),
    /// So many counters, zero before the launch and after it (`last_to_arrive` of kernels/gpu.cuh).
    Counters(usize),
    /// A pointer to nothing: the entry leaves out what it would read there.
    Null,
    /// A size.
    Int(i32),
    /// A scalar.
    Float(f32),
}

/// Memory of a node, as arguments name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// See [`Argument::Output`].
    Output,
    /// See [`Argument::Input`].
    Input(usize),
    /// See [`Argument::Weight`].
    Weight(usize),
    /// See [`Argument::Workspace`].
    Workspace {
        /// Where it starts.
        offset: usize,
        /// How long it is.
        bytes: usize,
    },
}

impl From<Operand> for Argument {
    fn from(operand: Operand) -> Self {
        match operand {
            Operand::Output => Self::Output,
            Operand::Input(index) => Self::Input(index),
            Operand::Weight(index) => Self::Weight(index),
            Operand::Workspace { offset, bytes } => Self::Workspace { offset, bytes },
        }
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [x, y, z] = self.grid;
        write!(f, "{} grid {x}x{y}x{z}", self.entry)?;
        if self.shared_bytes > 0 {
            write!(f, " shared {}", self.shared_bytes)?;
        }
        for argument in &self.arguments {
            write!(f, " {argument}")?;
        }
        Ok(())
    }
}

impl Argument {
    /// Itself, or what it is a map of.
    pub fn memory(self) -> Self {
        match self {
            Self::Map { of, .. } => of.into(),
            other => other,
        }
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Output => write!(f, "y"),
            Self::Input(index) => write!(f, "x{index}"),
            Self::Weight(index) => write!(f, "w{index}"),
            Self::Workspace { offset, bytes } => write!(f, "scratch@{offset}+{bytes}"),
            Self::Map { of, map } => write!(f, "{}{map}", Self::from(*of)),
            Self::Tail(bytes) => write!(f, "y+{bytes}"),
            Self::InputTail(index, bytes) => write!(f, "x{index}+{bytes}"),
            Self::Also(_) => write!(f, "z"),
            Self::Counters(count) => write!(f, "counters+{count}"),
            Self::Null => write!(f, "-"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
        }
    }
}

impl Kernel {
    /// No launch at all.
    pub fn nothing() -> Self {
        Self {
            launches: Vec::new(),
            workspace_bytes: 0,
            recipes: Vec::new(),
        }
    }

    /// One launch that needs no scratch memory, with a weight for each learnt tensor.
    pub fn single(launch: Launch, layouts: Vec<Layout>) -> Self {
        Self {
            launches: vec![launch],
            workspace_bytes: 0,
            recipes: Recipe::each(layouts),
        }
    }

    fn arguments(&self) -> impl Iterator<Item = &Argument> {
        self.launches.iter().flat_map(|launch| &launch.arguments)
    }

    /// Bytes that it leaves behind its result, which live as long.
    pub fn tail_bytes(&self) -> usize {
        let tails = self.arguments().filter_map(|argument| match argument {
            Argument::Tail(bytes) => Some(*bytes),
            _ => None,
        });
        tails.max().unwrap_or(0)
    }

    /// The later node whose result it computes too.
    pub fn also(&self) -> Option<Value> {
        self.arguments().find_map(|argument| match argument {
            Argument::Also(value) => Some(*value),
            _ => None,
        })
    }
}

/// `value` as an entry's `int`, or a sentence: an entry counts elements in 32 bits.
pub fn int(value: usize) -> Result<Argument, String> {
    i32::try_from(value)
        .map(Argument::Int)
        .map_err(|_| format!("{value} is more than a kernel counts to"))
}

/// As [`int`], for the elements of a tensor.
pub fn elements(shape: Shape) -> Result<Argument, String> {
    int(shape.len()).map_err(|problem| format!("{shape} is too large: {problem}"))
}
