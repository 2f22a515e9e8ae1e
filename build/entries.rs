//! Reads the entries of a kernel file and their signatures.
//!
//! An entry is `ENTRY(threads, blocks_per_multiprocessor, name, parameters...)`, written out, one per variant; in a file that is for Hopper
//! GPUs alone, `ENTRY_90(threads, blocks_per_multiprocessor, cluster, name, parameters...)`. Its arguments may come from object-like macros
//! of the same file. Nothing else of C++ is understood, and nothing is guessed: what cannot be read is refused.

use std::collections::HashMap;

/// What may be passed to an entry: how C++ spells it, and how the table in Rust does.
const TYPES: [(&str, &str); 9] = [
    (
        "half *",
        "Kind::Pointer { element: Element::Half, written: true }",
    ),
    (
        "float *",
        "Kind::Pointer { element: Element::Float, written: true }",
    ),
    (
        "int *",
        "Kind::Pointer { element: Element::Int, written: true }",
    ),
    (
        "const half *",
        "Kind::Pointer { element: Element::Half, written: false }",
    ),
    (
        "const float *",
        "Kind::Pointer { element: Element::Float, written: false }",
    ),
    (
        "const int *",
        "Kind::Pointer { element: Element::Int, written: false }",
    ),
    ("int", "Kind::Int"),
    ("float", "Kind::Float"),
    (MAP, "Kind::Map"),
];

/// How a tensor map is spelt, which only Hopper GPUs know.
const MAP: &str = "TENSOR_MAP";

/// How the names of files for Hopper GPUs and of their entries end.
pub const HOPPER: &str = "_sm90";

/// The most blocks of a cluster that every such GPU takes.
const LARGEST_CLUSTER: u32 = 8;

/// One kernel that can be launched.
pub struct Entry {
    pub name: String,
    /// File and line, for messages.
    pub place: String,
    pub threads: u32,
    pub blocks_per_multiprocessor: u32,
    /// Blocks along x that form a cluster; 1: none do.
    pub cluster: u32,
    pub parameters: Vec<Parameter>,
}

/// One parameter of an entry.
pub struct Parameter {
    pub name: String,
    /// Its `Kind`, as Rust.
    pub kind: &'static str,
}

/// The entries of a file.
///
/// # Errors
/// A sentence that begins with file and line.
pub fn parse(file: &str, text: &str) -> Result<Vec<Entry>, String> {
    let (code, macros) = preprocess(file, &without_comments(text))?;
    let hopper = file.trim_end_matches(".cu").ends_with(HOPPER);
    let mut entries = Vec::new();
    for (at, _) in code.match_indices("ENTRY") {
        let place = format!("{file}:{}", code[..at].matches('\n').count() + 1);
        let end = code[at..].find(|c| !is_word(c)).unwrap_or(code.len() - at);
        let (word, after) = code[at..].split_at(end);
        if code[..at].ends_with(is_word) || !["ENTRY", "ENTRY_90"].contains(&word) {
            continue;
        }
        if hopper != (word == "ENTRY_90") {
            return Err(format!(
                "{place}: {word} in {file}; entries of files that end in {HOPPER}.cu, and no others, are ENTRY_90"
            ));
        }
        let inside = parenthesised(after.trim_start()).ok_or_else(|| {
            format!("{place}: {word} is not followed by arguments in parentheses")
        })?;
        entries.push(entry(&place, hopper, &expand(inside, &macros, 0))?);
    }
    Ok(entries)
}

/// Refuses two entries of one name, also in two files: a launch names its entry alone.
pub fn check_names<'a>(entries: impl Iterator<Item = &'a Entry>) -> Result<(), String> {
    let mut places: HashMap<&str, &str> = HashMap::new();
    for entry in entries {
        if let Some(other) = places.insert(&entry.name, &entry.place) {
            let Entry { name, place, .. } = entry;
            return Err(format!(
                "{place}: {other} has an entry {name} already; names are unique over all files"
            ));
        }
    }
    Ok(())
}

/// The code with its lines where they were but without directives, and the object-like macros among these.
fn preprocess(file: &str, text: &str) -> Result<(String, HashMap<String, String>), String> {
    let mut code = String::new();
    let mut macros = HashMap::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        code.push('\n');
        if !line.trim_start().starts_with('#') {
            code.insert_str(code.len() - 1, line);
            continue;
        }
        let mut directive = line.to_owned();
        while directive.ends_with('\\') {
            directive.pop();
            directive.push_str(lines.next().map_or("", |(_, more)| more));
            code.push('\n');
        }
        let Some(definition) = directive
            .trim_start_matches([' ', '#'])
            .strip_prefix("define ")
        else {
            continue;
        };
        let definition = definition.trim();
        if definition.contains("ENTRY") {
            let place = format!("{file}:{}", number + 1);
            return Err(format!(
                "{place}: an ENTRY inside a macro cannot be read; write every entry out"
            ));
        }
        let end = definition.find(|c| !is_word(c)).unwrap_or(definition.len());
        let (name, body) = definition.split_at(end);
        if !body.starts_with('(') {
            macros.insert(name.to_owned(), body.trim().to_owned());
        }
    }
    Ok((code, macros))
}

/// An entry from what stands between its parentheses, with a cluster's size in a file for Hopper GPUs.
fn entry(place: &str, hopper: bool, arguments: &str) -> Result<Entry, String> {
    let mut pieces: Vec<&str> = arguments.split(',').map(str::trim).collect();
    let cluster = if hopper && pieces.len() > 2 {
        pieces.remove(2)
    } else {
        "1"
    };
    let [threads, blocks, name, parameters @ ..] = pieces.as_slice() else {
        let expected = if hopper {
            "ENTRY_90(threads, blocks, cluster, name, parameters...)"
        } else {
            "ENTRY(threads, blocks, name, parameters...)"
        };
        return Err(format!("{place}: expected {expected}, found ({arguments})"));
    };
    if name.is_empty() || !name.chars().all(is_word) {
        return Err(format!("{place}: {name:?} is not a name of an entry"));
    }
    let number = |what: &str, text: &str| {
        let factors: Option<Vec<u32>> = text
            .split('*')
            .map(|factor| factor.trim().parse().ok())
            .collect();
        factors.map(|factors| factors.iter().product()).ok_or_else(|| {
            format!("{place}: {what} of {name} are {text:?}; expected a number, or an object-like macro of this file that is one")
        })
    };
    let threads: u32 = number("threads per block", threads)?;
    let blocks_per_multiprocessor: u32 = number("blocks per multiprocessor", blocks)?;
    let cluster: u32 = number("blocks per cluster", cluster)?;
    if !(1..=LARGEST_CLUSTER).contains(&cluster) {
        return Err(format!(
            "{place}: {name} has clusters of {cluster} blocks; expected 1 to {LARGEST_CLUSTER}"
        ));
    }
    if hopper && !name.ends_with(HOPPER) {
        return Err(format!(
            "{place}: {name} is for Hopper GPUs alone; expected a name that ends in {HOPPER}"
        ));
    }
    if threads == 0 || threads > 1024 || !threads.is_multiple_of(32) {
        return Err(format!(
            "{place}: {name} has {threads} threads per block; expected whole warps of 32, at most 1024"
        ));
    }
    if blocks_per_multiprocessor == 0 || blocks_per_multiprocessor * threads > 2048 {
        return Err(format!(
            "{place}: {name} wants {blocks_per_multiprocessor} blocks of {threads} threads on a multiprocessor; \
            expected at least one, and at most 2048 threads"
        ));
    }
    let parameters: Result<_, _> = parameters
        .iter()
        .map(|text| parameter(place, hopper, name, text))
        .collect();
    Ok(Entry {
        name: (*name).to_owned(),
        place: place.to_owned(),
        threads,
        blocks_per_multiprocessor,
        cluster,
        parameters: parameters?,
    })
}

fn parameter(place: &str, hopper: bool, entry: &str, text: &str) -> Result<Parameter, String> {
    let spaced = text.replace('*', " * ").replace("__restrict__", " ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let known = words.split_last().and_then(|(name, kind)| {
        let kind = kind.join(" ");
        TYPES
            .iter()
            .find(|(spelt, _)| *spelt == kind && (hopper || *spelt != MAP))
            .map(|(_, kind)| (*name, *kind))
    });
    match known {
        Some((name, kind)) if name.chars().all(is_word) => Ok(Parameter {
            name: name.to_owned(),
            kind,
        }),
        _ => Err(format!(
            "{place}: {entry} has a parameter {text:?}; expected half*, float*, int*, their const forms, int{} or float, and a name",
            if hopper { ", TENSOR_MAP" } else { "" }
        )),
    }
}

/// `text` with every macro's name replaced by its body.
fn expand(text: &str, macros: &HashMap<String, String>, depth: usize) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = rest
            .find(|c| is_word(c) != is_word(first))
            .unwrap_or(rest.len());
        let (piece, more) = rest.split_at(word);
        match macros.get(piece) {
            // Macros that name each other in a circle end as what they are: unreadable.
            Some(body) if depth < 16 => expanded.push_str(&expand(body, macros, depth + 1)),
            _ => expanded.push_str(piece),
        }
        rest = more;
    }
    expanded
}

/// What stands in the parentheses that `text` opens with.
fn parenthesised(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('(')?;
    let mut depth = 1;
    for (at, c) in inside.char_indices() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth == 0 {
            return Some(&inside[..at]);
        }
    }
    None
}

/// `text` without comments; line breaks stay.
fn without_comments(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        kept.push_str(&rest[..at]);
        let (comment, more) = match rest[at..].starts_with("//") {
            true => rest[at..].split_at(rest[at..].find('\n').unwrap_or(rest.len() - at)),
            false => {
                rest[at..].split_at(rest[at..].find("*/").map_or(rest.len() - at, |end| end + 2))
            }
        };
        kept.extend(comment.chars().filter(|c| *c == '\n'));
        rest = more;
    }
    kept + rest
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
