//! Whole networks of several sizes, and inputs for them: what the tests of plans and models run, and the benchmarks time.

use latent_diffusion::models::config::{
    Attention, AutoencoderConfig, AutoencoderLevel, ClipActivation, ClipConfig, Condition,
    ModelConfig, TextConfig, UNetConfig, UNetLevel,
};
use latent_diffusion::models::{autoencoder, clip, unet};
use latent_diffusion::pipeline::{self, StepSizes};
use latent_diffusion::rng::Noise;
use latent_diffusion::{Graph, Tensor};

/// A network at one size.
pub struct Network {
    /// Which of a model's.
    pub name: &'static str,
    /// The network, unfused.
    pub graph: Graph,
}

/// Stable Diffusion 1.x in everything but size: four levels, the last without attention.
pub fn tiny() -> ModelConfig {
    let transformer = |heads| Attention::Transformer { heads, depth: 1 };
    let level = |channels, attention| UNetLevel {
        channels,
        res_blocks: 1,
        attention,
    };
    let unet = UNetConfig {
        model_channels: 24,
        levels: vec![
            level(24, transformer(3)),
            level(40, transformer(2)),
            level(48, transformer(2)),
            level(48, Attention::None),
        ],
        middle: transformer(1),
        context_dim: Some(20),
        norm_groups: 8,
        ..parts(ModelConfig::stable_diffusion_1()).0
    };
    let width = |channels, attention| AutoencoderLevel {
        channels,
        attention,
    };
    let autoencoder = AutoencoderConfig {
        base_channels: 12,
        levels: vec![width(12, false), width(20, true), width(28, false)],
        res_blocks: 1,
        norm_groups: 4,
        ..parts(ModelConfig::stable_diffusion_1()).1
    };
    let text = ClipConfig {
        vocab: 99,
        width: 20,
        layers: 2,
        heads: 4,
        mlp: 48,
        positions: 9,
        ..parts(ModelConfig::stable_diffusion_1()).2
    };
    model(unet, autoencoder, text)
}

/// The sizes of the embedded demo model.
pub fn demo() -> ModelConfig {
    let transformer = |heads| Attention::Transformer { heads, depth: 1 };
    let level = |channels, attention| UNetLevel {
        channels,
        res_blocks: 1,
        attention,
    };
    let unet = UNetConfig {
        model_channels: 64,
        levels: vec![
            level(64, Attention::None),
            level(128, transformer(4)),
            level(128, transformer(4)),
        ],
        middle: transformer(4),
        context_dim: Some(128),
        ..parts(ModelConfig::stable_diffusion_1()).0
    };
    let autoencoder = AutoencoderConfig {
        base_channels: 32,
        levels: [32, 64, 64]
            .map(|channels| AutoencoderLevel {
                channels,
                attention: false,
            })
            .to_vec(),
        res_blocks: 1,
        norm_groups: 16,
        ..parts(ModelConfig::stable_diffusion_1()).1
    };
    let text = ClipConfig {
        vocab: 748,
        width: 128,
        layers: 4,
        heads: 4,
        mlp: 512,
        positions: 32,
        activation: ClipActivation::QuickGelu,
        ..parts(ModelConfig::stable_diffusion_1()).2
    };
    model(unet, autoencoder, text)
}

/// The four networks of a model, for a batch of latents of the given height and width.
pub fn networks(model: &ModelConfig, batch: usize, latent: [usize; 2]) -> Vec<Network> {
    let (unet, autoencoder, text) = parts(model.clone());
    let pixels = latent.map(|side| side * autoencoder.factor());
    let graphs = [
        ("unet", unet::build(&unet, batch, latent, text.positions)),
        (
            "decoder",
            autoencoder::build_decoder(&autoencoder, batch, latent),
        ),
        (
            "encoder",
            autoencoder::build_encoder(&autoencoder, batch, pixels),
        ),
        ("text", clip::build(&text, batch, text.positions)),
    ];
    let network = |(name, graph): (_, latent_diffusion::Result<Graph>)| Network {
        name,
        graph: graph.unwrap_or_else(|error| panic!("{name}: {error}")),
    };
    graphs.map(network).into()
}

/// A sampler's step with guidance, over a table of three rows, of a sampler that keeps two results.
pub fn step(model: &ModelConfig, batch: usize, latent: [usize; 2]) -> Network {
    let unet = model.unet.as_ref().expect("a UNet");
    Network {
        name: "step",
        graph: step_of(unet, model.context_tokens(), batch, latent),
    }
}

/// The step of a network, on a context of so many tokens.
fn step_of(unet: &UNetConfig, tokens: usize, batch: usize, latent: [usize; 2]) -> Graph {
    let sizes = StepSizes {
        rows: 3,
        memory: 2,
        ..StepSizes::new(unet, tokens, batch, latent, true)
    };
    pipeline::step(unet, &sizes).expect("a step")
}

/// UNets of the kinds that Stable Diffusion's is not, and a sampler's step around each: attention over pixels in both orders, timesteps that
/// scale and shift, res blocks that resample, classes as labels and as a context of one token.
pub fn unets(batch: usize, latent: [usize; 2]) -> Vec<Network> {
    let level = |channels, attention| UNetLevel {
        channels,
        res_blocks: 1,
        attention,
    };
    let pixels = |heads| Attention::Pixels { heads };
    let churches = UNetConfig {
        levels: vec![
            level(24, pixels(3)),
            level(40, Attention::None),
            level(48, pixels(2)),
        ],
        middle: pixels(1),
        context_dim: None,
        scale_shift_norm: true,
        res_block_updown: true,
        num_classes: Some(10),
        ..parts(tiny()).0
    };
    let celeba = UNetConfig {
        new_attention_order: true,
        scale_shift_norm: false,
        res_block_updown: false,
        num_classes: None,
        ..churches.clone()
    };
    let transformer = |heads| Attention::Transformer { heads, depth: 2 };
    let class = UNetConfig {
        levels: vec![level(24, transformer(3)), level(40, transformer(1))],
        middle: transformer(1),
        ..parts(tiny()).0
    };
    let named = [
        (["churches", "churches' step"], churches),
        (["celeba", "celeba's step"], celeba),
        (["class", "class's step"], class),
    ];
    let both = named.into_iter().flat_map(|(names, config)| {
        let graphs = [
            unet::build(&config, batch, latent, 1).expect("a UNet"),
            step_of(&config, 1, batch, latent),
        ];
        let network = |(name, graph)| Network { name, graph };
        names.into_iter().zip(graphs).map(network)
    });
    both.collect()
}

/// Inputs of the right kind for every input of a network; those of image `i` depend on `i` and not on the batch.
pub fn inputs(graph: &Graph) -> Vec<(String, Tensor)> {
    let draw = |(name, value)| {
        let shape = graph.shape(value);
        let item = shape.with_batch(1);
        let image = |image: usize| {
            let exact = |limit: usize| {
                Tensor::from_fn(item, |i| ((31 * image + 17 * i + 5) % limit) as f32)
            };
            match name {
                "timestep" | "timesteps" => exact(1000),
                "step" => exact(3),
                "guidance" => Tensor::full(item, [3.0, 0.7][image]),
                "pooled_token" => exact(4),
                "input_ids" => exact(99),
                "class_labels" => exact(10),
                _ => {
                    let noise = Noise::cpu(image as u64).normal(item.len());
                    Tensor::from_fn(item, |i| noise[i])
                }
            }
        };
        let images: Vec<Tensor> = (0..shape.batch()).map(image).collect();
        let tensor = Tensor::stack(&images).expect("images of one shape");
        (name.to_owned(), tensor)
    };
    graph.inputs().map(draw).collect()
}

fn model(unet: UNetConfig, autoencoder: AutoencoderConfig, text: ClipConfig) -> ModelConfig {
    ModelConfig {
        unet: Some(unet),
        autoencoder: Some(autoencoder),
        text: Some(TextConfig::Clip(text)),
        condition: Condition::Text,
        ..ModelConfig::default()
    }
}

/// The networks of a model that has all three.
pub fn parts(model: ModelConfig) -> (UNetConfig, AutoencoderConfig, ClipConfig) {
    match (model.unet, model.autoencoder, model.text) {
        (Some(unet), Some(autoencoder), Some(TextConfig::Clip(text))) => (unet, autoencoder, text),
        _ => panic!("the model has a network missing"),
    }
}
