//! Faults planted in what sm_90a adds: barriers, tensor copies, products of a warpgroup, clusters. They are planted in
//! `kernels/primitives_sm90.cu`, whose `pipeline` is what kernels for that architecture do, and shown by the cases of `tests/primitives`.

use crate::door::{Memory, Passed, Way};
use crate::fault::{Fault, On, are_named, fault};
use crate::hopper::{self, Case, UNTOUCHED};
use crate::tensor::Numbers;
use latent_diffusion::cuda::table::{self, Element, Kind};
use latent_diffusion::cuda::{Argument, Operand};
use libloading::Library;

/// A fault that `pipeline` shows.
const fn planted(
    text: &'static str,
    replacement: &'static str,
    names: &'static [&'static str],
) -> Fault {
    let on = On::Primitive("primitive_pipeline_sm90");
    fault("primitives_sm90.cu", text, replacement, on, names)
}

/// What a stage that is read too early says, by the schedule.
const EARLY: &[&str] = &[
    "ASYNC_READ_BEFORE_WAIT",
    "RACE_READ_AFTER_WRITE",
    "SHARED_UNINITIALISED",
];

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    // ---- barriers ----
    planted("        barrier_init_fence();\n    }\n    sync_cluster();\n    wait_for_previous_grid();\n    const int rank", "    }\n    sync_cluster();\n    wait_for_previous_grid();\n    const int rank",
        &["MISSING_INIT_FENCE"]),
    planted("    sync_cluster();\n    wait_for_previous_grid();\n    const int rank", "    wait_for_previous_grid();\n    const int rank",
        &["BARRIER_UNINITIALISED", "BARRIER_INIT_RACE"]),
    planted("    sync_cluster();\n    wait_for_previous_grid();\n    const int rank", "    sync_block();\n    wait_for_previous_grid();\n    const int rank",
        &["BARRIER_UNINITIALISED", "BARRIER_INIT_RACE"]),
    planted("(step / PIPELINE_STAGES & 1) ^ 1", "step / PIPELINE_STAGES & 1",
        &["DEADLOCK"]),
    planted("            barrier_wait(&full[stage], step / PIPELINE_STAGES & 1);\n", "            barrier_wait(&full[stage], (step / PIPELINE_STAGES & 1) ^ 1);\n",
        EARLY),
    planted("            barrier_wait(&full[stage], step / PIPELINE_STAGES & 1);\n", "",
        EARLY),
    planted("                barrier_wait(&empty[stage], (step / PIPELINE_STAGES & 1) ^ 1);\n", "",
        &["BARRIER_OVER_ARRIVAL", "ASYNC_WRITE_WRITE", "ASYNC_OVERWRITE"]),
    planted("PIPELINE_A + PIPELINE_B);\n", "PIPELINE_A + PIPELINE_B + 16);\n",
        &["DEADLOCK"]),
    planted("PIPELINE_A + PIPELINE_B);\n", "PIPELINE_A);\n",
        &["BARRIER_BYTES", "ASYNC_READ_BEFORE_WAIT"]),
    planted("PIPELINE_A + PIPELINE_B);\n", "PIPELINE_A + PIPELINE_B);\n                barrier_arrive(&full[stage]);\n",
        &["BARRIER_OVER_ARRIVAL"]),
    planted("barrier_init(&empty[i], 4);", "barrier_init(&empty[i], 2);",
        &["ASYNC_OVERWRITE", "RACE_READ_AFTER_WRITE", "ASYNC_READ_BEFORE_WAIT"]),
    planted("    const int rank = cluster_rank(), row", "    if (threadIdx.x == 0) full[0].bits = 0;\n    const int rank = cluster_rank(), row",
        &["BARRIER_TOUCHED"]),
    planted("        sync_named(2 + group, WARPGROUP);\n", "        sync_named(2 + group, group == 0 && warp_index() == 4 ? WARPGROUP / 2 : WARPGROUP);\n",
        &["DIVERGENT_BARRIER"]),
    // ---- tensor copies ----
    planted("tensor_load_2d(shared + stage * PIPELINE_A, x", "tensor_load_2d(shared + stage * PIPELINE_A + 128, x",
        &["MISALIGNED"]),
    planted("rank * 32, 3);", "rank * 32, 7);",
        &["SHARED_OUT_OF_BOUNDS"]),
    planted("rank * 32, 3);", "rank * 32, 1);",
        &["DEADLOCK", "ASYNC_WRITE_WRITE", "BARRIER_BYTES"]),
    planted("        fence_async_shared();\n        sync_named", "        sync_named",
        &["MISSING_PROXY_FENCE"]),
    planted("        fence_async_shared();\n        sync_named(2 + group, WARPGROUP);\n", "        sync_named(2 + group, WARPGROUP);\n        fence_async_shared();\n",
        &["MISSING_PROXY_FENCE"]),
    planted("        sync_named(2 + group, WARPGROUP);\n", "",
        &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    planted("            tensor_store_wait_read<0>();\n        }\n", "        }\n",
        &["ASYNC_UNFINISHED"]),
    planted("            tensor_store_commit();\n", "            tensor_store_commit();\n            tile[0] = 0;\n",
        &["ASYNC_OVERWRITE"]),
    // ---- products ----
    planted("            wgmma_commit();\n", "            wgmma_commit();\n            d[3] += 1.0f;\n",
        &["WGMMA_REGISTERS"]),
    planted("        wgmma_wait<0>();\n        hold_registers(d);\n", "        hold_registers(d);\n",
        &["WGMMA_REGISTERS"]),
    planted("            wgmma_fence();\n", "",
        &["WGMMA_FENCE"]),
    planted("            wgmma_wait<1>();\n", "",
        &["ASYNC_OVERWRITE", "ASYNC_READ_BEFORE_WAIT", "RACE_READ_AFTER_WRITE"]),
    planted("empty[(step - 1) % PIPELINE_STAGES]", "empty[step % PIPELINE_STAGES]",
        &["DEADLOCK", "ASYNC_OVERWRITE", "RACE_READ_AFTER_WRITE", "ASYNC_READ_BEFORE_WAIT"]),
    planted("        sync_named(1, 2 * WARPGROUP);\n        unsigned", "        unsigned",
        &["ASYNC_OVERWRITE", "RACE_READ_AFTER_WRITE"]),
    planted("multiply_warpgroup<64>(d, left", "if (lane_index() != 5) multiply_warpgroup<64>(d, left",
        &["DEADLOCK"]),
    planted("step > 0 || i > 0);", "step > 0 || i > thread_index() / 352);",
        &["DIVERGENT_PRODUCT"]),
    planted("group * (PIPELINE_A / 2), 16, 1024)", "group * (PIPELINE_A / 2) + 128, 16, 1024)",
        &["BAD_DESCRIPTOR"]),
    planted("b + stage * PIPELINE_B, 16, 1024)", "b + stage * PIPELINE_B, 16, 512)",
        &[]),
    planted("((2 * j + lane_index() / 16) ^ at % 8)", "(2 * j + lane_index() / 16)",
        &[]),
    planted("registers_increase<232>", "registers_increase<240>",
        &["REGISTER_COUNT"]),
    // 65536 registers are a multiprocessor's, and more than three warpgroups are launched with.
    planted("registers_decrease<40>", "registers_decrease<48>",
        &["REGISTER_COUNT"]),
    planted("        registers_decrease<40>();\n", "",
        &["REGISTER_COUNT"]),
    Fault {
        on: On::Primitive("primitive_product_80_registers_sm90"),
        ..planted("    wgmma_commit();\n    wgmma_wait<0>();\n    hold_registers(d);\n#pragma", "    wgmma_commit();\n    fragment[3][1] += 1;\n    wgmma_wait<0>();\n    hold_registers(d);\n    hold_registers(fragment[3]);\n    y[0] = static_cast<float>(fragment[3][1]);\n#pragma",
            &["WGMMA_REGISTERS"])
    },
    // ---- clusters ----
    planted("barrier_arrive_remote(&empty[(step - 1) % PIPELINE_STAGES], thread_index() % 2);", "barrier_arrive(&empty[(step - 1) % PIPELINE_STAGES]);",
        &["ASYNC_OVERWRITE", "ASYNC_READ_BEFORE_WAIT", "RACE_READ_AFTER_WRITE"]),
    planted("    // Neither block ends while the other sends to it.\n    sync_cluster();\n", "",
        &["CLUSTER_EXIT"]),
    Fault {
        on: On::Primitive("primitive_cluster_sm90"),
        ..planted("    reinterpret_cast<uint32_t*>(to)[3] = four.word[3];\n    sync_cluster();\n", "    reinterpret_cast<uint32_t*>(to)[3] = four.word[3];\n",
            &["CLUSTER_EXIT"])
    },
    Fault {
        on: On::Primitive("primitive_cluster_sm90"),
        ..planted("    sync_cluster();\n    float* const to", "    sync_block();\n    float* const to",
            &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED", "SHARED_OUT_OF_BOUNDS", "CLUSTER_EXIT"])
    },
];

/// The first case of that entry.
pub fn case(entry: &str) -> Case {
    let mut cases = hopper::all().into_iter();
    let found = cases.find(|case| case.entry == entry);
    found.unwrap_or_else(|| panic!("there is no case of `{entry}`"))
}

fn memory<'a>(library: &'a Library, numbers: &Numbers) -> Memory<'a> {
    let element = match numbers.exact {
        true => Element::Float,
        false => Element::Half,
    };
    Memory::of(library, &numbers.values, element)
}

/// The bytes of the result, or the fault.
pub fn run(library: &Library, case: &Case, way: Way) -> Result<Vec<u8>, String> {
    let inputs: Vec<Memory> = case
        .inputs
        .iter()
        .map(|input| memory(library, input))
        .collect();
    let output = memory(
        library,
        &Numbers {
            exact: case.expected.exact,
            values: vec![UNTOUCHED; case.expected.values.len()],
        },
    );
    let place = |operand| match operand {
        Operand::Output => output.place(),
        Operand::Input(index) => inputs[index].place(),
        other => panic!("primitives have no {other:?}"),
    };
    let entry = table::entry(case.entry).unwrap();
    let mut passed = Passed::default();
    for (parameter, &argument) in entry.parameters.iter().zip(&case.arguments) {
        match argument {
            Argument::Output => passed.pointer(output.place(), true, false),
            Argument::Input(index) => passed.pointer(inputs[index].place(), false, false),
            Argument::Map { of, map } => {
                assert_eq!(parameter.kind, Kind::Map);
                passed.map(place(of), of == Operand::Output, false, &map);
            }
            number => passed.number(number),
        }
    }
    passed.launch(library, entry, [case.grid, 1, 1], case.shared_bytes, way)?;
    Ok(output.read())
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn faults_planted_in_what_hopper_adds_are_named() {
    are_named(FAULTS);
}
