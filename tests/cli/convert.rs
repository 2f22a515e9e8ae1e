//! `ldm convert`, `ldm list`, and what is said of checkpoints.

use super::support::{Place, model};
use std::fs;

#[test]
fn a_converted_model_draws_the_same() {
    let place = Place::new();
    let source = model().to_str().unwrap();
    let run = place.ldm(&["convert", source, "-o", "half"]);
    assert_eq!(run.lines(), ["half"]);
    let files = [
        "config.yaml",
        "merges.txt",
        "model.safetensors",
        "vocab.json",
    ];
    assert_eq!(place.names("half"), files);
    let drawn = |model: &str, name: &str| {
        let run = place.ldm(&[
            "sample",
            "-m",
            model,
            "-p",
            "x",
            "--seed",
            "3",
            "--no-metadata",
            "-o",
            name,
        ]);
        run.lines();
        fs::read(place.path().join(name)).unwrap()
    };
    assert!(drawn(source, "a.png") == drawn("half", "b.png"));
    let again = place.ldm(&["convert", source, "-o", "half"]);
    again.refused(6, &["half", "is kept"]);
    place
        .ldm(&["convert", "none.ckpt", "-o", "other"])
        .refused(3, &["none.ckpt"]);
    assert!(place.names("other").is_empty());
}

#[test]
fn every_system_is_listed_with_its_cost() {
    let run = Place::new().ldm(&["list", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(run.lines()[0]).unwrap();
    let rows = rows.as_array().unwrap();
    // Parameters of the UNet, of its first stage and of its text encoder, and GFLOP of a call, as published and as counted by
    // PyTorch (without what is neither convolution, linear map nor attention, which is less than 1 %).
    for (name, millions, gflop, steps, command) in [
        ("sd-v1", 859.52 + 83.65 + 123.06, 803.3, 50, "sample"),
        ("celeba256", 274.06 + 55.32, 202.4, 50, "sample"),
        ("inpainting_big", 387.25 + 53.22, 300.9, 50, "inpaint"),
        ("rdm768", 1335.48 + 69.61, 694.6, 50, "retrieve2img"),
    ] {
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        let parameters = row["parameters"].as_f64().unwrap() / 1e6;
        assert!((parameters / millions - 1.0).abs() < 1e-4, "{row}");
        let counted = row["flops"].as_f64().unwrap() / 1e9;
        assert!((counted / gflop - 1.0).abs() < 0.01, "{row}");
        assert!(row["steps"] == steps && row["command"] == command, "{row}");
    }
    assert_eq!(rows.len(), 27);
    let text = Place::new().ldm(&["list"]);
    let lines = text.lines();
    assert!(lines.iter().any(|line| line.starts_with("vq-f8-n256 ")));
}
