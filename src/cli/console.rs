//! What is said where: results alone on standard output, everything else on standard error.
//!
//! Neither stream can fail a run by being closed: `ldm ... | head -1` still makes all its images. Hence `writeln!` with the
//! outcome looked at, and never `println!`, which panics.

use super::args::ConsoleArgs;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use latent_diffusion::pipeline::Event;
use latent_diffusion::{Error, Result};
use std::io::{self, ErrorKind, Write};

/// The two standard streams.
pub struct Console {
    quiet: bool,
    verbose: bool,
    bar: ProgressBar,
}

impl Console {
    /// As the user wants to hear.
    pub fn new(args: &ConsoleArgs) -> Self {
        // indicatif hides a bar by itself when standard error is no terminal.
        let target = match args.quiet || args.no_progress {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let template = "{msg} {wide_bar} {pos}/{len}  {steps_per_second} steps/s  {eta} left";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key(
                "steps_per_second",
                |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                    // Nothing can be done about a terminal that refuses a number.
                    let _ = write!(out, "{:.2}", state.per_sec());
                },
            );
        Self {
            quiet: args.quiet,
            verbose: args.verbose,
            bar: ProgressBar::with_draw_target(None, target).with_style(style),
        }
    }

    /// A line of the result, on standard output.
    ///
    /// # Errors
    /// If it cannot be written, unless nobody reads it any more.
    pub fn result(&self, line: &str) -> Result<()> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Bytes of the result, on standard output.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let written = self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        });
        match written {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::output("standard output", error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Something that the user should know, unless they want to hear nothing.
    pub fn note(&self, sentence: &str) {
        if !self.quiet {
            self.say(sentence);
        }
    }

    /// Who can be told of something while the console is elsewhere.
    pub fn warner(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let (quiet, bar) = (self.quiet, self.bar.clone());
        move |sentence| {
            if !quiet {
                say(&bar, &format!("warning: {sentence}"));
            }
        }
    }

    /// What a pipeline reports.
    pub fn event(&self, event: Event) {
        match event {
            Event::Warning(sentence) => self.note(&format!("warning: {sentence}")),
            Event::Step { done, total } => self.progress(done, total),
            Event::Decoded { .. } => {}
        }
    }

    /// Something for the curious.
    pub fn detail(&self, sentence: &str) {
        if self.verbose && !self.quiet {
            self.say(sentence);
        }
    }

    /// What went wrong: always said.
    pub fn error(&self, sentence: &str) {
        self.say(&format!("error: {sentence}"));
    }

    fn say(&self, sentence: &str) {
        say(&self.bar, sentence);
    }

    /// Begins a run whose progress is shown.
    pub fn begin(&self, what: &str) {
        self.bar.reset();
        self.bar.set_message(what.to_owned());
    }

    /// Shows how far the run is.
    pub fn progress(&self, done: usize, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn say(bar: &ProgressBar, sentence: &str) {
    bar.suspend(|| {
        // Without standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "{sentence}");
    });
}
