//! Faults planted in what sm_90a adds: barriers, tensor copies, products of a warpgroup, clusters. They are planted in
//! `kernels/primitives_sm90.cu`, whose `pipeline` is what kernels for that architecture do, and shown by the cases of `tests/primitives`.

use crate::compile::{self, Change};
use crate::door::{Memory, Passed, Way};
use crate::hopper::{self, Case, UNTOUCHED};
use crate::tensor::Numbers;
use crate::{SEEDS, all, way};
use latent_diffusion::cuda::table::{self, Element, Kind};
use latent_diffusion::cuda::{Argument, Operand};
use libloading::Library;

const FILE: &str = "primitives_sm90.cu";
const PIPELINE: &str = "primitive_pipeline_sm90";

/// What is changed, on which entry it shows, and what it is called; nothing where only the numbers are others.
struct Fault {
    text: &'static str,
    replacement: &'static str,
    entry: &'static str,
    names: &'static [&'static str],
}

const fn fault(
    text: &'static str,
    replacement: &'static str,
    names: &'static [&'static str],
) -> Fault {
    Fault {
        text,
        replacement,
        entry: PIPELINE,
        names,
    }
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
    fault("        barrier_init_fence();\n    }\n    sync_cluster();\n    wait_for_previous_grid();\n    const int rank", "    }\n    sync_cluster();\n    wait_for_previous_grid();\n    const int rank",
        &["MISSING_INIT_FENCE"]),
    fault("    sync_cluster();\n    wait_for_previous_grid();\n    const int rank", "    wait_for_previous_grid();\n    const int rank",
        &["BARRIER_UNINITIALISED", "BARRIER_INIT_RACE"]),
    fault("    sync_cluster();\n    wait_for_previous_grid();\n    const int rank", "    sync_block();\n    wait_for_previous_grid();\n    const int rank",
        &["BARRIER_UNINITIALISED", "BARRIER_INIT_RACE"]),
    fault("(step / PIPELINE_STAGES & 1) ^ 1", "step / PIPELINE_STAGES & 1",
        &["DEADLOCK"]),
    fault("            barrier_wait(&full[stage], step / PIPELINE_STAGES & 1);\n", "            barrier_wait(&full[stage], (step / PIPELINE_STAGES & 1) ^ 1);\n",
        EARLY),
    fault("            barrier_wait(&full[stage], step / PIPELINE_STAGES & 1);\n", "",
        EARLY),
    fault("                barrier_wait(&empty[stage], (step / PIPELINE_STAGES & 1) ^ 1);\n", "",
        &["BARRIER_OVER_ARRIVAL", "ASYNC_WRITE_WRITE", "ASYNC_OVERWRITE"]),
    fault("PIPELINE_A + PIPELINE_B);\n", "PIPELINE_A + PIPELINE_B + 16);\n",
        &["DEADLOCK"]),
    fault("PIPELINE_A + PIPELINE_B);\n", "PIPELINE_A);\n",
        &["BARRIER_BYTES", "ASYNC_READ_BEFORE_WAIT"]),
    fault("PIPELINE_A + PIPELINE_B);\n", "PIPELINE_A + PIPELINE_B);\n                barrier_arrive(&full[stage]);\n",
        &["BARRIER_OVER_ARRIVAL"]),
    fault("barrier_init(&empty[i], 4);", "barrier_init(&empty[i], 2);",
        &["ASYNC_OVERWRITE", "RACE_READ_AFTER_WRITE", "ASYNC_READ_BEFORE_WAIT"]),
    fault("    const int rank = cluster_rank(), row", "    if (threadIdx.x == 0) full[0].bits = 0;\n    const int rank = cluster_rank(), row",
        &["BARRIER_TOUCHED"]),
    fault("        sync_named(2 + group, WARPGROUP);\n", "        sync_named(2 + group, group == 0 && warp_index() == 4 ? WARPGROUP / 2 : WARPGROUP);\n",
        &["DIVERGENT_BARRIER"]),
    // ---- tensor copies ----
    fault("tensor_load_2d(shared + stage * PIPELINE_A, x", "tensor_load_2d(shared + stage * PIPELINE_A + 128, x",
        &["MISALIGNED"]),
    fault("rank * 32, 3);", "rank * 32, 7);",
        &["SHARED_OUT_OF_BOUNDS"]),
    fault("rank * 32, 3);", "rank * 32, 1);",
        &["DEADLOCK", "ASYNC_WRITE_WRITE", "BARRIER_BYTES"]),
    fault("        fence_async_shared();\n        sync_named", "        sync_named",
        &["MISSING_PROXY_FENCE"]),
    fault("        fence_async_shared();\n        sync_named(2 + group, WARPGROUP);\n", "        sync_named(2 + group, WARPGROUP);\n        fence_async_shared();\n",
        &["MISSING_PROXY_FENCE"]),
    fault("        sync_named(2 + group, WARPGROUP);\n", "",
        &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("            tensor_store_wait_read<0>();\n        }\n", "        }\n",
        &["ASYNC_UNFINISHED"]),
    fault("            tensor_store_commit();\n", "            tensor_store_commit();\n            tile[0] = 0;\n",
        &["ASYNC_OVERWRITE"]),
    // ---- products ----
    fault("            wgmma_commit();\n", "            wgmma_commit();\n            d[3] += 1.0f;\n",
        &["WGMMA_REGISTERS"]),
    fault("        wgmma_wait<0>();\n        hold_registers(d);\n", "        hold_registers(d);\n",
        &["WGMMA_REGISTERS"]),
    fault("            wgmma_fence();\n", "",
        &["WGMMA_FENCE"]),
    fault("            wgmma_wait<1>();\n", "",
        &["ASYNC_OVERWRITE", "ASYNC_READ_BEFORE_WAIT", "RACE_READ_AFTER_WRITE"]),
    fault("empty[(step - 1) % PIPELINE_STAGES]", "empty[step % PIPELINE_STAGES]",
        &["DEADLOCK", "ASYNC_OVERWRITE", "RACE_READ_AFTER_WRITE", "ASYNC_READ_BEFORE_WAIT"]),
    fault("        sync_named(1, 2 * WARPGROUP);\n        unsigned", "        unsigned",
        &["ASYNC_OVERWRITE", "RACE_READ_AFTER_WRITE"]),
    fault("multiply_warpgroup<64>(d, left", "if (lane_index() != 5) multiply_warpgroup<64>(d, left",
        &["DEADLOCK"]),
    fault("step > 0 || i > 0);", "step > 0 || i > thread_index() / 352);",
        &["DIVERGENT_PRODUCT"]),
    fault("group * (PIPELINE_A / 2), 16, 1024)", "group * (PIPELINE_A / 2) + 128, 16, 1024)",
        &["BAD_DESCRIPTOR"]),
    fault("b + stage * PIPELINE_B, 16, 1024)", "b + stage * PIPELINE_B, 16, 512)",
        &[]),
    fault("((2 * j + lane_index() / 16) ^ at % 8)", "(2 * j + lane_index() / 16)",
        &[]),
    fault("registers_increase<232>", "registers_increase<240>",
        &["REGISTER_COUNT"]),
    Fault {
        entry: "primitive_product_80_registers_sm90",
        ..fault("    wgmma_commit();\n    wgmma_wait<0>();\n    hold_registers(d);\n#pragma", "    wgmma_commit();\n    fragment[3][1] += 1;\n    wgmma_wait<0>();\n    hold_registers(d);\n    hold_registers(fragment[3]);\n    y[0] = static_cast<float>(fragment[3][1]);\n#pragma",
            &["WGMMA_REGISTERS"])
    },
    // ---- clusters ----
    fault("barrier_arrive_remote(&empty[(step - 1) % PIPELINE_STAGES], thread_index() % 2);", "barrier_arrive(&empty[(step - 1) % PIPELINE_STAGES]);",
        &["ASYNC_OVERWRITE", "ASYNC_READ_BEFORE_WAIT", "RACE_READ_AFTER_WRITE"]),
    fault("    // Neither block ends while the other sends to it.\n    sync_cluster();\n", "",
        &["CLUSTER_EXIT"]),
    Fault {
        entry: "primitive_cluster_sm90",
        ..fault("    reinterpret_cast<uint32_t*>(to)[3] = four.word[3];\n    sync_cluster();\n", "    reinterpret_cast<uint32_t*>(to)[3] = four.word[3];\n",
            &["CLUSTER_EXIT"])
    },
    Fault {
        entry: "primitive_cluster_sm90",
        ..fault("    sync_cluster();\n    float* const to", "    sync_block();\n    float* const to",
            &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED", "SHARED_OUT_OF_BOUNDS", "CLUSTER_EXIT"])
    },
];

/// The first case of that entry.
fn case(entry: &str) -> Case {
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
fn run(library: &Library, case: &Case, way: Way) -> Result<Vec<u8>, String> {
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

/// What is wrong with how a fault was answered under `seed`.
fn answered(fault: &Fault, library: &Library, case: &Case, seed: u64) -> Result<(), String> {
    let answer = run(library, case, way(seed));
    let found = match (&answer, fault.names) {
        (Ok(result), []) => {
            let right = compile::library(&[fault.entry.to_owned()], None);
            if *result != run(&right.library, case, way(seed))? {
                return Ok(());
            }
            "the right numbers"
        }
        (Ok(_), _) => "nothing",
        (Err(report), names) => {
            let (name, _) = report.split_once(": ").unwrap_or_default();
            if names.contains(&name) {
                println!("{report}");
                return Ok(());
            }
            report
        }
    };
    let Fault {
        text,
        replacement,
        names,
        ..
    } = fault;
    Err(format!(
        "{text:?} to {replacement:?}, seed {seed}: expected {names:?}, found {found}"
    ))
}

#[test]
fn faults_planted_in_what_hopper_adds_are_named() {
    all(FAULTS.len(), |index| {
        let fault = &FAULTS[index];
        let change = Change {
            file: FILE,
            text: fault.text,
            replacement: fault.replacement,
        };
        let kernels = compile::library(&[fault.entry.to_owned()], Some(&change));
        let case = case(fault.entry);
        SEEDS
            .into_iter()
            .try_for_each(|seed| answered(fault, &kernels.library, &case, seed))
    });
}
