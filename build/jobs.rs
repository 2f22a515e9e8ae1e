//! Compiler runs: only those whose inputs changed, several at a time.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, thread};

/// A command that makes one file from others.
pub struct Job {
    /// What is made.
    pub output: PathBuf,
    /// The text that was compiled, headers included.
    pub inputs: BTreeMap<PathBuf, String>,
    /// The compiler and its version: another one compiles everything again.
    pub compiler: String,
    pub command: Command,
}

impl Job {
    /// A number that changes whenever the output might.
    fn key(&self) -> String {
        let mut hasher = DefaultHasher::new();
        let arguments: Vec<_> = self.command.get_args().collect();
        (&self.inputs, &self.compiler, arguments).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// Where the key of the present output is kept.
    fn key_path(&self) -> PathBuf {
        self.output.with_extension("key")
    }

    fn is_done(&self) -> bool {
        self.output.exists() && fs::read_to_string(self.key_path()).is_ok_and(|k| k == self.key())
    }

    /// Runs it; what the compiler said stays beside the output, for reports.
    fn run(&mut self) -> Result<(), String> {
        let program = self.command.get_program().to_string_lossy().into_owned();
        let _ = fs::remove_file(self.key_path());
        let answer = (self.command.output()).map_err(|p| format!("{program} does not run: {p}"))?;
        let said = [answer.stdout, answer.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if !answer.status.success() {
            let line = line(&self.command);
            return Err(format!("{line}\n{said}{}", answer.status));
        }
        write_if_changed(&self.output.with_extension("log"), &said)?;
        write_if_changed(&self.key_path(), &self.key())
    }
}

/// Runs the jobs that have something to do, the longest texts first.
///
/// # Errors
/// What the compilers said that failed.
pub fn run(mut jobs: Vec<Job>) -> Result<(), String> {
    jobs.retain(|job| !job.is_done());
    jobs.sort_by_key(|job| usize::MAX - job.inputs.values().map(String::len).sum::<usize>());
    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok());
    let workers = workers.unwrap_or(1).min(jobs.len());
    let queue = Mutex::new(VecDeque::from(jobs));
    let problems = Mutex::new(Vec::new());
    let next = || queue.lock().ok()?.pop_front();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(mut job) = next() {
                    if let (Err(problem), Ok(mut problems)) = (job.run(), problems.lock()) {
                        problems.push(problem);
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap_or_default();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems.join("\n\n")),
    }
}

/// A file and all it includes by `#include "..."`, except under a folder that this compiler never enters.
pub fn texts(
    file: &Path,
    kernels: &Path,
    except: Option<&Path>,
) -> Result<BTreeMap<PathBuf, String>, String> {
    let mut texts = BTreeMap::new();
    let mut waiting = vec![file.to_owned()];
    while let Some(path) = waiting.pop() {
        if texts.contains_key(&path) || except.is_some_and(|folder| path.starts_with(folder)) {
            continue;
        }
        let text = read(&path)?;
        for line in text.lines() {
            let quoted = line.trim_start().strip_prefix("#include");
            let Some(name) =
                quoted.and_then(|rest| rest.trim().strip_prefix('"')?.split('"').next())
            else {
                continue;
            };
            let beside = path.parent().unwrap_or(kernels).join(name);
            let found = [beside, kernels.join(name)]
                .into_iter()
                .find(|path| path.exists());
            // A header that is not ours (or not there: the compiler will say so) cannot change with our files.
            waiting.extend(found);
        }
        texts.insert(path, text);
    }
    Ok(texts)
}

/// A command as one would type it.
pub fn line(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|problem| format!("{}: {problem}", path.display()))
}

/// Writes a file, unless it holds that text already: cargo looks at times.
pub fn write_if_changed(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(|problem| format!("{}: {problem}", path.display()))
}
