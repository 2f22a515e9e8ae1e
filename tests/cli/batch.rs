//! Batch files.

use super::support::{Place, Run};
use std::fs;
use std::process::Stdio;

#[test]
fn a_text_file_has_a_prompt_per_line() {
    let place = Place::new();
    place.file("p.txt", "a cat\n\n  a dog  \n");
    let run = place.sample(&["--from-file", "p.txt", "-s", "1", "-b", "2", "--json"]);
    let prompts = run
        .lines()
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["prompt"].clone())
        .collect::<Vec<_>>();
    assert_eq!(prompts, ["a cat", "a cat", "a dog", "a dog"]);
    assert_eq!(
        place.names("outputs"),
        ["00000-1.png", "00000-2.png", "00001-1.png", "00001-2.png"]
    );
}

#[test]
fn a_line_that_fails_does_not_keep_the_others_back() {
    let place = Place::new();
    let lines = [
        r#"{"id": "one", "prompt": "a", "width": 20}"#,
        r#"{"prompt": "b", "width": 21}"#,
        r#"{"prompt": "c", "stepz": 1}"#,
        "not json",
        r#"{"prompt": "d", "init_image": "missing.png"}"#,
        r#"{"id": "six", "prompt": "e", "sampler": "euler", "n_samples": 2}"#,
    ];
    place.file("p.jsonl", lines.join("\n"));
    let run = place.sample(&["--from-file", "p.jsonl", "-s", "1", "-o", "{id}-{seed}.png"]);
    assert_eq!(run.code, 7, "{}", run.stderr);
    assert_eq!(run.stdout, "one-1.png\nsix-1.png\nsix-2.png\n");
    for part in [
        "request 2: width 21",
        "request 3: ",
        "line 3",
        "stepz",
        "line 4",
        "missing.png",
        "4 of 6 requests failed",
    ] {
        assert!(run.stderr.contains(part), "no `{part}` in {}", run.stderr);
    }
}

#[test]
fn a_batch_file_must_be_there_and_hold_something() {
    let place = Place::new();
    place
        .sample(&["--from-file", "none.txt"])
        .refused(3, &["none.txt"]);
    place.file("empty.txt", "\n\n");
    place
        .sample(&["--from-file", "empty.txt"])
        .refused(3, &["empty.txt", "no request"]);
    place.file("latin1.txt", b"caf\xe9\n");
    place
        .sample(&["--from-file", "latin1.txt"])
        .refused(3, &["latin1.txt", "UTF-8"]);
}

#[test]
fn prompts_come_from_everywhere() {
    let place = Place::new();
    let one = place.file("one.txt", "two lines,\none prompt\n");
    let run = place.sample(&[
        "-p",
        "first",
        "-p",
        "second",
        "third",
        "--prompt-file",
        one.to_str().unwrap(),
        "-s",
        "1",
    ]);
    assert_eq!(run.lines().len(), 4);
    let mut typed = place.command(&[
        "-m",
        super::support::model().to_str().unwrap(),
        "-p",
        "-",
        "--json",
    ]);
    let output = typed.stdin(fs::File::open(&one).unwrap()).output().unwrap();
    assert!(Run::of(output).lines()[0].contains("two lines,\\none prompt"));
    assert!(
        place
            .ldm(&["inspect", "outputs/00003-1.png"])
            .stdout
            .contains("two lines,\none prompt")
    );
}

#[test]
fn processes_that_share_a_folder_and_a_seed_take_each_others_names_from_nobody() {
    let place = Place::new();
    let line = ["-m", super::support::model().to_str().unwrap(), "-p", "x"];
    let line = [&line[..], &["-t", "1", "-s", "1", "-b", "10", "-q"]].concat();
    let start = |_| place.command(&line).stdout(Stdio::piped()).spawn().unwrap();
    let children: Vec<_> = (0..4).map(start).collect();
    let mut written: Vec<String> = vec![];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let paths = String::from_utf8(output.stdout).unwrap();
        written.extend(paths.lines().map(str::to_owned));
    }
    written.sort();
    written.dedup();
    assert_eq!(written.len(), 40);
    assert_eq!(place.names("outputs").len(), 40);
}
