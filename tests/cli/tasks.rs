//! Models that are told something other than a prompt: what they draw, and what they say when they are asked for something else.

use super::support::{CONFIG, Place, Run, model};
use latent_diffusion::Tensor;
use latent_diffusion::image::{
    Existing, Infotext, read_image, read_text_chunks, to_bytes, write_png,
};
use std::fs::File;
use std::io::Read;
use std::process::Stdio;

/// The small model's UNet without transformers, and so without a context.
pub const NO_CONTEXT: (&str, &str) = (
    "use_spatial_transformer: true, transformer_depth: 1, context_dim: 16",
    "use_spatial_transformer: false",
);

/// Writes the small model with another condition into a folder, for random weights.
pub fn told(place: &Place, condition: &str, changes: &[(&str, &str)]) -> String {
    let (networks, rest) = CONFIG.split_once("    cond_stage_config:").unwrap();
    let (text, sampling) = rest.split_once("sampling:").unwrap();
    let condition = match condition {
        "text" => text,
        _ => condition,
    };
    let mut yaml = format!("{networks}    cond_stage_config:{condition}\nsampling:{sampling}");
    for (from, to) in changes {
        assert!(yaml.contains(from), "{from}");
        yaml = yaml.replacen(from, to, 1);
    }
    let folder = place.path().join("model");
    std::fs::create_dir_all(&folder).unwrap();
    place.file("model/config.yaml", yaml);
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(model().join(name), folder.join(name)).unwrap();
    }
    format!("synthetic:{}", folder.display())
}

pub fn classes(place: &Place, count: usize) -> String {
    let condition = format!(
        " {{target: ldm.modules.encoders.modules.ClassEmbedder, params: {{n_classes: {count}, embed_dim: 16}}}}"
    );
    told(place, &condition, &[])
}

pub fn unconditional(place: &Place) -> String {
    let scale = ("cfg_scale: 2.0", "cfg_scale: 1.0");
    told(place, " __is_unconditional__", &[NO_CONTEXT, scale])
}

pub fn sample(place: &Place, model: &str, arguments: &[&str]) -> Run {
    place.ldm(&[&["sample", "-m", model, "-t", "1"], arguments].concat())
}

/// Pixels of the images that a run names.
pub fn pixels(place: &Place, run: &Run) -> Vec<Vec<u8>> {
    let read = |line: &&str| to_bytes(&read_image(&place.path().join(line)).unwrap()).unwrap();
    run.lines().iter().map(read).collect()
}

/// The infotext of the image that a run names first.
pub fn infotext(place: &Place, run: &Run) -> Infotext {
    let chunks = read_text_chunks(&place.path().join(run.lines()[0])).unwrap();
    let found = chunks.iter().find(|chunk| chunk.keyword == "parameters");
    Infotext::parse(&found.unwrap().text).unwrap()
}

#[test]
fn noise_is_drawn_as_the_models_authors_recommend_for_their_sampler() {
    let place = Place::new();
    let model = told(
        &place,
        "text",
        &[("sampler: ddim", "sampler: ddim, eta: 0.5")],
    );
    let eta = |more: &[&str]| {
        let run = sample(&place, &model, &[&["-p", "x", "--json"], more].concat());
        let line: serde_json::Value = serde_json::from_str(run.lines()[0]).unwrap();
        line["eta"].as_f64()
    };
    assert_eq!(eta(&[]), Some(0.5));
    assert_eq!(eta(&["--sampler", "DDIM"]), Some(0.5));
    assert_eq!(eta(&["--eta", "0"]), Some(0.0));
    assert_eq!(eta(&["--sampler", "euler a"]), None);
}

#[test]
fn an_image_says_what_was_changed_of_its_model() {
    let place = Place::new();
    let layers = ("num_hidden_layers: 1", "num_hidden_layers: 2");
    let model = told(&place, "text", &[layers]);
    let changes = ["--clip-skip", "2", "--timestep-spacing", "trailing"];
    let line = [&["-p", "x", "-o", "a.png"][..], &changes].concat();
    let read = infotext(&place, &sample(&place, &model, &line));
    assert!(
        read.extra.contains(&("Clip skip".into(), "2".into())),
        "{read:?}"
    );
    let stored = place.ldm(&["inspect", "a.png", "--json"]);
    let stored: serde_json::Value = serde_json::from_str(stored.lines()[0]).unwrap();
    assert_eq!(stored["texts"]["ldm"]["timestep_spacing"], "trailing");
}

/// An image and a mask whose left half is white.
pub fn pair(place: &Place, [image, mask]: [&str; 2], [width, height]: [usize; 2]) -> Tensor {
    let photo = Tensor::from_fn([1, height, width, 3], |i| (i % 11) as f32 / 5.0 - 1.0);
    let half = Tensor::from_fn([1, height, width, 3], |i| match i / 3 % width < width / 2 {
        true => 1.0,
        false => -1.0,
    });
    for (name, picture) in [(image, &photo), (mask, &half)] {
        write_png(&place.path().join(name), picture, &[], Existing::Replace).unwrap();
    }
    read_image(&place.path().join(image)).unwrap()
}

#[test]
fn classes_are_drawn_by_number_and_each_image_as_alone() {
    let place = Place::new();
    let model = classes(&place, 1001);
    let line = [
        "--class", "7", "--class", "9", "-s", "1", "--num", "3", "--eta", "1",
    ];
    let run = sample(&place, &model, &line);
    let six = pixels(&place, &run);
    assert_eq!(six.len(), 6);
    let read = infotext(&place, &run);
    assert_eq!((read.cfg_scale, read.seed), (2.0, 1));
    assert!(
        read.extra.contains(&("Class".into(), "7".into())),
        "{read:?}"
    );
    // The second image of the second class, alone; and from the settings it holds.
    let alone = ["--class", "9", "-s", "2", "--eta", "1"];
    assert_eq!(pixels(&place, &sample(&place, &model, &alone))[0], six[4]);
    let again = sample(&place, &model, &["--from-image", run.lines()[4]]);
    assert_eq!(pixels(&place, &again)[0], six[4]);
    assert_ne!(six[1], six[4], "the class matters");
    let named = ["--class", "Ostrich", "-s", "2", "--eta", "1"];
    assert_eq!(pixels(&place, &sample(&place, &model, &named))[0], six[4]);
    let unknown = ["--class", "ostrch"];
    sample(&place, &model, &unknown).refused(2, &["`ostrch`", "`ostrich` (9)"]);
    let plain = sample(
        &place,
        &model,
        &["--class", "9", "-s", "2", "--eta", "1", "--cfg", "1"],
    );
    assert_ne!(pixels(&place, &plain)[0], six[4], "guidance matters");
}

#[test]
fn a_model_of_classes_says_what_it_takes() {
    let place = Place::new();
    let model = classes(&place, 10);
    let refused = |arguments: &[&str], words: &[&str]| {
        sample(&place, &model, arguments).refused(2, words);
    };
    refused(&["--class", "3"], &["guidance scale 2", "must be 1"]);
    refused(&["--class", "10", "--cfg", "1"], &["class 10", "knows 10"]);
    refused(&["--class", "-4", "--cfg", "1"], &["-4"]);
    refused(&["--class", "cat", "--cfg", "1"], &["`cat`", "no names"]);
    refused(&["a cat"], &["cannot draw a prompt", "--class"]);
    refused(&["--cfg", "1"], &["without being told what", "--class"]);
    refused(&["--num", "0", "--class", "1"], &["nothing to draw"]);
    assert_eq!(place.names("outputs"), [""; 0]);
}

#[test]
fn unconditional_models_take_no_prompt_and_draw_as_many_as_asked() {
    let place = Place::new();
    let model = unconditional(&place);
    // As CompVis's users type it.
    let run = sample(&place, &model, &["-n", "3", "--batch_size", "2", "-s", "5"]);
    let three = pixels(&place, &run);
    assert_eq!(three.len(), 3);
    assert_eq!(
        pixels(&place, &sample(&place, &model, &["-s", "7"]))[0],
        three[2]
    );
    sample(&place, &model, &["a cat"]).refused(2, &["cannot draw a prompt", "`ldm sample`"]);
    sample(&place, &model, &["--class", "1"]).refused(2, &["cannot draw a class"]);
    sample(&place, &model, &["--cfg", "3"]).refused(2, &["guidance scale 3", "must be 1"]);
    pair(&place, ["a.png", "m.png"], [16, 16]);
    let line = ["img2img", "-m", &model, "-i", "a.png", "--strength", "0.5"];
    assert_eq!(place.ldm(&line).lines().len(), 1);
    let all = ["-v", "--vanilla-sample", "--steps", "3", "-s", "1"];
    let run = sample(&place, &model, &all);
    assert_eq!(infotext(&place, &run).sampler, "DDPM");
}

/// The arrays of an archive: each one's bytes behind its header.
fn arrays(place: &Place, name: &str) -> Vec<(String, Vec<u8>)> {
    let file = std::fs::File::open(place.path().join(name)).unwrap();
    let mut archive = zip::ZipArchive::new(file).unwrap();
    let count = archive.len();
    let array = |index: usize| {
        let mut entry = archive.by_index(index).unwrap();
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let text = String::from_utf8_lossy(&bytes[10..header])
            .trim()
            .to_owned();
        (text, bytes.split_off(header))
    };
    (0..count).map(array).collect()
}

#[test]
fn an_archive_holds_all_images_and_a_run_that_was_stopped_goes_on() {
    let place = Place::new();
    let model = classes(&place, 1001);
    let line = [
        "--class",
        "4-5",
        "-s",
        "3",
        "--num",
        "3",
        "--batch-size",
        "2",
    ];
    let expected = pixels(&place, &sample(&place, &model, &line)).concat();
    let archived = [&line[..], &["--npz", "a.npz", "--no-png"]].concat();
    let run = sample(&place, &model, &archived);
    assert_eq!(run.lines(), ["a.npz"]);
    let whole = arrays(&place, "a.npz");
    assert!(whole[0].0.contains("'|u1'") && whole[0].0.contains("(6, 16, 16, 3, )"));
    assert_eq!(whole[0].1, expected);
    let labels: Vec<u8> = [4i64, 4, 4, 5, 5, 5]
        .iter()
        .flat_map(|c| c.to_le_bytes())
        .collect();
    assert_eq!(whole[1].1, labels);
    // A run is stopped when its first image is there.
    let many = [
        "--class",
        "4-5",
        "-s",
        "3",
        "--num",
        "3",
        "--batch-size",
        "1",
        "--npz",
        "b.npz",
    ];
    let slow = [&many[..], &["--steps", "200", "--outdir", "slow"]].concat();
    let line = [&["sample", "-m", &model, "-t", "1"], &slow[..]].concat();
    let child = place
        .command(&line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    while !place
        .names("slow")
        .iter()
        .any(|name| name.ends_with(".png"))
    {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended without an image"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.path().join("b.npz").exists());
    sample(&place, &model, &many).refused(2, &["b.npz.part", "other settings"]);
    let run = place.ldm(&line);
    assert!(run.lines().contains(&"b.npz"), "{}", run.stderr);
    assert!(
        run.stderr.contains("of 6 images are there already"),
        "{}",
        run.stderr
    );
    assert!(!place.path().join("b.npz.part").exists());
    let at_once = [&slow[..], &["--npz", "c.npz", "--no-png"]].concat();
    sample(&place, &model, &at_once).lines();
    assert_eq!(arrays(&place, "b.npz"), arrays(&place, "c.npz"));
}

#[test]
fn an_archive_is_a_file_that_one_process_makes() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("folder")).unwrap();
    for none in ["-", "folder"] {
        let run = place.sample(&["-p", "x", "--npz", none]);
        run.refused(2, &["--npz", none, "archive is a file"]);
    }
    let held = File::create(place.path().join("a.npz.part")).unwrap();
    held.lock().unwrap();
    let run = place.sample(&["-p", "x", "--npz", "a.npz"]);
    run.refused(6, &["a.npz.part", "another process"]);
    held.unlock().unwrap();
    place.sample(&["-p", "x", "--npz", "a.npz"]).lines();
}
