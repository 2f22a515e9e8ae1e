//! PyTorch's own checkpoints: read to the bit, or refused with a sentence, and never run. `data/ckpt` is written by
//! tools/ckpt.py.

mod damage;
mod writer;

use latent_diffusion::weights::{Checkpoint, Dtype, Naming, Weights};
use latent_diffusion::{Error, Shape};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The fixtures of one dictionary in both layouts.
const LAYOUTS: [&str; 2] = ["zip.ckpt", "legacy.ckpt"];
/// Its tensors of types that no weight has.
const OTHER_TYPES: [(&str, &str); 2] = [("ids", "I64"), ("mask", "BOOL")];
/// Its tensors whose elements do not lie row after row, with their strides.
const STRIDED: [(&str, &str); 3] = [
    ("transposed", "[1, 6]"),
    ("channels_last", "[12, 1, 6, 3]"),
    ("expanded", "[0, 1]"),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/ckpt")
        .join(name)
}

fn refusal(result: Result<impl Sized, Error>) -> String {
    let error = result.err().expect("must be refused");
    assert_eq!(error.exit_code(), 3);
    error.to_string()
}

/// Opens bytes as a file.
fn open(bytes: &[u8]) -> Result<Arc<Checkpoint>, Error> {
    let folder = tempfile::tempdir().unwrap();
    open_at(&folder.path().join("model.ckpt"), bytes)
}

/// The same for a test that opens thousands, one after the other.
fn open_at(path: &Path, bytes: &[u8]) -> Result<Arc<Checkpoint>, Error> {
    fs::write(path, bytes).unwrap();
    Checkpoint::open(path).map(Arc::new)
}

#[test]
fn both_layouts_hold_the_weights_of_their_safetensors_twin() {
    let twin = Arc::new(Checkpoint::open(fixture("twin.safetensors")).unwrap());
    let expected = twin.weights(Naming::bare());
    let mut types = BTreeSet::new();
    for layout in LAYOUTS {
        let found = Arc::new(Checkpoint::open(fixture(layout)).unwrap());
        let names: BTreeSet<&str> = found.names().collect();
        assert_eq!(names, twin.names().collect(), "{layout}");
        let weights = found.weights(Naming::bare());
        let mut read = 0;
        for name in names {
            let dims = found.dims(name).unwrap();
            assert_eq!(Some(dims), twin.dims(name), "{layout}: {name}");
            let is = |(other, _): &(&str, &str)| *other == name;
            if OTHER_TYPES.iter().chain(&STRIDED).any(is) {
                continue;
            }
            let shape = Shape::new(dims);
            let (found, expected) = (
                weights.get(name, &shape).unwrap(),
                expected.get(name, &shape).unwrap(),
            );
            assert_eq!(found.dtype(), expected.dtype(), "{layout}: {name}");
            assert_eq!(found.bytes(), expected.bytes(), "{layout}: {name}");
            types.insert(format!("{:?}", found.dtype()));
            read += 1;
        }
        assert_eq!(read, 12, "{layout}");
        let (doubles, _) = twin.reals("double").unwrap();
        let doubles: Vec<f32> = doubles.iter().map(|&x| x as f32).collect();
        let shape = Shape::new(found.dims("double").unwrap());
        assert_eq!(weights.get("double", &shape).unwrap().to_f32(), doubles);
        let scale = found.scalar("scale_factor").unwrap();
        assert_eq!(scale as f32, 0.227_659_29);
    }
    assert_eq!(types.len(), 3, "{types:?}");
}

#[test]
fn tensors_that_are_no_weights_are_refused_only_when_they_are_asked_for() {
    for layout in LAYOUTS {
        let found = Arc::new(Checkpoint::open(fixture(layout)).unwrap());
        let weights = found.weights(Naming::bare());
        for (name, expected) in OTHER_TYPES.into_iter().chain(STRIDED) {
            let shape = Shape::new(found.dims(name).unwrap());
            let message = refusal(weights.get(name, &shape));
            for part in [layout, name, expected] {
                assert!(message.contains(part), "expected `{part}`: {message}");
            }
        }
        // Those are not looked at, and the rest are numbers.
        assert_eq!(weights.not_finite(), []);
    }
}

#[test]
fn a_dictionary_without_more_is_read_from_files_of_any_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"] {
        fs::copy(fixture("bare.bin"), folder.path().join(name)).unwrap();
        let opened = Checkpoint::open_folder(folder.path(), None).unwrap();
        assert_eq!(opened.names().count(), 2);
        let half = Arc::new(opened).weights(Naming::bare());
        let half = half.get("half", &[3, 5].into()).unwrap();
        assert_eq!(half.dtype(), Dtype::F16);
        let fp16 = Checkpoint::open_folder(folder.path(), Some("fp16"));
        assert_eq!(fp16.is_ok(), name.contains("fp16"));
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    // Where both are there, the safetensors file is taken.
    fs::copy(fixture("bare.bin"), folder.path().join("pytorch_model.bin")).unwrap();
    let safe = folder.path().join("model.fp16.safetensors");
    fs::copy(fixture("twin.safetensors"), &safe).unwrap();
    let opened = Checkpoint::open_folder(folder.path(), None).unwrap();
    assert_eq!(opened.path(), safe);
}

#[test]
fn an_attack_is_refused_by_what_it_names_and_nothing_runs() {
    for name in ["attack.ckpt", "hidden.ckpt"] {
        let message = refusal(Weights::open(fixture(name)));
        assert!(message.contains("names `posix.system`"), "{message}");
    }
    // `touch ran` is what both would do.
    assert!(!Path::new("ran").exists());
    for (module, name) in [
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("os.path", "x"),
        ("subprocess", "Popen"),
    ] {
        let calls = format!("c{module}\n{name}\n(tR").into_bytes();
        let stacked = [writer::text(module), writer::text(name), b"\x93)R".to_vec()].concat();
        let instance = format!("(i{module}\n{name}\n").into_bytes();
        for attack in [calls, stacked, instance] {
            let object = writer::dictionary([("x", attack)]);
            let message = refusal(open(&writer::file(&object, &[])));
            let named = format!("names `{module}.{name}`");
            assert!(message.contains(&named), "{message}");
        }
    }
}

#[test]
fn what_is_not_known_is_stepped_over_and_called_by_nobody() {
    let weight = writer::tensor("FloatStorage", "k", 3, (1, &[2], &[1]));
    let unknown =
        b"cnumpy.core.multiarray\nscalar\n(X\x01\x00\x00\x00aK\x01tR}X\x01\x00\x00\x00bK\x02sb"
            .to_vec();
    let object = writer::dictionary([
        ("unknown", unknown),
        ("new", b"csome.thing\nClass\n)\x81".to_vec()),
        ("set", b"\x8f(K\x01K\x02\x90".to_vec()),
        ("frozen", b"(K\x01\x91".to_vec()),
        ("popped", b"N(K\x011K\x010".to_vec()),
        ("w", weight),
    ]);
    let values = [9.0f32, 1.5, -2.5].iter().flat_map(|x| x.to_le_bytes());
    let file = writer::file(&object, &[("k", 3, values.collect())]);
    let weights = open(&file).unwrap().weights(Naming::bare());
    let weight = weights.get("w", &[2].into()).unwrap();
    assert_eq!(weight.to_f32(), [1.5, -2.5]);
}
