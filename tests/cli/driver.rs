//! Every way in which NVIDIA's driver lets one down, by a library that answers in its place (`libcuda/`): one sentence, and no panic.

use super::libcuda::{Logged, run_in, succeed};
use super::support::{Place, Run};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A folder with a libcuda made of this C.
fn library(source: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libcuda.c");
    fs::write(&file, source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-w", "-shared", "-fPIC", "-o"]);
    compiler.arg(folder.path().join("libcuda.so")).arg(file);
    succeed(compiler);
    folder
}

/// Runs the binary with the libcuda of a folder.
fn run_with(folder: &Path, arguments: &[&str]) -> Run {
    let place = Place::new();
    let mut command = place.command(arguments);
    command.env("LD_LIBRARY_PATH", folder);
    Run::of(command.output().unwrap())
}

/// Asks for a GPU of the stand-in, which is told `answers`.
fn open(answers: &str) -> Run {
    let devices = ["devices", "--device", "cuda"];
    run_in(&Place::new(), answers, &devices).run
}

/// Samples the embedded model on a GPU of the stand-in, whose launches do nothing; `steps` may have options behind it.
fn sample(answers: &str, steps: &str) -> Logged {
    let line = format!("sample -p balloon --device cuda -t 1 --steps {steps}");
    let words: Vec<&str> = line.split(' ').collect();
    run_in(&Place::new(), &format!("compute=0 {answers}"), &words)
}

#[test]
fn no_driver_is_said_in_a_sentence_and_auto_takes_the_cpu() {
    // What is no library at all hides a true driver in the system's folders only under every name that is tried.
    let empty = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        fs::write(empty.path().join(name), "").unwrap();
    }
    let devices = |device| run_with(empty.path(), &["devices", "--device", device]);
    devices("cuda").refused(4, &["there is no NVIDIA driver", "--device cpu"]);
    for command in ["plan", "pack"] {
        let run = run_with(empty.path(), &[command, "--device", "cuda"]);
        run.refused(4, &["--device emulator --target H200"]);
    }
    assert!(
        devices("auto")
            .lines()
            .iter()
            .any(|line| line.starts_with("cuda\tabsent: there is no NVIDIA driver"))
    );
}

#[test]
fn a_library_without_the_functions_is_no_driver() {
    let empty = library("int cuNothing;");
    let run = run_with(empty.path(), &["devices", "--device", "cuda"]);
    run.refused(4, &["is no driver this program can use", "it lacks cu"]);
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_driver_that_does_not_start_is_refused_with_what_to_do() {
    for (answers, expected) in [
        ("cuInit=100", "shows no GPU"),
        ("count=0", "shows no GPU"),
        (
            "cuInit=803",
            "are of different versions: restart the machine",
        ),
        ("cuInit=34", "the toolkit's stub"),
        ("cuInit=999", "the stub was told to fail (CUDA_ERROR_"),
        (
            "version=11080",
            "is for CUDA 11.8, and this program needs one for CUDA 1",
        ),
        ("cuDeviceGetCount=999", "cannot be used"),
        ("cuDeviceGetAttribute=999", "cuda:0 cannot be used"),
    ] {
        open(answers).refused(4, &[expected]);
        let list = run_in(&Place::new(), answers, &["devices"]).run;
        let said = list
            .lines()
            .iter()
            .any(|line| line.starts_with("cuda\tabsent: ") && line.contains(expected));
        assert!(said, "{answers}: {}", list.stdout);
    }
}

// What other builds do is in the tests that need nvcc.
#[cfg(all(not(nvcc), emulator))]
#[test]
fn a_build_without_code_for_gpus_says_why() {
    let reason = latent_diffusion::cuda::table::NVCC.unwrap_err();
    open("").refused(4, &["this build cannot use a GPU", reason]);
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_gpu_that_is_not_there_is_refused_by_its_number() {
    for (answers, expected) in [
        ("", "the only one is cuda:0"),
        ("count=4", "there are cuda:0 to cuda:3"),
    ] {
        let run = run_in(&Place::new(), answers, &["devices", "--device", "cuda:7"]).run;
        run.refused(4, &["there is no GPU cuda:7", expected]);
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn a_gpu_that_cannot_be_used_is_refused_with_the_reason() {
    let old = open("major=7 minor=5");
    old.refused(4, &["cuda:0 (Stub 0) is sm_75", "sm_80"]);
    for code in [46, 101] {
        let answers = format!("cuDevicePrimaryCtxRetain={code}");
        open(&answers).refused(4, &["cuda:0"]);
    }
    open("cuDevicePrimaryCtxRetain=46").refused(4, &["is busy", "another process"]);
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn every_gpu_is_listed_and_what_cannot_be_used_says_so() {
    let list = run_in(&Place::new(), "count=2 major=7", &["devices"]).run;
    let gpus: Vec<&str> = list
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("cuda:"))
        .collect();
    assert_eq!(gpus.len(), 2, "{}", list.stdout);
    assert!(
        gpus[1].starts_with("cuda:1\tStub 1, 8.0 GiB, sm_70") && gpus[1].contains("not usable"),
        "{}",
        gpus[1]
    );
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn what_fails_later_ends_with_its_own_code() {
    for (answers, code, expected) in [
        ("cuModuleLoadData=209", 4, "machine code for"),
        ("cuModuleLoadData=222", 4, "a newer driver"),
        ("cuModuleGetFunction=500", 4, "loading "),
        ("cuLaunchKernelEx=700", 4, "node `"),
        ("cuStreamSynchronize=700", 4, "the stub was told to fail"),
        ("cuMemcpyHtoDAsync_v2=999", 4, "copying"),
        ("cuMemAlloc_v2=2", 5, "memory"),
        ("memory=1000000", 5, "memory"),
    ] {
        let run = sample(answers, "2").run;
        run.refused(code, &["cuda:0 (Stub 0)", expected]);
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn steps_replay_one_recording_and_what_was_given_is_freed() {
    let calls = |steps| {
        let logged = sample("", steps).good();
        move |name: &str| logged.count(name)
    };
    let [few, many] = ["6", "16"].map(calls);
    assert_eq!(many("cuGraphLaunch"), few("cuGraphLaunch") + 10);
    // A step that is recorded costs no launch of its own, and no memory.
    for name in [
        "cuLaunchKernelEx",
        "cuMemAlloc_v2",
        "cuModuleLoadData",
        "cuGraphInstantiateWithFlags",
    ] {
        assert_eq!(many(name), few(name), "{name}");
    }
    assert_eq!(many("cuMemAlloc_v2"), many("cuMemFree_v2"));
    assert_eq!(many("cuMemHostAlloc"), 4, "one ring for all weights");
    assert_eq!(many("cuStreamBeginCapture_v2"), many("cuStreamEndCapture"));
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn a_bench_is_timed_by_the_drivers_clock() {
    let line = "bench --what unet --size 64 --repeat 2 --device cuda --json";
    let words: Vec<&str> = line.split(' ').collect();
    let logged = run_in(&Place::new(), "compute=0", &words).good();
    let run = &logged.run;
    let answer: serde_json::Value = serde_json::from_str(run.lines()[0]).unwrap();
    // The stub's recordings all take 2 ms, of one run or of twenty launches of an operation.
    let network = &answer["networks"][0];
    assert!(
        (network["seconds"].as_f64().unwrap() - 2e-3).abs() < 1e-6,
        "{network}"
    );
    let nodes = network["nodes"].as_array().unwrap();
    assert!(
        nodes
            .iter()
            .all(|node| node["seconds"].as_f64().unwrap() >= 0.9e-4),
        "{nodes:?}"
    );
    assert!(
        answer["peak_gflops"].as_f64().unwrap() > 0.0 && answer["peak_gbs"].as_f64().unwrap() > 0.0
    );
    let count = |name: &str| logged.count(name);
    // The ring of pinned memory records some of its own.
    assert!(count("cuEventRecord") >= 2 * count("cuEventElapsedTime_v2"));
    assert_eq!(count("cuEventCreate"), count("cuEventDestroy_v2"));
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn only_gpus_with_kernels_of_their_own_are_checked() {
    let launches = |answers: &str, kernels: &str| {
        let devices = ["devices", "--device", "cuda", "--kernels", kernels];
        let logged = run_in(&Place::new(), &format!("compute=0 {answers}"), &devices).good();
        assert_eq!(logged.run.stderr, "", "{answers}");
        logged.count("cuLaunchKernelEx")
    };
    // Seven nodes once by portable kernels and three times by others, launched and recorded.
    assert_eq!(launches("major=9", "auto"), 2 * 7 * 4);
    for (answers, kernels) in [
        ("major=9", "all"),
        ("major=9", "portable"),
        ("major=8", "auto"),
        ("major=12", "auto"),
    ] {
        assert_eq!(launches(answers, kernels), 0, "{answers} {kernels}");
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn memory_that_cannot_be_pinned_is_done_without() {
    sample("cuMemHostAlloc=2", "2").good();
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn kernels_start_early_on_gpus_that_wait_in_kernels_and_on_no_others() {
    for (answers, kernels, expected) in [
        ("major=8", "all", false),
        ("major=9", "all", true),
        ("major=9", "portable", false),
        ("major=12", "all", false),
    ] {
        let logged = sample(answers, &format!("2 --kernels {kernels}")).good();
        let count = |name: &str| logged.count(name);
        let early = if expected {
            count("cuLaunchKernelEx")
        } else {
            0
        };
        assert_eq!(count("a launch that may start early"), early, "{answers}");
        // Kernels for such GPUs alone are told of tensors by maps.
        assert_eq!(count("cuTensorMapEncodeTiled") > 0, expected, "{answers}");
    }
}
