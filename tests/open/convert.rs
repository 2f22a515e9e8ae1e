//! Conversions: what comes out opens as what went in, and what cannot be converted leaves nothing behind.

use super::original::{AVERAGED, RAW, trained};
use super::*;
use latent_diffusion::models::config::{ModelConfig, to_yaml};
use latent_diffusion::models::{Average, Part, System, networks};
use latent_diffusion::pipeline::Model;
use latent_diffusion::weights::{Checkpoint, Dtype};

/// A model without a tokenizer, which these do not have.
fn model(path: &Path) -> Model {
    Model::new(open_plain(path).unwrap(), None).unwrap()
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_published_description_can_be_written_and_read_again() {
    for system in System::all() {
        to_yaml(system.name, &system.config().unwrap()).unwrap();
    }
    for config in [
        ModelConfig::stable_diffusion_1(),
        ModelConfig::stable_diffusion_2(),
    ] {
        to_yaml("a preset", &config).unwrap();
    }
    let mut odd = ModelConfig::stable_diffusion_1();
    odd.unet.as_mut().unwrap().levels[1].channels += 32;
    assert!(refusal(to_yaml("odd", &odd)).contains("no words"));
}

#[test]
fn a_diffusers_folder_becomes_a_compvis_folder() {
    let (source, place) = (diffusers_folder(), tempfile::tempdir().unwrap());
    let target = place.path().join("converted");
    // The text encoder, with all of its weights.
    let described = open_plain(source.path()).unwrap().config;
    let all = networks(&described).unwrap();
    let text = all.iter().find(|network| network.part == Part::Text);
    let params = text.unwrap().graph.params();
    let text: Vec<_> = params
        .map(|param| (param.name.as_str(), param.name.as_str(), param.shape))
        .collect();
    let file = source.path().join("text_encoder/model.safetensors");
    write(&file, &text, |_, theirs| theirs.to_owned());
    let mut last = (0, 0);
    model(source.path())
        .convert(&target, Dtype::F16, &mut |done, total| {
            assert!(last.0 <= done && done <= total);
            last = (done, total);
            Ok(())
        })
        .unwrap();
    assert!(last.0 == last.1 && last.0 > 0, "{last:?}");
    assert_eq!(names_in(place.path()), ["converted"]);
    let files = ["config.yaml", "model.safetensors", "vocab.json"];
    assert_eq!(names_in(&target), files);
    let (before, after) = (open_plain(source.path()), open_plain(&target));
    let (before, after) = (before.unwrap(), after.unwrap());
    assert_eq!(after.config, before.config);
    agrees(&after.unet.unwrap(), &names(UNET_NAMES));
    agrees(&after.autoencoder.unwrap(), &names(VAE_NAMES));
    agrees(&after.text.unwrap(), &text);
}

#[test]
fn only_what_sampling_needs_is_kept() {
    let buffers: [(&str, &[f32]); 3] = [
        ("scale_factor", &[0.25]),
        ("model_ema.decay", &[0.9999]),
        ("model_ema.num_updates", &[7.0]),
    ];
    let source = trained("", [true, true], &buffers);
    let target = source.path().join("converted");
    let converted = |dtype, target: &Path| {
        let model = model(source.path());
        model.convert(target, dtype, &mut |_, _| Ok(()))
    };
    converted(Dtype::F16, &target).unwrap();
    let file = target.join("model.safetensors");
    let checkpoint = Checkpoint::open(&file).unwrap();
    assert_eq!(checkpoint.names().count(), names(UNET_NAMES).len());
    assert!(checkpoint.contains(RAW) && !checkpoint.contains(AVERAGED));
    let after = open_plain(&target).unwrap();
    assert_eq!(
        (after.config.scale_factor, after.average),
        (0.25, Average::Absent)
    );
    let first = after.weights(Part::UNet).unwrap();
    let first = first.get("time_embed.0.weight", &[32, 8].into()).unwrap();
    assert_eq!((first.dtype(), first.to_f32()[0]), (Dtype::F16, 2.0));
    // The header says what it was made of.
    let bytes = fs::read(&file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let about = header.metadata().as_ref().unwrap();
    assert!(about["engine"].starts_with("ldm "));
    let digits = about["source_sha256"].split('"').nth(3).unwrap();
    assert!(about["source_sha256"].contains("model.safetensors") && digits.len() == 64);

    let error = converted(Dtype::F16, &target).unwrap_err();
    assert!(error.exit_code() == 6 && error.to_string().contains("kept"));
    let wide = source.path().join("wide");
    converted(Dtype::F32, &wide).unwrap();
    let wide = open_plain(&wide).unwrap();
    let first = wide.weights(Part::UNet).unwrap();
    let first = first.get("time_embed.0.weight", &[32, 8].into()).unwrap();
    assert_eq!(first.dtype(), Dtype::F32);
}

#[test]
fn a_conversion_that_fails_leaves_nothing() {
    let source = trained("", [true, false], &[]);
    let file = source.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&70000f32.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("converted");
    let model = model(source.path());
    let message = refusal(model.convert(&target, Dtype::F16, &mut |_, _| Ok(())));
    for part in ["model.diffusion_model.", "70000", "--dtype f32"] {
        assert!(message.contains(part), "expected `{part}`: {message}");
    }
    let stop = |done: usize, total: usize| match done * 2 > total {
        true => Err(Error::Interrupted),
        false => Ok(()),
    };
    let stopped = model.convert(&target, Dtype::F32, &mut { stop });
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert_eq!(names_in(place.path()), Vec::<String>::new());
    let nowhere = place.path().join("none/converted");
    let refused = model.convert(&nowhere, Dtype::F32, &mut |_, _| Ok(()));
    assert_eq!(refused.unwrap_err().exit_code(), 6);
}
