//! The names of the UNet's modules, and what it refuses.

use super::*;
use crate::models::config::{ModelConfig, UNetLevel};

fn sd1() -> UNetConfig {
    let unet = ModelConfig::stable_diffusion_1().unet;
    unet.unwrap_or_else(|| panic!("Stable Diffusion has a UNet"))
}

/// Two levels without a context, and what follows their res blocks; the second's also attends in the middle.
fn narrow(attention: [Attention; 2]) -> UNetConfig {
    let level = |(index, attention)| UNetLevel {
        channels: 32usize << index,
        res_blocks: 2,
        attention,
    };
    UNetConfig {
        model_channels: 32,
        levels: attention.into_iter().enumerate().map(level).collect(),
        middle: attention[1],
        context_dim: None,
        ..sd1()
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
    let mut classes = narrow([Attention::Transformer { heads: 2, depth: 1 }; 2]);
    classes.num_classes = Some(10);
    let g = build(&classes, 1, [4, 4], 0).unwrap();
    let inputs: Vec<_> = g.inputs().map(|(name, _)| name).collect();
    assert_eq!(inputs, ["sample", "timestep", "class_labels"]);
    let width = |name: &str| g.params().find(|p| p.name == name).map(|p| p.shape);
    assert_eq!(width("label_emb.weight"), Some([10, 128].into()));
    let keys = "middle_block.1.transformer_blocks.0.attn2.to_k.weight";
    assert_eq!(width(keys), Some([64, 64].into()), "self-attention");
}

#[test]
fn blocks_that_attend_and_resample_answer_under_their_checkpoint_paths() {
    let mut churches = narrow([Attention::None, Attention::Pixels { heads: 2 }]);
    churches.scale_shift_norm = true;
    churches.res_block_updown = true;
    let g = build(&churches, 2, [8, 16], 0).unwrap();
    for (path, shape) in [
        ("input_blocks.3.0.h_upd", vec![2, 4, 8, 32]),
        ("input_blocks.3.0.emb_layers", vec![2, 64]),
        ("input_blocks.3.0", vec![2, 4, 8, 32]),
        ("input_blocks.4.1.qkv", vec![2, 32, 192]),
        ("middle_block.1.attention", vec![2, 32, 64]),
        ("middle_block.1", vec![2, 4, 8, 64]),
        ("output_blocks.2.2.x_upd", vec![2, 8, 16, 64]),
        ("output_blocks.2.2", vec![2, 8, 16, 64]),
        ("output_blocks.5", vec![2, 8, 16, 32]),
    ] {
        let found = g.find(path).map(|value| g.shape(value).dims().to_vec());
        assert_eq!(found, Some(shape), "{path}");
    }
    let weight = |name: &str| g.params().find(|p| p.name == name).map(|p| p.shape);
    assert_eq!(weight("middle_block.1.qkv.weight"), Some([192, 64].into()));
    assert_eq!(weight("input_blocks.3.0.op.weight"), None);
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence() {
    let refusal = |config: &UNetConfig, size| build(config, 1, size, 77).unwrap_err().to_string();
    assert!(refusal(&sd1(), [64, 60]).contains("latents of 60x64"));
    assert!(refusal(&sd1(), [64, 60]).contains("multiples of 8"));
    assert!(refusal(&sd1(), [0, 8]).contains("multiples of 8"));
    let mut pixels = sd1();
    pixels.middle = Attention::Pixels { heads: 7 };
    assert!(refusal(&pixels, [64, 64]).contains("middle_block.1.attention"));
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
