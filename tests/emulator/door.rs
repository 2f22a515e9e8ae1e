//! The C functions of a loaded emulator: memory, and one launch.

use half::f16;
use latent_diffusion::cuda::Argument;
use latent_diffusion::cuda::table::{Element, Entry};
use latent_diffusion::cuda::tensor_map::{Encoded, TensorMap};
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
    /// Count bank conflicts.
    pub banks: bool,
}

/// Memory of the emulator, freed when it is dropped.
pub struct Memory<'a> {
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
    /// Where it is, and how long.
    pub fn place(&self) -> (*mut c_void, usize) {
        (self.address, self.bytes)
    }

    pub fn new(library: &'a Library, bytes: usize) -> Self {
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

    pub fn zeros(library: &'a Library, bytes: usize) -> Self {
        let memory = Self::new(library, bytes);
        // SAFETY: the memory is as long, and new.
        unsafe { memory.address.write_bytes(0, bytes) };
        memory
    }

    pub fn of(library: &'a Library, values: &[f32], element: Element) -> Self {
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

    /// Its bytes.
    pub fn read(&self) -> Vec<u8> {
        // SAFETY: the allocator has filled the memory, and no launch is under way.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.bytes) }.to_vec()
    }
}

/// The arguments of a launch, and the memory that they are of.
#[derive(Default)]
pub struct Passed {
    words: Vec<Word>,
    maps: Vec<Encoded>,
    regions: Vec<Region>,
}

impl Passed {
    fn region(&mut self, (address, bytes): (*mut c_void, usize), written: bool, early: bool) {
        self.regions.push(Region {
            address,
            bytes: bytes as u64,
            writable: i32::from(written),
            early: i32::from(early),
        });
    }

    /// Memory that the kernel may write, or read before the grid before has ended.
    pub fn pointer(&mut self, place: (*mut c_void, usize), written: bool, early: bool) {
        self.region(place, written, early);
        self.words.push(Word::Itself(place.0 as u64));
    }

    /// The same by a map.
    pub fn map(
        &mut self,
        place: (*mut c_void, usize),
        written: bool,
        early: bool,
        map: &TensorMap,
    ) {
        self.region(place, written, early);
        self.words.push(Word::Map(self.maps.len()));
        self.maps.push(map.described(place.0 as u64));
    }

    /// A size or a scalar.
    pub fn number(&mut self, argument: Argument) {
        self.words.push(match argument {
            Argument::Int(value) => Word::Itself(u64::from(value.cast_unsigned())),
            Argument::Float(value) => Word::Itself(u64::from(value.to_bits())),
            other => panic!("{other:?} where a number is expected"),
        });
    }

    /// Launches an entry with all that was passed: the bank conflicts, a line each, if they are counted; what the checker says otherwise.
    pub fn launch(
        &self,
        library: &Library,
        entry: &Entry,
        grid: [u32; 3],
        shared_bytes: u32,
        way: Way,
    ) -> Result<String, String> {
        let name = CString::new(entry.name).unwrap();
        let arguments: Vec<*const c_void> = self
            .words
            .iter()
            .map(|word| match word {
                Word::Itself(word) => std::ptr::from_ref(word).cast(),
                Word::Map(index) => std::ptr::from_ref(&self.maps[*index]).cast(),
            })
            .collect();
        let request = Launch {
            entry: name.as_ptr(),
            grid,
            threads: entry.threads,
            cluster: entry.cluster,
            shared_bytes: shared_bytes - way.withheld.min(shared_bytes),
            arguments: arguments.as_ptr(),
            regions: self.regions.as_ptr(),
            region_count: self.regions.len() as u32,
            workers: way.workers,
            check: 1 + i32::from(way.banks),
            seed: way.seed,
        };
        let mut report: [c_char; 4096] = [0; 4096];
        // SAFETY: the types are those of kernels/emulator/emulator.h, and all that `request` points to outlives the call.
        let (failed, report) = unsafe {
            let run: Symbol<Run> = library.get(b"ldm_emulator_launch").unwrap();
            let failed = run(&request, report.as_mut_ptr(), report.len());
            (failed, CStr::from_ptr(report.as_ptr()))
        };
        let report = report.to_string_lossy().into_owned();
        match failed {
            0 => Ok(report),
            _ => Err(report),
        }
    }
}
