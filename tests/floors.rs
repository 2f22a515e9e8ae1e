//! The house rules that a machine can check: floors, unsafe code, sizes of files.
//!
//! A file names only floors below its own, so that each can be read, tested and replaced without what stands on it.

use std::fs;
use std::path::Path;

/// The floors from the ground up. Rooms joined by `+` know each other; others on one floor do not.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["tensor"],
    &["graph+ops", "weights"],
    &["plan"],
    &["backend"],
    &["cpu", "cuda"],
    &["session"],
    &["models", "tokenizer", "rng", "image"],
    &["schedule", "selfcheck"],
    &["sampler"],
    &["pipeline"],
    &["parity"],
    &["cli", "main"],
];

/// The only files that may hold `unsafe` code.
const UNSAFE: &[&str] = &[
    "src/weights/map.rs",
    "src/cpu/simd/mod.rs",
    "src/cuda/driver.rs",
    "src/cuda/driver/staging.rs",
    "src/cuda/driver/start.rs",
    "src/cuda/emulator.rs",
];

/// Source files are at most this long; tables, one entry a line, are exempt.
const MAX_LINES: usize = 400;

/// Files that are tables.
const TABLES: &[&str] = &[];

/// Every Rust file of `folder`, with its path from the repository's root.
fn files(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((relative(root, &path), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap();
    path.to_string_lossy().replace('\\', "/")
}

/// A line without its comment. Strings that hold `//` are cut too, which no rule here minds.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

/// The floor of a room and the group it belongs to.
fn place(room: &str) -> Option<(usize, &'static str)> {
    FLOORS.iter().enumerate().find_map(|(floor, groups)| {
        let group = groups
            .iter()
            .find(|group| group.split('+').any(|r| r == room))?;
        Some((floor, *group))
    })
}

/// The rooms that a line of code names as `crate::room` or, in the binary, `latent_diffusion::room`.
fn rooms_named(line: &str) -> impl Iterator<Item = &str> {
    ["crate::", "latent_diffusion::"]
        .into_iter()
        .flat_map(move |root| {
            line.match_indices(root).map(move |(at, _)| {
                let rest = &line[at + root.len()..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                &rest[..end.unwrap_or(rest.len())]
            })
        })
}

#[test]
fn files_name_only_floors_below_their_own() {
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        let inside = path.trim_start_matches("src/");
        let room = inside.split('/').next().unwrap().trim_end_matches(".rs");
        if room == "lib" {
            continue;
        }
        let (floor, group) = place(room).unwrap_or_else(|| panic!("{path} is on no floor"));
        for (number, line) in text.lines().enumerate() {
            for named in rooms_named(code(line)) {
                // Names re-exported by the crate's root (Error, Result, Shape) come from rooms checked where they are defined.
                let Some((other_floor, other_group)) = place(named) else {
                    continue;
                };
                if other_group != group && other_floor >= floor {
                    wrong.push(format!("{path}:{}: {room} names {named}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_files_and_says_why() {
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let holds = code(line)
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|w| w == "unsafe");
            if !holds {
                continue;
            }
            let explained = lines[number.saturating_sub(6)..=number]
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            if !UNSAFE.contains(&path.as_str()) || !explained {
                wrong.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_enough_to_read() {
    let folders = ["src", "tests", "benches"];
    let long: Vec<String> = folders
        .iter()
        .flat_map(|folder| files(folder))
        .filter(|(path, text)| text.lines().count() > MAX_LINES && !TABLES.contains(&path.as_str()))
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn only_the_command_line_reads_the_environment_or_exits() {
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        if path.starts_with("src/cli/") || path == "src/main.rs" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let forbidden = [
                "std::env",
                "env::var",
                "process::exit",
                "anyhow",
                "println!",
            ];
            if forbidden.iter().any(|word| code(line).contains(word)) {
                wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
