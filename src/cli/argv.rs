//! Arguments as other programs' users type them, rewritten to ours before they are parsed.
//!
//! Names that take a value are aliases where the option is declared; here is what an alias cannot say: `_` for `-`, flags
//! that stand for an option's value, and a first argument that is no command.

use std::ffi::{OsStr, OsString};

/// Flags of other programs, and the option and value that each stands for.
const FLAGS: [(&str, &str); 7] = [
    ("--plms", "--sampler=plms"),
    ("--ddim", "--sampler=ddim"),
    ("--dpm-solver", "--sampler=dpm_solver"),
    ("--vanilla-sample", "--sampler=ddpm"),
    ("--cpu", "--device=cpu"),
    ("--use-f16", "--dtype=f16"),
    ("--no-half", "--dtype=f32"),
];

/// Options that may stand before the command, and whether a value follows each.
const LEADING: [(&str, bool); 5] = [
    ("-v", false),
    ("--verbose", false),
    ("-q", false),
    ("--quiet", false),
    ("--no-progress", false),
];

/// The arguments in this program's own spelling; the first is the program. `commands` are the names of all commands.
pub fn normalise(
    arguments: impl IntoIterator<Item = OsString>,
    commands: &[String],
) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next();
    let mut normal: Vec<OsString> = program.into_iter().collect();
    let mut literal = false;
    for argument in arguments {
        literal |= argument == "--";
        normal.push(if literal { argument } else { option(argument) });
    }
    if wants_default(&normal[1..], commands) {
        normal.insert(1, "sample".into());
    }
    normal
}

/// One argument: an option's name with dashes, a flag as the option it stands for, anything else as it is.
fn option(argument: OsString) -> OsString {
    let Some(text) = argument.to_str().filter(|text| text.starts_with("--")) else {
        return argument;
    };
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let name = name.replace('_', "-");
    match (FLAGS.iter().find(|(flag, _)| *flag == name), value) {
        (Some((_, option)), None) => OsString::from(option),
        (_, None) => name.into(),
        (_, Some(value)) => format!("{name}={value}").into(),
    }
}

/// Whether `sample` is meant although it is not said: by an option in its place, a sentence, or nothing at all.
fn wants_default(arguments: &[OsString], commands: &[String]) -> bool {
    let is_leading = |argument: &&OsString| LEADING.iter().any(|(name, _)| *argument == name);
    let first = arguments.iter().find(|argument| !is_leading(argument));
    match first.map(OsString::as_os_str).map(OsStr::to_str) {
        None => true,
        // Not UTF-8: the parser says so.
        Some(None) => true,
        Some(Some("-h" | "--help" | "-V" | "--version")) => false,
        Some(Some(word)) if commands.iter().any(|command| command == word) => false,
        Some(Some(word)) => word.starts_with('-') || word.contains(char::is_whitespace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(line: &[&str]) -> Vec<String> {
        let commands = ["sample", "inspect"].map(str::to_owned);
        let line = std::iter::once("ldm").chain(line.iter().copied());
        let normal = normalise(line.map(OsString::from), &commands);
        let text = normal.iter().skip(1).map(|word| word.to_str().unwrap());
        text.map(str::to_owned).collect()
    }

    #[test]
    fn sample_is_the_command_where_none_is_named() {
        assert_eq!(normal(&[]), ["sample"]);
        assert_eq!(normal(&["-p", "a cat"]), ["sample", "-p", "a cat"]);
        assert_eq!(normal(&["a red balloon"]), ["sample", "a red balloon"]);
        assert_eq!(normal(&["-v", "inspect", "x"]), ["-v", "inspect", "x"]);
        assert_eq!(normal(&["-v", "-p", "x"]), ["sample", "-v", "-p", "x"]);
        for own in [["--help"], ["-V"], ["inspect"], ["insepct"]] {
            assert_eq!(normal(&own), own);
        }
    }

    #[test]
    fn foreign_spellings_become_ours() {
        let line = [
            "sample",
            "--ddim_steps",
            "5",
            "--n_samples=2",
            "--plms",
            "--cpu",
        ];
        let ours = [
            "sample",
            "--ddim-steps",
            "5",
            "--n-samples=2",
            "--sampler=plms",
            "--device=cpu",
        ];
        assert_eq!(normal(&line), ours);
        // Values are left alone, and so is everything after `--`.
        let kept = ["sample", "-p", "a_b", "--prompt=x_y", "--", "--plms"];
        assert_eq!(normal(&kept), kept);
    }
}
