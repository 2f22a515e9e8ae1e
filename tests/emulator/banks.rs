//! Bank conflicts of shared memory, counted lane by lane while the kernels run: loads of fragments, epilogues and copies without any, but for the places
//! that are declared here, each with the turns that its lanes take at most. What a GPU's own engines read and write is swizzled by the hardware.

use crate::cases::{self, Case};
use crate::compile::{self, Change};
use crate::door::Way;
use crate::{all, fault, halves, launch, moments, products, way};
use latent_diffusion::cuda::{Kernel, Precision, Target, tile_sizes};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;

/// A file of `kernels/`, what stands in the line, and the turns. Two of these are in main loops: the copies of attention, which run by themselves,
/// and the look at rows that are normalised, beside products.
const DECLARED: [(&str, &str, u32); 13] = [
    // Eight columns of f32 for each lane, as twice 16 bytes: lanes are 32 bytes apart, and of ten lanes in a row the last meet the next row's.
    ("elements.cuh", "DEVICE void load(Floats4& stored", 3),
    ("elements.cuh", "*reinterpret_cast<Floats4*>(to) =", 3),
    // Rows are an odd count of 16 bytes apart, which is for the loads of fragments; copies of two or four pieces go to several rows.
    ("attention.cu", "copy_async_16(to +", 2),
    ("attention_large.cu", "copy_async_16(shared +", 2),
    // The same where results are taken back from there.
    ("attention.cu", "store_16(y +", 2),
    // Threads that share a row look at pieces of it that are two apart.
    ("linear_norm.cu", "widen(load_16(stage +", 2),
    // The first column of each row of the block, once.
    (
        "linear_norm_sm90.cu",
        "shift = to_float(*reinterpret_cast<const half*>(at",
        4,
    ),
    // Once for a block: eight channels of a lane, side by side, and the channels of a group.
    ("group_norm.cuh", "= moments.mean;", 8),
    ("group_norm.cuh", "= moments.squares;", 8),
    ("group_norm.cuh", "sum += static_cast<float>(", 8),
    ("group_norm.cuh", "deviations += squares_around(", 8),
    ("group_norm.cuh", "const Scale scale = scales[", 2),
    // For sizes that no other kernel takes.
    ("attention_any.cu", "shared[depth * ANY_PITCH + row] =", 2),
];

/// How often an entry is looked at.
const TIMES: usize = 2;

/// Every entry for halves that the cases take on four GPUs by any of the tiles.
fn chosen() -> Vec<(Case, Kernel)> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let mut found: Vec<(Case, Kernel)> = vec![];
    let targets = [
        launch::target(Precision::F16),
        launch::gpu(132),
        Target::a100(Precision::F16).with_multiprocessors(1),
        halves::TARGET,
    ];
    let tiles = || [None].into_iter().chain(tile_sizes().into_iter().map(Some));
    for target in targets {
        for prefer in tiles() {
            let target = Target { prefer, ..target };
            for case in cases::awkward() {
                let kernel = case.kernel(&target);
                found.push((case, kernel));
            }
        }
    }
    found.extend([false, true].map(products::case));
    found.extend(moments::TILES.map(moments::case));
    found.extend(moments::SMALL.map(moments::in_place));
    found.retain(|(_, kernel)| {
        let entries = launch::entries(kernel);
        let new = (entries.iter()).any(|entry| times.get(entry).is_none_or(|&n| n < TIMES));
        // The entries of products that normalise are those of all others.
        let new = new || kernel.also().is_some();
        if new {
            for entry in entries {
                *times.entry(entry).or_default() += 1;
            }
        }
        new
    });
    found
}

/// The conflicts of some launches: file, line, and the most turns.
fn conflicts(
    launched: &[(Case, Kernel)],
    change: Option<&Change>,
) -> BTreeMap<(String, usize), u32> {
    let entries = (launched.iter()).flat_map(|(_, kernel)| launch::entries(kernel));
    let entries: Vec<String> = entries.collect::<BTreeSet<_>>().into_iter().collect();
    let kernels = compile::library(&entries, change);
    let found = Mutex::new(BTreeMap::new());
    all(launched.len(), |index| {
        let (case, kernel) = &launched[index];
        let way = Way {
            banks: true,
            ..way(0)
        };
        for line in launch::conflicts(&kernels.library, case, kernel, way)? {
            // "file.cu:12 from ...: 2 turns, read"
            let place = line.split_once(' ').map(|(place, _)| place);
            let place = place.and_then(|place| place.trim_end_matches(':').split_once(':'));
            let turns = (line.rsplit_once(" turns"))
                .and_then(|(before, _)| before.rsplit_once(' ')?.1.parse::<u32>().ok());
            let (Some((file, at)), Some(turns)) = (place, turns) else {
                return Err(format!("{}: {line}", case.name));
            };
            let at = at.parse().map_err(|_| format!("{}: {line}", case.name))?;
            let mut found = found.lock().unwrap();
            let most: &mut u32 = found.entry((file.to_owned(), at)).or_default();
            *most = turns.max(*most);
        }
        Ok(())
    });
    found.into_inner().unwrap()
}

/// A line of a kernel's file.
fn text(file: &str, line: usize) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let source = fs::read_to_string(folder.join(file)).unwrap();
    source.lines().nth(line - 1).unwrap_or_default().to_owned()
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn lanes_take_turns_only_where_that_is_declared() {
    let cases = chosen();
    let mut most = [0; DECLARED.len()];
    let mut wrong = String::new();
    for ((file, line), turns) in conflicts(&cases, None) {
        let text = text(&file, line);
        let declared =
            (DECLARED.iter()).position(|&(of, part, _)| of == file && text.contains(part));
        match declared {
            Some(index) => most[index] = turns.max(most[index]),
            None => wrong += &format!("kernels/{file}:{line}: {turns} turns: {}\n", text.trim()),
        }
    }
    for (declared, most) in DECLARED.iter().zip(most) {
        if declared.2 != most {
            wrong += &format!("{declared:?}: {most} turns\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_swizzle_that_is_left_out_shows() {
    let case = fault::case("linear: [3, 150, 72] to 128");
    let kernel = case.kernel(&Target::a100(Precision::F16).with_multiprocessors(1));
    let change = Change {
        file: "product.cuh",
        text: "row * BK + (chunk ^ turn) * CHUNK",
        replacement: "row * BK + (chunk ^ turn & 0) * CHUNK",
    };
    let found = conflicts(&[(case, kernel)], Some(&change));
    let of_fragments = |((file, line), turns): (&(String, usize), &u32)| {
        *turns == 4 && text(file, *line).contains("load_matrix_x4")
    };
    assert!(found.iter().any(of_fragments), "{found:?}");
}
