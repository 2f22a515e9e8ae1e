//! Runs a case of `tests/cases` with the kernels of a loaded library.

use crate::cases::Case;
use half::f16;
use latent_diffusion::cuda::table::{self, Element, Kind};
use latent_diffusion::cuda::{self, Argument, Kernel, Layout, Operand, Precision, Target};
use latent_diffusion::rng::Noise;
use latent_diffusion::{Shape, Tensor};
use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_void};

/// `ldm_region` of `kernels/emulator/emulator.h`.
#[repr(C)]
struct Region {
    address: *mut c_void,
    bytes: u64,
    writable: i32,
    early: i32,
}

/// `ldm_launch`, likewise.
#[repr(C)]
struct Launch {
    entry: *const c_char,
    grid: [u32; 3],
    threads: u32,
    cluster: u32,
    shared_bytes: u32,
    arguments: *const *const c_void,
    regions: *const Region,
    region_count: u32,
    workers: u32,
    check: i32,
    seed: u64,
}

/// What is passed for a parameter: a word, or the map of that number.
enum Word {
    Itself(u64),
    Map(usize),
}

/// More than any case's launches ask for.
const COUNTERS: usize = 1 << 10;

type Run = unsafe extern "C" fn(*const Launch, *mut c_char, usize) -> i32;
type Alloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);

/// How a library is asked to run.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub seed: u64,
    /// Threads of the host.
    pub workers: u32,
    /// Bytes of shared memory that the launches get less than they ask for.
    pub withheld: u32,
}

/// A GPU of one multiprocessor: small cases then take the tiles that large ones take elsewhere.
pub fn target(precision: Precision) -> Target {
    Target {
        precision,
        compute_capability: 90,
        multiprocessors: 1,
        shared_bytes_per_block: 227 << 10,
    }
}

/// The launches that compute a case.
pub fn kernel(case: &Case, precision: Precision) -> Kernel {
    let shapes: Vec<Shape> = case.operands.iter().map(|operand| operand.shape).collect();
    let output = case.op.operator().infer(&shapes).unwrap();
    let kernel = cuda::select(&case.op, &shapes, output, &target(precision));
    kernel.unwrap_or_else(|problem| panic!("{}: {problem}", case.name))
}

/// The entries that those launches name.
pub fn entries(case: &Case, precision: Precision) -> Vec<String> {
    let launches = kernel(case, precision).launches;
    launches.into_iter().map(|launch| launch.entry).collect()
}

/// Memory of the emulator, freed when it is dropped.
struct Memory<'a> {
    address: *mut c_void,
    bytes: usize,
    free: Symbol<'a, Free>,
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: `address` comes from the library's allocator, and nobody else frees it.
        unsafe { (self.free)(self.address) }
    }
}

impl<'a> Memory<'a> {
    fn new(library: &'a Library, bytes: usize) -> Self {
        // SAFETY: the types are those of kernels/emulator/emulator.h.
        let (address, free) = unsafe {
            let alloc: Symbol<'a, Alloc> = library.get(b"ldm_emulator_alloc").unwrap();
            (alloc(bytes), library.get(b"ldm_emulator_free").unwrap())
        };
        assert!(!address.is_null());
        Self {
            address,
            bytes,
            free,
        }
    }

    fn zeros(library: &'a Library, bytes: usize) -> Self {
        let memory = Self::new(library, bytes);
        // SAFETY: the memory is as long, and new.
        unsafe { memory.address.write_bytes(0, bytes) };
        memory
    }

    fn of(library: &'a Library, values: &[f32], element: Element) -> Self {
        let halves: Vec<f16>;
        let bytes: &[u8] = match element {
            Element::Half => {
                halves = values.iter().map(|&value| f16::from_f32(value)).collect();
                bytemuck::cast_slice(&halves)
            }
            Element::Float => bytemuck::cast_slice(values),
            Element::Int => panic!("no operation has tensors of integers"),
        };
        let memory = Self::new(library, bytes.len());
        // SAFETY: the memory is as long as `bytes`, and new.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.address.cast(), bytes.len())
        };
        memory
    }

    fn read(&self) -> Vec<u8> {
        // SAFETY: the allocator has filled the memory, and no launch is under way.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.bytes) }.to_vec()
    }
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
    kernel: Kernel,
    inputs: Vec<Tensor>,
    output: Option<Memory<'a>>,
    input: Vec<Option<Memory<'a>>>,
    weight: Vec<Option<Memory<'a>>>,
    workspace: Memory<'a>,
    counters: Memory<'a>,
}

impl<'a> Memories<'a> {
    fn new(library: &'a Library, case: &'a Case, precision: Precision) -> Self {
        let kernel = kernel(case, precision);
        Self {
            library,
            case,
            inputs: case.inputs(),
            output: None,
            input: case.operands.iter().map(|_| None).collect(),
            weight: kernel.recipes.iter().map(|_| None).collect(),
            workspace: Memory::new(library, kernel.workspace_bytes),
            counters: Memory::zeros(library, COUNTERS * size_of::<i32>()),
            kernel,
        }
    }

    /// Address and length of what a pointer of `element` stands for. Operands are stored as the first kernel that takes them declares.
    fn place(&mut self, argument: Argument, element: Element) -> (*mut c_void, usize) {
        let library = self.library;
        let memory = match argument {
            Argument::Output => self.output.get_or_insert_with(|| {
                let shapes: Vec<Shape> = self.inputs.iter().map(Tensor::shape).collect();
                let output = self.case.op.operator().infer(&shapes).unwrap();
                Memory::new(library, output.len() * element_bytes(element))
            }),
            Argument::Input(index) => self.input[index]
                .get_or_insert_with(|| Memory::of(library, self.inputs[index].data(), element)),
            Argument::Weight(index) => self.weight[index].get_or_insert_with(|| {
                let params = self.case.op.operator().params();
                let recipe = &self.kernel.recipes[index];
                let shapes: Vec<Shape> = recipe.params.iter().map(|&i| params[i].shape).collect();
                let count = weight_len(recipe.layout, &shapes);
                let values: Vec<f32> = Noise::cpu(index as u64)
                    .normal(count)
                    .iter()
                    .map(|x| x * 0.1)
                    .collect();
                Memory::of(library, &values, element)
            }),
            Argument::Workspace { offset, bytes } => {
                assert!(offset + bytes <= self.workspace.bytes);
                return (self.workspace.address.wrapping_byte_add(offset), bytes);
            }
            Argument::Counters(count) => {
                assert!(count <= COUNTERS);
                return (self.counters.address, count * size_of::<i32>());
            }
            Argument::Null => return (std::ptr::null_mut(), 0),
            Argument::Map { .. } | Argument::Int(_) | Argument::Float(_) => {
                panic!("{argument:?} where memory is expected")
            }
        };
        (memory.address, memory.bytes)
    }

    fn launch(&mut self, launch: &cuda::Launch, way: Way) -> Result<(), String> {
        let entry = table::entry(&launch.entry).unwrap();
        assert_eq!(
            entry.parameters.len(),
            launch.arguments.len(),
            "{}",
            launch.entry
        );
        let mut words = Vec::new();
        let mut regions = Vec::new();
        let mut maps = Vec::new();
        let early = |argument| i32::from(matches!(argument, Argument::Weight(_)));
        for (parameter, &argument) in entry.parameters.iter().zip(&launch.arguments) {
            words.push(match (parameter.kind, argument) {
                (Kind::Pointer { element, written }, argument) => {
                    let (address, bytes) = self.place(argument, element);
                    regions.push(Region {
                        address,
                        bytes: bytes as u64,
                        writable: i32::from(written),
                        early: early(argument),
                    });
                    Word::Itself(address as u64)
                }
                (Kind::Map, Argument::Map { of, map }) => {
                    let argument = Argument::from(of);
                    let (address, bytes) = self.place(argument, Element::Half);
                    let written = matches!(of, Operand::Output | Operand::Workspace { .. });
                    regions.push(Region {
                        address,
                        bytes: bytes as u64,
                        writable: i32::from(written),
                        early: early(argument),
                    });
                    maps.push(map.described(address as u64));
                    Word::Map(maps.len() - 1)
                }
                (Kind::Int, Argument::Int(value)) => Word::Itself(u64::from(value.cast_unsigned())),
                (Kind::Float, Argument::Float(value)) => Word::Itself(u64::from(value.to_bits())),
                (kind, argument) => panic!("{}: {argument:?} for {kind:?}", launch.entry),
            });
        }
        let name = CString::new(entry.name).unwrap();
        let arguments: Vec<*const c_void> = words
            .iter()
            .map(|word| match word {
                Word::Itself(word) => std::ptr::from_ref(word).cast(),
                Word::Map(index) => std::ptr::from_ref(&maps[*index]).cast(),
            })
            .collect();
        let request = Launch {
            entry: name.as_ptr(),
            grid: launch.grid,
            threads: entry.threads,
            cluster: entry.cluster,
            shared_bytes: launch.shared_bytes - way.withheld.min(launch.shared_bytes),
            arguments: arguments.as_ptr(),
            regions: regions.as_ptr(),
            region_count: regions.len() as u32,
            workers: way.workers,
            check: 1,
            seed: way.seed,
        };
        let mut report: [c_char; 1024] = [0; 1024];
        // SAFETY: the types are those of kernels/emulator/emulator.h, and all that `request` points to outlives the call.
        let (failed, report) = unsafe {
            let run: Symbol<Run> = self.library.get(b"ldm_emulator_launch").unwrap();
            let failed = run(&request, report.as_mut_ptr(), report.len());
            (failed, CStr::from_ptr(report.as_ptr()))
        };
        match failed {
            0 => Ok(()),
            _ => Err(report.to_string_lossy().into_owned()),
        }
    }
}

/// The bytes of the result, or the fault.
pub fn run(
    library: &Library,
    case: &Case,
    precision: Precision,
    way: Way,
) -> Result<Vec<u8>, String> {
    let mut memories = Memories::new(library, case, precision);
    for launch in memories.kernel.launches.clone() {
        memories.launch(&launch, way)?;
    }
    Ok(memories
        .output
        .map_or_else(Vec::new, |output| output.read()))
}
