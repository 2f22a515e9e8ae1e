//! Prompt to image on the embedded model: the promises about bytes, guidance, image to image, stopping and faults.

use latent_diffusion::cpu::Cpu;
use latent_diffusion::models::ModelFiles;
use latent_diffusion::models::config::{ClipActivation, ClipConfig, ModelConfig, TextConfig};
use latent_diffusion::pipeline::{Event, InitImage, Interval, Mask, Model, Pipeline, Request};
use latent_diffusion::sampler::Sampler;
use latent_diffusion::tokenizer::Tokenizer;
use latent_diffusion::{Error, Tensor};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn pipeline(threads: usize) -> Pipeline<Cpu> {
    let cpu = Cpu::new(threads, Arc::default()).unwrap();
    Pipeline::new(Arc::new(cpu), Model::demo().unwrap())
}

fn request(steps: usize) -> Request {
    let model = Model::demo().unwrap();
    let mut request = Request::new(&model, "a red balloon over snowy mountains").unwrap();
    request.options.steps = steps;
    request.seed = 7;
    request
}

fn sample(pipeline: &Pipeline<Cpu>, request: &Request) -> Vec<Tensor> {
    pipeline.sample(request, &mut |_| ()).unwrap()
}

#[test]
fn the_same_bytes_alone_in_a_batch_on_any_threads_and_again() {
    let one = pipeline(1);
    let two = pipeline(2);
    let mut request = request(3);
    // An ancestral sampler, so that fresh noise is under test as well.
    request.sampler = Sampler::EulerAncestral;
    request.batch = 3;
    let batch = sample(&two, &request);
    assert_eq!(batch, sample(&two, &request), "a second run differs");
    assert_eq!(batch, sample(&one, &request), "one thread differs from two");
    request.batch = 1;
    for (index, image) in batch.iter().enumerate() {
        request.seed = 7 + index as u64;
        assert_eq!(
            sample(&two, &request)[0],
            *image,
            "image {index} alone differs"
        );
    }
    assert_ne!(batch[0], batch[1]);
}

#[test]
fn every_sampler_gives_a_finite_picture_that_follows_the_seed() {
    let pipeline = pipeline(0);
    for sampler in Sampler::ALL {
        let mut request = request(4);
        request.sampler = sampler;
        let images = sample(&pipeline, &request);
        let [image] = images.as_slice() else {
            panic!("{} images", images.len())
        };
        assert_eq!(image.count_not_finite(), 0, "{}", sampler.name());
        request.seed += 1;
        assert_ne!(sample(&pipeline, &request)[0], *image, "{}", sampler.name());
    }
}

#[test]
fn guidance_and_prompts_matter_and_scale_one_needs_no_negative_prompt() {
    let pipeline = pipeline(0);
    let mut request = request(2);
    let guided = sample(&pipeline, &request);
    request.guidance_rescale = 0.7;
    assert_ne!(sample(&pipeline, &request), guided);
    request.guidance_rescale = 0.0;
    request.guidance_scale = 1.0;
    let plain = sample(&pipeline, &request);
    assert_ne!(plain, guided);
    request.negative_prompt = "night".into();
    assert_eq!(
        sample(&pipeline, &request),
        plain,
        "without guidance nothing reads it"
    );
    request.prompt.clear();
    assert_ne!(sample(&pipeline, &request), plain);
}

#[test]
fn an_interval_of_guidance_is_kept_by_every_image_of_a_batch() {
    let pipeline = pipeline(0);
    let mut request = request(4);
    (request.sampler, request.guidance_scale) = (Sampler::UniPc, 4.0);
    let always = sample(&pipeline, &request).remove(0);
    request.guidance_interval = Some(Interval::new(0.5, 3.0).unwrap());
    let alone = sample(&pipeline, &request).remove(0);
    assert_ne!(alone, always);
    (request.batch, request.seed) = (2, 6);
    assert_eq!(sample(&pipeline, &request)[1], alone);
    // From an image, with a part of it kept.
    let mask = Tensor::from_fn([1, 64, 64, 1], |i| f32::from(u8::from(i % 64 < 32)));
    request.init = Some(InitImage {
        image: alone.clone(),
        mask: Some(Mask {
            drawn: mask.clone(),
            pasted: mask,
        }),
    });
    let half = &sample(&pipeline, &request)[1];
    let kept = |i: &usize| i / 3 % 64 >= 32;
    let kept = (0..alone.data().len()).filter(kept);
    assert!(kept.into_iter().all(|i| half.data()[i] == alone.data()[i]));
    assert_ne!(*half, alone);
}

#[test]
fn image_to_image_stays_nearer_the_lower_the_strength() {
    let pipeline = pipeline(0);
    let mut request = request(10);
    let start = sample(&pipeline, &request).remove(0);
    let clamped = start.data().iter().map(|x| x.clamp(-1.0, 1.0)).collect();
    let start = Tensor::new(start.shape(), clamped).unwrap();
    request.init = Some(InitImage {
        image: start.clone(),
        mask: None,
    });
    request.seed = 99;
    let mut distance = |strength| {
        request.options.strength = Some(strength);
        sample(&pipeline, &request)[0].relative_error(&start)
    };
    let [near, far] = [distance(0.2), distance(1.0)];
    assert!(near < far, "{near} at strength 0.2, {far} at 1");
    request.options.strength = None;
    assert!(matches!(
        request.check(pipeline.model()),
        Err(Error::Request(_))
    ));
}

#[test]
fn encode_and_decode_are_nearly_inverse() {
    let pipeline = pipeline(0);
    let painted = sample(&pipeline, &request(10)).remove(0);
    let latent = pipeline.encode(&painted, &mut |_| ()).unwrap();
    let again = pipeline.decode(&latent, &mut |_| ()).unwrap();
    assert_eq!(again.shape(), painted.shape());
    // An autoencoder of 28 dB or more leaves a root-mean-square error of at most 4 % of the range.
    let squares: f32 = again
        .data()
        .iter()
        .zip(painted.data())
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    let rms = (squares / painted.shape().len() as f32).sqrt() / 2.0;
    assert!(rms < 0.04, "{rms}");
}

#[test]
fn other_sizes_work_where_the_network_allows_and_others_are_named() {
    let pipeline = pipeline(0);
    let mut request = request(1);
    let multiple = pipeline.model().pixel_multiple().unwrap();
    (request.width, request.height) = (6 * multiple, 3 * multiple);
    let image = &sample(&pipeline, &request)[0];
    assert_eq!(image.shape(), [1, 3 * multiple, 6 * multiple, 3].into());
    for side in [0, 1, multiple + 1, usize::MAX] {
        request.width = side;
        let Err(Error::Request(sentence)) = request.check(pipeline.model()) else {
            panic!("width {side} was accepted")
        };
        assert!(sentence.contains(&multiple.to_string()), "{sentence}");
    }
    request.width = 6 * multiple + 1;
    let sentence = request.check(pipeline.model()).unwrap_err().to_string();
    let nearest = [6 * multiple, 7 * multiple].map(|side| side.to_string());
    assert!(
        nearest.iter().all(|side| sentence.contains(side)),
        "{sentence}"
    );
}

#[test]
fn long_prompts_warn_and_name_what_was_dropped() {
    let pipeline = pipeline(0);
    let mut warnings = Vec::new();
    let prompt = format!("{} a purple cow", "a red balloon ".repeat(20));
    pipeline
        .context(&[&prompt], &mut |event| warnings.push(event))
        .unwrap();
    let [Event::Warning(sentence)] = warnings.as_slice() else {
        panic!("{warnings:?}")
    };
    assert!(sentence.contains("cow"), "{sentence}");
}

#[test]
fn stopping_ends_a_run_within_a_step() {
    let stop = Arc::new(AtomicBool::new(false));
    let cpu = Cpu::new(0, stop.clone()).unwrap();
    let pipeline = Pipeline::new(Arc::new(cpu), Model::demo().unwrap());
    let mut steps = 0;
    let result = pipeline.sample(&request(20), &mut |event| {
        if let Event::Step { done, .. } = event {
            steps = done;
            stop.store(done == 2, Ordering::Relaxed);
        }
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(steps, 2);
}

#[test]
fn a_latent_that_is_not_finite_is_named_never_painted_black() {
    let pipeline = pipeline(0);
    let mut latent = Tensor::zeros([1, 16, 16, 4]);
    latent.data_mut()[5] = f32::NAN;
    let Err(Error::NotFinite { stage, .. }) = pipeline.decode(&latent, &mut |_| ()) else {
        panic!("NaN went through the decoder")
    };
    assert!(stage.contains("post_quant_conv"), "{stage}");
}

#[test]
fn a_model_with_a_part_that_cannot_run_is_refused_with_the_reason() {
    let mut model = Model::demo().unwrap();
    let reason = "it has a BERT text encoder (`BERTEmbedder`), which is not supported";
    model.config.unsupported.push(reason.to_owned());
    let error = request(1).check(&model).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains(reason), "{error}");
}

/// A CLIP text encoder of made-up weights that knows the sample vocabulary's 1114 tokens.
fn clip(projection: Option<usize>, vocab: usize) -> Pipeline<Cpu> {
    let text = ClipConfig {
        vocab,
        width: 8,
        layers: 1,
        heads: 2,
        mlp: 8,
        positions: 16,
        activation: ClipActivation::QuickGelu,
        norm_eps: 1e-5,
        skip_layers: 0,
        projection,
        eos_token: None,
        pad_token: None,
    };
    let config = ModelConfig {
        text: Some(TextConfig::Clip(text)),
        ..ModelConfig::default()
    };
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/tokenizer/sample/sd1"
    );
    let tokenizer = Tokenizer::open(folder).unwrap();
    let files = ModelFiles::synthetic("clip", config, 1);
    let cpu = Cpu::new(1, Arc::default()).unwrap();
    Pipeline::new(Arc::new(cpu), Model::new(files, Some(tokenizer)).unwrap())
}

#[test]
fn prompts_are_embedded_at_length_one_where_clip_has_its_projection() {
    let embed = |prompt: &str| {
        let embedding = clip(Some(6), 1114).embed(prompt, &mut |_| ()).unwrap();
        assert_eq!(embedding.shape(), [6].into());
        let length: f64 = embedding.data().iter().map(|&x| f64::from(x).powi(2)).sum();
        assert!((length - 1.0).abs() < 1e-6, "{length}");
        embedding
    };
    assert_eq!(embed("a red balloon"), embed("A red  balloon"));
    assert_ne!(embed("a red balloon"), embed("a blue balloon"));

    let error = clip(None, 1114).embed("a red balloon", &mut |_| ());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("CLIPTextModelWithProjection"), "{error}");
    let error = clip(None, 1000).context(&["a red balloon"], &mut |_| ());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("1000 tokens") && error.contains("1113"),
        "{error}"
    );
}
