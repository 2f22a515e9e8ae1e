//! `pack`, and what runs make of the files it writes: the same images, sooner or not.

use super::support::{Place, Run, model, write_model};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A place with the small model in it, and what `pack` wrote beside that.
fn packed(target: &str) -> (Place, PathBuf) {
    let place = Place::new();
    write_model(place.path());
    let run = place.line("pack -m . --device emulator --target", &[target]);
    let [file] = run.lines()[..] else {
        panic!("{}", run.stdout);
    };
    let file = place.path().join(file);
    (place, file)
}

/// An image of the model in a place, and what was said.
fn image(place: &Place, arguments: &[&str]) -> (Vec<u8>, Run) {
    let line = "sample -m . -p a -s 1 --steps 1 --no-metadata --device emulator -o x.png";
    let run = place.line(line, arguments);
    assert_eq!(run.code, 0, "{}", run.stderr);
    (fs::read(place.path().join("x.png")).unwrap(), run)
}

/// Bytes of weights that a start reads as they were packed, and all.
fn bytes(place: &Place, arguments: &[&str]) -> [u64; 2] {
    let run = place.line("bench -m . --startup --json --device emulator", arguments);
    let answer: Value = serde_json::from_str(run.lines()[0]).unwrap();
    ["packed_bytes", "weight_bytes"].map(|key| answer[key].as_u64().unwrap())
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn packed_weights_are_read_and_change_no_image() {
    for (target, ending) in [("A100", "sm80-f16.packed"), ("h200", "sm90-f16.packed")] {
        let (place, file) = packed(target);
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, format!("model.safetensors.{ending}"));
        let target = ["--target", target];
        let [read, all] = bytes(&place, &target);
        assert!(read == all && all > 0, "{read} of {all}");
        let off = [&target[..], &["--packed", "off"]].concat();
        assert_eq!(bytes(&place, &off), [0, all]);
        let (kept, run) = image(&place, &target);
        assert!(!run.stderr.contains("warning"), "{}", run.stderr);
        assert!(kept == image(&place, &off).0, "{name}");
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_file_that_cannot_be_used_is_named_and_done_without() {
    let (place, file) = packed("A100");
    let sound = fs::read(&file).unwrap();
    let (expected, _) = image(&place, &["--packed", "off"]);
    let is_said = |what: &str| {
        let (found, run) = image(&place, &[]);
        assert!(found == expected, "{what}: another image");
        let warnings = || {
            run.stderr
                .lines()
                .filter(|line| line.starts_with("warning: "))
        };
        assert_eq!(warnings().count(), 1, "{}", run.stderr);
        let words = ["sm80-f16.packed", what, "packed anew"];
        assert!(
            words.iter().all(|word| run.stderr.contains(word)),
            "{}",
            run.stderr
        );
    };
    let mut damaged = sound.clone();
    // The checksums are last.
    damaged[sound.len() - 1] ^= 1;
    for index in (sound.len() / 2..).step_by(997).take(100) {
        damaged[index.min(sound.len() - 1)] ^= 4;
    }
    fs::write(&file, damaged).unwrap();
    is_said("does not add up to its checksum");
    fs::write(&file, &sound[..sound.len() - 5]).unwrap();
    is_said("truncated");
    fs::write(&file, "<html>").unwrap();
    is_said("web page");
    fs::remove_file(&file).unwrap();
    let wide = place.line("pack -m . --device emulator --dtype f32", &[]);
    let wide = wide.lines()[0].to_owned();
    fs::rename(place.path().join(wide), &file).unwrap();
    is_said("in another precision");
    fs::write(&file, sound).unwrap();
    assert!(!image(&place, &[]).1.stderr.contains("warning"));
    touch(&place.path().join("model.safetensors"));
    is_said("other weights");
}

/// As if the file had been written just now.
fn touch(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now()).unwrap();
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let place = Place::new();
    let small = model().to_str().unwrap();
    let pack = |arguments: &[&str]| place.ldm(&[&["pack"], arguments].concat());
    pack(&["-m", small, "--device", "cpu"]).refused(2, &["as they are stored"]);
    let target = ["-m", small, "--device", "cpu", "--target", "H200"];
    pack(&target).refused(2, &["--target", "--device emulator"]);
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn what_lies_in_no_file_has_nothing_kept_beside_it() {
    let place = Place::new();
    let pack = |arguments: &[&str]| place.line("pack --device emulator", arguments);
    pack(&[]).refused(2, &["built-in"]);
    pack(&["-m", "synthetic:demo"]).refused(2, &["in no file"]);
    pack(&["--target", "Voodoo 2"]).refused(2, &["`Voodoo 2`", "RTX 4090"]);
    assert!(place.names(".").is_empty());
}
