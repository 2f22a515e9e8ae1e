//! Runs a case of `tests/cases` with the kernels of a loaded library.

use crate::cases::Case;
use crate::door::{Memory, Passed, Way};
use latent_diffusion::cuda::table::{self, Element, Kind};
use latent_diffusion::cuda::{self, Argument, Kernel, Layout, Operand, Precision, Target};
use latent_diffusion::rng::Noise;
use latent_diffusion::{Shape, Tensor};
use libloading::Library;
use std::ffi::c_void;

/// More than any case's launches ask for.
const COUNTERS: usize = 1 << 10;

/// A Hopper GPU of so many multiprocessors.
pub fn gpu(multiprocessors: u32) -> Target {
    Target::h200(Precision::F16).with_multiprocessors(multiprocessors)
}

/// One of a single multiprocessor: small cases then take the tiles that large ones take elsewhere.
pub fn target(precision: Precision) -> Target {
    Target::h200(precision).with_multiprocessors(1)
}

/// The entries that launches name.
pub fn entries(kernel: &Kernel) -> Vec<String> {
    let launches = kernel.launches.iter();
    launches.map(|launch| launch.entry.clone()).collect()
}

fn element_bytes(element: Element) -> usize {
    match element {
        Element::Half => 2,
        Element::Float | Element::Int => 4,
    }
}

/// Elements of a weight, made of tensors of these shapes, as it lies on the device.
fn weight_len(layout: Layout, shapes: &[Shape]) -> usize {
    let all = || shapes.iter().map(Shape::len).sum();
    match layout {
        Layout::Matrix { rows, columns, .. }
        | Layout::Beside { rows, columns }
        | Layout::Scaled { rows, columns, .. } => rows * columns,
        Layout::Phases { columns } => 4 * shapes[0].batch() * columns,
        Layout::Vector | Layout::Table | Layout::GatedVector => all(),
        Layout::Total => shapes[0].len(),
        Layout::ScaledSums { .. } => shapes[1..].iter().map(Shape::batch).sum(),
        Layout::Addends { matrices, .. } => shapes[1..=matrices].iter().map(Shape::batch).sum(),
    }
}

/// All memory of a case.
struct Memories<'a> {
    library: &'a Library,
    case: &'a Case,
    kernel: &'a Kernel,
    inputs: Vec<Tensor>,
    output: Option<Memory<'a>>,
    also: Option<Memory<'a>>,
    input: Vec<Option<Memory<'a>>>,
    weight: Vec<Option<Memory<'a>>>,
    workspace: Memory<'a>,
    counters: Memory<'a>,
}

impl<'a> Memories<'a> {
    fn new(library: &'a Library, case: &'a Case, kernel: &'a Kernel) -> Self {
        Self {
            library,
            case,
            inputs: case.inputs(),
            output: None,
            also: None,
            input: case.operands.iter().map(|_| None).collect(),
            weight: kernel.recipes.iter().map(|_| None).collect(),
            workspace: Memory::new(library, kernel.workspace_bytes),
            counters: Memory::zeros(library, COUNTERS * size_of::<i32>()),
            kernel,
        }
    }

    fn result(&self) -> Shape {
        let shapes: Vec<Shape> = self.inputs.iter().map(Tensor::shape).collect();
        self.case.op.operator().infer(&shapes).unwrap()
    }

    /// The result, and what is left behind it.
    fn output(&mut self, element: Element) -> &Memory<'a> {
        let bytes = self.result().len() * element_bytes(element) + self.kernel.tail_bytes();
        let library = self.library;
        self.output
            .get_or_insert_with(|| Memory::new(library, bytes))
    }

    /// Address and length of what a pointer of `element` stands for. Operands are stored as the first kernel that takes them declares.
    fn place(&mut self, argument: Argument, element: Element) -> (*mut c_void, usize) {
        let library = self.library;
        let channels = self.result().channels();
        let memory = match argument {
            Argument::Output => {
                let (address, all) = self.output(element).place();
                return (address, all - self.kernel.tail_bytes());
            }
            Argument::Tail(bytes) => {
                let output = self.output.as_ref().expect("the result is passed first");
                let (address, all) = output.place();
                return (address.wrapping_byte_add(all - bytes), bytes);
            }
            Argument::Also(_) => {
                let bytes = self.result().len() * element_bytes(element);
                self.also.get_or_insert_with(|| Memory::new(library, bytes))
            }
            Argument::Input(index) => self.input[index]
                .get_or_insert_with(|| Memory::of(library, self.inputs[index].data(), element)),
            Argument::Weight(index) => self.weight[index].get_or_insert_with(|| {
                let params = self.case.op.operator().params();
                let recipe = &self.kernel.recipes[index];
                // Behind the operation's own are those of a normalisation of its result.
                let channels = [channels].into();
                let shape = |&i: &usize| params.get(i).map_or(channels, |param| param.shape);
                let shapes: Vec<Shape> = recipe.params.iter().map(shape).collect();
                let count = weight_len(recipe.layout, &shapes);
                let values: Vec<f32> = Noise::cpu(index as u64)
                    .normal(count)
                    .iter()
                    .map(|x| x * 0.1)
                    .collect();
                Memory::of(library, &values, element)
            }),
            Argument::Workspace { offset, bytes } => {
                let (address, all) = self.workspace.place();
                assert!(offset + bytes <= all);
                return (address.wrapping_byte_add(offset), bytes);
            }
            Argument::Counters(count) => {
                assert!(count <= COUNTERS);
                return (self.counters.place().0, count * size_of::<i32>());
            }
            Argument::Null => return (std::ptr::null_mut(), 0),
            Argument::InputTail(..)
            | Argument::Map { .. }
            | Argument::Int(_)
            | Argument::Float(_) => {
                panic!("{argument:?} where memory is expected")
            }
        };
        memory.place()
    }

    fn launch(&mut self, launch: &cuda::Launch, way: Way) -> Result<String, String> {
        let entry = table::entry(&launch.entry).unwrap();
        assert_eq!(
            entry.parameters.len(),
            launch.arguments.len(),
            "{}",
            launch.entry
        );
        let mut passed = Passed::default();
        let early = |argument| matches!(argument, Argument::Weight(_));
        for (parameter, &argument) in entry.parameters.iter().zip(&launch.arguments) {
            match (parameter.kind, argument) {
                (Kind::Pointer { element, written }, argument) => {
                    let place = self.place(argument, element);
                    passed.pointer(place, written, early(argument));
                }
                (Kind::Map, Argument::Map { of, map }) => {
                    let argument = Argument::from(of);
                    let place = self.place(argument, Element::Half);
                    let written = matches!(of, Operand::Output | Operand::Workspace { .. });
                    passed.map(place, written, early(argument), &map);
                }
                (_, argument) => passed.number(argument),
            }
        }
        passed.launch(self.library, entry, launch.grid, launch.shared_bytes, way)
    }
}

/// Where its launches make lanes take turns at a bank, a line each.
pub fn conflicts(
    library: &Library,
    case: &Case,
    kernel: &Kernel,
    way: Way,
) -> Result<Vec<String>, String> {
    let mut memories = Memories::new(library, case, kernel);
    let mut found = vec![];
    for launch in &kernel.launches {
        let report = memories.launch(launch, way)?;
        found.extend(report.lines().map(str::to_owned));
    }
    Ok(found)
}

/// The bytes of the result, or the fault.
pub fn run(library: &Library, case: &Case, kernel: &Kernel, way: Way) -> Result<Vec<u8>, String> {
    let mut memories = Memories::new(library, case, kernel);
    for launch in &kernel.launches {
        memories.launch(launch, way)?;
    }
    let results = [memories.output, memories.also].into_iter().flatten();
    Ok(results.flat_map(|memory| memory.read()).collect())
}
