//! The UNet against the published networks' sizes, names and work.

use super::*;
use crate::models::config::UNetLevel;
use std::collections::HashMap;

/// How the published configurations give the heads.
enum Heads {
    /// As many at every width.
    Number(usize),
    /// Of one size at every width.
    Channels(usize),
}

/// A UNet whose res blocks are followed by spatial transformers at the levels where `attends` says so.
fn config(
    [in_channels, out_channels]: [usize; 2],
    model_channels: usize,
    widths: &[usize],
    attends: fn(usize) -> bool,
    heads: Heads,
    context_dim: usize,
) -> UNetConfig {
    let transformer = |channels| Attention::Transformer {
        heads: match heads {
            Heads::Number(heads) => heads,
            Heads::Channels(size) => channels / size,
        },
        depth: 1,
    };
    let level = |(index, &width): (usize, &usize)| UNetLevel {
        channels: width * model_channels,
        res_blocks: 2,
        attention: if attends(index) {
            transformer(width * model_channels)
        } else {
            Attention::None
        },
    };
    let levels: Vec<UNetLevel> = widths.iter().enumerate().map(level).collect();
    UNetConfig {
        in_channels,
        out_channels,
        model_channels,
        middle: transformer(levels.last().map_or(0, |level| level.channels)),
        levels,
        context_dim: Some(context_dim),
        linear_projections: false,
        scale_shift_norm: false,
        res_block_updown: false,
        num_classes: None,
        norm_groups: 32,
        norm_eps: 1e-5,
    }
}

fn sd1() -> UNetConfig {
    config([4, 4], 320, &[1, 2, 4, 4], |l| l < 3, Heads::Number(8), 768)
}

fn depth(mut config: UNetConfig, blocks: usize) -> UNetConfig {
    let attentions = config.levels.iter_mut().map(|level| &mut level.attention);
    for attention in attentions.chain([&mut config.middle]) {
        if let Attention::Transformer { depth, .. } = attention {
            *depth = blocks;
        }
    }
    config
}

/// Distinct learnt tensors, and how many elements they have together.
fn size(g: &Graph) -> (usize, usize) {
    let params: HashMap<&str, usize> = g
        .params()
        .map(|param| (param.name.as_str(), param.shape.len()))
        .collect();
    (params.len(), params.values().sum())
}

fn gflops(g: &Graph) -> f64 {
    let flops: u64 = g
        .nodes()
        .iter()
        .map(|node| {
            let inputs: Vec<_> = node.inputs.iter().map(|&v| g.shape(v)).collect();
            node.op.operator().cost(&inputs, node.shape).flops
        })
        .sum();
    flops as f64 / 1e9
}

#[test]
fn published_networks_have_their_published_sizes() {
    let below_first = |level| level > 0;
    let text_to_image_256 = config(
        [3, 3],
        192,
        &[1, 2, 3, 5],
        below_first,
        Heads::Channels(32),
        640,
    );
    let layout = depth(
        config(
            [3, 3],
            128,
            &[1, 2, 3, 4],
            below_first,
            Heads::Channels(32),
            512,
        ),
        3,
    );
    // Tensors and millions of parameters of CompVis's own modules.
    for (name, config, tensors, millions) in [
        ("sd1", sd1(), 686, 859.52),
        (
            "sd1 inpainting",
            config([9, 4], 320, &[1, 2, 4, 4], |l| l < 3, Heads::Number(8), 768),
            686,
            859.54,
        ),
        (
            "sd2",
            config(
                [4, 4],
                320,
                &[1, 2, 4, 4],
                |l| l < 3,
                Heads::Channels(64),
                1024,
            ),
            686,
            865.91,
        ),
        (
            "txt2img-1p4B",
            config(
                [4, 4],
                320,
                &[1, 2, 4, 4],
                |l| l < 3,
                Heads::Number(8),
                1280,
            ),
            686,
            872.30,
        ),
        (
            "cin256",
            config([4, 4], 256, &[1, 2, 4], |_| true, Heads::Channels(32), 512),
            626,
            394.98,
        ),
        ("text2img256", text_to_image_256, 688, 403.62),
        ("layout2img", layout, 1328, 246.28),
        (
            "rdm",
            config(
                [16, 16],
                448,
                &[1, 2, 3, 4],
                |l| l < 3,
                Heads::Channels(32),
                768,
            ),
            688,
            1335.48,
        ),
    ] {
        let g = build(&config, 1, [32, 32], 77).unwrap();
        let (count, elements) = size(&g);
        assert_eq!(count, tensors, "{name}");
        let counted = elements as f64 / 1e6;
        assert!(
            (counted - millions).abs() < 0.00501,
            "{name}: {counted} M, not {millions} M"
        );
    }
}

#[test]
fn the_work_is_that_of_the_published_network() {
    for (side, expected) in [(64, 803.3), (32, 180.0)] {
        let counted = gflops(&build(&sd1(), 1, [side, side], 77).unwrap());
        assert!(
            (counted / expected - 1.0).abs() < 0.01,
            "{side}: {counted} GFLOP"
        );
    }
}

#[test]
fn modules_answer_under_their_checkpoint_paths() {
    let g = build(&sd1(), 2, [8, 16], 77).unwrap();
    assert_eq!(g.node(g.outputs()[0].1).name, "out.2");
    for (path, shape) in [
        ("time_embed", vec![2, 1280]),
        ("input_blocks.0", vec![2, 8, 16, 320]),
        ("input_blocks.1.0", vec![2, 8, 16, 320]),
        ("input_blocks.1.0.emb_layers", vec![2, 320]),
        (
            "input_blocks.1.1.transformer_blocks.0.attn2.to_k",
            vec![2, 77, 320],
        ),
        (
            "input_blocks.1.1.transformer_blocks.0.attn2",
            vec![2, 128, 320],
        ),
        (
            "input_blocks.1.1.transformer_blocks.0.ff.net.0",
            vec![2, 128, 1280],
        ),
        ("input_blocks.3", vec![2, 4, 8, 320]),
        ("middle_block.1", vec![2, 1, 2, 1280]),
        ("output_blocks.2.1", vec![2, 2, 4, 1280]),
        ("output_blocks.5.2.conv", vec![2, 4, 8, 1280]),
        ("output_blocks.8.2", vec![2, 8, 16, 640]),
        ("output_blocks.11", vec![2, 8, 16, 320]),
    ] {
        let found = g.find(path).map(|value| g.shape(value).dims().to_vec());
        assert_eq!(found, Some(shape), "{path}");
    }
}

#[test]
fn classes_and_missing_contexts_are_part_of_the_network() {
    let mut classes = config([4, 4], 32, &[1, 2], |_| true, Heads::Number(2), 16);
    classes.num_classes = Some(10);
    classes.context_dim = None;
    let g = build(&classes, 1, [4, 4], 0).unwrap();
    let inputs: Vec<_> = g.inputs().map(|(name, _)| name).collect();
    assert_eq!(inputs, ["sample", "timestep", "class_labels"]);
    let width = |name: &str| g.params().find(|p| p.name == name).map(|p| p.shape);
    assert_eq!(width("label_emb.weight"), Some([10, 128].into()));
    let keys = "middle_block.1.transformer_blocks.0.attn2.to_k.weight";
    assert_eq!(width(keys), Some([64, 64].into()), "self-attention");
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence() {
    let refusal = |config: &UNetConfig, size| build(config, 1, size, 77).unwrap_err().to_string();
    assert!(refusal(&sd1(), [64, 60]).contains("latents of 60x64"));
    assert!(refusal(&sd1(), [64, 60]).contains("multiples of 8"));
    assert!(refusal(&sd1(), [0, 8]).contains("multiples of 8"));
    let mut pixels = sd1();
    pixels.middle = Attention::Pixels { heads: 8 };
    assert!(refusal(&pixels, [64, 64]).contains("middle_block.1"));
    let mut shifted = sd1();
    shifted.scale_shift_norm = true;
    assert!(refusal(&shifted, [64, 64]).contains("use_scale_shift_norm"));
    let mut uneven = sd1();
    uneven.norm_groups = 48;
    assert!(refusal(&uneven, [64, 64]).contains("input_blocks.1.0.in_layers.0"));
}

#[test]
fn inputs_of_another_network_are_refused() {
    let mut g = Graph::new();
    let mut inputs = UNetInputs {
        sample: g.input("sample", [1, 8, 8, 4]),
        timestep: Timestep::PerImage(g.input_exact("timestep", [1])),
        context: None,
        class_labels: None,
    };
    assert!(
        forward(&mut g, &sd1(), inputs)
            .unwrap_err()
            .to_string()
            .contains("context")
    );
    inputs.context = Some(g.input("context", [1, 77, 1024]));
    let error = forward(&mut g, &sd1(), inputs).unwrap_err().to_string();
    assert!(error.contains("768") && error.contains("1024"), "{error}");
}
