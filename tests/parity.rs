//! The committed dumps of `tests/data/parity`: PyTorch's answers, and how far ours may be from them.

use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Precision, Sums, Target};
use latent_diffusion::models::OpenOptions;
use latent_diffusion::parity::{Component, Dump, Report, check};
use latent_diffusion::pipeline::Model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Every model with its dumps, in a fixed order.
fn cases() -> Vec<(PathBuf, Vec<PathBuf>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    let mut cases: Vec<_> = entries(&root)
        .into_iter()
        .filter(|path| path.is_dir())
        .map(|case| {
            let dumps = entries(&case)
                .into_iter()
                .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
                .collect();
            (model_of(&case), dumps)
        })
        .collect();
    cases.sort();
    cases
}

/// The model beside a case's dumps; the demos' are in the program's assets.
fn model_of(case: &Path) -> PathBuf {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    match case.file_name() {
        Some(name) if name == "demo" || name == "inpaint" => assets.join(name),
        _ => case.join("model"),
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn model(path: &Path) -> Model {
    Model::open(path, &OpenOptions::default()).unwrap()
}

fn cpu() -> Arc<Cpu> {
    Arc::new(Cpu::new(2, Arc::default()).unwrap())
}

/// Relative L2 in f32 on the CPU that the project holds itself to: well below the command's defaults.
fn figure(component: Component) -> f64 {
    match component {
        Component::Sampler => 1e-4,
        _ => 1e-5,
    }
}

fn check_all(wanted: impl Fn(Component) -> bool) -> Vec<(PathBuf, Report)> {
    check_on(&cpu(), wanted, |component| Some(figure(component)))
}

/// Compares the dumps that `wanted` chooses by component, on a device, within `tolerance` or the command's default.
fn check_on<B: Backend>(
    device: &Arc<B>,
    wanted: impl Fn(Component) -> bool,
    tolerance: impl Fn(Component) -> Option<f64>,
) -> Vec<(PathBuf, Report)> {
    let mut reports = vec![];
    for (folder, dumps) in cases() {
        let model = model(&folder);
        for path in dumps {
            let dump = Dump::open(&path).unwrap();
            if wanted(dump.component()) {
                let tolerance = tolerance(dump.component());
                let report = check(device, &model, &dump, tolerance).unwrap();
                for output in &report.outputs {
                    println!(
                        "{} {} {:.1e}",
                        path.display(),
                        output.name,
                        output.relative_error
                    );
                }
                reports.push((path, report));
            }
        }
    }
    reports
}

fn assert_within(reports: &[(PathBuf, Report)]) {
    for (path, report) in reports {
        let path = path.display();
        assert!(report.pass(), "{path}: {report:?}");
        assert!(report.departure.is_none(), "{path}: {report:?}");
        assert!(report.unknown_nodes.is_empty(), "{path}: {report:?}");
    }
}

#[test]
fn networks_answer_as_pytorch_does() {
    let reports = check_all(|component| component != Component::Sampler);
    assert_within(&reports);
    for component in [
        Component::UNet,
        Component::Decoder,
        Component::Encoder,
        Component::TextEncoder,
        Component::Condition,
    ] {
        assert!(reports.iter().any(|(_, r)| r.component == component));
    }
}

/// Every network and trajectory through the CUDA kernels in emulation, watched, within the command's tolerance for halves.
#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn the_emulator_answers_as_pytorch_does() {
    let target = Target::a100(Precision::F16);
    let emulator = Arc::new(Cuda::emulator(Emulation::watched(2), target, Arc::default()).unwrap());
    let reports = check_on(&emulator, |_| true, |_| None);
    for (path, report) in &reports {
        let path = path.display();
        assert!(report.pass(), "{path}: {report:?}");
        let largest = match report.component {
            Component::Sampler => 3e-2,
            _ => 1e-2,
        };
        assert_eq!(report.tolerance, largest, "{path}");
    }
}

/// UNets as an RTX 4090 would compute them, whose products of normalised values are summed in halves, and with all sums in f32: both are within the
/// budget of a hundredth.
#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn unets_answer_as_pytorch_does_with_sums_in_halves() {
    let errors = [Sums::F32, Sums::of_geforce(89)].map(|sums| {
        let target = Target {
            sums,
            // So few that these narrow networks fill them.
            ..Target::rtx_4090(Precision::F16).with_multiprocessors(1)
        };
        let emulator =
            Arc::new(Cuda::emulator(Emulation::plain(2), target, Arc::default()).unwrap());
        println!("{sums:?}");
        let budget = |_| Some(1e-2);
        let reports = check_on(&emulator, |of| of == Component::UNet, budget);
        assert!(reports.iter().all(|(_, report)| report.pass()));
        let outputs = reports.into_iter().flat_map(|(_, report)| report.outputs);
        outputs
            .map(|output| output.relative_error)
            .collect::<Vec<_>>()
    });
    let [floats, halves] = errors;
    let others = floats.iter().zip(&halves).filter(|(a, b)| a != b).count();
    assert!(others * 2 > floats.len(), "{others} of {}", floats.len());
}

/// A copy of a CompVis model folder with the signs of a few values of `tensor` flipped.
fn with_fault(model: &Path, tensor: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(model.join("config.yaml"), copy.path().join("config.yaml")).unwrap();
    let mut bytes = std::fs::read(model.join("model.safetensors")).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let (begin, _) = metadata.info(tensor).unwrap().data_offsets;
    for value in 0..8 {
        // The length field, the header, then f16 values, little-endian.
        bytes[8 + header + begin + 2 * value + 1] ^= 0x80;
    }
    std::fs::write(copy.path().join("model.safetensors"), bytes).unwrap();
    copy
}

#[test]
fn trajectories_of_20_steps_end_where_pytorch_does() {
    let reports = check_all(|component| component == Component::Sampler);
    assert_within(&reports);
    assert!(reports.len() >= 25, "{} trajectories", reports.len());
}

#[test]
fn a_changed_weight_fails_and_the_first_node_to_depart_is_named() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/compvis");
    let attention = "middle_block.1.transformer_blocks.1.attn2";
    for (dump, tensor, node) in [
        (
            "unet",
            format!("model.diffusion_model.{attention}.to_v.weight"),
            attention,
        ),
        (
            "unet",
            "model.diffusion_model.time_embed.2.weight".to_owned(),
            "time_embed",
        ),
        (
            "decode",
            "first_stage_model.decoder.mid.attn_1.norm.weight".to_owned(),
            "decoder.mid.attn_1",
        ),
    ] {
        let faulty = with_fault(&case.join("model"), &tensor);
        let dump = Dump::open(case.join(format!("{dump}.safetensors"))).unwrap();
        let report = check(&cpu(), &model(faulty.path()), &dump, None).unwrap();
        assert!(!report.pass(), "{tensor}: {report:?}");
        let departure = report.departure.unwrap();
        assert_eq!(departure.name, node, "{tensor}");
    }
}

/// A copy of a dump, one value of `tensor` changed.
fn with_value(dump: &Path, tensor: &str, value: f32) -> Dump {
    let mut bytes = std::fs::read(dump).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let begin = 8 + header + metadata.info(tensor).unwrap().data_offsets.0;
    bytes[begin..begin + 4].copy_from_slice(&value.to_le_bytes());
    let copy = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(copy.path(), bytes).unwrap();
    Dump::open(copy.path()).unwrap()
}

/// Wherever a value is none, in what the reference answered, in what a module of it answered, or in what it was given.
#[test]
fn a_value_that_is_none_never_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    let (case, node) = (
        root.join("compvis"),
        "node.middle_block.1.transformer_blocks.0",
    );
    let dump = case.join("unet.safetensors");
    let compared = model(&case.join("model"));
    assert!(
        check(&cpu(), &compared, &Dump::open(&dump).unwrap(), None)
            .unwrap()
            .pass()
    );
    for tensor in ["output.sample", node, "input.sample"] {
        for value in [f32::NAN, f32::INFINITY] {
            let report = check(
                &cpu(),
                &compared,
                &with_value(&dump, tensor, value),
                Some(1e30),
            );
            assert!(!report.unwrap().pass(), "{value} in {tensor}");
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_the_dump_s_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    let dump = root.join("compvis/unet.safetensors");
    let error = check(
        &cpu(),
        &model(&root.join("compvis_v/model")),
        &Dump::open(&dump).unwrap(),
        None,
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("compvis/unet.safetensors") && error.contains("node `sample`"),
        "{error}"
    );
}

/// Runs `ldm parity` on the model of `case` with the dumps of `names`: its exit code, standard output and standard error.
fn ldm(model: &Path, dumps: &[PathBuf], more: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ldm"))
        .args(["parity", "--device", "cpu", "--model"])
        .arg(model)
        .arg("--dump")
        .args(dumps)
        .args(more)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

/// A copy of a dump with further `inputs`, of as many ones as their sizes say but for the last element, and with further metadata.
fn with_more(dump: &Path, inputs: &[(&str, f32)], more: (&str, &str)) -> tempfile::TempDir {
    let bytes = std::fs::read(dump).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    metadata.insert(more.0.to_owned(), more.1.to_owned());
    let inputs = inputs.iter().map(|&(name, last)| {
        let values = [[1f32; 31].as_slice(), &[last]].concat();
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        (format!("input.{name}"), bytes)
    });
    let inputs: Vec<(String, Vec<u8>)> = inputs.collect();
    let added = inputs.iter().map(|(name, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 16], bytes);
        (name.clone(), view.unwrap())
    });
    let tensors = file.tensors().into_iter().chain(added);
    let folder = tempfile::tempdir().unwrap();
    let written = safetensors::serialize(tensors, Some(metadata)).unwrap();
    std::fs::write(folder.path().join("dump.safetensors"), written).unwrap();
    folder
}

#[test]
fn what_is_not_read_is_said_and_what_would_change_the_answer_is_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    let run = |case: &str, dump: &str, inputs: &[(&str, f32)], more: (&str, &str)| {
        let dump = root.join(case).join(format!("{dump}.safetensors"));
        let folder = with_more(&dump, inputs, more);
        let dump = folder.path().join("dump.safetensors");
        ldm(
            &root.join(case).join("model"),
            &[dump],
            &["--vae-tiling", "on"],
        )
    };
    let usual = ("author", "someone");
    let inputs = [("attention_mask", 1.0), ("position_ids", 15.0)];
    let (code, out, err) = run("sd1", "text", &inputs, usual);
    assert_eq!(code, 0, "{out}{err}");
    assert!(
        err.contains("`input.position_ids`") && !err.contains("mask"),
        "{err}"
    );
    assert!(err.contains("--vae-tiling on"), "{err}");
    let (code, _, err) = run("sd1", "text", &[("attention_mask", 0.0)], usual);
    assert!(code == 3 && err.contains("input.attention_mask"), "{err}");
    for (betas, refused) in [("squaredcos_cap_v2", true), ("scaled_linear", false)] {
        let settings = format!(r#"{{"beta_schedule": "{betas}", "lambda_min_clipped": -5.1}}"#);
        let (code, _, err) = run(
            "labelled",
            "sampler_dpmpp_2m_one",
            &[],
            ("scheduler", &settings),
        );
        assert_eq!(code == 3, refused, "{err}");
        assert_eq!(err.contains("lambda_min_clipped"), refused, "{err}");
    }
}

#[test]
fn the_command_prints_a_line_per_output_and_exits_as_documented() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/compvis");
    let model = case.join("model");
    let [encode, text] = ["encode", "text"].map(|name| case.join(format!("{name}.safetensors")));

    let (code, out, err) = ldm(&model, &[encode.clone(), text.clone()], &[]);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines.iter().all(|line| line.ends_with("PASS")), "{out}");
    assert!(lines[0].starts_with("autoencoder.encode") && lines[0].contains("[1, 3, 4, 6]"));

    let (code, out, _) = ldm(
        &model,
        std::slice::from_ref(&encode),
        &["--tolerance", "0", "--json"],
    );
    assert_eq!(code, 1);
    let line: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(line["pass"], false);
    assert_eq!(line["component"], "autoencoder.encode");
    assert_eq!(line["output"], "logvar");
    assert_eq!(line["shape"], serde_json::json!([1, 3, 4, 6]));
    assert_eq!(line["first_departure"]["node"], "encoder.conv_in");

    let missing = case.join("missing.safetensors");
    let (code, out, err) = ldm(&model, &[missing, text], &[]);
    assert_eq!(code, 3, "a dump that cannot be used");
    assert_eq!(out.lines().count(), 1, "the other dump is compared");
    assert!(err.contains("missing.safetensors"), "{err}");

    let other = case.with_file_name("text_alone").join("model");
    let (code, _, err) = ldm(&other, &[encode], &[]);
    assert_eq!(code, 3, "a model without the component");
    assert!(err.contains("no autoencoder"), "{err}");
}
