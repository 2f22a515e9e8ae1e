//! Each gets one sentence and the documented exit code, and leaves no file behind.

use super::support::{Place, Run, model, write_model};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

#[test]
fn settings_out_of_range() {
    let place = Place::new();
    for (arguments, words) in [
        (&["-W", "0"][..], &["width 0", "4"][..]),
        (&["-H", "-16"], &["height -16"]),
        (&["-W", "18"], &["width 18", "16 and 20"]),
        (&["--size", "16"], &["size `16`"]),
        (&["--size", "-16x16"], &["width -16"]),
        (&["--num", "-1"], &["-1", "--num", "from 0 on"]),
        (&["-t", "-1"], &["-1", "--threads", "from 0 on"]),
        (&["--steps", "1.5"], &["--steps", "a whole number"]),
        (&["--strength", "half"], &["--strength", "a number such as"]),
        (&["--cuts", "maybe"], &["--cuts", "expected on or off"]),
        (&["--classes", "c.txt"], &["layout2img"]),
        (
            &["-W", "1073741824", "-H", "1073741824"],
            &["1073741824x1073741824"],
        ),
        (&["-W", "9223372036854775804"], &["9223372036854775804"]),
        (&["-W", "99999999999999999999"], &["99999999999999999999"]),
        (&["--steps", "0"], &["0 steps", "1 to 1000"]),
        (&["--steps", "1001"], &["1001 steps"]),
        (&["--steps", "-3"], &["steps -3"]),
        (&["--cfg", "inf"], &["guidance scale inf"]),
        (&["--cfg", "NaN"], &["guidance scale NaN"]),
        (&["--eta", "1.5"], &["eta", "1.5"]),
        (&["--quantize_denoised"], &["no codebook", "--quantize-x0"]),
        (&["--strength", "0.5"], &["--init-image"]),
        (&["--sampler", "eular"], &["eular", "Euler"]),
        (&["--scheduler", "EulerDiscreteScheduler"], &["--sampler"]),
        (&["--scheduler", "karas"], &["karas", "Karras"]),
        (
            &["--sampler", "lcm", "--scheduler", "karras"],
            &["`Karras`"],
        ),
        (&["--rng", "dice"], &["dice"]),
        (&["--batch-size", "0"], &["batch of 0"]),
        (&["-b", "0"], &["batch count 0"]),
        (
            &["--seed", "18446744073709551616"],
            &["18446744073709551616"],
        ),
        (&["--clip-skip", "9"], &["--clip-skip 9"]),
        (&["-t", "100000"], &["--threads 100000"]),
        (&["-o", "-", "-b", "2"], &["standard output takes one"]),
        (&["-o", "a.jpg"], &["a.jpg", ".png"]),
    ] {
        place
            .sample(&[&["-p", "x"], arguments].concat())
            .refused(2, words);
    }
    assert_eq!(place.names("."), [""; 0]);
}

#[test]
fn round_size_takes_the_nearest() {
    let place = Place::new();
    let run = place.sample(&["-p", "x", "-W", "17", "-H", "1", "--round-size", "--json"]);
    assert!(run.lines()[0].contains("\"width\":16") && run.lines()[0].contains("\"height\":4"));
}

#[test]
fn prompts_that_cannot_be_read() {
    let place = Place::new();
    place.file("long.txt", "x".repeat((64 << 10) + 1));
    place
        .sample(&["--prompt-file", "long.txt"])
        .refused(2, &["65537 bytes"]);
    place.file("latin1.txt", b"caf\xe9");
    place
        .sample(&["--prompt-file", "latin1.txt"])
        .refused(3, &["latin1.txt", "UTF-8"]);
    place.file("nul.jsonl", r#"{"prompt": "a\u0000b"}"#);
    let run = place.sample(&["--from-file", "nul.jsonl"]);
    assert!(
        run.code == 7 && run.stderr.contains("NUL"),
        "{}",
        run.stderr
    );
    let mut bytes = place.command(&["-m", model().to_str().unwrap(), "-p"]);
    let bytes = bytes.arg(OsStr::from_bytes(b"caf\xe9")).output().unwrap();
    assert_eq!(bytes.status.code(), Some(2));

    let long = "many words that go on and on and on";
    for texts in [["-p", long, "-n", ""], ["-p", "", "-n", long]] {
        place
            .sample(&[&texts[..], &["--long-prompt", "error"]].concat())
            .refused(2, &["longer than the text encoder reads"]);
    }
    let truncated = place.sample(&["-p", long]);
    truncated.lines();
    assert!(
        truncated.stderr.contains("dropped from its end"),
        "{}",
        truncated.stderr
    );
}

#[test]
fn models_that_are_none() {
    let place = Place::new();
    let whole = fs::read(model().join("model.safetensors")).unwrap();
    place.file("page.safetensors", "<!DOCTYPE html><html>404</html>");
    place.file(
        "lfs.safetensors",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    );
    place.file("cut.safetensors", &whole[..whole.len() / 2]);
    place.file("pickle.ckpt", b"\x80\x02}q\x00.");
    place.file("alone.safetensors", &whole);
    fs::create_dir(place.path().join("empty")).unwrap();
    for (name, word) in [
        ("missing.safetensors", "does not exist"),
        ("page.safetensors", "web page"),
        ("lfs.safetensors", "git-lfs"),
        ("cut.safetensors", "cut.safetensors"),
        ("pickle.ckpt", "pickle"),
        ("alone.safetensors", "config.yaml"),
        ("empty", "not a model"),
    ] {
        place
            .ldm(&["-m", name, "-p", "x"])
            .refused(3, &[name, word]);
        place
            .ldm(&["inspect", "-m", name])
            .refused(3, &[name, word]);
    }
    assert!(place.names("outputs").is_empty());
}

#[test]
fn a_model_whose_weights_are_not_its_configuration() {
    let place = Place::new();
    write_model(place.path());
    let config = fs::read_to_string(model().join("config.yaml")).unwrap();
    place.file(
        "config.yaml",
        config.replace("model_channels: 32", "model_channels: 64"),
    );
    let run = place.ldm(&["-m", ".", "-p", "x"]);
    run.refused(3, &["model.safetensors", "shape"]);
    assert!(place.names("outputs").is_empty());
}

#[test]
fn weights_that_are_no_numbers_make_no_image() {
    let place = Place::new();
    write_model(place.path());
    let file = place.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    // Infinity in f16, in the last tensor of the file: the UNet's last one by name.
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&[0x00, 0x7c]);
    fs::write(&file, bytes).unwrap();
    place
        .ldm(&["-m", ".", "-p", "x"])
        .refused(1, &["UNet", "step 1", "NaN or infinity"]);
    assert!(place.names("outputs").is_empty());
    let run = place.ldm(&["inspect", ".", "--check-weights"]);
    assert!(
        run.code == 1 && run.stderr.contains("weights of the UNet"),
        "{}",
        run.stderr
    );
}

#[test]
fn images_to_start_from() {
    let place = Place::new();
    place.file("broken.png", b"\x89PNG\r\n\x1a\nno more");
    place
        .sample(&["-p", "x", "-i", "broken.png"])
        .refused(3, &["broken.png"]);
    place
        .sample(&["-p", "x", "-i", "none.png"])
        .refused(3, &["none.png"]);
    // Nobody writes to it, and nobody waits for that.
    let made = Command::new("mkfifo")
        .arg(place.path().join("pipe"))
        .status();
    assert!(made.unwrap().success());
    for line in ["inspect pipe", "encode pipe", "sample -p x -i pipe"] {
        place.on_model(line, &[]).refused(3, &["pipe"]);
    }
    place
        .ldm(&["img2img", "-m", model().to_str().unwrap(), "-p", "x"])
        .refused(2, &["--init-image"]);
    let own = place
        .sample(&["-p", "x", "-o", "a.png", "--size", "20x24"])
        .lines()[0]
        .to_owned();
    place
        .sample(&["-p", "x", "-i", &own, "--strength", "1.5"])
        .refused(2, &["strength", "1.5"]);
    place
        .sample(&["-p", "x", "-i", &own, "--strength", "0"])
        .refused(2, &["strength"]);
    let resized = place.sample(&["-p", "x", "-i", &own]);
    resized.lines();
    assert!(
        resized.stderr.contains("resized from 20x24 to 16x16"),
        "{}",
        resized.stderr
    );
}

#[test]
fn places_that_cannot_be_written_to() {
    let place = Place::new();
    place.file("file", "");
    let refused = |arguments: &[&str], words: &[&str]| {
        place
            .sample(&[&["-p", "x"], arguments].concat())
            .refused(6, words);
    };
    refused(&["-o", "none/a.png"], &["none", "does not exist"]);
    refused(&["--outdir", "file"], &["file"]);
    refused(&["--outdir", "file/below"], &["file/below"]);
    // Not even the superuser creates a file there.
    refused(&["--outdir", "/proc/none"], &["/proc/none"]);
    refused(&["-o", "/proc/a.png"], &["/proc"]);
    refused(&["-o", "/dev/full"], &["disk is full", "was kept in"]);
    let kept: Vec<String> = place
        .names(".")
        .into_iter()
        .filter(|name| name.starts_with("ldm-"))
        .collect();
    assert_eq!(kept.len(), 1, "the image that /dev/full refused");
}

#[test]
fn more_memory_than_there_is() {
    let place = Place::new();
    let (ldm, model) = (env!("CARGO_BIN_EXE_ldm"), model().display());
    let line = format!("ulimit -v 400000; exec {ldm} -m {model} -p x -t 1 -q --size 1024x1024");
    let mut command = std::process::Command::new("sh");
    let output = command
        .args(["-c", &line])
        .current_dir(place.path())
        .output();
    Run::of(output.unwrap()).refused(5, &["MiB of memory", "smaller size"]);
    assert!(place.names("outputs").is_empty());
}

#[test]
fn commands_and_devices_that_are_not_there() {
    let place = Place::new();
    place
        .ldm(&["inspct", "x"])
        .refused(2, &["inspct", "ldm inspect"]);
    place.ldm(&["balloon"]).refused(2, &["-p \"balloon\""]);
    // There is no driver, or the machine has fewer GPUs.
    place
        .sample(&["-p", "x", "--device", "cuda:99"])
        .refused(4, &["--device cpu"]);
    place
        .sample(&["-p", "x", "--device", "emulator", "--dtype", "bf16"])
        .refused(2, &["bf16", "f16 or f32"]);
    place
        .sample(&["-p", "x", "--device", "tpu"])
        .refused(2, &["tpu"]);
    place
        .sample(&["-p", "x", "--stepz", "2"])
        .refused(2, &["--stepz", "--steps"]);
    assert_eq!(place.names("."), [""; 0]);
}
