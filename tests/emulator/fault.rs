//! A planted fault: what is changed in which file, on what it shows, and what it is called.

use crate::cases::{self, Case};
use crate::compile::{self, Change};
use crate::door::Way;
use crate::hopper;
use crate::{SEEDS, all, halves, launch, moments, primitives, products, way};
use latent_diffusion::cuda::{Kernel, Precision};
use libloading::Library;

/// One fault.
pub struct Fault {
    pub change: Change,
    pub on: On,
    /// The names with which a report may begin: which of them comes first depends on the schedule. None where nothing is wrong but the numbers,
    /// since the layout of registers, or which keys count, is only in the kernel's mind.
    pub names: &'static [&'static str],
}

/// What a fault is shown on.
#[derive(Clone, Copy, Debug)]
pub enum On {
    /// The case of this name in `tests/cases`.
    Case(&'static str),
    /// The same, of floats.
    Floats(&'static str),
    /// The same, of halves, on a GPU of so many multiprocessors.
    Gpu(u32, &'static str),
    /// The same, on a consumer GPU that sums in halves.
    Halves(&'static str),
    /// A product that Hopper GPUs have a kernel for; whether its K is split over blocks.
    Product { split: bool },
    /// A product that finds moments, for this compute capability and in tiles of so many rows and columns.
    Moments([usize; 3]),
    /// The same, of images that it normalises.
    InPlace([usize; 3]),
    /// The first case of this entry in `tests/primitives`.
    Primitive(&'static str),
}

/// What is launched then.
enum Launches {
    Of(Box<(Case, Kernel)>),
    Primitive(hopper::Case),
}

/// A fault in `file`, where `text` is replaced.
pub const fn fault(
    file: &'static str,
    text: &'static str,
    replacement: &'static str,
    on: On,
    names: &'static [&'static str],
) -> Fault {
    Fault {
        change: Change {
            file,
            text,
            replacement,
        },
        on,
        names,
    }
}

/// The case of that name.
pub fn case(name: &str) -> Case {
    let found = cases::awkward().into_iter().find(|case| case.name == name);
    found.unwrap_or_else(|| panic!("there is no case `{name}`"))
}

impl On {
    fn launches(self) -> Launches {
        let of = |name, target| {
            let case = case(name);
            let kernel = case.kernel(&target);
            Launches::Of(Box::new((case, kernel)))
        };
        match self {
            Self::Case(name) => of(name, launch::target(Precision::F16)),
            Self::Floats(name) => of(name, launch::target(Precision::F32)),
            Self::Gpu(multiprocessors, name) => of(name, launch::gpu(multiprocessors)),
            Self::Halves(name) => of(name, halves::TARGET),
            Self::Product { split } => Launches::Of(Box::new(products::case(split))),
            Self::Moments(tile) => Launches::Of(Box::new(moments::case(tile))),
            Self::InPlace(tile) => Launches::Of(Box::new(moments::in_place(tile))),
            Self::Primitive(entry) => Launches::Primitive(primitives::case(entry)),
        }
    }
}

impl Launches {
    /// The entries, with or without a change.
    fn compiled(&self, change: Option<&Change>) -> compile::Loaded {
        match self {
            Self::Of(of) => compile::library(&launch::entries(&of.1), change),
            Self::Primitive(case) => compile::library(&[case.entry.to_owned()], change),
        }
    }

    /// The bytes of the result, or what the checker says.
    fn run(&self, library: &Library, way: Way) -> Result<Vec<u8>, String> {
        match self {
            Self::Of(of) => launch::run(library, &of.0, &of.1, way),
            Self::Primitive(case) => primitives::run(library, case, way),
        }
    }
}

/// Plants each fault, and fails with all that were answered otherwise than they say on some schedule.
pub fn are_named(faults: &[Fault]) {
    all(faults.len(), |index| answered(&faults[index]));
}

fn answered(fault: &Fault) -> Result<(), String> {
    let Fault { change, on, names } = fault;
    let launches = on.launches();
    let faulty = launches.compiled(Some(change));
    let right = match names {
        [] => Some(launches.run(&launches.compiled(None).library, way(0))?),
        _ => None,
    };
    for seed in SEEDS {
        let found = match (launches.run(&faulty.library, way(seed)), &right) {
            (Err(report), None) => {
                let (name, _) = report.split_once(": ").unwrap_or_default();
                // What no thread did has no place.
                let placed = report.contains(".cu") || !report.contains(", thread ");
                if names.contains(&name) && placed {
                    println!("{report}");
                    continue;
                }
                report
            }
            (Err(report), Some(_)) => report,
            (Ok(_), None) => "nothing".to_owned(),
            (Ok(result), Some(right)) if result == *right => "the right numbers".to_owned(),
            (Ok(_), Some(_)) => continue,
        };
        return Err(format!(
            "{change:?} on {on:?}, seed {seed}: expected {names:?}, found {found}"
        ));
    }
    Ok(())
}
