//! Faults planted in the attention that Hopper GPUs have for themselves.

use crate::fault::{Fault, On, are_named, fault};

/// Two groups to a block: the last block has queries for one of them alone, stages are used again, and the last tile of keys is cut short.
const TWO: On = On::Gpu(132, "attention: 190 on 600, 1 heads of 40, deviation 1");
/// Three groups.
const THREE: On = On::Gpu(1, "attention: 190 on 600, 1 heads of 40, deviation 1");
/// Ones and the last channels of values in boxes of their own.
const APART: On = On::Gpu(132, "attention: 180 on 450, 1 heads of 64, deviation 1");
/// Values of two boxes, the second with the ones.
const WIDE: On = On::Gpu(1, "attention: 70 on 400, 2 heads of 80, deviation 1");
/// One stage that holds all keys.
const FEW: On = On::Gpu(132, "attention: 300 on 77, 3 heads of 40, deviation 1");

/// What is read too early says, by the schedule.
const EARLY: &[&str] = &[
    "ASYNC_READ_BEFORE_WAIT",
    "RACE_READ_AFTER_WRITE",
    "SHARED_UNINITIALISED",
];

/// What is loaded too early says.
const FULL: &[&str] = &[
    "BARRIER_OVER_ARRIVAL",
    "ASYNC_WRITE_WRITE",
    "ASYNC_OVERWRITE",
    "RACE_WRITE_AFTER_WRITE",
];

/// A fault that shows on `on`.
const fn planted(
    text: &'static str,
    replacement: &'static str,
    on: On,
    names: &'static [&'static str],
) -> Fault {
    fault("attention_sm90.cu", text, replacement, on, names)
}

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    // ---- waits ----
    planted("    barrier_wait(&barriers.queries, 0);\n", "",
        TWO, EARLY),
    planted("            if (tile + 1 < tiles) barrier_wait(&barriers.keys[stage.index], stage.parity);\n", "",
        TWO, EARLY),
    planted("            barrier_wait(&barriers.values_complete[before.index], before.parity);\n", "",
        TWO, EARLY),
    planted("        barrier_wait(&barriers.values[stage.index], stage.parity);\n#pragma", "#pragma",
        TWO, &["ASYNC_WRITE_WRITE", "RACE_WRITE_AFTER_WRITE"]),
    planted("        barrier_wait(&barriers.keys_free[stage.index], stage.parity ^ 1);\n", "",
        TWO, FULL),
    planted("        barrier_wait(&barriers.values_free[stage.index], stage.parity ^ 1);\n", "",
        TWO, FULL),
    planted("barrier_wait(&barriers.keys_free[stage.index], stage.parity ^ 1);", "barrier_wait(&barriers.keys_free[stage.index], stage.parity);",
        TWO, &["DEADLOCK"]),
    planted("stage.index = 0, stage.parity ^= 1;", "stage.index = 0;",
        TWO, FULL),
    planted("barrier_arrive_expect(&barriers.queries, groups * Tile::QUERY_BYTES);", "barrier_arrive_expect(&barriers.queries, Tile::GROUPS * Tile::QUERY_BYTES);",
        TWO, &["DEADLOCK"]),
    planted("barrier_arrive_expect(&barriers.keys[stage.index], Tile::CHUNKS * Tile::KEY_CHUNK);", "barrier_arrive_expect(&barriers.keys[stage.index], Tile::KEY_CHUNK);",
        WIDE, &["ASYNC_READ_BEFORE_WAIT", "RACE_READ_AFTER_WRITE", "BARRIER_BYTES"]),
    // ---- barriers ----
    planted("        barrier_init_fence();\n", "",
        TWO, &["MISSING_INIT_FENCE"]),
    planted("    sync_block();\n    wait_for_previous_grid();\n    const int group", "    wait_for_previous_grid();\n    const int group",
        TWO, &["BARRIER_UNINITIALISED", "BARRIER_INIT_RACE"]),
    planted("    wait_for_previous_grid();\n    const int group", "    const int group",
        TWO, &["EARLY_ACCESS"]),
    planted("        if (group < groups) flash_group", "        flash_group",
        TWO, &["SHARED_UNINITIALISED", "BARRIER_OVER_ARRIVAL"]),
    planted("barrier_init(&barriers.values_free[stage], groups * 4);", "barrier_init(&barriers.values_free[stage], Tile::GROUPS * 4);",
        TWO, &["DEADLOCK"]),
    planted("barrier_init(&barriers.values_complete[stage], WARP);", "barrier_init(&barriers.values_complete[stage], WARP / 2);",
        TWO, &["DEADLOCK", "BARRIER_OVER_ARRIVAL", "MISSING_PROXY_FENCE", "RACE_READ_AFTER_WRITE"]),
    // ---- products ----
    planted("            wgmma_wait<1>();\n            hold_registers(s);\n            release", "            hold_registers(s);\n            release",
        TWO, &["WGMMA_REGISTERS"]),
    planted("            wgmma_wait<0>();\n            hold_registers(y);\n            release", "            hold_registers(y);\n            release",
        TWO, &["WGMMA_REGISTERS"]),
    planted("    wgmma_wait<0>();\n    hold_registers(s);\n    release(&barriers.keys_free[0]);\n", "    release(&barriers.keys_free[0]);\n    wgmma_wait<0>();\n    hold_registers(s);\n",
        TWO, &["ASYNC_OVERWRITE"]),
    planted("            wgmma_wait<0>();\n            hold_registers(y);\n            release(&barriers.values_free[before.index]);\n", "            release(&barriers.values_free[before.index]);\n            wgmma_wait<0>();\n            hold_registers(y);\n",
        TWO, &["ASYNC_OVERWRITE"]),
    planted("            wgmma_wait<0>();\n            hold_registers(y);\n            release", "            flash_pack<KEYS>(weights, s);\n            wgmma_wait<0>();\n            hold_registers(y);\n            release",
        TWO, &["WGMMA_REGISTERS"]),
    planted("    wgmma_fence();\n#pragma unroll\n    for (int step = 0; step < Tile::KEYS / 16", "#pragma unroll\n    for (int step = 0; step < Tile::KEYS / 16",
        TWO, &["WGMMA_FENCE"]),
    planted("matrix_descriptor(own, FLASH_EIGHT_ROWS, FLASH_EIGHT_ROWS)", "matrix_descriptor(own, FLASH_EIGHT_ROWS, FLASH_EIGHT_ROWS / 2)",
        TWO, &[]),
    planted("Tile::KEY_CHUNK, FLASH_EIGHT_ROWS);", "FLASH_EIGHT_ROWS, FLASH_EIGHT_ROWS);",
        WIDE, &[]),
    planted("registers_increase<160>();", "registers_increase<168>();",
        THREE, &["REGISTER_COUNT"]),
    // ---- ones ----
    planted("            store_16(shared + FIRST + stage.index * Tile::STAGE_BYTES + row * FLASH_ROW_BYTES + piece * 16, ones);\n", "",
        TWO, &[]),
    planted("            store_16(shared + FIRST + stage.index * Tile::STAGE_BYTES + row * FLASH_ROW_BYTES + piece * 16, ones);\n", "",
        APART, &["SHARED_UNINITIALISED"]),
    planted("        fence_async_shared();\n        barrier_arrive(&barriers.values_complete", "        barrier_arrive(&barriers.values_complete",
        TWO, &["MISSING_PROXY_FENCE"]),
    planted("row < Tile::KEYS; row += WARP", "row < Tile::KEYS - WARP; row += WARP",
        APART, &["SHARED_UNINITIALISED"]),
    // ---- keys that are not there ----
    planted("            if ((tile + 1) * KEYS > keys) flash_hide<KEYS>(s, keys - tile * KEYS);\n", "",
        TWO, &[]),
    planted("            if ((tile + 1) * KEYS > keys) flash_hide<KEYS>(s, keys - tile * KEYS);\n", "            if ((tile + 1) * KEYS > keys) flash_hide<KEYS>(s, keys - tile * KEYS - 1);\n",
        TWO, &[]),
    planted("    if (keys < KEYS) flash_hide<KEYS>(s, keys);\n", "",
        FEW, &[]),
    planted("y[i] *= factor[i / 2 % 2];", "y[i] *= factor[i % 2];",
        TWO, &[]),
    // ---- the result ----
    planted("    fence_async_shared();\n    sync_named(1 + group, WARPGROUP);\n", "    sync_named(1 + group, WARPGROUP);\n",
        TWO, &["MISSING_PROXY_FENCE"]),
    planted("    fence_async_shared();\n    sync_named(1 + group, WARPGROUP);\n", "    fence_async_shared();\n",
        TWO, &["RACE_READ_AFTER_WRITE"]),
    planted("        tensor_store_wait_read<0>();\n", "",
        TWO, &["ASYNC_UNFINISHED"]),
    planted("unsigned char* const own = shared + group * Tile::QUERY_BYTES;", "unsigned char* const own = shared;",
        TWO, &["ASYNC_OVERWRITE", "RACE_WRITE_AFTER_WRITE"]),
    planted("* Tile::GROUPS + group) * FLASH_ROWS;\n    flash_store", "* Tile::GROUPS) * FLASH_ROWS;\n    flash_store",
        TWO, &["RACE_WRITE_AFTER_WRITE"]),
];

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn faults_planted_in_attention_for_hopper_are_named() {
    are_named(FAULTS);
}
