//! What CompVis's checkpoints hold beside weights, and what they are without a configuration.

use super::*;
use latent_diffusion::models::{Average, Part, System, networks};
use latent_diffusion::pipeline::Model;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A safetensors file of these tensors in f32, with these values at the beginning of some, and zeros else: holes in the file.
fn write_file(path: &Path, tensors: &[(String, Vec<usize>)], values: &[(&str, &[f32])]) {
    let (mut header, mut places, mut end) = (Map::new(), BTreeMap::new(), 0);
    for (name, dims) in tensors {
        let start = end;
        end += 4 * dims.iter().product::<usize>();
        places.insert(name.as_str(), start);
        header.insert(
            name.clone(),
            json!({"dtype": "F32", "shape": dims, "data_offsets": [start, end]}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let size = (header.len() as u64).to_le_bytes();
    let data = 8 + header.len();
    let file = File::create(path).unwrap();
    file.write_all_at(&[&size[..], &header].concat(), 0)
        .unwrap();
    file.set_len((data + end) as u64).unwrap();
    for (name, values) in values {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        file.write_all_at(&bytes, (data + places[name]) as u64)
            .unwrap();
    }
}

/// All weights of a system, as its authors' checkpoint has them.
fn checkpoint_of(system: &System) -> Vec<(String, Vec<usize>)> {
    let config = system.config().unwrap();
    let whole = config.unet.is_some();
    let networks = networks(&config).unwrap();
    let tensors = networks.iter().flat_map(|network| {
        let prefix = if whole { network.prefix } else { "" };
        let params = network.graph.params();
        params.map(move |param| {
            (
                format!("{prefix}{}", param.name),
                param.shape.dims().to_vec(),
            )
        })
    });
    let unique: BTreeSet<_> = tensors.collect();
    unique.into_iter().collect()
}

/// Systems that differ in nothing but what they were trained on, or in sizes of images alone.
const SAME: [&[&str]; 3] = [
    &["celeba256", "ffhq256", "lsun_beds256"],
    &["semantic_synthesis256", "semantic_synthesis512"],
    &["sd-v2", "sd-v2-base"],
];

#[test]
fn a_checkpoint_alone_is_known_by_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.safetensors");
    for system in System::all() {
        write_file(&path, &checkpoint_of(system), &[]);
        let model = open_plain(&path).unwrap_or_else(|error| panic!("{}: {error}", system.name));
        let [note] = &model.notes[..] else {
            panic!("{}: {:?}", system.name, model.notes);
        };
        let same = SAME.into_iter().find(|same| same.contains(&system.name));
        let same = same.unwrap_or(std::slice::from_ref(&system.name));
        for name in same {
            assert!(note.contains(name), "{}: {note}", system.name);
        }
        let assumed = System::named(same[0]).unwrap().config().unwrap();
        assert_eq!(model.config, assumed, "{}", system.name);
        // By its name it is what it is.
        let options = OpenOptions {
            config: Some(system.name.into()),
            ..OpenOptions::default()
        };
        let model = open(&path, &options).unwrap();
        assert_eq!(model.config, system.config().unwrap());
        assert!(model.notes.is_empty());
    }
}

#[test]
fn what_is_of_no_system_needs_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.safetensors");
    let mut tensors = checkpoint_of(System::named("sd-v1").unwrap());
    let first = tensors
        .iter_mut()
        .find(|(name, _)| name.ends_with("input_blocks.0.0.weight"));
    first.unwrap().1[1] = 5;
    write_file(&path, &tensors, &[]);
    let message = refusal(open_plain(&path));
    assert!(
        message.contains("no published system") && message.contains("--config"),
        "{message}"
    );
    let options = OpenOptions {
        config: Some("sd-v3".into()),
        ..OpenOptions::default()
    };
    let error = open(&path, &options).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(
        error.to_string().contains("`sd-v2`") || error.to_string().contains("`sd-v1`"),
        "{error}"
    );
}

pub const RAW: &str = "model.diffusion_model.time_embed.0.weight";
pub const AVERAGED: &str = "model_ema.diffusion_modeltime_embed0weight";

/// A UNet's checkpoint: its weights as training left them, all 1 where they are looked at, and their moving average, all 2, where
/// they are wanted; and buffers. Its configuration has a line of its own.
pub fn trained(own: &str, [raw, averaged]: [bool; 2], buffers: &[(&str, &[f32])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let yaml = CONFIG.replace(
        "  params:\n    linear",
        &format!("  params:\n    {own}\n    linear"),
    );
    put(folder.path().join("config.yaml"), &yaml);
    let mut tensors = vec![];
    for (name, _, shape) in names(UNET_NAMES) {
        if raw {
            tensors.push((
                format!("model.diffusion_model.{name}"),
                shape.dims().to_vec(),
            ));
        }
        if averaged {
            let name = name.replace('.', "");
            tensors.push((
                format!("model_ema.diffusion_model{name}"),
                shape.dims().to_vec(),
            ));
        }
    }
    tensors.extend(
        buffers
            .iter()
            .map(|(name, values)| (name.to_string(), vec![values.len()])),
    );
    let mut values = buffers.to_vec();
    values.extend(raw.then_some((RAW, [1.0].as_slice())));
    values.extend(averaged.then_some((AVERAGED, [2.0].as_slice())));
    write_file(&folder.path().join("model.safetensors"), &tensors, &values);
    folder
}

#[test]
fn averages_are_taken_where_the_system_uses_them() {
    // What the configuration says, what is asked for, what there is; what is taken, and from where.
    for (own, asked, there, average, value) in [
        ("", None, [true, true], Average::Used, 2.0),
        ("", Some(false), [true, true], Average::Unused, 1.0),
        ("use_ema: false", None, [true, true], Average::Unused, 1.0),
        (
            "use_ema: false",
            Some(true),
            [true, true],
            Average::Used,
            2.0,
        ),
        ("", None, [true, false], Average::Absent, 1.0),
        ("use_ema: false", None, [false, true], Average::Used, 2.0),
    ] {
        let folder = trained(own, there, &[("model_ema.decay", &[0.9999])]);
        let options = OpenOptions {
            average: asked,
            ..OpenOptions::default()
        };
        let model = open(folder.path(), &options).unwrap();
        assert_eq!(model.average, average, "{own} {asked:?} {there:?}");
        let weights = model.weights(Part::UNet).unwrap();
        let list = names(UNET_NAMES);
        weights
            .check(list.iter().map(|(name, _, shape)| (*name, *shape)))
            .unwrap();
        let first = list
            .iter()
            .find(|(name, ..)| *name == "time_embed.0.weight")
            .unwrap();
        assert_eq!(weights.get(first.0, &first.2).unwrap().to_f32()[0], value);
        // The other set of weights is nothing to remark on.
        assert_eq!(weights.unused(), Vec::<String>::new());
    }
    let folder = trained("", [true, false], &[]);
    let options = OpenOptions {
        average: Some(true),
        ..OpenOptions::default()
    };
    let message = refusal(open(folder.path(), &options));
    assert!(
        message.contains("no moving average") && message.contains("--ema"),
        "{message}"
    );
}

#[test]
fn buffers_fill_in_the_configuration_or_contradict_it() {
    let betas = |start: f64, end: f64| -> Vec<f32> {
        let root = |i: usize| start.sqrt() + (end.sqrt() - start.sqrt()) * i as f64 / 999.0;
        (0..1000).map(|i| (root(i) * root(i)) as f32).collect()
    };
    let own = betas(0.00085, 0.012);
    let folder = trained(
        "",
        [true, false],
        &[("betas", &own), ("scale_factor", &[0.25])],
    );
    assert_eq!(open_plain(folder.path()).unwrap().config.scale_factor, 0.25);
    let other = betas(0.0015, 0.0195);
    for (buffer, parts) in [
        (&other[..], ["from 0.0015", "from 0.00085 to 0.012"]),
        (&own[..999], ["999 betas", "1000 from"]),
    ] {
        let folder = trained("", [true, false], &[("betas", buffer)]);
        let message = refusal(open_plain(folder.path()));
        for part in parts {
            assert!(message.contains(part), "expected `{part}`: {message}");
        }
    }
}

#[test]
fn classes_are_called_as_a_file_beside_the_weights_says_or_as_imagenet_does() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = include_str!("../../assets/systems/cin256-v2.yaml");
    put(folder.path().join("config.yaml"), yaml);
    let options = OpenOptions {
        synthetic: Some(1),
        ..OpenOptions::default()
    };
    let model = || Model::open(folder.path(), &options);
    let imagenet = model().unwrap();
    assert_eq!(imagenet.class_number("golden retriever").unwrap(), 207);
    assert_eq!(imagenet.class_number("1000").unwrap(), 1000);
    let error = imagenet.class_number("golden retreiver").unwrap_err();
    assert!(error.to_string().contains("(207)"), "{error}");

    put(folder.path().join("classes.txt"), "balloon\nhouse\n");
    assert_eq!(model().unwrap().class_number("House").unwrap(), 1);
    put(folder.path().join("classes.txt"), "balloon\n\nhouse\n");
    let error = model().err().unwrap().to_string();
    assert!(
        error.contains("classes.txt") && error.contains("class 1"),
        "{error}"
    );
}
