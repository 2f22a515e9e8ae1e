//! What a run is said to take of memory, before anything is loaded, to what it then takes.

use latent_diffusion::Tensor;
use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Precision, Target};
use latent_diffusion::models::ModelFiles;
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::pipeline::{
    InitImage, Interval, Mask, Model, Pipeline, Request, Stage, Tiling,
};
use std::sync::Arc;

fn cpu() -> Cpu {
    Cpu::new(2, Arc::default()).unwrap()
}

fn emulator() -> Arc<Cuda> {
    let target = Target::a100(Precision::F16);
    Arc::new(Cuda::emulator(Emulation::plain(2), target, Arc::default()).unwrap())
}

fn request(model: &Model, size: usize, batch: usize) -> Request {
    let mut request = Request::new(model, "a red balloon over snowy mountains").unwrap();
    request.options.steps = 1;
    (request.width, request.height, request.batch) = (size, size, batch);
    request
}

fn stage<'a>(stages: &'a [Stage], name: &str) -> &'a Stage {
    stages.iter().find(|stage| stage.name == name).unwrap()
}

#[test]
fn the_cpu_takes_what_was_said() {
    let cpu = Arc::new(cpu());
    let pipeline = Pipeline::new(cpu.clone(), Model::demo().unwrap());
    for (size, batch) in [(32, 1), (64, 2)] {
        let request = request(pipeline.model(), size, batch);
        let stages = pipeline.forecast(&request).unwrap();
        assert_eq!(cpu.meter().most(), 0, "forecasts take nothing");
        pipeline.context(&["", "a"], &mut |_| ()).unwrap();
        let text = stage(&stages, "text encoder").arena_bytes;
        assert_eq!(cpu.meter().most(), text, "text encoder");
        let latents = pipeline.sample_latents(&request, &mut |_| ()).unwrap();
        let unet = stage(&stages, "UNet").arena_bytes;
        assert_eq!(cpu.meter().most(), text.max(unet), "UNet");
        pipeline.decode(&latents[0], &mut |_| ()).unwrap();
        let decoder = stage(&stages, "decoder").arena_bytes;
        assert_eq!(cpu.meter().most(), decoder, "decoder");
        assert_eq!(cpu.meter().most(), 0, "sessions leave nothing");
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn the_emulator_takes_what_was_said() {
    let device = emulator();
    let pipeline = Pipeline::new(device.clone(), Model::demo().unwrap());
    let request = request(pipeline.model(), 32, 1);
    let stages = pipeline.forecast(&request).unwrap();
    assert_eq!(device.loaded_bytes(), 0, "forecasts load nothing");
    let latents = pipeline.sample_latents(&request, &mut |_| ()).unwrap();
    let [text, unet, decoder] =
        ["text encoder", "UNet", "decoder"].map(|name| stage(&stages, name));
    assert_eq!(
        device.meter().most(),
        text.arena_bytes.max(unet.arena_bytes)
    );
    pipeline.decode(&latents[0], &mut |_| ()).unwrap();
    assert_eq!(device.meter().most(), decoder.arena_bytes);
    let weights = [text, unet, decoder].map(|stage| stage.weight_bytes);
    assert_eq!(device.loaded_bytes(), weights.into_iter().sum::<usize>());
}

/// Steps with guidance and steps without have programs of their own, both there from the first step to the last.
fn an_interval_takes_what_was_said<B: Backend>(device: &Arc<B>, most: impl Fn() -> usize) {
    let pipeline = Pipeline::new(device.clone(), Model::demo().unwrap());
    let mut request = request(pipeline.model(), 32, 1);
    request.options.steps = 3;
    let unet = |request: &Request| stage(&pipeline.forecast(request).unwrap(), "UNet").clone();
    let always = unet(&request);
    request.guidance_scale = 1.0;
    let never = unet(&request);
    request.guidance_scale = 3.0;
    request.guidance_interval = Some(Interval::new(0.5, 3.0).unwrap());
    let both = unet(&request);
    assert_eq!(both.arena_bytes, always.arena_bytes + never.arena_bytes);
    assert_eq!(both.weight_bytes, always.weight_bytes, "weights are shared");
    assert_eq!(
        both.unguided.map(|u| u.arena_bytes),
        Some(never.arena_bytes)
    );
    most();
    pipeline.sample_latents(&request, &mut |_| ()).unwrap();
    assert_eq!(most(), both.arena_bytes);
}

#[test]
fn an_interval_of_guidance_takes_what_was_said() {
    let cpu = Arc::new(cpu());
    an_interval_takes_what_was_said(&cpu, || cpu.meter().most());
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn an_interval_of_guidance_takes_what_was_said_in_emulation() {
    let emulator = emulator();
    an_interval_takes_what_was_said(&emulator, || emulator.meter().most());
}

#[test]
fn a_part_of_an_image_takes_what_was_said() {
    let cpu = Arc::new(cpu());
    let pipeline = Pipeline::new(cpu.clone(), Model::demo().unwrap());
    let mut request = request(pipeline.model(), 32, 1);
    let drawn = Tensor::from_fn([1, 32, 32, 1], |i| (i % 2) as f32);
    request.init = Some(InitImage {
        image: Tensor::zeros([1, 32, 32, 3]),
        mask: Some(Mask {
            pasted: drawn.clone(),
            drawn,
        }),
    });
    let stages = pipeline.forecast(&request).unwrap();
    pipeline.sample_latents(&request, &mut |_| ()).unwrap();
    let arenas = ["text encoder", "UNet", "encoder"].map(|name| stage(&stages, name).arena_bytes);
    assert_eq!(Some(cpu.meter().most()), arenas.into_iter().max());
    // The UNet's share, which the encoder's may hide.
    request.options.steps = 2;
    let whole = stage(&pipeline.forecast(&request).unwrap(), "UNet").arena_bytes;
    request.init = None;
    let free = stage(&pipeline.forecast(&request).unwrap(), "UNet").arena_bytes;
    assert!(whole > free, "{whole} {free}");
}

#[test]
fn the_decoder_in_bands_takes_what_was_said_and_draws_the_same() {
    let model = Model::demo().unwrap();
    let request = request(&model, 256, 1);
    let config = model.autoencoder().unwrap().0;
    let side = request.width / config.factor();
    let shape = [2, side, side, config.embed_dim];
    let latent = Tensor::from_fn(shape, |i| ((i * 37) % 101) as f32 / 50.0 - 1.0);
    let whole = Pipeline::new(Arc::new(cpu()), model.clone());
    let expected = whole.decode(&latent, &mut |_| ()).unwrap();
    let uncut = stage(&whole.forecast(&request).unwrap(), "decoder").clone();
    // Where the limit leaves too little for the whole, it runs in bands by itself; else where it is told to.
    let limit = uncut.weight_bytes + uncut.arena_bytes / 2;
    for (limit, tiling) in [(Some(limit), Tiling::Auto), (None, Tiling::On)] {
        let device = Arc::new(cpu().with_limit(limit));
        let pipeline = Pipeline::new(device.clone(), model.clone()).with_tiling(tiling);
        let stages = pipeline.forecast(&request).unwrap();
        let decoder = stage(&stages, "decoder");
        let bands = decoder.bands.expect("bands");
        assert!(bands.bands > 1 && bands.whole_bytes == uncut.arena_bytes);
        assert!(limit.is_none_or(|limit| decoder.peak_bytes() <= limit));
        let found = pipeline.decode(&latent, &mut |_| ()).unwrap();
        assert_eq!(device.meter().most(), decoder.arena_bytes, "{tiling:?}");
        assert_eq!(found, expected, "{tiling:?}");
    }
}

#[test]
fn nothing_of_a_large_model_is_made_to_forecast_it() {
    let config = ModelConfig::stable_diffusion_1();
    let files = ModelFiles::synthetic("sd1", config, 0);
    let pipeline = Pipeline::new(Arc::new(cpu()), Model::new(files, None).unwrap());
    let request = request(pipeline.model(), 512, 2);
    let stages = pipeline.forecast(&request).unwrap();
    // 859.5 M, 123.1 M and 49.5 M parameters in halves.
    for (name, millions) in [
        ("UNet", 859.521),
        ("text encoder", 123.060),
        ("decoder", 49.490),
    ] {
        let bytes = stage(&stages, name).weight_bytes as f64;
        assert!((bytes / 2e6 - millions).abs() < 0.001, "{name}: {bytes}");
    }
}
