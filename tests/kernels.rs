//! What the build does with kernel files: the entries it reads and what it refuses, and when it compiles again.

#[path = "../build/entries.rs"]
mod entries;
#[path = "../build/jobs.rs"]
mod jobs;

use latent_diffusion::cuda::table;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The sentence with which a file of this text is refused.
fn refusal(text: &str) -> String {
    entries::parse("kernels/x.cu", text)
        .err()
        .unwrap_or_else(|| panic!("accepted: {text}"))
}

#[test]
fn entries_are_read_with_their_macros_and_without_comments() {
    let text = "\
// ENTRY(1, 1, commented_out, int n)
#define THREADS 64
#define PARAMETERS half* y, const float* __restrict__ x, /* how many */ \\
    int n, float factor
/* ENTRY(2, 2, also_not, int n) */
ENTRY(THREADS * 2, 3, first_f16, PARAMETERS) { body(y, x, n, factor); }
ENTRY(32, 1, second, const int *ids, const half *x, float* y) {}
MY_ENTRY(1)
";
    let found = entries::parse("kernels/x.cu", text).unwrap();
    let [first, second] = found.as_slice() else {
        panic!("{} entries", found.len());
    };
    assert_eq!(
        (first.name.as_str(), first.place.as_str()),
        ("first_f16", "kernels/x.cu:6")
    );
    assert_eq!((first.threads, first.blocks_per_multiprocessor), (128, 3));
    let names: Vec<&str> = first.parameters.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["y", "x", "n", "factor"]);
    let kinds: Vec<&str> = first.parameters.iter().map(|p| p.kind).collect();
    let half = "Kind::Pointer { element: Element::Half, written: true }";
    let float = "Kind::Pointer { element: Element::Float, written: false }";
    assert_eq!(kinds, [half, float, "Kind::Int", "Kind::Float"]);
    assert_eq!(second.place, "kernels/x.cu:7");
    assert_eq!(
        second.parameters[0].kind,
        "Kind::Pointer { element: Element::Int, written: false }"
    );
}

#[test]
fn an_entry_that_cannot_be_read_is_refused_by_its_line() {
    for (text, expected) in [
        (
            "\nENTRY(64, 1)",
            "kernels/x.cu:2: expected ENTRY(threads, blocks, name",
        ),
        (
            "ENTRY(SIZE, 1, a, int n)",
            "threads per block of a are \"SIZE\"",
        ),
        (
            "ENTRY(64, many, a, int n)",
            "blocks per multiprocessor of a are \"many\"",
        ),
        (
            "ENTRY(48, 1, a, int n)",
            "a has 48 threads per block; expected whole warps",
        ),
        ("ENTRY(2048, 1, a, int n)", "a has 2048 threads per block"),
        (
            "ENTRY(1024, 3, a, int n)",
            "a wants 3 blocks of 1024 threads",
        ),
        ("ENTRY(64, 0, a, int n)", "a wants 0 blocks"),
        ("ENTRY(64, 1, a-b, int n)", "\"a-b\" is not a name"),
        (
            "ENTRY(64, 1, a, unsigned n)",
            "a has a parameter \"unsigned n\"",
        ),
        (
            "ENTRY(64, 1, a, half** x)",
            "a has a parameter \"half** x\"",
        ),
        ("ENTRY(64, 1, a, int)", "a has a parameter \"int\""),
        (
            "ENTRY(64, 1, a, TENSOR_MAP x)",
            "a has a parameter \"TENSOR_MAP x\"",
        ),
        (
            "ENTRY_90(384, 1, 2, a_sm90, TENSOR_MAP x)",
            "ENTRY_90 in kernels/x.cu",
        ),
        (
            "ENTRY(64, 1, a, int n",
            "not followed by arguments in parentheses",
        ),
        (
            "\n\n#define V(N) \\\n  ENTRY(64, 1, N, int n)",
            "kernels/x.cu:3: an ENTRY inside a macro",
        ),
        (
            "#define A B\n#define B A\nENTRY(A, 1, a, int n)",
            "threads per block of a are",
        ),
    ] {
        let found = refusal(text);
        assert!(found.contains(expected), "{text:?}: {found}");
        assert!(found.starts_with("kernels/x.cu:"), "{found}");
    }
}

#[test]
fn entries_for_one_architecture_have_clusters_and_tensor_maps() {
    let parse = |text| entries::parse("kernels/x_sm90.cu", text);
    let text = "#define MAPS TENSOR_MAP x, TENSOR_MAP y\nENTRY_90(384, 1, 2, a_sm90, MAPS, const float* bias, int n) {}";
    let found = parse(text).unwrap();
    let entry = &found[0];
    let numbers = [
        entry.threads,
        entry.blocks_per_multiprocessor,
        entry.cluster,
    ];
    assert_eq!(numbers, [384, 1, 2]);
    let kinds: Vec<&str> = entry.parameters.iter().map(|p| p.kind).collect();
    let float = "Kind::Pointer { element: Element::Float, written: false }";
    assert_eq!(kinds, ["Kind::Map", "Kind::Map", float, "Kind::Int"]);
    for (text, expected) in [
        (
            "ENTRY(128, 1, a_sm90, int n)",
            "ENTRY in kernels/x_sm90.cu; entries of files",
        ),
        (
            "ENTRY_90(128, 1)",
            "expected ENTRY_90(threads, blocks, cluster, name",
        ),
        (
            "ENTRY_90(128, 1, 1, a, int n)",
            "expected a name that ends in _sm90",
        ),
        (
            "ENTRY_90(128, 1, 9, a_sm90, int n)",
            "clusters of 9 blocks; expected 1 to 8",
        ),
        ("ENTRY_90(128, 1, 0, a_sm90, int n)", "clusters of 0 blocks"),
        (
            "ENTRY_90(128, 1, 1, a_sm90, TENSOR_MAP* x)",
            "int, TENSOR_MAP or float, and a name",
        ),
    ] {
        let problem = parse(text).err().unwrap_or_default();
        assert!(problem.contains(expected), "{text:?}: {problem}");
        assert!(problem.starts_with("kernels/x_sm90.cu:1: "), "{problem}");
    }
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let first = entries::parse("kernels/x.cu", "ENTRY(64, 1, same, int n)").unwrap();
    let second = entries::parse("kernels/y.cu", "\nENTRY(64, 1, same, int n)").unwrap();
    let found = entries::check_names(first.iter().chain(&second)).unwrap_err();
    assert!(
        found.starts_with("kernels/y.cu:2: kernels/x.cu:1 has an entry same"),
        "{found}"
    );
}

#[test]
fn modules_hold_the_files_of_all_entries() {
    let stems: HashSet<String> = table::MODULES
        .iter()
        .map(|module| format!("{}.cu", module.stem))
        .collect();
    let files: HashSet<String> = table::ENTRIES
        .iter()
        .map(|entry| entry.file.to_owned())
        .collect();
    match table::NVCC {
        Ok(_) => assert_eq!(stems, files),
        Err(_) => assert!(stems.is_empty()),
    }
    for entry in table::ENTRIES {
        assert_eq!(table::entry(entry.name), Some(entry));
    }
}

/// A job on `x.cu` of a folder whose compiler is a shell script.
fn job(folder: &Path, script: &str) -> jobs::Job {
    let kernel = folder.join("x.cu");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).current_dir(folder);
    jobs::Job {
        output: folder.join("x.out"),
        inputs: jobs::texts(&kernel, folder, Some(&folder.join("emulator"))).unwrap(),
        compiler: "shell".to_owned(),
        command,
    }
}

#[test]
fn a_file_is_compiled_again_when_it_or_what_it_includes_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("emulator")).unwrap();
    write("x.cu", "#include \"first.cuh\"\n#include <stdint.h>\n");
    write(
        "first.cuh",
        "#include \"second.cuh\"\n#include \"emulator/gpu.h\"\n",
    );
    write("second.cuh", "#include \"first.cuh\"\n");
    write("emulator/gpu.h", "");
    let runs = || {
        jobs::run(vec![job(folder.path(), "echo >> runs; echo > x.out")]).unwrap();
        fs::read_to_string(folder.path().join("runs"))
            .unwrap()
            .len()
    };
    assert_eq!((runs(), runs()), (1, 1));
    write("second.cuh", "int changed;\n");
    assert_eq!((runs(), runs()), (2, 2));
    // Nothing that nvcc reads.
    write("emulator/gpu.h", "int changed;\n");
    assert_eq!(runs(), 2);
    fs::remove_file(folder.path().join("x.out")).unwrap();
    assert_eq!((runs(), runs()), (3, 3));
}

#[test]
fn a_compiler_that_fails_is_quoted_and_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.cu"), "").unwrap();
    for _ in 0..2 {
        let script = "echo > x.out; echo 'x.cu(3): error: no such type' >&2; exit 2";
        let said = jobs::run(vec![job(folder.path(), script)]).unwrap_err();
        assert!(said.contains("x.cu(3): error: no such type"), "{said}");
    }
}
