//! `tune`, its tables, and what is made of those that are none.

use super::support::Place;
use std::fs;

/// Images of the small model by the kernels, with these arguments besides.
fn image(place: &Place, name: &str, arguments: &[&str]) -> Vec<u8> {
    let line = "sample -p a -s 1 --steps 1 --no-metadata --device emulator";
    let run = place.on_model(line, &[&["-o", name], arguments].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    fs::read(place.path().join(name)).unwrap()
}

/// How many kernels of the network have tiles of 128x64, with these arguments.
fn kernels(place: &Place, arguments: &[&str]) -> usize {
    let line = "bench --what unet --batch 2 --repeat 1 --device emulator --trace trace.json";
    place.on_model(line, arguments).lines();
    let trace = fs::read_to_string(place.path().join("trace.json")).unwrap();
    trace.matches("_f16_128x64\"").count()
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_table_is_the_same_twice_and_changes_no_image() {
    let place = Place::new();
    let tune = |file: &str| {
        let run = place.on_model("tune --device emulator --batch 2", &["-o", file]);
        assert_eq!(run.lines(), [file]);
        fs::read_to_string(place.path().join(file)).unwrap()
    };
    let table = tune("a.txt");
    assert_eq!(table, tune("b.txt"));
    let device = "device emulator, sm_80, 108 multiprocessors";
    assert_eq!(
        table.lines().take(2).collect::<Vec<_>>(),
        ["ldm tiles 1", device]
    );
    // Another tile for every shape of the UNet than the small one that the model of time picks.
    let shapes = [
        "linear 2x4x4x32 of 32x32",
        "linear 2x16x32 of 32x32",
        "conv2d 2x8x8x32 of 32x32x3x3",
        "conv2d 2x4x4x32 of 32x32x3x3",
    ];
    let lines: String = shapes.map(|shape| format!("{shape}: 128x64\n")).concat();
    place.file("large.txt", format!("ldm tiles 1\n{device}\n{lines}"));
    assert_eq!(kernels(&place, &[]), 0);
    assert!(kernels(&place, &["--tuned", "large.txt"]) > 0);
    let usual = image(&place, "usual.png", &[]);
    assert_eq!(usual, image(&place, "large.png", &["--tuned", "large.txt"]));
    assert_eq!(usual, image(&place, "tuned.png", &["--tuned", "a.txt"]));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn tables_that_do_not_fit_are_refused_in_a_sentence() {
    let place = Place::new();
    let plan = |file: &str| place.ldm(&["plan", "--device", "emulator", "--tuned", file]);
    place.file("picture.txt", "PNG");
    plan("picture.txt").refused(3, &["picture.txt", "no table of `ldm tune`"]);
    place.file(
        "tile.txt",
        "ldm tiles 1\ndevice x\nlinear 1x2 of 3x4: 3x5\n",
    );
    plan("tile.txt").refused(3, &["line 3: no kernel computes tiles of 3x5"]);
    place.file(
        "other.txt",
        "ldm tiles 1\ndevice NVIDIA H200, sm_90, 132 multiprocessors\n",
    );
    plan("other.txt").refused(2, &["of another device: NVIDIA H200", "`ldm tune`"]);
    plan("missing.txt").refused(3, &["missing.txt"]);
}

#[test]
fn the_cpu_is_not_tuned() {
    let line = ["tune", "--device", "cpu", "-o", "table.txt"];
    Place::new()
        .ldm(&line)
        .refused(2, &["no tiles to choose from"]);
}
