//! `plan`, and what `--memory` and `--vae-tiling` make of it.

use crate::shown::upscaler;
use crate::support::Place;
use crate::tasks::pair;
use latent_diffusion::Tensor;
use latent_diffusion::image::encode_latent;
use serde_json::Value;
use std::fs;

/// The answer of `ldm plan --json` for the small model.
fn plan(place: &Place, arguments: &[&str]) -> Value {
    let run = place.on_model("plan --json --device cpu", arguments);
    serde_json::from_str(run.lines()[0]).unwrap()
}

#[test]
fn a_plan_names_every_network_and_the_peak() {
    let place = Place::new();
    let answer = plan(&place, &["--size", "64x32", "--batch-size", "2"]);
    let stages = answer["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().filter_map(|s| s["stage"].as_str()).collect();
    assert_eq!(names, ["text encoder", "UNet", "decoder"]);
    for stage in stages {
        let [weights, arena, peak] =
            ["weight_bytes", "arena_bytes", "peak_bytes"].map(|key| stage[key].as_u64().unwrap());
        assert!(
            weights > 0 && arena > 0 && peak == weights + arena,
            "{stage}"
        );
    }
    let peaks = stages.iter().filter_map(|s| s["peak_bytes"].as_u64());
    assert_eq!(answer["peak_bytes"].as_u64(), peaks.max());
    let lines = place.ldm(&["plan", "--device", "cpu"]);
    let lines = lines.lines();
    assert!(lines[1].starts_with("stage") && lines.last().unwrap().starts_with("peak"));
    place
        .on_model("plan --size 30x32", &[])
        .refused(2, &["multiple of 4"]);
}

#[test]
fn a_plan_counts_what_an_image_a_mask_and_patches_take() {
    let place = Place::new();
    pair(&place, ["a.png", "m.png"], [16, 16]);
    let stages = |answer: &Value| answer["stages"].as_array().unwrap().len();
    let unet = |answer: &Value| answer["stages"][1]["arena_bytes"].as_u64().unwrap();
    let [drawn, image, part] = [
        &[][..],
        &["-i", "a.png"],
        &["-i", "a.png", "--mask", "m.png"],
    ]
    .map(|more| plan(&place, more));
    assert_eq!([&drawn, &image, &part].map(stages), [3, 4, 4]);
    assert!(unet(&image) == unet(&drawn) && unet(&part) > unet(&drawn));
    for refused in [
        &["--cfg", "1", "--guidance-interval", "1:5"][..],
        &["--batch-size", "0"],
    ] {
        place.on_model("plan", refused).refused(2, &[]);
    }
    let model = upscaler(&place);
    let arena = |size: &str| {
        let line = "plan --json --device cpu --vae-tiling off --size";
        let line: Vec<&str> = line.split(' ').collect();
        let line = [&line[..], &[size, "-m", &model]].concat();
        let answer: Value = serde_json::from_str(place.ldm(&line).lines()[0]).unwrap();
        answer["stages"][0]["arena_bytes"].as_u64().unwrap()
    };
    // Patches are of 128x128 latent pixels.
    assert!(arena("1024x1024") <= arena("512x512"));
    assert!(arena("512x512") > 3 * arena("256x256"));
}

#[test]
fn a_small_image_is_the_same_where_bands_are_asked_for() {
    let place = Place::new();
    let draw = |name: &str, tiling: &str| {
        let line = ["-p", "x", "-s", "1", "-o", name, "--vae-tiling", tiling];
        place.sample(&line).lines();
        fs::read(place.path().join(name)).unwrap()
    };
    assert!(draw("a.png", "off") == draw("b.png", "on"));
}

#[test]
fn an_image_is_the_same_in_bands() {
    let place = Place::new();
    let latent = Tensor::from_fn([1, 40, 24, 4], |i| ((i * 37) % 101) as f32 / 50.0 - 1.0);
    place.file("latent.safetensors", encode_latent(&latent, None).unwrap());
    let decode = |arguments: &[&str]| {
        let line = "decode latent.safetensors --device cpu";
        place.on_model(line, &[&["-o"], arguments].concat())
    };
    let whole = plan(&place, &["--size", "48x80"])["stages"][2].clone();
    let [weights, arena] = ["weight_bytes", "arena_bytes"].map(|key| whole[key].as_u64().unwrap());
    let limit = (weights + arena * 7 / 8).to_string();
    let planned = plan(&place, &["--size", "48x80", "--memory", &limit]);
    let decoder = &planned["stages"][2];
    assert!(decoder["bands"]["most"].as_u64().unwrap() > 1, "{decoder}");
    let variants: [&[&str]; 3] = [
        &["a.png", "--vae-tiling", "off"],
        &["b.png", "--vae-tiling", "on"],
        &["c.png", "--memory", &limit],
    ];
    let images = variants.map(|arguments| {
        assert_eq!(decode(arguments).lines(), [arguments[0]]);
        fs::read(place.path().join(arguments[0])).unwrap()
    });
    assert!(images[0] == images[1] && images[0] == images[2]);
    decode(&["d.png", "--memory", "1KiB"]).refused(5, &["computed in bands", "use a smaller size"]);
    decode(&["d.png", "--memory", "1KiB", "--vae-tiling", "off"])
        .refused(5, &["of memory may be used", "of weights"]);
    assert_eq!(
        place
            .names(".")
            .iter()
            .filter(|name| *name == "d.png")
            .count(),
        0
    );
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_gpu_that_is_elsewhere_is_predicted_as_it_was_reviewed() {
    let place = Place::new();
    let line = [
        "plan",
        "-m",
        "synthetic:sd1",
        "--device",
        "emulator",
        "--target",
        "h200",
    ];
    let text = place.ldm(&line);
    let lines = text.lines();
    assert!(lines[0].contains("of H200, f16"), "{}", lines[0]);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("never compared with hardware"))
    );
    let answer = place.ldm(&[&line[..], &["--json"]].concat());
    let answer: Value = serde_json::from_str(answer.lines()[0]).unwrap();
    let reviewed = include_str!("../data/predicted.txt");
    for (index, network) in [(1, "sd1 512 step, guided"), (2, "kl-f8 decode to 512")] {
        let row = reviewed
            .lines()
            .find_map(|line| line.strip_prefix(network)?.trim().strip_prefix("H200"))
            .unwrap();
        // Images, launches, GFLOP, MB and milliseconds; of the rows the first is of one image.
        let columns: Vec<f64> = row
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        let predicted = &answer["stages"][index]["predicted"];
        let milliseconds = 1e3 * predicted["seconds"].as_f64().unwrap();
        // Samplers differ in what they remember, which takes next to nothing.
        assert!(
            (milliseconds / columns[4] - 1.0).abs() < 0.01,
            "{predicted}, {row}"
        );
        let floor = 1e3 * predicted["floor_seconds"].as_f64().unwrap();
        assert!(
            (floor / columns[5] - 1.0).abs() < 0.01,
            "{predicted}, {row}"
        );
    }
    let cpu = plan(&place, &[]);
    assert!(cpu["stages"][1]["predicted"].is_null());
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn what_a_gpu_gains_by_can_be_left_out_and_takes_longer_then() {
    let place = Place::new();
    let seconds = |options: &str| {
        let line = format!("plan -m synthetic:sd1 --json --device emulator --target {options}");
        let line: Vec<&str> = line.split(' ').collect();
        let answer: Value = serde_json::from_str(place.ldm(&line).lines()[0]).unwrap();
        answer["stages"][1]["predicted"]["seconds"].as_f64()
    };
    for (gains, not, without) in [
        ("4090", "a100", "--accumulate f32"),
        ("h200", "4090", "--kernels portable"),
    ] {
        let without = |gpu: &str| seconds(&format!("{gpu} {without}"));
        assert!(without(gains) > seconds(gains));
        assert_eq!(without(not), seconds(not));
    }
    for (option, known) in [
        ("--accumulate", "auto or f32"),
        ("--kernels", "auto, all or portable"),
    ] {
        let refused = place.ldm(&["plan", option, "f16"]);
        refused.refused(2, &[option, &format!("expected {known}")]);
    }
}
