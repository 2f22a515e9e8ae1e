//! What is to be drawn: the prompts of the command line, or the lines of a batch file.
//!
//! A line of a `.jsonl` file, and the settings stored in an image, are turned into arguments and parsed by the same rules as
//! the command line's, so every option and alias has one definition.

use super::args::SampleArgs;
use super::metadata;
use super::settings::Settings;
use clap::Parser;
use latent_diffusion::{Error, Result};
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::Path;

/// One prompt with its settings.
pub struct Job {
    /// The name the user gave it, if any.
    pub id: Option<String>,
    /// What to draw.
    pub prompt: String,
    /// Everything else that was said.
    pub settings: Settings,
    /// What to call its image's file, without extension, where not as usual.
    pub name: Option<String>,
}

impl Job {
    /// A prompt or a class of the command line.
    pub fn new(prompt: String, settings: Settings) -> Self {
        Self {
            id: None,
            prompt,
            settings,
            name: None,
        }
    }
}

/// A job as a line of a batch file has it.
#[derive(Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    args_override_self = true
)]
struct Line {
    #[arg(long)]
    id: Option<String>,
    #[arg(long)]
    prompt: Option<String>,
    #[arg(long)]
    class: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// The jobs, in order; a line that cannot be read is an error in its place.
///
/// # Errors
/// If a file cannot be read, or there is nothing to draw.
pub fn list(args: &SampleArgs) -> Result<Vec<Result<Job>>> {
    let mut base = Job::new(String::new(), args.settings.clone());
    let mut classes = classes(&args.class);
    let mut prompts = prompts(args)?;
    if let Some(image) = &args.from_image {
        let stored = parse(&metadata::settings_of(image)?)?;
        base.settings = base.settings.over(&stored.settings);
        if prompts.is_empty() {
            prompts.extend(stored.prompt);
        }
        if classes.is_empty() {
            classes.extend(stored.class);
        }
    }
    let Some(file) = &args.from_file else {
        if classes.is_empty() {
            let job = |prompt| Job::new(prompt, base.settings.clone());
            return Ok(prompts.into_iter().map(job).map(Ok).collect());
        }
        let prompt = prompts.pop().unwrap_or_default();
        let job = |class| {
            let mut job = Job::new(prompt.clone(), base.settings.clone());
            job.settings.class = Some(class);
            job
        };
        return Ok(classes.into_iter().map(job).map(Ok).collect());
    };
    base.prompt = prompts.pop().unwrap_or_default();
    base.settings.class = classes.pop();
    let text = read(file)?;
    let is_json = file
        .extension()
        .is_some_and(|extension| extension == "jsonl");
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let jobs: Vec<_> = lines
        .map(|(index, line)| match is_json {
            true => json_job(line, &base).map_err(|error| {
                Error::request(format!("{}, line {}: {error}", file.display(), index + 1))
            }),
            false => Ok(Job::new(line.to_owned(), base.settings.clone())),
        })
        .collect();
    if jobs.is_empty() {
        return Err(Error::file(
            file,
            "holds no request: a prompt or a JSON object per line is expected",
        ));
    }
    Ok(jobs)
}

/// The classes of the command line, ranges of numbers spelt out.
fn classes(said: &[String]) -> Vec<String> {
    let range = |text: &str| -> Option<Vec<String>> {
        let (first, last) = text.split_once('-')?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // No model knows as many classes as would be too many here.
        (first..=last.min(first.saturating_add(1 << 20)))
            .map(|class| Some(class.to_string()))
            .collect()
    };
    said.iter()
        .flat_map(|text| range(text).unwrap_or_else(|| vec![text.clone()]))
        .collect()
}

/// The prompts of the command line.
fn prompts(args: &SampleArgs) -> Result<Vec<String>> {
    let mut prompts = vec![];
    for prompt in args.prompt.iter().chain(&args.words) {
        prompts.push(match prompt.as_str() {
            "-" => read(Path::new(prompt))?.trim_end().to_owned(),
            _ => prompt.clone(),
        });
    }
    if let Some(file) = &args.prompt_file {
        prompts.push(read(file)?.trim_end().to_owned());
    }
    Ok(prompts)
}

fn read(file: &Path) -> Result<String> {
    const MOST: u64 = 256 << 20;
    let mut bytes = vec![];
    let read = match file == Path::new("-") {
        true => std::io::stdin().lock().take(MOST).read_to_end(&mut bytes),
        false => fs::File::open(file).and_then(|file| file.take(MOST).read_to_end(&mut bytes)),
    };
    read.map_err(|error| Error::file(file, format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Error::file(file, "is not UTF-8 text"))
}

fn json_job(line: &str, base: &Job) -> Result<Job> {
    let object: Map<String, Value> = serde_json::from_str(line)
        .map_err(|error| Error::request(format!("not a JSON object: {error}")))?;
    let line = parse(&object)?;
    let mut settings = line.settings.over(&base.settings);
    settings.class = line.class.or(settings.class);
    Ok(Job {
        id: line.id,
        prompt: line.prompt.unwrap_or_else(|| base.prompt.clone()),
        settings,
        name: None,
    })
}

/// Parses the fields of an object as options of the same names.
fn parse(fields: &Map<String, Value>) -> Result<Line> {
    let mut arguments: Vec<OsString> = vec![];
    for (name, value) in fields {
        let option = format!("--{}", name.replace('_', "-"));
        let value = match value {
            Value::Null | Value::Bool(false) => continue,
            Value::Bool(true) => {
                arguments.push(option.into());
                continue;
            }
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Array(_) | Value::Object(_) => {
                return Err(Error::request(format!("`{name}` must be text or a number")));
            }
        };
        arguments.push(format!("{option}={value}").into());
    }
    Line::try_parse_from(arguments).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        Error::request(first.trim_start_matches("error: "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Job {
        let settings = Settings {
            steps: Some(20),
            seed: Some(1),
            ..Settings::default()
        };
        Job::new("a cat".into(), settings)
    }

    #[test]
    fn a_line_says_what_differs_from_the_command_line() {
        let line = r#"{"prompt": "x", "seed": -1, "n_steps": 5, "cfg": 2.5, "negative_prompt": "", "eta": null, "id": 7}"#;
        let job = json_job(line, &base()).unwrap();
        assert_eq!((job.prompt.as_str(), job.id.as_deref()), ("x", Some("7")));
        let settings = job.settings;
        assert_eq!(
            (settings.steps, settings.seed, settings.cfg_scale),
            (Some(5), Some(-1), Some(2.5))
        );
        assert_eq!(settings.negative_prompt.as_deref(), Some(""));
        assert_eq!(json_job("{}", &base()).unwrap().prompt, "a cat");
    }

    #[test]
    fn classes_are_numbers_names_and_ranges() {
        let said = ["7", "golden retriever", "11-13", "black-and-tan", "5-4"].map(str::to_owned);
        let classes = classes(&said);
        assert_eq!(
            classes,
            ["7", "golden retriever", "11", "12", "13", "black-and-tan"]
        );
        let line = json_job(r#"{"class": 12}"#, &base()).unwrap();
        assert_eq!(line.settings.class.as_deref(), Some("12"));
    }

    #[test]
    fn bad_lines_are_one_sentence() {
        for (line, word) in [
            ("[]", "JSON object"),
            ("{\"promt\": \"x\"}", "--promt"),
            ("{\"steps\": \"many\"}", "many"),
            ("{\"steps\": [1]}", "`steps`"),
        ] {
            let sentence = json_job(line, &base()).err().unwrap().to_string();
            assert!(
                sentence.contains(word) && !sentence.contains('\n'),
                "{sentence}"
            );
        }
    }
}
