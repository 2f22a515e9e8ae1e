//! Faults planted where products find the moments of what they store, and where bands find them in what is stored.

use crate::cases::{Case, Operand};
use crate::fault::{Fault, On, are_named, fault};
use crate::{launch, raise_nothing};
use latent_diffusion::cuda::{Cuda, Emulation, Kernel, Target};
use latent_diffusion::session::Program;
use latent_diffusion::{Graph, Result};
use std::sync::Arc;

/// A product that every GPU runs, by tiles of one block of rows; three images of a piece and a quarter.
const EVERY: On = On::Moments(TILES[0]);
/// By tiles of two blocks of rows.
const TALL: On = On::Moments(TILES[1]);
/// One of Hopper GPUs, by tiles of two warpgroups.
const HOPPER: On = On::Moments(TILES[2]);
/// The same, of two blocks of rows each.
const DEEP: On = On::Moments(TILES[3]);
/// Compute capability, rows and columns.
pub const TILES: [[usize; 3]; 4] = [[80, 64, 64], [80, 128, 64], [90, 128, 160], [90, 256, 128]];

/// A product that normalises images of one block, by tiles that have no whole groups.
const PARTS: On = On::InPlace(SMALL[0]);
/// By tiles that have whole images and groups.
const WHOLE: On = On::InPlace(SMALL[1]);
pub const SMALL: [[usize; 3]; 2] = [[80, 128, 64], [90, 64, 80]];

/// A map of tokens that is normalised, for GPUs of this compute capability, in tiles of so many rows and columns.
pub fn case(tile: [usize; 3]) -> (Case, Kernel) {
    // A piece and a quarter.
    linked(tile, [16, 40], 328, 2)
}

/// The same of small images.
pub fn in_place(tile: [usize; 3]) -> (Case, Kernel) {
    let (case, kernel) = linked(tile, [8, 8], 200, 5);
    assert!(kernel.also().is_some(), "{kernel:?}");
    (case, kernel)
}

fn linked(
    [compute_capability, rows, columns]: [usize; 3],
    [height, width]: [usize; 2],
    channels: usize,
    groups: usize,
) -> (Case, Kernel) {
    let target = Target {
        compute_capability: compute_capability as u32,
        prefer: Some([rows, columns]),
        ..launch::gpu(132)
    };
    let shape = [3, height * width, 328];
    let graph = || -> Result<Graph> {
        let mut g = Graph::new();
        let x = g.input("x", shape);
        let y = g.linear(x, channels, true)?;
        let y = g.reshape(y, [3, height, width, channels])?;
        let y = g.group_norm(y, groups, 1e-5)?;
        g.output("y", y);
        // Such a network is never in bands.
        let t = g.input_exact("t", [1]);
        let told = g.timestep_embedding(t, 2)?;
        g.output("t", told);
        Ok(g)
    };
    let emulation = Emulation {
        threads: 1,
        check: false,
        seed: 0,
    };
    let device = Cuda::emulator(emulation, target, Arc::default()).unwrap();
    let program = Program::new(&device, graph().unwrap()).unwrap();
    let mut nodes = program.plan().graph.nodes().iter().zip(program.kernels());
    let found = nodes.find(|(_, kernel)| kernel.tail_bytes() > 0);
    let (node, kernel) = found.expect("a product that finds moments");
    let tile = format!("_{rows}x{columns}");
    assert!(kernel.launches[0].entry.contains(&tile), "{kernel:?}");
    let case = Case {
        name: format!("moments of {height}x{width} by tiles of {rows}x{columns}"),
        op: node.op.clone(),
        operands: vec![Operand::normal(shape)],
    };
    (case, kernel.clone())
}

/// Of one piece of eight blocks.
const STORED: On = On::Case("group_statistics: [3, 16, 64, 40], 5 groups, 8 rows, Channels");
/// Of pieces of 24 blocks.
const LONG: On = On::Case("group_statistics: [3, 8, 192, 64], 2 groups, 8 rows, Channels");
const STORED_PHASES: On = On::Case("group_statistics: [3, 8, 128, 24], 3 groups, 4 rows, Phases");
const GIVEN: On = On::Case("group_normalise: [3, 8, 192, 64], 2 groups, 8 rows, Channels");

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    // ---- rows to fragments ----
    fault("product.cuh", "own, own + FRAGMENTS * T::BN);\n        sync_warp();\n", "own, own + FRAGMENTS * T::BN);\n",
        EVERY, &["RACE_WRITE_AFTER_READ", "RACE_READ_AFTER_WRITE"]),
    fault("channel_moments.cuh", "const float mean = sum * (1.0f / FRAGMENT_ROWS);", "const float mean = x[0];",
        EVERY, &[]),
    // ---- fragments to blocks ----
    fault("channel_moments.cuh", "/ BLOCK_ROWS;\n    sync_block();\n    for (int item", "/ BLOCK_ROWS;\n    for (int item",
        EVERY, &["SHARED_UNINITIALISED", "RACE_READ_AFTER_WRITE", "RACE_WRITE_AFTER_READ"]),
    fault("channel_moments.cuh", "if (column + c < n) join_fragments", "join_fragments",
        EVERY, &["BLOCK_RACE", "GLOBAL_OUT_OF_BOUNDS"]),
    fault("channel_moments.cuh", "COLUMNS, first + block, column + c, n);", "COLUMNS, first, column + c, n);",
        TALL, &["RACE_WRITE_AFTER_WRITE"]),
    fault("channel_moments.cuh", "2 * (static_cast<size_t>(block) * n + column);", "2 * (static_cast<size_t>(block + 1) * n + column);",
        EVERY, &["GLOBAL_OUT_OF_BOUNDS", "BLOCK_RACE"]),
    fault("channel_moments.cuh", "means[i * pitch], squares[i * pitch]};", "means[i * pitch], squares[0]};",
        EVERY, &[]),
    // ---- blocks that meet ----
    fault("channel_moments.cuh", "last_to_arrive(at.counter, others + 1)", "last_to_arrive(at.counter, others + 2)",
        EVERY, &["COUNTER_LEFT"]),
    fault("channel_moments.cuh", "piece.blocks / together * at.tiles - 1;", "to.piece_rows / ROWS * at.tiles - 1;",
        EVERY, &["COUNTER_LEFT"]),
    fault("channel_moments.cuh", "last_to_arrive(at.counter, others + 1)", "last_to_arrive(at.counter, others)",
        EVERY, &["BLOCK_RACE", "COUNTER_LEFT"]),
    fault("channel_moments.cuh", "            continue;\n        }\n        // The", "        }\n        // The",
        EVERY, &["BLOCK_RACE"]),
    fault("channel_moments.cuh", "to.counters + piece.number *", "to.counters + (piece.number + 1) *",
        EVERY, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("channel_moments.cuh", "/ width) + index,", "/ width),",
        EVERY, &["BLOCK_RACE"]),
    // ---- blocks to moments ----
    fault("channel_moments.cuh", "                if (first + i >= piece.blocks) continue;\n", "",
        EVERY, &["BLOCK_RACE", "GLOBAL_OUT_OF_BOUNDS"]),
    fault("channel_moments.cuh", "image * all + piece * most,", "image * all,",
        EVERY, &["BLOCK_RACE"]),
    fault("channel_moments.cuh", "static_cast<size_t>(piece.number / pieces) * n + c;", "static_cast<size_t>(piece.first) * n + c;",
        EVERY, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("channel_moments.cuh", "part[i] = {0.0f, 0.0f, 0.0f};", "part[i] = {1.0f, 0.0f, 0.0f};",
        EVERY, &[]),
    // ---- warpgroups ----
    fault("channel_moments_sm90.cuh", "rows, rows + PITCH);\n    sync_group();\n", "rows, rows + PITCH);\n",
        HOPPER, &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("channel_moments_sm90.cuh", "block, column + thread, n);\n    sync_group();\n", "block, column + thread, n);\n",
        HOPPER, &["RACE_WRITE_AFTER_READ", "RACE_READ_AFTER_WRITE", "BLOCK_RACE"]),
    fault("channel_moments_sm90.cuh", "sync_named(3, WARPGROUP);", "sync_named(3, 2 * WARPGROUP);",
        HOPPER, &["DIVERGENT_BARRIER", "DEADLOCK"]),
    fault("channel_moments_sm90.cuh", "thread < COLUMNS && column", "column",
        HOPPER, &["SHARED_UNINITIALISED", "RACE_WRITE_AFTER_WRITE", "RACE_READ_AFTER_WRITE"]),
    fault("channel_moments_sm90.cuh", "? 1 : 0;\n        sync_group();\n", "? 1 : 0;\n",
        HOPPER, &["SHARED_UNINITIALISED", "RACE_READ_AFTER_WRITE"]),
    fault("channel_moments_sm90.cuh", "        last += warpgroup_index();\n", "",
        HOPPER, &["RACE_WRITE_AFTER_WRITE", "RACE_READ_AFTER_WRITE"]),
    fault("channel_moments_sm90.cuh", "others + 1) ? 1", "others + 2) ? 1",
        HOPPER, &["COUNTER_LEFT"]),
    fault("channel_moments_sm90.cuh", "        if (*last == 0) return;\n", "",
        HOPPER, &["BLOCK_RACE", "RACE_WRITE_AFTER_READ", "RACE_READ_AFTER_WRITE"]),
    fault("product_sm90.cuh", "if (!wanted || source.row(place, row) >= e.m) return;", "if (!wanted) return;",
        HOPPER, &["GLOBAL_OUT_OF_BOUNDS", "COUNTER_MISUSED"]),
    fault("product_sm90.cuh", "        if (source.row(place, row) >= e.m) continue;\n", "",
        HOPPER, &["GLOBAL_OUT_OF_BOUNDS", "COUNTER_MISUSED"]),
    fault("channel_moments_sm90.cuh", "        sync_group();  // all have read what became of the block before\n", "",
        DEEP, &["RACE_WRITE_AFTER_READ"]),
    // ---- images in place ----
    fault("in_place.cuh", "    sync();\n", "",
        PARTS, &["SHARED_UNINITIALISED", "RACE_READ_AFTER_WRITE", "RACE_WRITE_AFTER_READ"]),
    fault("in_place.cuh", "    sync();\n", "",
        WHOLE, &["SHARED_UNINITIALISED", "RACE_READ_AFTER_WRITE", "RACE_WRITE_AFTER_READ"]),
    fault("in_place.cuh", "* n + first + g * to.group", "* n + g * to.group",
        WHOLE, &["BLOCK_RACE"]),
    fault("in_place.cuh", "const size_t at = static_cast<size_t>(image) * pixels * n;", "const size_t at = static_cast<size_t>(image + 1) * pixels * n;",
        PARTS, &["GLOBAL_OUT_OF_BOUNDS", "BLOCK_RACE"]),
    fault("in_place.cuh", "rows, row < rows};", "rows, true};",
        PARTS, &["GLOBAL_OUT_OF_BOUNDS", "RACE_WRITE_AFTER_WRITE"]),
    fault("in_place.cuh", "Moments{static_cast<float>(pixels), own", "Moments{1.0f, own",
        WHOLE, &[]),
    fault("channel_moments.cuh", "piece.blocks / together * at.tiles - 1;", "piece.blocks / together - 1;",
        PARTS, &["BLOCK_RACE", "GLOBAL_UNINITIALISED"]),
    fault("channel_moments.cuh", "own = min(width, n - index * width);", "own = width;",
        WHOLE, &["GLOBAL_OUT_OF_BOUNDS", "BLOCK_RACE"]),
    fault("channel_moments.cuh", "    sync();\n    normalise_in_place", "    normalise_in_place",
        WHOLE, &["GLOBAL_UNINITIALISED", "RACE_READ_AFTER_WRITE", "RACE_WRITE_AFTER_READ"]),
    fault("channel_moments.cuh", "(own + columns - 1) / columns, index", "own / columns, index",
        PARTS, &["BLOCK_RACE", "COUNTER_LEFT"]),
    fault("channel_moments_sm90.cuh", "piece.blocks * at.tiles - 1;", "piece.blocks * at.tiles;",
        WHOLE, &["COUNTER_LEFT"]),
    // ---- of what is stored already ----
    fault("channel_statistics.cu", "        sync_block();\n        if (warp == 0", "        if (warp == 0",
        STORED, &["SHARED_UNINITIALISED", "RACE_READ_AFTER_WRITE"]),
    fault("channel_statistics.cu", "        sync_block();\n    }\n", "    }\n",
        LONG, &["RACE_WRITE_AFTER_READ", "RACE_READ_AFTER_WRITE"]),
    fault("channel_statistics.cu", "if (warp != 0 || channel >= channels) return;", "if (channel >= channels) return;",
        STORED, &["RACE_WRITE_AFTER_WRITE"]),
    fault("channel_statistics.cu", "if (warp != 0 || channel >= channels) return;", "if (warp != 0) return;",
        STORED, &["GLOBAL_OUT_OF_BOUNDS", "BLOCK_RACE"]),
    fault("channel_statistics.cu", "        if (channel < channels) {\n", "        if (true) {\n",
        STORED, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("channel_statistics.cu", "x += piece * piece_rows * channels + channel;", "x += (piece + 1) * piece_rows * channels + channel;",
        STORED, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("channel_statistics.cu", "SHARED_ARRAY(float, squares, JOINED_BLOCKS * WARP);", "SHARED_ARRAY(float, squares, WARP);",
        STORED, &["SHARED_OUT_OF_BOUNDS"]),
    fault("channel_statistics.cu", "+ channel) * pieces + blockIdx.x);", "+ channel) * pieces);",
        STORED, &["BLOCK_RACE"]),
    fault("channel_statistics.cu", "walk(first + warp,", "walk(warp,", LONG, &[]),
    fault("channel_statistics.cu", "+ phase % 2, 2};", "+ phase % 2, 1};", STORED_PHASES, &[]),
    fault("channel_statistics.cu", "(2 * (pixel / line) + phase / 2) * width", "(2 * (pixel / line) + phase) * width",
        STORED_PHASES, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("group_norm_given.cu", "2 * (row * pieces + p);", "2 * (row * pieces + p + 1);",
        GIVEN, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("group_norm_given.cu", "static_cast<float>(rows_of_piece(all_pixels, piece, p))", "static_cast<float>(rows_of_piece(pixels, piece, p))",
        GIVEN, &[]),
];

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn products_that_find_moments_raise_nothing() {
    raise_nothing(TILES.map(case));
    raise_nothing(SMALL.map(in_place));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn faults_planted_where_products_find_moments_are_named() {
    are_named(FAULTS);
}
