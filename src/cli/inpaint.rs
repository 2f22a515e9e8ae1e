//! `ldm inpaint`: an image and a mask, or a folder of them, to images drawn anew in part.

use super::args::{InpaintArgs, SampleArgs};
use super::console::Console;
use super::jobs::{self, Job};
use super::stop::Stop;
use super::{model, sample};
use latent_diffusion::pipeline::{Model, Task};
use latent_diffusion::{Error, Result};
use std::fs;
use std::path::Path;

/// How the name of a mask ends in a folder of pairs.
const MASK: &str = "_mask.png";

/// Draws parts of images anew.
///
/// # Errors
/// If the model cannot do so, an image or a mask is missing, or as [`sample::run`].
pub fn run(args: &InpaintArgs, console: &Console, stop: &Stop) -> Result<u8> {
    let InpaintArgs { indir, sample } = args;
    let jobs = match indir {
        Some(folder) => pairs(folder, sample)?,
        None => {
            let settings = &sample.settings;
            if sample.from_file.is_none()
                && (settings.init_image.is_none() || settings.mask.is_none())
            {
                return Err(Error::request(
                    "inpaint: name the image with --init-image and what to draw anew in it with --mask, or a folder of both with --indir",
                ));
            }
            jobs::list(sample)?
        }
    };
    // The demo that was trained for this reads no prompts; the other does both.
    let prompted = jobs.iter().flatten().any(|job| !job.prompt.is_empty());
    let built_in = if prompted {
        Model::demo
    } else {
        Model::inpaint_demo
    };
    let model = model::open_or(built_in, &sample.model, console)?;
    if !model.tasks().contains(&Task::Inpaint) {
        return Err(model.cannot(Task::Inpaint));
    }
    sample::draw(jobs, sample, model, console, stop)
}

/// A job for each `NAME.png` of a folder that has a `NAME_mask.png` beside it, as CompVis's `scripts/inpaint.py` takes them.
fn pairs(folder: &Path, args: &SampleArgs) -> Result<Vec<Result<Job>>> {
    let unreadable =
        |error: std::io::Error| Error::file(folder, format!("cannot be read: {error}"));
    let mut names = vec![];
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        names.extend(
            name.to_str()
                .and_then(|name| name.strip_suffix(MASK))
                .map(str::to_owned),
        );
    }
    names.sort();
    if names.is_empty() {
        return Err(Error::file(
            folder,
            "holds no pairs: NAME.png with its mask NAME_mask.png is expected",
        ));
    }
    let prompt = match jobs::list(args)?.pop().transpose()? {
        Some(job) => job.prompt,
        None => String::new(),
    };
    let pair = |name: String| {
        let mut job = Job::new(prompt.clone(), args.settings.clone());
        job.settings.init_image = Some(folder.join(format!("{name}.png")));
        job.settings.mask = Some(folder.join(format!("{name}{MASK}")));
        job.name = Some(name);
        Ok(job)
    };
    Ok(names.into_iter().map(pair).collect())
}
