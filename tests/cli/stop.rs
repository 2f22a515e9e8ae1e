//! Being told to stop.

use super::support::{Place, Run, model};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A run that would take a long time, once it has drawn its first image.
fn busy(place: &Place) -> Child {
    let line = [
        "-m",
        model().to_str().unwrap(),
        "-p",
        "x",
        "-t",
        "1",
        "-b",
        "100000",
    ];
    let child = place
        .command(&line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while place
        .names("outputs")
        .iter()
        .all(|name| !name.ends_with(".png"))
    {
        assert!(Instant::now() < patience, "no image appeared");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_signal_ends_the_run_and_keeps_what_is_finished() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let place = Place::new();
        let child = busy(&place);
        signal(&child, name);
        let asked = Instant::now();
        let run = Run::of(child.wait_with_output().unwrap());
        // One step of this model takes milliseconds; the machine may be busy.
        assert!(asked.elapsed() < Duration::from_secs(5));
        assert_eq!(run.code, code, "{}", run.stderr);
        assert!(run.stderr.contains("stopped"), "{}", run.stderr);
        assert!(!run.stderr.contains("error"), "{}", run.stderr);
        // Every path that was printed is a whole image, and nothing else was left.
        let names = place.names("outputs");
        assert_eq!(run.stdout.lines().count(), names.len(), "{names:?}");
        for name in names {
            latent_diffusion::image::read_image(&place.path().join("outputs").join(name)).unwrap();
        }
    }
}

#[test]
fn a_signal_ends_at_once_who_still_waits_for_a_prompt() {
    let place = Place::new();
    let mut child = place
        .command(&["-m", model().to_str().unwrap(), "-p", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // Long enough to be listening, and where it is not yet, the signal ends it by itself.
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, "TERM");
    let patience = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < patience, "still waiting for a prompt");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(place.names("outputs").is_empty());
}

#[test]
fn a_file_size_limit_is_an_error_and_not_the_end() {
    let place = Place::new();
    let ldm = env!("CARGO_BIN_EXE_ldm");
    let line = format!(
        "ulimit -f 0; exec {ldm} -m {} -p x -q -o a.png",
        model().display()
    );
    let output = Command::new("sh")
        .args(["-c", &line])
        .current_dir(place.path())
        .output()
        .unwrap();
    let run = Run::of(output);
    run.refused(6, &["a.png"]);
    assert_eq!(place.names("."), [""; 0]);
}
