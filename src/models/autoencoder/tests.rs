//! Sizes and costs of the published first stages, and the paths at which their modules answer.

use super::*;
use crate::models::config::from_yaml;
use crate::tensor::Shape;
use std::collections::BTreeMap;
use std::path::Path;

/// A published autoencoder: 128 channels, two res blocks, attention at the levels named and in the middle.
fn config(widths: &[usize], attention: &[usize], latent: usize) -> AutoencoderConfig {
    let level = |(index, width): (usize, &usize)| AutoencoderLevel {
        channels: 128 * width,
        attention: attention.contains(&index),
    };
    AutoencoderConfig {
        in_channels: 3,
        out_channels: 3,
        base_channels: 128,
        levels: widths.iter().enumerate().map(level).collect(),
        res_blocks: 2,
        middle_attention: true,
        z_channels: latent,
        embed_dim: latent,
        codebook: None,
        quant_conv: true,
        post_quant_conv: true,
        norm_groups: 32,
    }
}

fn kl_f8() -> AutoencoderConfig {
    config(&[1, 2, 4, 4], &[], 4)
}

/// The autoencoder that is described under this name in `assets/systems`.
fn published(name: &str) -> AutoencoderConfig {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("assets/systems/{name}.yaml"));
    let yaml = std::fs::read_to_string(&file).unwrap();
    from_yaml(&file, &yaml).unwrap().autoencoder.unwrap()
}

/// Each learnt tensor once: a search and a look-up share a codebook.
fn tensors(g: &Graph) -> BTreeMap<&str, usize> {
    let params = g.params().map(|p| (p.name.as_str(), p.shape.len()));
    params.collect()
}

fn gigaflops(g: &Graph) -> f64 {
    g.cost().flops as f64 / 1e9
}

#[test]
fn published_autoencoders_have_their_published_sizes_and_costs() {
    // Tensors of encoder and decoder, without those at the latent; millions of parameters in all; GFLOP for an image of 256x256.
    for (name, counts, millions, work) in [
        ("kl-f4", [88, 112], 55.312, [345.0, 671.0]),
        ("kl-f8", [106, 138], 83.654, [273.0, 622.0]),
        ("kl-f16", [144, 194], 69.611, [138.0, 252.0]),
        ("kl-f32", [182, 250], 103.880, [135.5, 251.0]),
        ("vq-f4", [88, 112], 55.323, [345.0, 671.0]),
        ("vq-f4-noattn", [78, 102], 53.219, [302.0, 628.0]),
        ("vq-f8", [126, 168], 67.717, [226.0, 472.0]),
        ("vq-f8-n256", [126, 168], 67.653, [226.0, 472.0]),
        ("vq-f16", [144, 194], 69.593, [138.0, 252.0]),
    ] {
        let config = published(name);
        let side = 256 / config.factor();
        let encoder = build_encoder(&config, 1, [256, 256]).unwrap();
        let decoder = build_decoder(&config, 1, [side, side]).unwrap();
        let graphs = [&encoder, &decoder];
        let inside = |g: &Graph| {
            let scopes = ["encoder.", "decoder."];
            let names = tensors(g).into_keys();
            names
                .filter(|name| scopes.iter().any(|s| name.starts_with(s)))
                .count()
        };
        assert_eq!(graphs.map(inside), counts, "{name}");
        let elements = graphs.map(|g| tensors(g).values().sum::<usize>());
        let counted = (elements[0] + elements[1]) as f64 / 1e6;
        assert!(
            (counted - millions).abs() < 0.000501,
            "{name}: {counted} M, not {millions} M"
        );
        for (g, expected) in graphs.into_iter().zip(work) {
            let counted = gigaflops(g);
            assert!(
                (counted / expected - 1.0).abs() < 0.01,
                "{name}: {counted} GFLOP, not {expected}"
            );
        }
    }
}

#[test]
fn modules_answer_under_their_checkpoint_paths() {
    let f16 = config(&[1, 1, 2, 2, 4], &[4], 16);
    let encoder = build_encoder(&f16, 2, [32, 48]).unwrap();
    let decoder = build_decoder(&f16, 2, [2, 3]).unwrap();
    for (g, path, shape) in [
        (&encoder, "encoder.conv_in", [2, 32, 48, 128]),
        (&encoder, "encoder.down.0.block.0.norm1", [2, 32, 48, 128]),
        (&encoder, "encoder.down.0.downsample", [2, 16, 24, 128]),
        (&encoder, "encoder.down.4.attn.0", [2, 2, 3, 512]),
        (&encoder, "encoder.mid", [2, 2, 3, 512]),
        (&encoder, "encoder", [2, 2, 3, 32]),
        (&encoder, "quant_conv", [2, 2, 3, 32]),
        (&decoder, "post_quant_conv", [2, 2, 3, 16]),
        (&decoder, "decoder.mid.attn_1", [2, 2, 3, 512]),
        (&decoder, "decoder.up.4.attn.2", [2, 2, 3, 512]),
        (&decoder, "decoder.up.1.upsample", [2, 32, 48, 128]),
        (&decoder, "decoder.norm_out", [2, 32, 48, 128]),
        (&decoder, "decoder", [2, 32, 48, 3]),
    ] {
        assert_eq!(
            g.find(path).map(|value| g.shape(value)),
            Some(shape.into()),
            "{path}"
        );
    }
}

#[test]
fn a_codebook_is_searched_before_decoding_and_by_request_after_encoding() {
    let vq = published("vq-f8");
    let outputs = |g: &Graph| -> Vec<(String, Shape)> {
        let outputs = g.outputs().iter();
        outputs
            .map(|(name, value)| (name.clone(), g.shape(*value)))
            .collect()
    };
    let latent = ("latent".to_owned(), [2, 2, 3, 4].into());
    let encoder = build_encoder(&vq, 2, [16, 24]).unwrap();
    assert_eq!(encoder.find("quantize"), None);
    assert_eq!(outputs(&encoder), std::slice::from_ref(&latent));

    let codes = build_codes(&vq, 2, [16, 24]).unwrap();
    let indices = ("indices".to_owned(), [2, 2, 3].into());
    let quantised = ("quantised".to_owned(), [2, 2, 3, 4].into());
    assert_eq!(outputs(&codes), [latent, indices, quantised]);

    let decoder = build_decoder(&vq, 2, [2, 3]).unwrap();
    let (_, input) = decoder.inputs().next().unwrap();
    assert!(decoder.is_exact(input));
    let order = ["quantize", "post_quant_conv", "decoder"].map(|path| decoder.find(path));
    assert!(order[0].is_some() && order.is_sorted(), "{order:?}");

    let error = build_codes(&kl_f8(), 1, [8, 8]).unwrap_err().to_string();
    assert!(error.contains("no codebook"), "{error}");
}

#[test]
fn parts_that_are_left_out_leave_no_tensors() {
    let mut bare = kl_f8();
    bare.quant_conv = false;
    bare.post_quant_conv = false;
    bare.middle_attention = false;
    let encoder = build_encoder(&bare, 1, [16, 16]).unwrap();
    let decoder = build_decoder(&bare, 1, [2, 2]).unwrap();
    assert_eq!(encoder.params().count(), 106 - 10);
    assert_eq!(decoder.params().count(), 138 - 10);
}

#[test]
fn sizes_that_do_not_fit_are_refused_in_a_sentence() {
    let error = build_encoder(&kl_f8(), 1, [64, 7]).unwrap_err().to_string();
    assert!(error.contains("8 pixels and more"), "{error}");
    let empty = config(&[], &[], 4);
    assert!(build_decoder(&empty, 1, [8, 8]).is_err());
    assert!(build_encoder(&empty, 1, [8, 8]).is_err());
}

#[test]
fn moments_are_split_along_the_channels_and_the_variance_is_bounded() {
    let moments = Tensor::new(
        [1, 1, 2, 4],
        vec![1.0, 2.0, -99.0, 3.0, 4.0, 5.0, 6.0, 99.0],
    );
    let (mean, logvar) = split_moments(&moments.unwrap()).unwrap();
    assert_eq!(mean.data(), [1.0, 2.0, 4.0, 5.0]);
    assert_eq!(logvar.data(), [-30.0, 3.0, 6.0, 20.0]);
    assert_eq!(mean.shape(), [1, 1, 2, 2].into());
}
