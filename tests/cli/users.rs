//! The first line that a user of each other program types, and the spellings that they all expect to work.

use super::support::{Place, model};
use super::writer::{dictionary, file, tensor};
use latent_diffusion::image::{Infotext, read_text_chunks};
use std::fs;

fn text() -> &'static str {
    model().to_str().unwrap()
}

/// The infotext of the only image that a run names.
fn infotext(place: &Place, lines: &[&str]) -> Infotext {
    assert_eq!(lines.len(), 1);
    let chunks = read_text_chunks(&place.path().join(lines[0])).unwrap();
    let chunk = chunks
        .iter()
        .find(|chunk| chunk.keyword == "parameters")
        .unwrap();
    Infotext::parse(&chunk.text).unwrap()
}

#[test]
fn somebody_who_has_just_built_it() {
    let place = Place::new();
    let run = place.ldm(&["--steps", "1"]);
    let read = infotext(&place, &run.lines());
    assert_eq!(
        (read.model.as_deref(), read.width, read.height),
        (Some("demo"), 64, 64)
    );
    assert_eq!(read.prompt, "a red balloon over snowy mountains at sunset");
    assert!(
        run.stderr.contains("built-in demo model") && run.stderr.contains("no prompt given"),
        "{}",
        run.stderr
    );
    // Of random weights in the demo's shapes, prompts are read with its tokenizer.
    place
        .ldm(&["-m", "synthetic:demo", "-p", "x", "--steps", "1", "-q"])
        .lines();
    place
        .ldm(&["-m", "synthetic:sd3", "-p", "x"])
        .refused(3, &["sd3"]);
}

#[test]
fn stable_diffusion_cpp() {
    let place = Place::new();
    let file = model().join("model.safetensors");
    let run = place.ldm(&["-m", file.to_str().unwrap(), "-p", "a lovely cat"]);
    let read = infotext(&place, &run.lines());
    assert_eq!(
        (read.prompt.as_str(), read.steps, read.sampler.as_str()),
        ("a lovely cat", 2, "DDIM")
    );
    assert!(
        run.stderr.contains(&format!("seed {}", read.seed)),
        "{}",
        run.stderr
    );
}

#[test]
fn compvis() {
    let place = Place::new();
    let line = |checkpoint| {
        place.ldm(&[
            "txt2img",
            "--prompt",
            "a virus monster",
            "--plms",
            "--ckpt",
            checkpoint,
            "--H",
            "16",
            "--W",
            "20",
            "--n_samples",
            "1",
            "--ddim_steps",
            "3",
            "--scale",
            "7.5",
            "--seed",
            "42",
        ])
    };
    let read = infotext(&place, &line(text()).lines());
    assert_eq!(
        (read.sampler.as_str(), read.steps, read.cfg_scale, read.seed),
        ("PLMS", 3, 7.5, 42)
    );
    assert_eq!((read.width, read.height), (20, 16));
    place.file("m.ckpt", b"PK\x03\x04archive/data.pkl");
    line("m.ckpt").refused(3, &["m.ckpt", "is truncated"]);
}

#[test]
fn compvis_with_a_checkpoint_of_pytorch() {
    let place = Place::new();
    for name in ["config.yaml", "vocab.json", "merges.txt"] {
        fs::copy(model().join(name), place.path().join(name)).unwrap();
    }
    let bytes = fs::read(model().join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (mut entries, mut storages) = (vec![], vec![]);
    for (name, view) in tensors.iter() {
        assert_eq!(view.dtype(), safetensors::Dtype::F16);
        let shape: Vec<i32> = view.shape().iter().map(|&size| size as i32).collect();
        let strides: Vec<i32> = (1..=shape.len())
            .map(|i| shape[i..].iter().product())
            .collect();
        let count = shape.iter().product();
        let made = tensor("HalfStorage", name, count, (0, &shape, &strides));
        entries.push((name, made));
        storages.push((name, count as u64, view.data().to_vec()));
    }
    let whole = dictionary([("state_dict", dictionary(entries))]);
    place.file("last.ckpt", file(&whole, &storages));
    let pixels = |model| {
        let run = place.ldm(&["-m", model, "-p", "x", "--seed", "3"]);
        latent_diffusion::image::read_image(&place.path().join(run.lines()[0])).unwrap()
    };
    let expected = pixels(text());
    for model in [".", "last.ckpt"] {
        assert_eq!(pixels(model).data(), expected.data());
        let run = place.ldm(&["inspect", model]);
        assert!(
            run.lines().iter().any(|line| line.contains("F16")),
            "{}",
            run.stdout
        );
    }
}

#[test]
fn diffusers() {
    let place = Place::new();
    let line = |model, dtype| {
        let guidance = [
            "--num-inference-steps",
            "2",
            "--guidance-scale",
            "1",
            "--dtype",
            dtype,
        ];
        let mut command =
            place.command(&[&["sample", "-m", model, "--prompt", "x"], &guidance[..]].concat());
        command.env("HF_HUB_CACHE", place.path().join("hub"));
        super::support::Run::of(command.output().unwrap())
    };
    line("someone/small", "fp16").refused(3, &["someone/small", "hf download"]);
    let cached = place.path().join("hub/models--someone--small");
    fs::create_dir_all(cached.join("refs")).unwrap();
    fs::write(cached.join("refs/main"), "abc123").unwrap();
    fs::create_dir_all(cached.join("snapshots/abc123")).unwrap();
    for name in fs::read_dir(model())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
    {
        fs::copy(
            model().join(&name),
            cached.join("snapshots/abc123").join(&name),
        )
        .unwrap();
    }
    // Neither is what the CPU computes in, and bf16 nothing that a GPU here does: both are told, not refused.
    for dtype in ["fp16", "bf16"] {
        let run = line("someone/small", dtype);
        assert_eq!(infotext(&place, &run.lines()).cfg_scale, 1.0);
        assert!(
            run.stderr.contains("the CPU computes in f32"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn candle() {
    let run = Place::new().ldm(&[
        "--prompt",
        "x",
        "--sd-version",
        "v1-5",
        "--n-steps",
        "30",
        "--cpu",
    ]);
    run.refused(2, &["--model"]);
}

#[test]
fn automatic1111() {
    let place = Place::new();
    let first = place.sample(&[
        "-p",
        "a café",
        "-n",
        "dog",
        "--sampler",
        "Euler a",
        "--steps",
        "3",
        "-s",
        "5",
    ]);
    let first = first.lines()[0].to_owned();
    let again = place.sample(&["--from-image", &first]);
    let pixels =
        |path: &str| latent_diffusion::image::read_image(&place.path().join(path)).unwrap();
    assert_eq!(pixels(&first), pixels(again.lines()[0]));
    assert_eq!(again.lines(), ["outputs/00001-5.png"]);

    let said = place.ldm(&["png-info", &first]);
    for part in [
        "a café",
        "Negative prompt: dog",
        "Sampler: Euler a",
        "Seed: 5",
        "RNG: CPU",
    ] {
        assert!(said.stdout.contains(part), "{}", said.stdout);
    }
    place
        .ldm(&["serve"])
        .refused(2, &["not part of this version"]);
}

#[test]
fn a_size_that_is_asked_for_is_not_that_of_an_image_or_of_the_command_line() {
    let place = Place::new();
    place.sample(&["-p", "x", "-o", "a.png"]).lines();
    let size = |run: super::support::Run| {
        let line: serde_json::Value = serde_json::from_str(run.lines()[0]).unwrap();
        [&line["width"], &line["height"]].map(|side| side.as_u64().unwrap())
    };
    let line = ["--from-image", "a.png", "--size", "32x8", "--json"];
    assert_eq!(size(place.sample(&line)), [32, 8]);
    place.file("p.jsonl", r#"{"prompt": "x", "size": "32x8"}"#);
    let line = ["--from-file", "p.jsonl", "-W", "24", "--json"];
    assert_eq!(size(place.sample(&line)), [32, 8]);
}

#[test]
fn comfy_ui() {
    let place = Place::new();
    let run = place.sample(&[
        "-p",
        "x",
        "--sampler",
        "dpmpp_2m",
        "--scheduler",
        "karras",
        "--cfg",
        "7",
        "--steps",
        "4",
    ]);
    let read = infotext(&place, &run.lines());
    assert_eq!(
        (read.sampler.as_str(), read.schedule_type.as_deref()),
        ("DPM++ 2M", Some("Karras"))
    );
}

#[test]
fn latent_diffusion_researcher() {
    let place = Place::new();
    let run = place.ldm(&[
        "sample",
        "--model",
        "models/ldm/ffhq256",
        "-n",
        "50000",
        "--batch_size",
        "64",
        "--outdir",
        "s",
    ]);
    run.refused(3, &["models/ldm/ffhq256"]);
    assert_eq!(place.names("."), [""; 0]);
}

#[test]
fn cluster_user() {
    let place = Place::new();
    place.file(
        "prompts.jsonl",
        "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"c\"}\n",
    );
    let line = [
        "sample",
        "-m",
        text(),
        "-s",
        "1",
        "--from-file",
        "prompts.jsonl",
        "--shard",
        "auto",
        "--outdir",
        "out",
    ];
    let share = |id: &str| {
        let mut command = place.command(&[&line[..], &["--skip-existing"]].concat());
        for (name, value) in [("ID", id), ("COUNT", "2"), ("MIN", "1"), ("MAX", "2")] {
            command.env(format!("SLURM_ARRAY_TASK_{name}"), value);
        }
        super::support::Run::of(command.output().unwrap())
    };
    assert_eq!(share("1").lines(), ["out/00000-1.png", "out/00002-1.png"]);
    assert_eq!(share("2").lines(), ["out/00001-1.png"]);
    assert_eq!(share("2").lines(), [""; 0]);
    assert_eq!(place.names("out").len(), 3);
    place.ldm(&line).refused(2, &["I/N"]);
}

#[test]
fn negative_numbers_and_empty_values_are_values() {
    let place = Place::new();
    for empty in [&["-n", ""][..], &["-n="], &["--negative_prompt="]] {
        let run = place.sample(&[&["-p", "", "--seed", "-1"], empty].concat());
        assert_eq!(infotext(&place, &run.lines()).negative_prompt, "");
    }
    let swallowed = place.sample(&["-p", "x", "-n", "--steps", "2"]);
    swallowed.refused(2, &["--negative-prompt", "value is required"]);
}

#[test]
fn every_alias_of_an_option_is_accepted() {
    let place = Place::new();
    let image = place.sample(&["x"]).lines()[0].to_owned();
    let spellings = [
        [
            "--ddim-steps",
            "--n-steps",
            "--num_inference_steps",
            "--sample-steps",
            "--custom_steps",
        ]
        .map(|o| (o, "2"))
        .to_vec(),
        ["--cfg", "--scale", "--guidance-scale", "--cfg-scale"]
            .map(|o| (o, "1"))
            .to_vec(),
        ["--negative", "--neg", "--uncond-prompt"]
            .map(|o| (o, "y"))
            .to_vec(),
        ["--sampling-method", "--sample-method", "--sampler-name"]
            .map(|o| (o, "uni_pc"))
            .to_vec(),
        ["--schedule", "--sigma-schedule"]
            .map(|o| (o, "discrete"))
            .to_vec(),
        ["-b", "--n-iter", "--num-samples", "--num-images", "--n"]
            .map(|o| (o, "1"))
            .to_vec(),
        ["--batch-size", "--n-samples", "--bsize", "--batch"]
            .map(|o| (o, "1"))
            .to_vec(),
        [
            "--outdir",
            "--out-dir",
            "--output-dir",
            "--output-directory",
            "--logdir",
        ]
        .map(|o| (o, "o"))
        .to_vec(),
        ["--backend", "--device"].map(|o| (o, "cpu")).to_vec(),
        ["--type", "--precision"].map(|o| (o, "full")).to_vec(),
        ["-i", "--init-img", "--image", "--img2img", "--input"]
            .map(|o| (o, image.as_str()))
            .to_vec(),
        vec![
            ("--final-image", "x.png"),
            ("--ddim-eta", "0.5"),
            ("--size", "16x16"),
            ("--rng", "a1111"),
        ],
    ];
    for (option, value) in spellings.concat() {
        // Refused only after all of the line was understood, so that nothing is drawn for each of them.
        let run = place.sample(&["-p", "x", "--guidance-rescale", "2", option, value]);
        run.refused(2, &["guidance rescale 2"]);
    }
}
