//! `encode`, `decode` and `reconstruct`, with and without a codebook.

use super::support::{Place, model};
use latent_diffusion::Tensor;
use latent_diffusion::image::encode_latent;
use safetensors::{Dtype, SafeTensors};
use std::fs;

/// An autoencoder with a codebook, alone.
const VQ: &str = "
model:
  target: ldm.models.autoencoder.VQModel
  params:
    embed_dim: 4
    n_embed: 50
    ddconfig: {double_z: false, z_channels: 4, resolution: 16, in_channels: 3, out_ch: 3, ch: 32, ch_mult: [1, 1],
      num_res_blocks: 1, attn_resolutions: [], dropout: 0.0}
";

/// A place with an image of 16x16 pixels, `a.png`.
fn place() -> Place {
    let place = Place::new();
    assert_eq!(place.sample(&["-p", "x", "-o", "a.png"]).lines(), ["a.png"]);
    place
}

#[test]
fn what_an_autoencoder_loses_is_measured_in_lines_or_json() {
    let place = place();
    fs::copy(place.path().join("a.png"), place.path().join("b.png")).unwrap();
    let command = [
        "reconstruct",
        "-m",
        model().to_str().unwrap(),
        "a.png",
        "b.png",
    ];
    let run = place.ldm(&command);
    let lines = run.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let starts = [
        "outputs/a.png  PSNR ",
        "outputs/b.png  PSNR ",
        "mean of 2  PSNR ",
    ];
    for (line, start) in lines.iter().zip(starts) {
        assert!(
            line.starts_with(start) && line.contains(" dB  SSIM "),
            "{line}"
        );
    }
    assert_eq!(place.names("outputs"), ["a.png", "b.png"]);

    let run = place.ldm(&[&command[..], &["--json", "--outdir", "again"]].concat());
    let lines: Vec<serde_json::Value> = (run.lines().iter())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["path"], "again/a.png");
    assert_eq!(lines[1]["input"], "b.png");
    assert_eq!(lines[2]["images"], 2);
    for line in &lines {
        let [psnr, ssim] = ["psnr_db", "ssim"].map(|key| line[key].as_f64().unwrap());
        // The model's weights are random.
        assert!(
            (0.0..40.0).contains(&psnr) && (-1.0..1.0).contains(&ssim),
            "{line}"
        );
    }

    // The image itself is the result.
    let one = place
        .command(&[&command[..4], &["-o", "-"]].concat())
        .output()
        .unwrap();
    assert!(one.status.success() && one.stdout.starts_with(b"\x89PNG"));
    assert!(
        String::from_utf8(one.stderr)
            .unwrap()
            .contains("a.png  PSNR ")
    );
}

#[test]
fn the_numbers_of_codes_are_stored_beside_the_latent() {
    let place = place();
    place.file("config.yaml", VQ);
    let model_of_codes = "synthetic:.";
    let command = ["encode", "-m", model_of_codes, "a.png", "--indices"];
    assert_eq!(place.ldm(&command).lines(), ["outputs/a.safetensors"]);
    let bytes = fs::read(place.path().join("outputs/a.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("latent").unwrap().shape(), [1, 4, 8, 8]);
    let indices = file.tensor("indices").unwrap();
    assert_eq!(
        (indices.dtype(), indices.shape()),
        (Dtype::I32, &[1, 8, 8][..])
    );
    let (numbers, _) = indices.data().as_chunks();
    let mut numbers: Vec<i32> = numbers.iter().map(|&n| i32::from_le_bytes(n)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() > 3 && numbers.iter().all(|n| (0..50).contains(n)));

    let decode = [
        "decode",
        "-m",
        model_of_codes,
        "outputs/a.safetensors",
        "-o",
        "b.png",
    ];
    assert_eq!(place.ldm(&decode).lines(), ["b.png"]);
    let run = place.ldm(&["reconstruct", "-m", model_of_codes, "a.png", "-o", "c.png"]);
    assert!(run.lines()[0].starts_with("c.png  PSNR "));
    let [decoded, reconstructed] =
        ["b.png", "c.png"].map(|name| fs::read(place.path().join(name)).unwrap());
    assert!(decoded == reconstructed, "the same way there and back");

    let command = [
        "encode",
        "-m",
        model().to_str().unwrap(),
        "a.png",
        "--indices",
    ];
    place.ldm(&command).refused(2, &["no codebook"]);
}

#[test]
fn latents_are_decoded_one_by_one_by_the_model_that_made_them() {
    let place = Place::new();
    let latent = |images: usize, channels: usize| {
        let latent = Tensor::from_fn([images, 4, 4, channels], |i| (i % 7) as f32 / 3.0 - 1.0);
        encode_latent(&latent, None).unwrap()
    };
    place.file("two.safetensors", latent(2, 4));
    let run = place.on_model("decode two.safetensors --outdir o", &[]);
    assert_eq!(run.lines(), ["o/two.png", "o/two-1.png"]);
    place.file("other.safetensors", latent(1, 3));
    place
        .on_model("decode other.safetensors", &[])
        .refused(3, &["other.safetensors", "3 channels", "have 4"]);
    place
        .on_model("decode two.safetensors other.safetensors -o -", &[])
        .refused(2, &["standard output takes one"]);
}
