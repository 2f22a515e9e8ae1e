//! The tokenizers against transformers' `CLIPTokenizer` and `BertTokenizer`, and against damaged files.
//!
//! `tools/tokens.py` writes the folders under `tests/data/tokenizer`: `sample` is committed, `full` (20,000 strings and more) is
//! not, and is compared too where the script has been run.

use latent_diffusion::error::Error;
use latent_diffusion::tokenizer::{
    ClassNames, Layout, LayoutTokenizer, MAX_PROMPT_BYTES, Tokenizer,
};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Settings {
    begin: u32,
    end: u32,
    pad: u32,
    length: usize,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    count: usize,
    ids: Vec<u32>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer")
}

fn sample() -> PathBuf {
    data().join("sample/sd1")
}

/// Compares every case of a folder and returns how many there were.
fn compare(folder: &Path) -> usize {
    let tokenizer = Tokenizer::open(folder).unwrap();
    let cases = fs::read_to_string(folder.join("cases.jsonl")).unwrap();
    let mut lines = cases.lines();
    let settings: Settings = serde_json::from_str(lines.next().unwrap()).unwrap();
    let found = (
        tokenizer.begin(),
        tokenizer.end(),
        tokenizer.pad(),
        tokenizer.max_length(),
    );
    assert_eq!(
        found,
        (settings.begin, settings.end, settings.pad, settings.length)
    );
    let mut compared = 0;
    for line in lines {
        let mut case: Case = serde_json::from_str(line).unwrap();
        case.ids.resize(settings.length, settings.pad);
        let encoding = tokenizer.encode(&case.text).unwrap();
        assert_eq!(encoding.ids, case.ids, "{:?}", case.text);
        assert_eq!(encoding.count, case.count, "{:?}", case.text);
        assert_eq!(encoding.dropped.is_some(), case.count > settings.length - 2);
        compared += 1;
    }
    println!("{}: {compared} strings equal", folder.display());
    compared
}

#[test]
fn ids_equal_the_reference() {
    for layout in ["sd1", "sd2", "json", "bert", "bert_json"] {
        assert!(compare(&data().join("sample").join(layout)) >= 30);
        let full = data().join("full").join(layout);
        if full.exists() {
            compare(&full);
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let tokenizer = Tokenizer::open(sample()).unwrap();
    let fits = tokenizer.encode(&"1 ".repeat(75)).unwrap();
    assert_eq!((fits.count, fits.dropped), (75, None));
    let long = format!("{} A red\n Balloon", "1 ".repeat(74));
    let encoding = tokenizer.encode(&long).unwrap();
    assert_eq!(encoding.dropped.as_deref(), Some("red balloon"));
    assert_eq!(encoding.ids.len(), 77);

    // A cut inside a character shows the whole character.
    let short = Tokenizer::open(sample())
        .unwrap()
        .with_max_length(3)
        .unwrap();
    assert_eq!(short.encode("🎈").unwrap().dropped.as_deref(), Some("🎈"));
    assert!(short.with_max_length(1).is_err());
}

#[test]
fn what_does_not_fit_in_bert_is_named_too() {
    let tokenizer = Tokenizer::open(data().join("sample/bert")).unwrap();
    let short = tokenizer.with_max_length(4).unwrap();
    let encoding = short.encode("1 2 Über\nwater").unwrap();
    assert_eq!(encoding.dropped.as_deref(), Some("uber water"));
    assert_eq!((encoding.ids[3], encoding.ids.len()), (short.end(), 4));
}

#[test]
fn the_empty_prompt_is_legal_and_the_huge_one_is_not() {
    let tokenizer = Tokenizer::open(sample()).unwrap();
    let empty = tokenizer.encode("").unwrap();
    assert_eq!(empty.count, 0);
    assert_eq!(empty.ids[..2], [tokenizer.begin(), tokenizer.end()]);

    let largest = "字".repeat(MAX_PROMPT_BYTES / 3);
    assert!(tokenizer.encode(&largest).unwrap().dropped.is_some());
    let error = tokenizer.encode(&format!("{largest}字")).unwrap_err();
    assert!(matches!(error, Error::Request(_)));
    assert!(error.to_string().contains("65538"), "{error}");
}

#[test]
fn embedded_files_give_the_same_tokenizer() {
    let read = |name| fs::read(sample().join(name)).unwrap();
    let embedded = Tokenizer::from_bytes(&read("vocab.json"), &read("merges.txt")).unwrap();
    let opened = Tokenizer::open(sample()).unwrap();
    let prompt = "A red balloon over snowy mountains at sunset";
    assert_eq!(
        embedded.encode(prompt).unwrap(),
        opened.encode(prompt).unwrap()
    );
    assert_eq!(embedded.vocab_size(), opened.vocab_size());
}

/// Opens a copy of the sample after `damage` has been done to it; what it refuses with must say all of `words`.
fn refused(damage: impl Fn(&Path), words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(sample().join(name), folder.path().join(name)).unwrap();
    }
    damage(folder.path());
    let error = Tokenizer::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
    let sentence = error.to_string();
    for word in words {
        assert!(sentence.contains(word), "{word:?} not in {sentence:?}");
    }
}

#[test]
fn another_vocabulary_than_berts_is_refused_by_name() {
    let write = |name: &'static str, text: &'static str| {
        move |folder: &Path| fs::write(folder.join(name), text).unwrap()
    };
    let words = "[PAD]\n[UNK]\n[CLS]\nthe\n";
    refused(write("vocab.txt", words), &["vocab.txt", "[SEP]", "BERT"]);
    refused(
        |folder| fs::write(folder.join("vocab.txt"), [0xff, 0xfe]).unwrap(),
        &["vocab.txt", "UTF-8"],
    );
    let cased = r#"{"do_lower_case": false}"#;
    refused(
        |folder| {
            write("vocab.txt", words)(folder);
            write("tokenizer_config.json", cased)(folder);
        },
        &["vocab.txt", "upper case"],
    );
}

#[test]
fn missing_and_damaged_files_are_refused_by_name() {
    let write = |name: &'static str, text: &'static str| {
        move |folder: &Path| fs::write(folder.join(name), text).unwrap()
    };
    let remove =
        |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    refused(remove("vocab.json"), &["vocab.json", "missing"]);
    refused(remove("merges.txt"), &["merges.txt", "missing"]);
    refused(
        |folder| {
            remove("merges.txt")(folder);
            remove("vocab.json")(folder)
        },
        &["no tokenizer"],
    );
    refused(write("vocab.json", "{\"a\": 1"), &["vocab.json", "damaged"]);
    refused(
        write("vocab.json", "<!DOCTYPE html>"),
        &["vocab.json", "damaged"],
    );
    refused(
        write("vocab.json", "{}"),
        &["vocab.json", "<|startoftext|>"],
    );
    refused(
        write("merges.txt", "#version: 0.2\na\n"),
        &["merges.txt", "line 2"],
    );
    refused(
        write("merges.txt", "#version: 0.2\nq qqqq\n"),
        &["merges.txt", "`qqqq`"],
    );
    refused(
        write("tokenizer_config.json", "[]"),
        &["tokenizer_config.json"],
    );
    refused(
        write("special_tokens_map.json", r#"{"pad_token": "[PAD]"}"#),
        &["vocab.json", "[PAD]"],
    );
    refused(
        write(
            "tokenizer.json",
            r#"{"model": {"vocab": {}, "merges": []}}"#,
        ),
        &["tokenizer.json", "CLIP"],
    );
    refused(
        |folder| fs::write(folder.join("merges.txt"), [0xff, 0xfe]).unwrap(),
        &["merges.txt", "UTF-8"],
    );
    refused(
        |folder| {
            remove("vocab.json")(folder);
            fs::create_dir(folder.join("vocab.json")).unwrap()
        },
        &["vocab.json", "cannot be read"],
    );
}

/// Names `class 0` and so on, as a file beside a model has them.
fn made_up_classes(count: usize) -> ClassNames {
    let names: Vec<String> = (0..count).map(|class| format!("class {class}")).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("classes.txt");
    fs::write(&path, names.join("\n")).unwrap();
    ClassNames::open(path).unwrap()
}

/// `tools/layouts.py` writes the file.
#[test]
fn layouts_have_their_known_tokens() {
    let text = fs::read_to_string(data().with_file_name("layouts.json")).unwrap();
    let known: serde_json::Value = serde_json::from_str(&text).unwrap();
    let names = made_up_classes(known["stride"].as_u64().unwrap() as usize);
    let tokenizer = LayoutTokenizer::new(8192, 92).unwrap();
    let cases = known["cases"].as_array().unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        let layout: Layout = serde_json::from_value(case["layout"].clone()).unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(&layout, Some(&names)).unwrap(), expected);
    }
    let nothing = tokenizer.unconditional();
    assert_eq!((nothing[89], nothing.len()), (8191, 92));
    assert_eq!(nothing[90..], [0, 8099]);
}

#[test]
fn layouts_that_mean_nothing_are_refused_in_a_sentence() {
    let tokenizer = LayoutTokenizer::new(8192, 92).unwrap();
    let parse = |json: &str| Layout::parse(Path::new("layout.json"), json);
    let names = made_up_classes(12);
    for (json, words) in [
        (
            r#"{"boxes": [{"class": 0, "box": [0.5, 0, 0.6, 1]}]}"#,
            "box 0 (`class 0`) is at [0.5, 0.0, 0.6, 1.0]",
        ),
        (
            r#"{"boxes": [{"class": 0, "box": [-0.1, 0, 0.6, 1]}]}"#,
            "0 to 1",
        ),
        (
            r#"{"boxes": [{"class": 0, "box": [0, 0, 0, 1]}]}"#,
            "0 to 1",
        ),
        (r#"{"boxes": [], "crop": [0, 0, 2, 1]}"#, "the crop"),
        (
            r#"{"boxes": [{"class": 12, "box": [0, 0, 1, 1]}]}"#,
            "numbered 0 to 11",
        ),
        (
            r#"{"boxes": [{"class": "clas 7", "box": [0, 0, 1, 1]}]}"#,
            "`class 7` (7)",
        ),
    ] {
        let error = tokenizer
            .encode(&parse(json).unwrap(), Some(&names))
            .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
    let many = vec![r#"{"class": 0, "box": [0, 0, 1, 1]}"#; 31].join(",");
    let many = parse(&format!(r#"{{"boxes": [{many}]}}"#)).unwrap();
    let error = tokenizer.encode(&many, None).unwrap_err().to_string();
    assert!(
        error.contains("31 boxes") && error.contains("at most 30"),
        "{error}"
    );

    // Without names, numbers do; words and properties, which are counted by the classes, do not.
    let number = r#"{"boxes": [{"class": 300, "box": [0, 0, 1, 1]}]}"#;
    assert_eq!(
        tokenizer.encode(&parse(number).unwrap(), None).unwrap()[..3],
        [300, 0, 8099]
    );
    for json in [
        r#"{"boxes": [{"class": "Dog", "box": [0, 0, 1, 1]}]}"#,
        r#"{"boxes": [{"class": 3, "box": [0, 0, 1, 1], "inside": true}]}"#,
    ] {
        let error = tokenizer.encode(&parse(json).unwrap(), None).unwrap_err();
        assert!(error.to_string().contains("classes.txt"), "{error}");
    }
    // A stride that no token could be counted by.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("classes.json");
    let strides = format!(r#"{{"names": ["a", "b"], "stride": {}}}"#, usize::MAX);
    fs::write(&file, strides).unwrap();
    let json = r#"{"boxes": [{"class": 1, "box": [0, 0, 1, 1], "inside": true}]}"#;
    let names = ClassNames::open(&file).unwrap();
    let error = tokenizer.encode(&parse(json).unwrap(), Some(&names));
    assert!(error.unwrap_err().to_string().contains("8192"));
    let class = r#"{"boxes": [{"class": 1.5, "box": [0, 0, 1, 1]}]}"#;
    let error = parse(class).unwrap_err().to_string();
    assert!(error.contains("its name or its number"), "{error}");
    for json in [
        "[]",
        r#"{"boxes": [{"class": 1}]}"#,
        r#"{"boxes": [], "size": 3}"#,
    ] {
        assert_eq!(parse(json).unwrap_err().exit_code(), 3, "{json}");
    }
    assert!(LayoutTokenizer::new(8192, 77).is_ok(), "25 objects");
    assert!(LayoutTokenizer::new(8192, 78).is_err());
}
