//! What a request shows the model besides a prompt, read from the files that the settings name.

use super::console::Console;
use super::retrieve::Retriever;
use super::settings::Settings;
use latent_diffusion::image::{pad, read_image, read_labels, resize_labels};
use latent_diffusion::models::config::Condition;
use latent_diffusion::pipeline::{Given, Model, Request, Task};
use latent_diffusion::tokenizer::{ClassNames, Layout, LayoutTokenizer};
use latent_diffusion::{Error, Result, Tensor};
use std::fs;
use std::path::Path;

/// Completes a request whose size is settled, unless what it is shown settles it.
///
/// # Errors
/// If something is missing that the model must be shown, or cannot be read, or is of no use to the model.
pub fn complete(
    request: &mut Request,
    settings: &Settings,
    model: &Model,
    retriever: Option<&Retriever>,
    console: &Console,
) -> Result<()> {
    refuse_useless(settings, model)?;
    if let Some(class) = &settings.class {
        request.given = Given::Class(model.class_number(class)?);
    }
    match &model.config.condition {
        Condition::LowResolution => enlarge(request, settings, model),
        Condition::Segmentation(rescaler) => {
            let path = needed(&settings.labels, "the map of labels", "--labels")?;
            let labels = read_labels(path, rescaler.in_channels)?;
            segment(request, settings, model, labels, console)
        }
        Condition::Layout => {
            let path = needed(&settings.layout, "the layout", "--layout")?;
            request.given = layout(path, settings.classes.as_deref(), model)?;
            Ok(())
        }
        Condition::Vectors => {
            let retriever = retriever.ok_or_else(|| model.cannot(Task::Prompt))?;
            let vectors = retriever.vectors(&request.prompt, settings.neighbours, console)?;
            request.given = Given::Vectors(vectors);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Refuses files that this model is never shown.
fn refuse_useless(settings: &Settings, model: &Model) -> Result<()> {
    let given = [
        (settings.class.is_some(), Task::Class),
        (settings.labels.is_some(), Task::Segmentation),
        (settings.layout.is_some(), Task::Layout),
        (settings.classes.is_some(), Task::Layout),
        (settings.neighbours.is_some(), Task::Retrieval),
    ];
    let tasks = model.tasks();
    match given
        .iter()
        .find(|(given, task)| *given && !tasks.contains(task))
    {
        Some((_, task)) => Err(model.cannot(*task)),
        None => Ok(()),
    }
}

fn needed<'a>(path: &'a Option<std::path::PathBuf>, what: &str, option: &str) -> Result<&'a Path> {
    path.as_deref()
        .ok_or_else(|| Error::request(format!("{what} is missing: name its file with {option}")))
}

/// The image to enlarge settles the size. It is continued by its mirror image to sides that the network takes, and the result is cut.
fn enlarge(request: &mut Request, settings: &Settings, model: &Model) -> Result<()> {
    let path = needed(&settings.init_image, "the image to enlarge", "--init-image")?;
    if settings.size.is_some() || settings.width.is_some() || settings.height.is_some() {
        return Err(Error::request(
            "the size of the image decides the result's when it is enlarged: leave --size, --width and --height out",
        ));
    }
    let image = read_image(path)?;
    let [_, height, width, _] = image.shape().image().unwrap_or_default();
    let factor = model.autoencoder()?.0.factor();
    let multiple = model.pixel_multiple()? / factor;
    let [padded_height, padded_width] = [height, width].map(|side| side.next_multiple_of(multiple));
    request.given = Given::LowResolution(pad(&image, padded_width, padded_height)?);
    (request.width, request.height) = (factor * padded_width, factor * padded_height);
    request.keep = Some([factor * width, factor * height]);
    Ok(())
}

/// A map of labels settles the size where nothing else does.
fn segment(
    request: &mut Request,
    settings: &Settings,
    model: &Model,
    labels: Tensor,
    console: &Console,
) -> Result<()> {
    let [_, height, width, _] = labels.shape().image().unwrap_or_default();
    if settings.size.is_none() && settings.width.is_none() && settings.height.is_none() {
        (request.width, request.height) = (width, height);
        if settings.round_size {
            super::request::round_size(request, model.pixel_multiple()?);
        }
    }
    if [width, height] != [request.width, request.height] {
        console.note(&format!(
            "the map of labels is resized from {width}x{height} to {}x{} pixels",
            request.width, request.height
        ));
    }
    request.given = Given::Segmentation(resize_labels(&labels, request.width, request.height)?);
    Ok(())
}

/// A layout's tokens, and those of the layout that says nothing.
fn layout(path: &Path, classes: Option<&Path>, model: &Model) -> Result<Given> {
    const MOST: u64 = 1 << 20;
    let unreadable = |problem: String| Error::file(path, format!("cannot be read: {problem}"));
    let size = fs::metadata(path)
        .map_err(|error| unreadable(error.to_string()))?
        .len();
    if size > MOST {
        return Err(Error::file(path, "is too large to be a layout"));
    }
    let json = fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let layout = Layout::parse(path, &json)?;
    let text = model.text()?.0;
    let tokenizer = LayoutTokenizer::new(text.vocab(), text.positions())?;
    let names = match classes {
        Some(file) => Some(ClassNames::open(file)?),
        None => model.class_names(),
    };
    Ok(Given::Layout {
        tokens: tokenizer.encode(&layout, names.as_ref())?,
        unconditional: tokenizer.unconditional(),
    })
}
