//! Weights from files, good ones and bad ones.

use latent_diffusion::weights::{Checkpoint, Dtype, Naming, Weights, save};
use latent_diffusion::{Error, Shape};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A safetensors file with this header and this much data, as a program with no care would write it.
fn file_with(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// A folder that goes away at the end of a test, with one file in it.
fn folder_with(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn refusal(result: Result<impl Sized, Error>) -> String {
    let error = result.err().expect("must be refused");
    assert_eq!(error.exit_code(), 3);
    error.to_string()
}

#[test]
fn one_networks_weights_are_found_under_a_scope_of_anothers() {
    let header =
        |name| format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
    let [outer, inner] = [("a.weight", 1f32), ("b.weight", 2.0)].map(|(name, value)| {
        folder_with(
            "w.safetensors",
            &file_with(&header(name), &value.to_le_bytes()),
        )
    });
    let [own, other] = [&outer.1, &inner.1].map(|path| Weights::open(path).unwrap());
    let both = own.with("part", &other);
    let shape = Shape::new(&[1]);
    let value = |name: &str| both.get(name, &shape).map(|view| view.to_f32()[0]);
    assert_eq!(
        (value("a.weight").unwrap(), value("part.b.weight").unwrap()),
        (1.0, 2.0)
    );
    assert!(both.contains("part.b.weight") && !both.contains("b.weight"));
    assert!(
        both.check([("a.weight", shape), ("part.b.weight", shape)])
            .is_ok()
    );
    let message = refusal(both.check([("a.weight", shape), ("part.c.weight", shape)]));
    assert!(
        message.contains("c.weight") && message.contains("nearest"),
        "{message}"
    );
    // What was made from a tensor can be found again, whoever asks.
    assert!(both.identity("a.weight") == own.identity("a.weight"));
    assert!(both.identity("part.b.weight") == other.identity("b.weight"));
    assert!(both.identity("a.weight") != both.identity("part.b.weight"));
}

#[test]
fn files_that_are_no_model_are_named_for_what_they_are() {
    let one = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let endless_header = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
    let deep = "[".repeat(5000);
    let many: Vec<String> = (0..20_001)
        .map(|i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("is empty", vec![]),
        ("shorter than", vec![1; 7]),
        (
            "is a web page",
            b"<!DOCTYPE html><html>Not found</html>".to_vec(),
        ),
        ("is a web page", b"\n <HTML><head>".to_vec()),
        (
            "is a git-lfs pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".to_vec(),
        ),
        (
            "a zip archive ends with",
            b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl".to_vec(),
        ),
        (
            "in the middle of a pickle",
            b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dict".to_vec(),
        ),
        ("not one that `torch.save` wrote", b"\x80\x02}.".to_vec()),
        ("is a GGUF file", b"GGUF\x03\x00\x00\x00".to_vec()),
        (
            "no JSON header",
            b"plain words, long enough to have a first field".to_vec(),
        ),
        ("header of", endless_header),
        ("is truncated", file_with(one, &[0; 4])[..30].to_vec()),
        ("truncated or damaged", file_with(one, &[0; 3])),
        ("truncated or damaged", file_with(one, &[0; 5])),
        ("holds no tensor", file_with("{}", &[])),
        ("damaged header", file_with("{\"a\":", &[])),
        ("damaged header", file_with(&format!("{{\"a\":{deep}"), &[])),
        (
            "more than 20000 tensors",
            file_with(&format!("{{{}}}", many.join(",")), &[]),
        ),
        (
            "tensor `a` is listed twice",
            file_with(&format!("{},{}", &one[..one.len() - 1], &one[1..]), &[0; 4]),
        ),
        (
            "does not begin where",
            file_with(
                r#"{"a\u0000":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                &[0; 8],
            ),
        ),
        (
            "as many as",
            file_with(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
                &[0; 4],
            ),
        ),
        (
            "sizes are absurd",
            file_with(
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
                &[],
            ),
        ),
        (
            "not a sound safetensors file",
            file_with(
                r#"{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#,
                &[0; 4],
            ),
        ),
    ];
    for (expected, bytes) in cases {
        let (_folder, path) = folder_with("model.safetensors", &bytes);
        let message = refusal(Weights::open(&path));
        assert!(
            message.contains(expected),
            "expected `{expected}`: {message}"
        );
        assert!(message.contains("model.safetensors"), "{message}");
        assert!(!message.contains('\0'), "{message:?}");
    }
}

#[test]
fn paths_that_are_no_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(Weights::open(folder.path())).contains("is a folder"));
    assert!(refusal(Weights::open(folder.path().join("none"))).contains("does not exist"));
    let (folder, path) = folder_with("pytorch_model.bin", b"PK\x03\x04");
    assert!(
        refusal(Checkpoint::open_folder(folder.path(), None))
            .contains("pytorch_model.bin: is truncated")
    );
    assert!(refusal(Weights::open(path)).contains("is truncated"));
}

#[cfg(unix)]
#[test]
fn a_dangling_link_is_an_incomplete_download() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("model.safetensors");
    std::os::unix::fs::symlink("blobs/0", &link).unwrap();
    let message = refusal(Checkpoint::open_folder(folder.path(), None));
    assert!(message.contains("incomplete"), "{message}");
}

/// A file of one 2x3 matrix in f16 whose data begin at an odd address, one id, and one 1x1 convolution.
fn odd_file() -> (TempDir, PathBuf) {
    let header = r#"{"linear.weight":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},
        "position_ids":{"dtype":"I64","shape":[1],"data_offsets":[12,20]},
        "conv.weight":{"dtype":"F32","shape":[2,1,1,1],"data_offsets":[20,28]}}"#;
    let header = if header.len().is_multiple_of(2) {
        format!("{header} ")
    } else {
        header.into()
    };
    let mut data: Vec<u8> = (0..6)
        .flat_map(|i| half::f16::from_f32(i as f32 - 2.5).to_le_bytes())
        .collect();
    data.extend([0; 8]);
    data.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
    folder_with("odd.safetensors", &file_with(&header, &data))
}

#[test]
fn tensors_are_read_at_any_address_and_ones_may_trail() {
    let (_folder, path) = odd_file();
    let weights = Weights::open(&path).unwrap();
    let linear = weights.get("linear.weight", &[2, 3].into()).unwrap();
    assert_eq!(linear.dtype(), Dtype::F16);
    assert_eq!(linear.to_f32(), [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]);
    let conv = weights.get("conv.weight", &[2, 1].into()).unwrap();
    assert_eq!(conv.to_f32(), [1.5, -2.0]);
    assert!(weights.get("linear.weight", &[2, 3, 1, 1].into()).is_ok());
}

#[test]
fn tensors_that_do_not_fit_are_refused_with_all_there_is_to_know() {
    let (_folder, path) = odd_file();
    let weights = Weights::open(&path).unwrap();
    let message = refusal(weights.get("linear.weight", &[3, 2].into()));
    assert!(
        message.contains("odd.safetensors: tensor `linear.weight`"),
        "{message}"
    );
    assert!(
        message.contains("[2, 3]") && message.contains("[3, 2]"),
        "{message}"
    );
    let message = refusal(weights.get("position_ids", &[1].into()));
    assert!(message.contains("I64"), "{message}");
    let message = refusal(weights.get("linaer.weight", &[2, 3].into()));
    assert!(
        message.contains("missing") && message.contains("`linear.weight`"),
        "{message}"
    );
}

#[test]
fn a_check_reports_everything_at_once() {
    let (_folder, path) = odd_file();
    let weights = Weights::open(&path).unwrap();
    let matrix = Shape::new(&[2, 3]);
    assert!(weights.check([("linear.weight", matrix)]).is_ok());
    let names: Vec<String> = (0..12).map(|i| format!("down.{i}.weight")).collect();
    let mut wanted: Vec<(&str, Shape)> = names.iter().map(|name| (name.as_str(), matrix)).collect();
    wanted.push(("conv.weight", matrix));
    let message = refusal(weights.check(wanted));
    for part in [
        "13 tensors",
        "12 missing",
        "down.9.weight",
        "2 more",
        "1 unfit",
        "conv.weight",
    ] {
        assert!(message.contains(part), "expected `{part}`: {message}");
    }
    assert!(!message.contains("down.10.weight"), "{message}");
}

#[test]
fn names_that_nobody_asked_for_are_reported() {
    let (_folder, path) = odd_file();
    let weights = Weights::open(&path).unwrap();
    assert_eq!(weights.unused(), ["conv.weight", "linear.weight"]);
    weights.get("conv.weight", &[2, 1].into()).unwrap();
    let sentence = weights.unused_sentence().unwrap();
    assert!(
        sentence.contains("unused tensors (1)") && sentence.contains("linear.weight"),
        "{sentence}"
    );
    weights.get("linear.weight", &[2, 3].into()).unwrap();
    assert_eq!(weights.unused_sentence(), None);
}

#[test]
fn what_is_no_number_is_found_in_its_network_alone() {
    let header = r#"{"unet.a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]},
        "unet.b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},
        "other":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;
    let halves = [1.0, f32::NAN, f32::INFINITY, 0.0].map(half::f16::from_f32);
    let mut data: Vec<u8> = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
    data.extend([2.0f32, f32::NAN].iter().flat_map(|x| x.to_le_bytes()));
    let (_folder, path) = folder_with("nan.safetensors", &file_with(header, &data));
    let weights = Arc::new(Checkpoint::open(&path).unwrap()).weights(Naming::Original {
        prefix: "unet.".into(),
    });
    assert_eq!(weights.not_finite(), [("unet.a".to_owned(), 2)]);
    assert_eq!(Weights::synthetic(0).not_finite(), []);
}

#[test]
fn shards_and_variants_are_found_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let seed = Weights::synthetic(1);
    let (a, b, shape) = ("a.weight", "b.weight", Shape::new(&[4, 4]));
    let write = |file: &str, name: &str| {
        save(
            &folder.path().join(file),
            [(name.to_owned(), &seed, name, shape)],
        )
        .unwrap();
    };
    write("model.fp16.safetensors", a);
    let opened = |variant| Checkpoint::open_folder(folder.path(), variant);
    assert!(opened(None).unwrap().contains(a));
    assert!(refusal(opened(Some("bf16"))).contains("no `bf16` variant"));

    write("model-00001-of-00002.safetensors", a);
    write("model-00002-of-00002.safetensors", b);
    let index = folder.path().join("model.safetensors.index.json");
    let listing = |second: &str| {
        format!(r#"{{"weight_map":{{"{a}":"model-00001-of-00002.safetensors","{b}":"{second}"}}}}"#)
    };
    std::fs::write(&index, listing("model-00002-of-00002.safetensors")).unwrap();
    let weights = Arc::new(opened(None).unwrap()).weights(Naming::bare());
    for name in [a, b] {
        let stored = weights.get(name, &shape).unwrap();
        assert_eq!(stored.to_f32(), seed.get(name, &shape).unwrap().to_f32());
    }
    assert!(!opened(Some("fp16")).unwrap().contains(b));

    for bad in ["../model.safetensors", "/etc/passwd", "..", "a/b"] {
        std::fs::write(&index, listing(bad)).unwrap();
        assert!(
            refusal(opened(None)).contains("not a file beside it"),
            "{bad}"
        );
    }
    std::fs::write(&index, listing("model-00003-of-00002.safetensors")).unwrap();
    assert!(refusal(opened(None)).contains("does not exist"));
    std::fs::write(&index, listing("model-00001-of-00002.safetensors")).unwrap();
    assert!(opened(None).is_ok_and(|all| !all.contains(b)));
    std::fs::write(&index, "{}").unwrap();
    assert!(refusal(opened(None)).contains("weight_map"));
}

#[test]
fn open_clip_projections_are_thirds_of_one_matrix() {
    let (width, seed) = (8, Weights::synthetic(3));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let file_name = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight";
    let stacked = Shape::new(&[3 * width, width]);
    save(&path, [(file_name.to_owned(), &seed, "w", stacked)]).unwrap();
    let weights = Arc::new(Checkpoint::open(&path).unwrap()).weights(Naming::OpenClip {
        prefix: "cond_stage_model.model.".into(),
    });
    let all = seed.get("w", &stacked).unwrap().to_f32();
    for (third, projection) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
        let name = format!("text_model.encoder.layers.0.self_attn.{projection}.weight");
        let part = weights.get(&name, &[width, width].into()).unwrap().to_f32();
        assert_eq!(
            part,
            all[third * width * width..(third + 1) * width * width]
        );
    }
    let name = "text_model.encoder.layers.0.self_attn.q_proj.weight";
    let message = refusal(weights.get(name, &[9, 8].into()));
    assert!(
        message.contains("[24, 8]") && message.contains("[27, 8]"),
        "{message}"
    );
}

#[test]
fn saving_to_an_impossible_place_is_an_output_error() {
    let seed = Weights::synthetic(0);
    let tensors = [("a".to_owned(), &seed, "a", Shape::new(&[1]))];
    let error = save(Path::new("/nonexistent/folder/model.safetensors"), tensors).unwrap_err();
    assert_eq!(error.exit_code(), 6);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to a few bytes of a file, it is read or refused, and so is each of its tensors.
    #[test]
    fn no_damage_makes_the_reader_panic(
        damage in prop::collection::vec((0usize..260, any::<u8>()), 1..4),
        end in 0usize..600,
    ) {
        let (folder, path) = odd_file();
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, byte) in damage {
            bytes[place] = byte;
        }
        bytes.truncate(end.max(260));
        let path = folder.path().join("damaged.safetensors");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(weights) = Weights::open(&path) {
            for name in ["linear.weight", "position_ids", "conv.weight"] {
                if let Ok(view) = weights.get(name, &[2, 3].into()) {
                    prop_assert_eq!(view.to_f32().len(), 6);
                }
            }
        }
    }
}
