//! The driver's side of the door, run end to end without a GPU: what a program gives NVIDIA's driver, computed by the emulator behind a libcuda
//! (`libcuda/`) that refuses whatever a driver refuses or leaves open.

use super::libcuda::{Logged, run_in, stand_in, succeed};
use super::support::{Place, model};
use super::tasks::pair;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A GPU of each kind that kernels are compiled for: its word for the stand-in, which is also its name for `--target`.
const GPUS: [&str; 4] = ["a100", "3090", "4090", "h200"];

/// Runs a line on the small model, on a GPU of the stand-in.
fn on_model(place: &Place, answers: &str, line: &str) -> Logged {
    let words = ["-m", model().to_str().unwrap(), "--device", "cuda"];
    let line: Vec<&str> = line.split_whitespace().chain(words).collect();
    run_in(place, answers, &line)
}

/// Checks that a GPU and its emulator, which has options besides, write the same files when they are told `line`, which a model can follow; the
/// stand-in's log.
fn draws_as_emulated(place: &Place, answers: &str, emulated: &str, line: &str) -> Logged {
    let line = format!("{line} --no-metadata -t 2");
    let words: Vec<&str> = line.split_whitespace().collect();
    let options: Vec<&str> = emulated.split_whitespace().collect();
    let images = |name: &str| {
        let all = place.names(name);
        assert!(!all.is_empty(), "{line}");
        all.into_iter()
            .map(|file| fs::read(place.path().join(name).join(file)).unwrap())
            .collect::<Vec<_>>()
    };
    for folder in ["emulated", "computed"] {
        fs::create_dir(place.path().join(folder)).unwrap();
    }
    let into = ["--device", "emulator", "-o", "emulated/{index}.png"];
    place.ldm(&[&words, &options[..], &into].concat()).lines();
    let into = ["--device", "cuda", "-o", "computed/{index}.png"];
    let computed = run_in(place, answers, &[&words, &into[..]].concat()).good();
    assert!(
        images("emulated") == images("computed"),
        "{answers}: {line}"
    );
    for folder in ["emulated", "computed"] {
        fs::remove_dir_all(place.path().join(folder)).unwrap();
    }
    computed
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn every_gpu_draws_what_its_emulator_draws() {
    let place = Place::new();
    let model = model().to_str().unwrap();
    pair(&place, ["a.png", "m.png"], [16, 16]);
    let lines = [
        // One step launched one by one, one recorded, and two that repeat it.
        "sample --steps 4",
        "sample --steps 3 -b 2 --sampler dpm++2m",
        "sample --steps 3 --dtype f32",
        "sample --steps 6 --cfg 6 --guidance-interval 0.5:3",
        "inpaint -i a.png --mask m.png --steps 3",
    ];
    for (number, gpu) in GPUS.into_iter().enumerate() {
        for (index, line) in lines.into_iter().enumerate() {
            // All of them with all there is to a GPU; of the others, each with what takes the same way and another.
            if gpu != "h200" && index != 0 && index != 1 + number {
                continue;
            }
            let line = format!("{line} -p a -s 1 -m {model}");
            let target = format!("--target {gpu}");
            let log = draws_as_emulated(&place, &format!("gpu={gpu}"), &target, &line);
            let said = &log.run.stderr;
            assert!(!said.contains("warning"), "{line}: {said}");
            assert!(log.count("cuGraphLaunch") > 0, "{line}");
        }
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn a_gpu_that_is_faster_than_its_host_draws_the_same() {
    let line = "sample -p a -s 1 --steps 3 --size 32x32";
    draws_as_emulated(&Place::new(), "gpu=h200 eager=1", "--target h200", line);
}

/// A picture, with nothing said about it.
const LINE: &str = "sample -p a -s 1 --steps 3 --size 16x16 --no-progress";

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn a_gpu_whose_own_kernels_go_wrong_draws_by_those_of_every_gpu() {
    for (told, family) in [
        (
            "spoil=linear_f16_256x160_sm90",
            "(linear, tiles of 256x160: ",
        ),
        (
            "spoil=linear_norm_f16_128x128_sm90",
            "(linear_norm, tiles of 128x128: ",
        ),
        ("spoil=conv2d_f16_64x80_sm90", "(conv2d, tiles of 64x80: "),
        (
            "spoil=attention_f16_80_128x128_sm90",
            "(attention with heads of 80, tiles of ",
        ),
        (
            "refuse=conv2d_f16_128x128_sm90",
            "kernel conv2d_f16_128x128_sm90",
        ),
        ("cuTensorMapEncodeTiled=1", "describing a tensor"),
    ] {
        let options = "--target h200 --kernels portable";
        let answers = format!("gpu=h200 {told}");
        let log = draws_as_emulated(&Place::new(), &answers, options, LINE);
        let said = &log.run.stderr;
        assert_eq!(said.matches("warning: ").count(), 1, "{told}: {said}");
        for part in [
            family,
            "those that every GPU runs are used",
            "please report it",
        ] {
            assert!(said.contains(part), "{told}: {said}");
        }
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn a_fault_that_ends_all_work_names_the_way_out() {
    let place = Place::new();
    let run = |told: &str, line: &str| on_model(&place, &format!("gpu=h200 {told}"), line).run;
    let way = "--kernels portable leaves out what only Hopper GPUs run";
    let fault = "fault=conv2d_f16_128x128_sm90";
    // Nor is the CPU taken instead where nobody asked for either.
    for line in [&["devices", "--device", "cuda"][..], &["-p", "a"]] {
        let check = run_in(&place, &format!("gpu=h200 {fault}"), line).run;
        check.refused(4, &["kernel conv2d_f16_128x128_sm90", way]);
    }
    // Later too, and in a recording.
    let line = "sample -p a --steps 3 --kernels all";
    let one = "compute=0 run@9=715";
    run(one, line).refused(4, &["node `", "kernel ", way]);
    let launches = |line| on_model(&place, "gpu=h200 compute=0", line).good();
    let last = launches(line).count("cuLaunchKernelEx");
    run(&format!("compute=0 run@{last}=719"), line).refused(4, &["replaying", way]);
    // Whoever takes it already, or has no such kernels, is told of no way.
    let portable = run(one, &line.replace("all", "portable"));
    let other = on_model(&place, &format!("gpu=a100 {one}"), line).run;
    for run in [portable, other] {
        let said = &run.stderr;
        assert!(run.code == 4 && !said.contains("--kernels"), "{said}");
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn what_cannot_be_recorded_is_launched_one_by_one() {
    for told in [
        "cuStreamBeginCapture_v2=801",
        "cuGraphInstantiateWithFlags=801",
        "cuGraphUpload=999",
    ] {
        let answers = format!("gpu=a100 {told}");
        let log = draws_as_emulated(&Place::new(), &answers, "--target a100", LINE);
        assert_eq!(log.count("cuGraphLaunch"), 0);
        let said = &log.run.stderr;
        let expected = "recording launches: the stub was told to fail";
        assert!(said.contains(expected), "{told}: {said}");
        let warned = "; launches are made one after another, which is slower";
        assert_eq!(said.matches(warned).count(), 1, "{told}: {said}");
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn networks_agree_with_pytorch_through_the_driver() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    for (gpu, folder, dump) in [
        ("h200", "unet_alone", "unet"),
        ("4090", "text_alone", "text"),
    ] {
        let folder = data.join(folder);
        let dump = folder.join(dump).with_extension("safetensors");
        let model = folder.join("model");
        let [model, dump] = [&model, &dump].map(|path| path.to_str().unwrap());
        let line = ["parity", "--device", "cuda", "-m", model, "--dump", dump];
        run_in(&Place::new(), &format!("gpu={gpu}"), &line).good();
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn benches_and_tables_are_made_through_the_driver() {
    let place = Place::new();
    // What GPUs do at best is found out by more work than an emulator can do.
    for line in [
        "bench --what step --repeat 2 --trace trace.json",
        "bench --startup --json",
        "tune --batch 2 -o tiles.txt",
        "sample -p a -s 1 --steps 3 --tuned tiles.txt",
    ] {
        let logged = on_model(&place, "gpu=h200 compute=0", line).good();
        println!("{line}\n{}", logged.run.stdout);
        assert!(!logged.run.stdout.contains("NaN"), "{line}");
    }
    let table = fs::read_to_string(place.path().join("tiles.txt")).unwrap();
    assert!(
        table.starts_with("ldm tiles 1\ndevice NVIDIA H200, sm_90"),
        "{table}"
    );
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn weights_that_fill_the_ring_of_pinned_memory_wait_for_a_place_in_it() {
    // 99 MB through 32 MiB, and kernels whose shared memory ends at the limit that needs no asking.
    let line = "bench --what decode -m synthetic:kl-f8 --size 512 --repeat 1 --device cuda";
    let words: Vec<&str> = line.split(' ').collect();
    for gpu in ["a100", "4090"] {
        let logged = run_in(&Place::new(), &format!("gpu={gpu} compute=0"), &words).good();
        let timed = 2 * logged.count("cuEventElapsedTime_v2");
        assert!(logged.count("cuEventRecord") >= timed + 4, "{gpu}");
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn memory_that_runs_out_at_any_moment_ends_in_a_sentence() {
    let place = Place::new();
    let run = |told: &str| {
        on_model(
            &place,
            &format!("gpu=h200 compute=0 {told}"),
            "sample -p a --steps 3",
        )
    };
    let allocated = run("").good().count("cuMemAlloc_v2");
    for number in 1..=allocated {
        let logged = run(&format!("cuMemAlloc_v2@{number}=2"));
        let none: [&str; 0] = [];
        assert_eq!(logged.complaints(), none, "allocation {number}");
        // A weight that finds no place takes that of others, if there are any that nobody uses.
        if logged.run.code != 0 {
            logged.run.refused(5, &["too little memory"]);
        }
    }
}

#[test]
#[cfg_attr(not(all(nvcc, emulator)), ignore = "needs nvcc and a C++ compiler")]
fn a_launch_that_fails_names_its_node_also_when_that_shows_later() {
    let place = Place::new();
    let run = |told: &str| {
        on_model(
            &place,
            &format!("compute=0 {told}"),
            "sample -p a --steps 3",
        )
    };
    let launches = run("").good().count("cuLaunchKernelEx");
    for number in (1..=launches).step_by(7) {
        for told in ["cuLaunchKernelEx", "run"] {
            let run = run(&format!("{told}@{number}=719")).run;
            let said = &run.stderr;
            let named = said.contains("node `") && said.contains("kernel ");
            assert!(
                named || said.contains("replaying"),
                "{told} {number}: {said}"
            );
            // What is only refused to be recorded is launched.
            if run.code == 0 {
                assert!(told != "run" && said.contains("launches are made one after another"));
            } else {
                run.refused(4, &["cuda:0 (Stub 0)", "CUDA_ERROR_719"]);
            }
        }
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn the_stand_in_refuses_what_a_driver_may() {
    let place = Place::new();
    let program = place.path().join("misuse");
    let mut compiler = Command::new("cc");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/libcuda/misuse.c");
    compiler
        .args(["-std=gnu11", "-pthread", "-o"])
        .arg(&program);
    compiler.arg(source).arg(stand_in().join("libcuda.so"));
    succeed(compiler);
    let log = place.path().join("log");
    let misuse = |way: &[&str], machine: &str| {
        let _ = fs::remove_file(&log);
        let mut command = Command::new(&program);
        command.args(way).env("FAKE_CUDA", machine);
        command.env("LD_LIBRARY_PATH", stand_in());
        let answer = command.env("FAKE_CUDA_LOG", &log).output().unwrap();
        let said = String::from_utf8(answer.stdout).unwrap();
        (
            answer.status.success(),
            said,
            fs::read_to_string(&log).unwrap_or_default(),
        )
    };
    for way in misuse(&[], "").1.lines() {
        let words: Vec<&str> = way.split(' ').collect();
        let [name, code, machine] = words[..] else {
            panic!("{way}");
        };
        let (as_expected, said, log) = misuse(&[name], machine);
        assert!(as_expected, "{said}{log}");
        let code: i32 = code.parse().unwrap();
        assert_eq!(log.contains("refused: "), code > 0, "{name}: {log}");
        // What fails leaves all behind; after a fault nobody is blamed for it.
        let spoilt = log.contains("refused: activation") || log.contains("refused: the host");
        assert_eq!(
            log.contains("leaked: "),
            code != 0 && !spoilt,
            "{name}: {log}"
        );
    }
}
