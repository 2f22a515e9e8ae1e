//! Checkpoints that are cut off, damaged or made with ill intent: each is a sentence.

use super::writer::{dictionary, file, tensor};
use super::{LAYOUTS, fixture, open, open_at, refusal};
use latent_diffusion::Shape;
use latent_diffusion::weights::{Checkpoint, Naming};
use std::fs;
use std::sync::Arc;

/// Reads every tensor that may be read.
fn read_all(checkpoint: &Arc<Checkpoint>) {
    let weights = checkpoint.weights(Naming::bare());
    for name in checkpoint.names() {
        let dims = checkpoint.dims(name).unwrap();
        if dims.len() <= 4
            && let Ok(view) = weights.get(name, &Shape::new(dims))
        {
            assert_eq!(view.to_f32().len(), view.shape().len());
        }
    }
    weights.not_finite();
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    for layout in LAYOUTS {
        let whole = fs::read(fixture(layout)).unwrap();
        read_all(&open(&whole).unwrap());
        for end in 0..whole.len() {
            let message = refusal(open_at(&path, &whole[..end]));
            assert!(message.contains("model.ckpt: "), "{message}");
        }
    }
}

#[test]
fn no_damaged_byte_makes_the_reader_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    for layout in LAYOUTS {
        let whole = fs::read(fixture(layout)).unwrap();
        for place in 0..whole.len() {
            // By turns a flip of one bit, of all bits, and what ends or begins much in a pickle.
            let byte = whole[place];
            let others = [byte ^ 1 << (place % 8), !byte, b'.', b'(', 0xff];
            let mut bytes = whole.clone();
            bytes[place] = others[place % others.len()];
            if let Ok(checkpoint) = open_at(&path, &bytes) {
                read_all(&checkpoint);
            }
        }
    }
}

#[test]
fn wrong_tensors_are_named() {
    let one = |tensor: Vec<u8>| dictionary([("a\nb", tensor)]);
    let float = |count, place| one(tensor("FloatStorage", "k", count, place));
    let four = ("k", 4, vec![0; 16]);
    let cases = [
        (
            "`a\\nb` reaches beyond the 4 elements",
            float(4, (0, &[5], &[1])),
        ),
        ("reaches beyond", float(4, (1, &[2, 2], &[2, 1]))),
        ("reaches beyond", float(4, (5, &[0], &[1]))),
        ("fewer than its 5 elements", float(5, (0, &[5], &[1]))),
        ("absurd sizes", float(4, (0, &[i32::MAX; 8], &[1; 8]))),
        ("something else than", float(4, (0, &[-2], &[1]))),
        ("something else than", float(4, (-1, &[2], &[1]))),
        ("less than no element", float(-1, (0, &[2], &[1]))),
        ("2 sizes and 1 strides", float(4, (0, &[2, 2], &[1]))),
        ("at most 8", float(4, (0, &[1; 9], &[1; 9]))),
        (
            "`b` is in storage `x`, which the file does not have",
            dictionary([
                ("a", tensor("FloatStorage", "k", 4, (0, &[4], &[1]))),
                ("b", tensor("FloatStorage", "x", 4, (0, &[4], &[1]))),
            ]),
        ),
        ("is damaged: no tensor is of its storage `k`", b"}".to_vec()),
        (
            "of a type whose size is not known",
            one(tensor("QInt8Storage", "k", 4, (0, &[4], &[1]))),
        ),
        (
            "something else than",
            one(b"ctorch._utils\n_rebuild_tensor_v2\n)R".to_vec()),
        ),
    ];
    for (expected, object) in cases {
        let message = refusal(open(&file(&object, std::slice::from_ref(&four))));
        assert!(
            message.contains(expected),
            "expected `{expected}`: {message}"
        );
    }
    for (expected, object) in [
        ("holds no tensor", b"}".as_slice()),
        ("an object of a program", b"cmy.model\nUNet\n)R"),
        ("no value to work on", b""),
    ] {
        assert!(refusal(open(&file(object, &[]))).contains(expected));
    }
}

#[test]
fn a_pickle_that_asks_for_much_gets_nothing() {
    let endless = [b"\x8d".as_slice(), &[0xff; 8]].concat();
    assert!(refusal(open(&file(&endless, &[]))).contains("is truncated"));
    let long = vec![b'N'; (1 << 21) + 1];
    assert!(refusal(open(&file(&long, &[]))).contains("instructions"));
    let deep = b"(".repeat(1 << 20);
    assert!(refusal(open(&file(&deep, &[]))).contains("no value"));
    // A list within itself, and a storage that claims all memory.
    let itself = b"}X\x01\x00\x00\x00a]q\x01h\x01as";
    assert!(refusal(open(&file(itself, &[]))).contains("holds no tensor"));
    let object = dictionary([("a", tensor("FloatStorage", "k", 1, (0, &[1], &[1])))]);
    let claims = file(&object, &[("k", u64::MAX / 4, vec![0; 4])]);
    assert!(refusal(open(&claims)).contains("ends before its storage `k` does"));
    assert!(refusal(open(&file(b"I01\n", &[]))).contains("the instruction 0x49"));
}

/// Where the directory's entry of a record begins.
fn listed(bytes: &[u8], name: &str) -> usize {
    let mut places = bytes.windows(name.len()).enumerate().rev();
    places
        .find(|(_, found)| *found == name.as_bytes())
        .unwrap()
        .0
        - 46
}

#[test]
fn zip_archives_that_are_no_checkpoint_are_named_for_what_they_are() {
    let whole = fs::read(fixture("zip.ckpt")).unwrap();
    let folder = "zip";
    let patched = |name: &str, patch: &dyn Fn(&mut Vec<u8>, usize)| {
        let mut bytes = whole.clone();
        let entry = listed(&bytes, &format!("{folder}/{name}"));
        patch(&mut bytes, entry);
        refusal(open(&bytes))
    };
    let rename = |to: &'static [u8]| {
        move |bytes: &mut Vec<u8>, entry: usize| {
            let start = entry + 46 + folder.len() + 1;
            bytes[start..start + to.len()].copy_from_slice(to);
        }
    };
    for (expected, message) in [
        (
            "is compressed",
            patched("data/7", &|bytes, entry| bytes[entry + 10] = 8),
        ),
        (
            "is encrypted",
            patched("data/7", &|bytes, entry| bytes[entry + 8] |= 1),
        ),
        (
            "two sizes differ",
            patched("data/7", &|bytes, entry| bytes[entry + 20] += 1),
        ),
        (
            "`zip/data/7`: it is not where",
            patched("data/7", &|bytes, entry| bytes[entry + 42] += 1),
        ),
        (
            "beyond the end",
            patched("data/7", &|bytes, entry| {
                bytes[entry + 22] = 9;
                bytes[entry + 26] = 9;
            }),
        ),
        (
            "storage `7`, which the file does not have",
            patched("data/7", &rename(b"data/x")),
        ),
        ("is listed twice", patched("data/7", &rename(b"data/8"))),
        (
            "has no `data.pkl`",
            patched("data.pkl", &rename(b"data.txt")),
        ),
        (
            "big-endian",
            patched("byteorder", &|bytes, entry| {
                bytes[entry + 20] = 3;
                bytes[entry + 24] = 3;
                let little = bytes
                    .windows(6)
                    .position(|found| found == b"little")
                    .unwrap();
                bytes[little..little + 3].copy_from_slice(b"big");
            }),
        ),
    ] {
        assert!(
            message.contains(expected),
            "expected `{expected}`: {message}"
        );
    }
}

/// A zip archive of files, each with its name, its bytes as they are, and the number of the method that is claimed for them.
fn archive(files: &[(&str, &[u8], u16)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (vec![], vec![]);
    for (name, content, method) in files {
        let start = bytes.len() as u32;
        let size = (content.len() as u32).to_le_bytes();
        // Version and flags, the method, the time and a checksum that nobody compares, both sizes, the name's length.
        let about = [
            &[10, 0, 0, 0][..],
            &method.to_le_bytes(),
            &[0; 8],
            &size,
            &size,
            &(name.len() as u16).to_le_bytes(),
            &[0; 2],
        ]
        .concat();
        bytes.extend([b"PK\x03\x04", &about[..], name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\x0a\0", &about[..], &[0; 10]].concat());
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let place = bytes.len() as u32;
    bytes.extend(&directory);
    let count = (files.len() as u16).to_le_bytes();
    bytes.extend([b"PK\x05\x06", &[0; 4][..], &count, &count].concat());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(place.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

#[test]
fn archives_around_a_checkpoint_are_opened_where_they_store_it() {
    let whole = fs::read(fixture("zip.ckpt")).unwrap();
    let yaml = b"model: {}\n".as_slice();
    let kept = [
        ("kl-f8/model.ckpt", &whole[..], 0),
        ("kl-f8/config.yaml", yaml, 0),
    ];
    let found = open(&archive(&kept)).unwrap();
    assert_eq!(found.configuration(), Some("model: {}\n"));
    let plain = open(&whole).unwrap();
    assert_eq!(found.names().count(), plain.names().count());
    let [found, plain] = [found, plain].map(|opened| {
        let half = opened.weights(Naming::bare()).get("half", &[3, 5].into());
        half.unwrap().bytes().to_vec()
    });
    assert_eq!(found, plain);
    // A configuration that cannot be read in place is as good as none.
    let packed = [kept[0], ("kl-f8/config.yaml", yaml, 8)];
    assert_eq!(open(&archive(&packed)).unwrap().configuration(), None);
    for (expected, files) in [
        (
            "`model.ckpt`: it is compressed",
            &[("model.ckpt", &whole[..], 8)][..],
        ),
        (
            "2 checkpoints, `a.ckpt`",
            &[("b.safetensors", yaml, 0), ("a.ckpt", yaml, 0)],
        ),
        ("has no `data.pkl`", &[("readme.txt", yaml, 0)]),
        (
            "is truncated",
            &[("model.ckpt", &whole[..whole.len() / 2], 0)],
        ),
    ] {
        let message = refusal(open(&archive(files)));
        assert!(
            message.contains(expected),
            "expected `{expected}`: {message}"
        );
    }
}
