//! From settings as they were typed to a request that the pipeline carries out.

use super::console::Console;
use super::given;
use super::retrieve::Retriever;
use super::settings::Settings;
use latent_diffusion::image::{blur_mask, read_image, read_mask, resize, resize_labels};
use latent_diffusion::models::config::Condition;
use latent_diffusion::pipeline::{InitImage, Interval, Mask, Model, Request, Task};
use latent_diffusion::rng::NoiseSource;
use latent_diffusion::sampler::{Sampler, SigmaSpacing};
use latent_diffusion::schedule::Schedule;
use latent_diffusion::{Error, Result, Tensor};
use std::hash::{BuildHasher, Hasher, RandomState};

/// How much of an initial image is replaced where nothing is said, as CompVis has it.
const STRENGTH: f64 = 0.75;

/// The request, checked against the model, with its initial image read.
///
/// # Errors
/// If a setting is out of range or does not fit the model, or the initial image cannot be used.
pub fn build(
    prompt: &str,
    settings: &Settings,
    model: &Model,
    retriever: Option<&Retriever>,
    console: &Console,
) -> Result<Request> {
    let (mut request, image, mask) = outlined(prompt, settings, model)?;
    given::complete(&mut request, settings, model, retriever, console)?;
    if let Some(image) = image {
        request.check_size(model)?;
        request.init = Some(start(&image, mask.as_ref(), settings, &request, console)?);
    }
    check(&request, model)?;
    Ok(request)
}

/// The request as far as it decides what a run takes: as [`build`], but of what the model is shown only what decides the size, and only where
/// it is named.
///
/// # Errors
/// As [`build`].
pub fn outline(settings: &Settings, model: &Model, console: &Console) -> Result<Request> {
    let (mut request, image, mask) = outlined("", settings, model)?;
    let decides = match model.config.condition {
        Condition::LowResolution => settings.init_image.is_some(),
        Condition::Segmentation(_) => settings.labels.is_some(),
        _ => false,
    };
    if decides {
        given::complete(&mut request, settings, model, None, console)?;
    }
    if model.autoencoder().is_ok() {
        request.check_size(model)?;
    }
    if let Some(image) = image {
        request.init = Some(start(&image, mask.as_ref(), settings, &request, console)?);
    }
    request.check_numbers(model)?;
    request.check_guidance(model)?;
    Ok(request)
}

/// What the settings say, whatever the model is shown; the image to start from, and its mask.
fn outlined(
    prompt: &str,
    settings: &Settings,
    model: &Model,
) -> Result<(Request, Option<Tensor>, Option<Tensor>)> {
    let mut request = Request::new(model, prompt)?;
    request.negative_prompt = settings.negative_prompt.clone().unwrap_or_default();
    for text in [&request.prompt, &request.negative_prompt] {
        if text.contains('\0') {
            return Err(Error::request("the prompt holds a NUL character"));
        }
    }
    let start_from = settings.init_image.as_deref().filter(|_| !enlarges(model));
    let image = start_from.map(read_image).transpose()?;
    let mask = mask(settings, image.as_ref())?;
    match (&image, &mask) {
        (Some(image), None) => take_proportions(&mut request, image, model.pixel_multiple()?),
        // What is kept stays as it is, pixel by pixel.
        (Some(image), Some(_)) => take_size(&mut request, image),
        (None, _) => {}
    }
    set_size(&mut request, settings)?;
    if settings.round_size {
        round_size(&mut request, model.pixel_multiple()?);
    }
    if let Some(name) = &settings.sampler {
        let usual = std::mem::replace(&mut request.sampler, Sampler::parse(name)?);
        if request.sampler != usual {
            // What the model's authors recommend is their sampler's.
            request.options.eta = None;
            request.options.sigmas = SigmaSpacing::Normal;
        }
    }
    if let Some(name) = &settings.scheduler {
        request.options.sigmas = SigmaSpacing::parse(name)?;
    }
    if let Some(steps) = settings.steps {
        request.options.steps = count("steps", steps)?;
    }
    request.options.eta = settings.eta.or(request.options.eta);
    request.options.quantise = settings.quantize_x0;
    if let Some(scale) = settings.cfg_scale {
        request.guidance_scale = scale as f32;
    }
    request.guidance_rescale = settings.guidance_rescale.unwrap_or(0.0) as f32;
    request.guidance_interval = interval(settings)?;
    request.seed = seed(settings.seed)?;
    request.batch = count("batch size", settings.batch_size.unwrap_or(1))?;
    request.rng = noise_source(settings.rng.as_deref())?;
    request.options.strength = match (&image, &mask) {
        (Some(_), None) => Some(settings.strength.unwrap_or(STRENGTH)),
        _ => settings.strength,
    };
    if image.is_none() && settings.strength.is_some() {
        return Err(Error::request(
            "--strength says how far to depart from an image: give one with --init-image",
        ));
    }
    Ok((request, image, mask))
}

/// Whether an initial image is one to enlarge, and not one to start from.
fn enlarges(model: &Model) -> bool {
    model.tasks().contains(&Task::Upscale)
}

/// The size where none is asked for: as many pixels as the model was trained on, in the image's proportions.
fn take_proportions(request: &mut Request, image: &Tensor, multiple: usize) {
    let [_, height, width, _] = image.shape().image().unwrap_or([1; 4]);
    let scale = ((request.width * request.height) as f64 / (width * height) as f64).sqrt();
    let side = |pixels: usize| {
        let multiples = (pixels as f64 * scale / multiple as f64).round() as usize;
        multiples.max(1) * multiple
    };
    (request.width, request.height) = (side(width), side(height));
}

/// The mask of an image to be drawn anew in part, of the image's size.
fn mask(settings: &Settings, image: Option<&Tensor>) -> Result<Option<Tensor>> {
    let Some(path) = &settings.mask else {
        return match settings.invert_mask || settings.mask_blur.is_some() {
            true => Err(Error::request(
                "--invert-mask and --mask-blur change a mask: name one with --mask",
            )),
            false => Ok(None),
        };
    };
    let Some(image) = image else {
        return Err(Error::request(
            "--mask says which part of an image to draw anew: name the image with --init-image",
        ));
    };
    let mut mask = read_mask(path)?;
    let [width, height] = sides(&mask);
    if [width, height] != sides(image) {
        let [of_image, by] = sides(image);
        return Err(Error::request(format!(
            "the mask has {width}x{height} pixels and the image {of_image}x{by}: they must be of one size"
        )));
    }
    if settings.invert_mask {
        mask.data_mut().iter_mut().for_each(|m| *m = 1.0 - *m);
    }
    Ok(Some(mask))
}

/// Width and height of an image.
fn sides(image: &Tensor) -> [usize; 2] {
    let [_, height, width, _] = image.shape().image().unwrap_or_default();
    [width, height]
}

/// The image's own size.
fn take_size(request: &mut Request, image: &Tensor) {
    [request.width, request.height] = sides(image);
}

/// Takes the sides that the settings name.
///
/// # Errors
/// If a size is not written as one.
fn set_size(request: &mut Request, settings: &Settings) -> Result<()> {
    let (mut width, mut height) = (settings.width, settings.height);
    if let Some(size) = &settings.size {
        let sides = size.split_once(['x', 'X', '*', ',']);
        let sides = sides.and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
        let (w, h) = sides.ok_or_else(|| {
            Error::request(format!(
                "size `{size}` is not of the form 512x768: width, x, height"
            ))
        })?;
        (width, height) = (width.or(Some(w)), height.or(Some(h)));
    }
    if let Some(width) = width {
        request.width = count("width", width)?;
    }
    if let Some(height) = height {
        request.height = count("height", height)?;
    }
    Ok(())
}

/// The nearest sides that are multiples, and not zero.
pub(super) fn round_size(request: &mut Request, multiple: usize) {
    for side in [&mut request.width, &mut request.height] {
        let rounded = side.saturating_add(multiple / 2) / multiple * multiple;
        *side = rounded.max(multiple);
    }
}

/// Refuses numbers that the model or the sampler cannot work with, before a weight is read.
fn check(request: &Request, model: &Model) -> Result<()> {
    request.check(model)?;
    let schedule = Schedule::new(&model.config.schedule)?;
    request.sampler.plan(&schedule, &request.options)?;
    Ok(())
}

/// The image to start from and its mask, at the request's size.
fn start(
    image: &Tensor,
    mask: Option<&Tensor>,
    settings: &Settings,
    request: &Request,
    console: &Console,
) -> Result<InitImage> {
    let [width, height] = sides(image);
    if [width, height] != [request.width, request.height] {
        console.note(&format!(
            "the initial image is resized from {width}x{height} to {}x{} pixels",
            request.width, request.height
        ));
    }
    let image = resize(image, request.width, request.height)?;
    let mask = match mask {
        None => None,
        Some(mask) => {
            let drawn = resize_labels(mask, request.width, request.height)?;
            let pasted = blur_mask(&drawn, settings.mask_blur.unwrap_or(0.0))?;
            Some(Mask { drawn, pasted })
        }
    };
    Ok(InitImage { image, mask })
}

/// A number of things, which is never negative.
fn count(what: &str, value: i64) -> Result<usize> {
    usize::try_from(value)
        .map_err(|_| Error::request(format!("{what} {value}: it must be above 0")))
}

/// The seed that was asked for; one drawn at random where none was, or a negative one.
fn seed(asked: Option<i128>) -> Result<u64> {
    match asked {
        Some(seed) if seed >= 0 => u64::try_from(seed).map_err(|_| {
            Error::request(format!(
                "seed {seed} is too large: the largest is {}",
                u64::MAX
            ))
        }),
        // The standard library's hasher is keyed at random. 32 bits are all that PyTorch's CPU generator reads.
        _ => Ok(RandomState::new().build_hasher().finish() >> 32),
    }
}

/// The noise levels that guidance is kept to, if it is.
fn interval(settings: &Settings) -> Result<Option<Interval>> {
    let interval = settings.guidance_interval.as_deref();
    interval.map(Interval::parse).transpose()
}

/// Whose noise, by the names that users of other programs know.
fn noise_source(name: Option<&str>) -> Result<NoiseSource> {
    match name.map(str::to_ascii_lowercase).as_deref() {
        None | Some("cpu" | "comfy" | "torch-cpu") => Ok(NoiseSource::Cpu),
        Some("cuda" | "gpu" | "nv" | "a1111") => Ok(NoiseSource::Cuda),
        Some(other) => Err(Error::request(format!(
            "`{other}` makes no noise: cpu (PyTorch's on the CPU) or cuda (PyTorch's on a GPU)"
        ))),
    }
}
