//! What is written where, and what is never replaced.

use super::support::{Place, Run};
use std::fs;
use std::process::Stdio;

#[test]
fn paths_alone_are_on_standard_output_and_no_bar_where_there_is_no_terminal() {
    let place = Place::new();
    let run = place.sample(&["-p", "x", "-s", "3", "-b", "2", "--batch-size", "2"]);
    let names = ["3", "4", "5", "6"].iter().enumerate();
    let names: Vec<String> = names
        .map(|(index, seed)| format!("outputs/0000{index}-{seed}.png"))
        .collect();
    assert_eq!(run.lines(), names);
    assert_eq!(
        run.stderr,
        "seeds 3 to 4 (run 1 of 2)\nseeds 5 to 6 (run 2 of 2)\n"
    );
    assert_eq!(place.sample(&["-p", "x", "-s", "3", "-q"]).stderr, "");
}

#[test]
fn an_image_is_the_same_alone_and_in_a_batch() {
    let place = Place::new();
    let bytes = |arguments: &[&str], name: &str| {
        place.sample(&[&["-p", "x"], arguments].concat()).lines();
        fs::read(place.path().join(name)).unwrap()
    };
    let in_a_batch = bytes(
        &["-s", "3", "--batch-size", "2", "-o", "{seed}.png"],
        "4.png",
    );
    let alone = bytes(&["-s", "4", "-t", "2", "-o", "alone.png"], "alone.png");
    assert!(in_a_batch == alone);
}

#[test]
fn only_a_named_file_is_replaced() {
    let place = Place::new();
    place.file("own.png", "old");
    place.file("own-1.png", "old");
    let run = place.sample(&["-p", "x", "-b", "2", "-o", "own.png"]);
    assert_eq!(run.lines(), ["own.png", "own-2.png"]);
    assert_eq!(fs::read(place.path().join("own-1.png")).unwrap(), b"old");
    assert_ne!(fs::read(place.path().join("own.png")).unwrap(), b"old");
    assert_eq!(place.names("."), ["own-1.png", "own-2.png", "own.png"]);

    let twice = || place.sample(&["-p", "x", "-s", "7", "--outdir", "o"]);
    assert_eq!(twice().lines(), ["o/00000-7.png"]);
    assert_eq!(twice().lines(), ["o/00001-7.png"]);
}

#[test]
fn names_are_filled_in_and_standard_output_is_a_file() {
    let place = Place::new();
    let run = place.sample(&[
        "-p",
        "a red/blue cat",
        "-s",
        "9",
        "-o",
        "{prompt}_{seed}_%03d.png",
    ]);
    assert_eq!(run.lines(), ["a-red-blue-cat_9_000.png"]);
    let mut piped = place.command(&[
        "-m",
        super::support::model().to_str().unwrap(),
        "-p",
        "x",
        "-o",
        "-",
        "-q",
    ]);
    let piped = piped.output().unwrap();
    assert!(
        piped.status.success() && piped.stdout.starts_with(b"\x89PNG") && piped.stderr.is_empty()
    );
}

#[test]
fn json_lines_say_what_was_made() {
    let place = Place::new();
    let run = place.sample(&["-p", "x", "-s", "3", "--json", "--cfg", "7.1"]);
    let line: serde_json::Value = serde_json::from_str(run.lines()[0]).unwrap();
    assert_eq!(
        (&line["path"], &line["seed"], &line["cfg_scale"]),
        (&"outputs/00000-3.png".into(), &3.into(), &7.1.into())
    );
}

#[test]
fn a_reader_that_goes_away_costs_nothing() {
    let place = Place::new();
    let mut command = place.command(&[
        "-m",
        super::support::model().to_str().unwrap(),
        "-p",
        "x",
        "-b",
        "3",
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(place.names("outputs").len(), 3);
}

#[cfg(target_os = "linux")]
#[test]
fn a_list_that_cannot_be_written_is_said() {
    let place = Place::new();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let line = ["-m", super::support::model().to_str().unwrap(), "-p", "x"];
    let run = Run::of(place.command(&line).stdout(full).output().unwrap());
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert_eq!(place.names("outputs").len(), 1);
}

#[test]
fn what_cannot_be_written_is_said_of_what_was_asked_for_and_kept_elsewhere() {
    let place = Place::new();
    let run = place.sample(&["-p", "x", "-o", "none/a.png"]);
    run.refused(6, &["cannot write none: the folder none does not exist"]);
    let long = format!("{}.png", "x".repeat(300));
    let run = place.sample(&["-p", "x", "-s", "1", "-o", &long]);
    run.refused(6, &["the result was kept in"]);
    let kept = place.names(".");
    assert!(kept.len() == 1 && kept[0].ends_with("x.png"), "{kept:?}");
}

#[test]
fn an_image_on_standard_output_is_described_on_the_other() {
    let place = Place::new();
    let model = super::support::model().to_str().unwrap();
    let line = ["-m", model, "-p", "x", "-s", "1", "-o", "-", "--json"];
    let output = place.command(&line).output().unwrap();
    assert!(output.stdout.starts_with(b"\x89PNG"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("\"seed\":1"), "{said}");
}

#[test]
fn an_initial_image_gives_its_proportions() {
    let place = Place::new();
    place
        .sample(&["-p", "x", "-o", "wide.png", "--size", "64x16"])
        .lines();
    let run = place.sample(&["-p", "x", "-i", "wide.png", "--json"]);
    let line: serde_json::Value = serde_json::from_str(run.lines()[0]).unwrap();
    assert_eq!((&line["width"], &line["height"]), (&32.into(), &8.into()));
}

#[test]
fn images_and_latents_go_there_and_back() {
    let place = Place::new();
    let model = super::support::model().to_str().unwrap();
    let image = place.sample(&["-p", "x", "-o", "a.png"]).lines()[0].to_owned();
    assert_eq!(
        place
            .ldm(&["encode", "-m", model, &image, "--outdir", "l"])
            .lines(),
        ["l/a.safetensors"]
    );
    assert_eq!(
        place
            .ldm(&["decode", "-m", model, "--init-image", "l/a.safetensors"])
            .lines(),
        ["outputs/a.png"]
    );
    let from_image = [
        "img2img",
        "-m",
        model,
        "-i",
        &image,
        "--strength",
        "0.5",
        "-p",
        "x",
        "-o",
        "b.png",
    ];
    assert_eq!(place.ldm(&from_image).lines(), ["b.png"]);
    let stored = place.ldm(&["inspect", "b.png", "--json"]);
    let stored: serde_json::Value = serde_json::from_str(stored.lines()[0]).unwrap();
    assert_eq!(stored["texts"]["parameters"]["strength"], 0.5);
    assert_eq!(stored["texts"]["ldm"]["request"]["init_image"], "a.png");
}

/// What an image of the small model says that it was computed on.
fn device(place: &Place, arguments: &str) -> String {
    let line = format!("sample -p x --steps 1 -o a.png {arguments}");
    place.on_model(&line, &[]).lines();
    let stored = place.ldm(&["inspect", "a.png", "--json"]);
    let stored: serde_json::Value = serde_json::from_str(stored.lines()[0]).unwrap();
    stored["texts"]["ldm"]["device"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn an_image_says_what_its_bits_depend_on() {
    let place = Place::new();
    assert_eq!(device(&place, "--device cpu -t 1"), "cpu, f32");
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn an_image_of_kernels_says_what_its_bits_depend_on() {
    for (arguments, said) in [
        ("", "emulator of A100, f16"),
        (
            "--dtype f32 --target 4090",
            "emulator of GeForce RTX 4090, f32",
        ),
        (
            "--target 4090",
            "emulator of GeForce RTX 4090, f16, sums in f16 where they gain",
        ),
        (
            "--target 4090 --accumulate f32",
            "emulator of GeForce RTX 4090, f16",
        ),
        ("--target h200", "emulator of H200, f16"),
        (
            "--target h200 --kernels portable",
            "emulator of H200, f16, portable kernels",
        ),
        (
            "--target 4090 --accumulate f32 --kernels portable",
            "emulator of GeForce RTX 4090, f16",
        ),
    ] {
        let place = Place::new();
        assert_eq!(
            device(&place, &format!("--device emulator {arguments}")),
            said
        );
    }
}

#[test]
fn without_metadata_an_image_says_nothing() {
    let place = Place::new();
    place
        .sample(&["-p", "x", "-o", "a.png", "--no-metadata"])
        .lines();
    assert!(
        place
            .ldm(&["inspect", "a.png"])
            .stdout
            .contains("nothing about how")
    );
}

#[test]
fn help_names_the_exit_codes_and_never_fails() {
    let place = Place::new();
    for line in [
        &["--help"][..],
        &["sample", "--help"],
        &["help"],
        &["--version"],
    ] {
        assert_eq!(place.ldm(line).code, 0);
    }
    let help = place.ldm(&["--help"]).stdout;
    for part in [
        "Exit codes",
        "130",
        "Examples",
        "img2img",
        "inspect",
        "bench",
        "devices",
    ] {
        assert!(help.contains(part), "{help}");
    }
}

#[test]
fn devices_lists_what_is_there_and_why_the_rest_is_not() {
    let run = Place::new().ldm(&["devices"]);
    let lines = run.lines();
    assert!(lines[0].starts_with("cpu\t"));
    for name in ["cuda", "emulator\t"] {
        assert!(lines.iter().any(|line| line.starts_with(name)), "{lines:?}");
    }
    assert!(run.stderr.contains("CUDA kernels"), "{}", run.stderr);
    let cpu = Place::new().ldm(&["devices", "--device", "cpu"]);
    assert_eq!((cpu.code, cpu.lines().len()), (0, 1));
}

#[test]
fn a_start_is_timed_in_stages() {
    let place = Place::new();
    let model = super::support::model().to_str().unwrap();
    let run = place.ldm(&["bench", "-m", model, "--startup", "--json", "-t", "1"]);
    let answer: serde_json::Value = serde_json::from_str(run.lines()[0]).unwrap();
    let stages = answer["stages"].as_array().unwrap();
    assert_eq!(stages[0]["stage"], "open the model");
    assert_eq!(stages[1]["stage"], "open the device");
    let last = &stages[stages.len() - 1];
    assert_eq!(last["stage"], "  run it for the first time");
    let sum: f64 = stages.iter().map(|s| s["ms"].as_f64().unwrap()).sum();
    assert!((answer["ms"].as_f64().unwrap() - sum).abs() < 1e-6 * sum);
}

#[test]
fn bench_and_inspect_describe_a_model() {
    let place = Place::new();
    let model = super::support::model().to_str().unwrap();
    let bench = place.ldm(&[
        "bench", "-m", model, "--repeat", "1", "--json", "--size", "16", "-t", "1",
    ]);
    let bench: serde_json::Value = serde_json::from_str(bench.lines()[0]).unwrap();
    let networks = bench["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 4);
    for network in networks {
        let operations = network["operations"].as_array().unwrap();
        let flops = |rows: &[serde_json::Value]| {
            rows.iter()
                .map(|row| row["flops"].as_u64().unwrap())
                .sum::<u64>()
        };
        assert_eq!(flops(operations), network["flops"].as_u64().unwrap());
        assert!(network["seconds"].as_f64().unwrap() > 0.0);
    }
    let step = [
        "bench", "-m", model, "--what", "step", "--repeat", "1", "--json",
    ];
    let step: serde_json::Value = serde_json::from_str(place.ldm(&step).lines()[0]).unwrap();
    let step = &step["networks"][0];
    let unguided = [
        "bench", "-m", model, "--what", "unguided", "--repeat", "1", "--json",
    ];
    let unguided: serde_json::Value =
        serde_json::from_str(place.ldm(&unguided).lines()[0]).unwrap();
    let flops = |network: &serde_json::Value| network["flops"].as_u64().unwrap();
    assert!(flops(&unguided["networks"][0]) < flops(step));
    assert!(step["once"]["calls"].as_u64().unwrap() > 0, "{step}");
    assert!(networks.iter().all(|network| network["once"].is_null()));
    let inspect = place.ldm(&["inspect", model, "--json", "--check-weights"]);
    let inspect: serde_json::Value = serde_json::from_str(inspect.lines()[0]).unwrap();
    let found: Vec<&str> = inspect["networks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["network"].as_str().unwrap())
        .collect();
    assert_eq!(found, ["UNet", "encoder", "decoder", "text encoder"]);
    assert_eq!(
        (&inspect["unused"], &inspect["pixel_multiple"]),
        (&serde_json::json!([]), &4.into())
    );
    assert_eq!(
        place
            .ldm(&["bench", "-m", model, "--what", "unet", "--repeat", "1"])
            .code,
        0
    );
}
