//! `ldm reconstruct`: what an autoencoder keeps of an image, as a picture and in two numbers.

use super::args::ReconstructArgs;
use super::codec::Codec;
use super::console::Console;
use super::stop::Stop;
use latent_diffusion::Result;
use latent_diffusion::image::{Similarity, encode_png, read_image};
use serde_json::json;
use std::path::Path;

/// Encodes and decodes each image, writes the result, and says how like the original it is.
///
/// # Errors
/// If an image cannot be read, its sides do not fit the model, or the result cannot be written.
pub fn run(args: &ReconstructArgs, console: &Console, stop: &Stop) -> Result<()> {
    let mut codec = Codec::open(&args.codec, "png", console, stop)?;
    // The image itself may take standard output.
    let say = |line: String| match args.codec.place.is_stdout() {
        true => {
            console.note(&line);
            Ok(())
        }
        false => console.result(&line),
    };
    let mut all = vec![];
    for path in args.codec.files() {
        let report = &mut |event| console.event(event);
        let original = read_image(path)?;
        let latent = codec.engine.encode(&original, report)?;
        let image = codec.engine.decode(&latent, report)?;
        let found = Similarity::of(&image, &original)?;
        let written = codec.write(path, &encode_png(&image, &[])?)?;
        say(match args.json {
            true => json_line(path, written.as_deref(), found),
            false => line(
                &written.as_deref().unwrap_or(path).display().to_string(),
                found,
            ),
        })?;
        all.push(found);
    }
    if all.len() > 1 {
        let mean = mean(&all);
        say(match args.json {
            true => json!({"images": all.len(), "psnr_db": finite(mean.psnr), "ssim": mean.ssim})
                .to_string(),
            false => line(&format!("mean of {}", all.len()), mean),
        })?;
    }
    Ok(())
}

fn line(what: &str, found: Similarity) -> String {
    let ssim = match found.ssim {
        Some(ssim) => format!("{ssim:.4}"),
        None => "- (sides below 11 pixels)".to_owned(),
    };
    format!("{what}  PSNR {:.2} dB  SSIM {ssim}", found.psnr)
}

fn json_line(input: &Path, written: Option<&Path>, found: Similarity) -> String {
    json!({
        "input": input.display().to_string(),
        "path": written.map(|path| path.display().to_string()),
        "psnr_db": finite(found.psnr),
        "ssim": found.ssim,
    })
    .to_string()
}

/// The ratio of images that are the same is infinite, which is null in JSON.
fn finite(psnr: f64) -> Option<f64> {
    psnr.is_finite().then_some(psnr)
}

/// The means of the numbers, SSIM's only where all images have one.
fn mean(all: &[Similarity]) -> Similarity {
    let count = all.len() as f64;
    let ssim: Option<f64> = all.iter().map(|found| found.ssim).sum();
    Similarity {
        psnr: all.iter().map(|found| found.psnr).sum::<f64>() / count,
        ssim: ssim.map(|sum| sum / count),
    }
}
