//! Prompt to image through the CUDA kernels, in emulation: the picture of the CPU, one image's bytes whatever the batch, and no black pictures.

use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Kernels, Precision, Sums, Target};
use latent_diffusion::models::OpenOptions;
use latent_diffusion::pipeline::{Event, InitImage, Mask, Model, Pipeline, Request};
use latent_diffusion::rng::Noise;
use latent_diffusion::{Error, Tensor};
use safetensors::SafeTensors;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn emulator(precision: Precision, check: bool) -> Arc<Cuda> {
    emulator_of(Target::a100(precision), check)
}

/// A consumer GPU, so small that the demo's narrow products fill it.
fn consumer(sums: Sums) -> Target {
    Target {
        sums,
        ..Target::rtx_4090(Precision::F16).with_multiprocessors(1)
    }
}

fn emulator_of(target: Target, check: bool) -> Arc<Cuda> {
    let emulation = Emulation {
        check,
        ..Emulation::plain(2)
    };
    Arc::new(Cuda::emulator(emulation, target, Arc::default()).unwrap())
}

fn cpu() -> Arc<Cpu> {
    Arc::new(Cpu::new(2, Arc::default()).unwrap())
}

fn request(model: &Model, steps: usize) -> Request {
    let mut request = Request::new(model, "a red balloon over snowy mountains").unwrap();
    request.options.steps = steps;
    request.seed = 7;
    request
}

/// Of images in -1..1.
fn psnr(a: &Tensor, b: &Tensor) -> f64 {
    let clamp = |x: &f32| f64::from(x.clamp(-1.0, 1.0));
    let squares = a.data().iter().zip(b.data());
    let squares: f64 = squares.map(|(a, b)| (clamp(a) - clamp(b)).powi(2)).sum();
    10.0 * (4.0 * a.data().len() as f64 / squares).log10()
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn the_demo_draws_what_the_cpu_draws() {
    let model = Model::demo().unwrap();
    let request = request(&model, 3);
    let expected = Pipeline::new(cpu(), model.clone()).sample(&request, &mut |_| ());
    let expected = expected.unwrap();
    let portable = Target {
        kernels: Kernels::Portable,
        ..Target::h200(Precision::F16)
    };
    let a100 = Target::a100(Precision::F16);
    for target in [a100, consumer(Sums::of_geforce(89)), portable] {
        let emulated = Pipeline::new(emulator_of(target, true), model.clone());
        let found = emulated.sample(&request, &mut |event| {
            assert!(matches!(event, Event::Step { .. } | Event::Decoded { .. }));
        });
        let decibels = psnr(&found.unwrap()[0], &expected[0]);
        println!("{target:?}: {decibels:.1} dB");
        assert!(decibels >= 40.0, "{target:?}: {decibels} dB");
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn an_image_of_a_batch_has_the_bytes_it_has_alone() {
    let model = Model::demo().unwrap();
    let mut request = request(&model, 2);
    (request.width, request.height) = (32, 32);
    let mut first = vec![];
    for target in [Target::a100(Precision::F16), consumer(Sums::of_geforce(89))] {
        let pipeline = Pipeline::new(emulator_of(target, false), model.clone());
        let mut sample = |seed, batch| {
            (request.seed, request.batch) = (seed, batch);
            pipeline.sample(&request, &mut |_| ()).unwrap()
        };
        let batch = sample(7, 2);
        assert_ne!(batch[0], batch[1]);
        for (image, seed) in batch.iter().zip([7, 8]) {
            assert_eq!(sample(seed, 1)[0], *image, "{target:?}, seed {seed}");
        }
        first.extend(batch.into_iter().next());
    }
    assert_ne!(first[0], first[1], "sums in halves are other bits");
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_part_of_an_image_is_drawn_as_on_the_cpu_and_the_rest_is_kept() {
    let model = Model::demo().unwrap();
    let mut request = request(&model, 2);
    (request.width, request.height, request.batch) = (32, 32, 2);
    let image = Tensor::from_fn([1, 32, 32, 3], |i| (i % 13) as f32 / 6.0 - 1.0);
    let mask = Tensor::from_fn([1, 32, 32, 1], |i| f32::from(u8::from(i % 32 < 16)));
    request.init = Some(InitImage {
        image: image.clone(),
        mask: Some(Mask {
            drawn: mask.clone(),
            pasted: mask,
        }),
    });
    let expected = Pipeline::new(cpu(), model.clone()).sample(&request, &mut |_| ());
    let emulated = Pipeline::new(emulator(Precision::F16, true), model);
    let found = emulated.sample(&request, &mut |_| ()).unwrap();
    for (found, expected) in found.iter().zip(expected.unwrap()) {
        let decibels = psnr(found, &expected);
        assert!(decibels >= 40.0, "{decibels} dB");
        let kept = |i: &usize| i / 3 % 32 >= 16;
        let kept = (0..image.data().len()).filter(kept);
        assert!(kept.into_iter().all(|i| found.data()[i] == image.data()[i]));
    }
    (request.seed, request.batch) = (8, 1);
    let alone = emulated.sample(&request, &mut |_| ()).unwrap();
    assert_eq!(alone[0], found[1]);
}

/// The demo model with the convolution `name` scaled by `factor`. What follows the decoder's first is normalised, so the picture is as finite as
/// before.
fn loud(folder: &Path, name: &str, factor: f32) -> Model {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    for name in ["config.yaml", "vocab.json", "merges.txt"] {
        std::fs::copy(assets.join(name), folder.join(name)).unwrap();
    }
    let mut bytes = std::fs::read(assets.join("model.safetensors")).unwrap();
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    for part in ["weight", "bias"] {
        let info = metadata.info(&format!("{name}.{part}")).unwrap();
        assert_eq!(info.dtype, safetensors::Dtype::F16);
        let (begin, end) = info.data_offsets;
        // The length field and the header come first.
        for value in bytes[8 + header + begin..8 + header + end].chunks_mut(2) {
            let scaled = half::f16::from_le_bytes([value[0], value[1]]).to_f32() * factor;
            value.copy_from_slice(&half::f16::from_f32(scaled).to_le_bytes());
        }
    }
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    Model::open(folder, &OpenOptions::default()).unwrap()
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn what_overflows_halves_is_decoded_again_in_floats_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = loud(folder.path(), "first_stage_model.decoder.conv_in", 50_000.0);
    let noise = Noise::cpu(1).normal(8 * 8 * 4);
    let latent = Tensor::new([1, 8, 8, 4], noise).unwrap();
    let mut reports = vec![];
    let halves = Pipeline::new(emulator(Precision::F16, true), model.clone());
    let image = halves.decode(&latent, &mut |event| reports.push(event));
    let [Event::Warning(sentence)] = reports.as_slice() else {
        panic!("{reports:?}")
    };
    assert!(
        sentence.contains("decoder.conv_in") && sentence.contains("f32"),
        "{sentence}"
    );
    let floats = Pipeline::new(emulator(Precision::F32, false), model.clone());
    let same = floats.decode(&latent, &mut |event| panic!("{event:?}"));
    let image = image.unwrap();
    assert_eq!(image, same.unwrap());
    let expected = Pipeline::new(cpu(), model).decode(&latent, &mut |_| ());
    let error = image.relative_error(&expected.unwrap());
    assert!(error < 1e-5, "{error}");
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn what_overflows_a_step_is_named_with_the_ways_out() {
    let folder = tempfile::tempdir().unwrap();
    let conv = "input_blocks.1.0.in_layers.2";
    let name = format!("model.diffusion_model.{conv}");
    let model = loud(folder.path(), &name, 50_000.0);
    let mut request = request(&model, 1);
    (request.width, request.height) = (16, 16);
    for (sums, summed) in [(Sums::F32, false), (Sums::of_geforce(89), true)] {
        let pipeline = Pipeline::new(emulator_of(consumer(sums), false), model.clone());
        let Err(Error::NotFinite { stage, hint, .. }) = pipeline.sample(&request, &mut |_| ())
        else {
            panic!("{sums:?}: infinity went through the UNet")
        };
        assert!(stage.contains("input_blocks.1.0"), "{stage}");
        assert!(hint.contains("--dtype f32"), "{hint}");
        assert_eq!(hint.contains("--accumulate f32"), summed, "{hint}");
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn a_latent_that_is_not_finite_is_refused_in_floats_too() {
    let pipeline = Pipeline::new(emulator(Precision::F16, false), Model::demo().unwrap());
    let mut latent = Tensor::zeros([1, 4, 4, 4]);
    latent.data_mut()[5] = f32::NAN;
    let Err(Error::NotFinite { stage, .. }) = pipeline.decode(&latent, &mut |_| ()) else {
        panic!("NaN went through the decoder")
    };
    assert!(stage.contains("post_quant_conv"), "{stage}");
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn stopping_ends_a_run_within_a_kernel() {
    let stop = Arc::new(AtomicBool::new(false));
    let target = Target::a100(Precision::F16);
    let device = Cuda::emulator(Emulation::plain(2), target, stop.clone()).unwrap();
    let model = Model::demo().unwrap();
    let mut request = request(&model, 20);
    (request.width, request.height) = (16, 16);
    let pipeline = Pipeline::new(Arc::new(device), model);
    let mut steps = 0;
    let result = pipeline.sample(&request, &mut |event| {
        if let Event::Step { done, .. } = event {
            steps = done;
            stop.store(done == 2, Ordering::Relaxed);
        }
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(steps, 2);
}
