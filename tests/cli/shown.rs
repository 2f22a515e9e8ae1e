//! Models that are shown something: an image to enlarge, a map of labels, boxes, the neighbours of a prompt.

use super::support::{Place, Run, model};
use latent_diffusion::Tensor;
use latent_diffusion::image::{Array, Existing, read_image, write_npz, write_png};
use png::{BitDepth, ColorType, Encoder};
use std::fs::File;

/// A first stage of f4 with a codebook.
const FIRST: &str = "{target: ldm.models.autoencoder.VQModelInterface, params: {embed_dim: 3, n_embed: 16, ddconfig: {double_z: false, \
     z_channels: 3, resolution: 32, in_channels: 3, out_ch: 3, ch: 8, ch_mult: [1, 1, 1], num_res_blocks: 1, attn_resolutions: [], \
     num_groups: 4}}}";
const UNET: &str = "image_size: 8, out_channels: 3, model_channels: 8, attention_resolutions: [2], num_res_blocks: 1, channel_mult: [1, 2], \
     num_heads: 2, num_groups: 4";

/// Writes a model of random weights into a folder: `unet` is what its UNet has besides the usual, `stage` makes its condition.
fn write(place: &Place, name: &str, unet: &str, key: &str, stage: &str) -> String {
    let folder = place.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let yaml = format!(
        "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    linear_start: 0.0015\n    linear_end: 0.0155\n    \
         image_size: 8\n    conditioning_key: {key}\n    unet_config:\n      target: ldm.modules.diffusionmodules.openaimodel.UNetModel\n      \
         params: {{{UNET}, {unet}}}\n    first_stage_config: {FIRST}\n    cond_stage_config: {stage}\n"
    );
    std::fs::write(folder.join("config.yaml"), yaml).unwrap();
    format!("synthetic:{}", folder.display())
}

pub fn upscaler(place: &Place) -> String {
    write(
        place,
        "sr",
        "in_channels: 6",
        "concat",
        "{target: torch.nn.Identity}",
    )
}

fn segmentation(place: &Place) -> String {
    let stage = "{target: ldm.modules.encoders.modules.SpatialRescaler, params: {n_stages: 2, in_channels: 182, out_channels: 3}}";
    write(place, "seg", "in_channels: 6", "concat", stage)
}

fn layouts(place: &Place) -> String {
    let stage = "{target: ldm.modules.encoders.modules.BERTEmbedder, params: {n_embed: 16, n_layer: 1, vocab_size: 8192, max_seq_len: 92, \
                 use_tokenizer: false}}";
    let unet =
        "in_channels: 3, use_spatial_transformer: true, transformer_depth: 1, context_dim: 16";
    write(place, "layout", unet, "crossattn", stage)
}

fn retrieval(place: &Place) -> String {
    let unet =
        "in_channels: 3, use_spatial_transformer: true, transformer_depth: 1, context_dim: 16";
    write(
        place,
        "rdm",
        unet,
        "crossattn",
        "{target: torch.nn.Identity}",
    )
}

/// A CLIP text encoder whose vectors have 16 numbers.
fn clip(place: &Place) -> String {
    let folder = place.path().join("clip");
    std::fs::create_dir_all(&folder).unwrap();
    let config = r#"{"architectures": ["CLIPTextModelWithProjection"], "vocab_size": 514, "hidden_size": 24, "projection_dim": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16, "eos_token_id": 513}"#;
    std::fs::write(folder.join("config.json"), config).unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(model().join(name), folder.join(name)).unwrap();
    }
    format!("synthetic:{}", folder.display())
}

fn database(place: &Place, rows: usize, width: usize) -> String {
    let path = place.path().join("database.npz");
    let dims = [rows, width];
    let array = Array {
        name: "embedding",
        dims: &dims,
        descr: "<f4",
    };
    write_npz(&path, Existing::Replace, |archive| {
        archive.array(&array, |out| {
            (0..rows * width)
                .try_for_each(|i| out.write_all(&((i * 37 % 23) as f32 - 11.0).to_le_bytes()))
        })
    })
    .unwrap();
    path.display().to_string()
}

fn picture(place: &Place, name: &str, [width, height]: [usize; 2]) {
    let image = Tensor::from_fn([1, height, width, 3], |i| (i * 7 % 11) as f32 / 5.0 - 1.0);
    write_png(&place.path().join(name), &image, &[], Existing::Replace).unwrap();
}

fn labels(place: &Place, name: &str, [width, height]: [u32; 2], label: impl Fn(u32) -> u8) {
    let file = File::create(place.path().join(name)).unwrap();
    let mut encoder = Encoder::new(file, width, height);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::Eight);
    let bytes: Vec<u8> = (0..width * height).map(label).collect();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&bytes).unwrap();
    writer.finish().unwrap();
}

fn run(place: &Place, command: &str, model: &str, arguments: &[&str]) -> Run {
    let steps = ["--steps", "2", "-t", "1", "-s", "3"];
    place.ldm(&[&[command, "-m", model], &steps[..], arguments].concat())
}

/// Sizes and pixels of the images that a run names.
fn images(place: &Place, run: &Run) -> Vec<(usize, usize, Vec<f32>)> {
    let read = |line: &&str| {
        let image = read_image(&place.path().join(line)).unwrap();
        let [_, height, width, _] = image.shape().image().unwrap();
        (width, height, image.into_data())
    };
    run.lines().iter().map(read).collect()
}

#[test]
fn an_image_of_any_size_is_enlarged_four_times() {
    let place = Place::new();
    let model = upscaler(&place);
    picture(&place, "a.png", [11, 7]);
    let two = images(
        &place,
        &run(
            &place,
            "upscale",
            &model,
            &["-i", "a.png", "--batch-size", "2", "--eta", "1"],
        ),
    );
    assert_eq!((two[0].0, two[0].1), (44, 28));
    let alone = images(
        &place,
        &run(
            &place,
            "upscale",
            &model,
            &["-i", "a.png", "-s", "4", "--eta", "1"],
        ),
    );
    assert_eq!(alone[0], two[1]);
    assert_ne!(two[0], two[1]);
    // Wider than a patch, and as wide as one.
    picture(&place, "wide.png", [131, 6]);
    let wide = images(
        &place,
        &run(
            &place,
            "sr",
            &model,
            &["-i", "wide.png", "--batch-size", "2"],
        ),
    );
    assert_eq!((wide[0].0, wide[0].1), (524, 24));
    let alone = images(
        &place,
        &run(&place, "upscale", &model, &["-i", "wide.png", "-s", "4"]),
    );
    assert_eq!(alone[0], wide[1]);
}

#[test]
fn what_cannot_be_enlarged_is_refused() {
    let place = Place::new();
    let model = upscaler(&place);
    run(&place, "upscale", &model, &[])
        .refused(2, &["the image to enlarge is missing", "--init-image"]);
    run(&place, "upscale", &model, &["-i", "none.png"]).refused(3, &["none.png"]);
    picture(&place, "a.png", [8, 8]);
    run(
        &place,
        "upscale",
        &model,
        &["-i", "a.png", "--size", "64x64"],
    )
    .refused(2, &["leave --size"]);
    run(&place, "upscale", &model, &["-i", "a.png", "-p", "a cat"])
        .refused(2, &["cannot draw a prompt", "ldm upscale"]);
    run(&place, "upscale", &layouts(&place), &["-i", "a.png"])
        .refused(2, &["cannot enlarge an image", "ldm layout2img"]);
    assert!(place.names("outputs").is_empty());
}

#[test]
fn a_map_of_labels_is_drawn_at_its_own_size_or_another() {
    let place = Place::new();
    let model = segmentation(&place);
    labels(&place, "map.png", [24, 16], |i| (i % 182) as u8);
    let two = images(
        &place,
        &run(
            &place,
            "segment2img",
            &model,
            &["--labels", "map.png", "--batch-size", "2"],
        ),
    );
    assert_eq!((two[0].0, two[0].1), (24, 16));
    let alone = images(
        &place,
        &run(
            &place,
            "segment2img",
            &model,
            &["--labels", "map.png", "-s", "4"],
        ),
    );
    assert_eq!(alone[0], two[1]);
    let larger = images(
        &place,
        &run(
            &place,
            "segment2img",
            &model,
            &["--labels", "map.png", "--size", "32x16"],
        ),
    );
    assert_eq!((larger[0].0, larger[0].1), (32, 16));
    labels(&place, "other.png", [24, 16], |_| 5);
    let other = images(
        &place,
        &run(
            &place,
            "segment2img",
            &model,
            &["--labels", "other.png", "-s", "4"],
        ),
    );
    assert_ne!(other, alone, "the map decides");
    let before = place.names("outputs").len();
    labels(&place, "bad.png", [8, 8], |i| if i == 9 { 182 } else { 0 });
    run(&place, "segment2img", &model, &["--labels", "bad.png"])
        .refused(3, &["label 182 at pixel (1, 1)", "0 to 181"]);
    labels(&place, "odd.png", [8, 12], |_| 0);
    run(&place, "segment2img", &model, &["--labels", "odd.png"])
        .refused(2, &["height 12", "multiple of 8"]);
    run(&place, "segment2img", &model, &[]).refused(2, &["--labels"]);
    assert_eq!(place.names("outputs").len(), before);
}

#[test]
fn objects_are_drawn_in_their_boxes() {
    let place = Place::new();
    let model = layouts(&place);
    place.file("a.json", r#"{"boxes": [{"class": 12, "box": [0.1, 0.2, 0.5, 0.5]}, {"class": 3, "box": [0, 0, 1, 0.4]}]}"#);
    let line = ["--layout", "a.json", "--cfg", "2", "--batch-size", "2"];
    let two = images(&place, &run(&place, "layout2img", &model, &line));
    assert_eq!((two[0].0, two[0].1), (32, 32));
    let alone = ["--layout", "a.json", "--cfg", "2", "-s", "4"];
    assert_eq!(
        images(&place, &run(&place, "layout2img", &model, &alone))[0],
        two[1]
    );
    place.file(
        "b.json",
        r#"{"boxes": [{"class": "Dog", "box": [0, 0, 1, 1]}]}"#,
    );
    run(&place, "layout2img", &model, &["--layout", "b.json"]).refused(2, &["Dog", "classes.txt"]);
    place.file("classes.txt", "Cat\nDog\n");
    let named = ["--layout", "b.json", "--classes", "classes.txt"];
    assert_eq!(
        images(&place, &run(&place, "layout2img", &model, &named)).len(),
        1
    );
    place.file(
        "c.json",
        r#"{"boxes": [{"class": "Dig", "box": [0, 0, 1, 1]}]}"#,
    );
    run(
        &place,
        "layout2img",
        &model,
        &["--layout", "c.json", "--classes", "classes.txt"],
    )
    .refused(2, &["Dig", "Dog"]);
    place.file(
        "d.json",
        r#"{"boxes": [{"class": 1, "box": [0.5, 0, 1, 1]}]}"#,
    );
    run(&place, "layout2img", &model, &["--layout", "d.json"]).refused(2, &["box 0"]);
    let many = vec![r#"{"class": 1, "box": [0, 0, 1, 1]}"#; 31].join(", ");
    place.file("e.json", format!("{{\"boxes\": [{many}]}}"));
    run(&place, "layout2img", &model, &["--layout", "e.json"])
        .refused(2, &["31 boxes", "at most 30"]);
    place.file("f.json", "[1]");
    run(&place, "layout2img", &model, &["--layout", "f.json"]).refused(3, &["is not a layout"]);
    run(&place, "layout2img", &model, &["--layout", "none.json"]).refused(3, &["none.json"]);
    run(&place, "layout2img", &model, &[]).refused(2, &["--layout"]);
}

#[test]
fn a_prompt_is_drawn_with_its_neighbours() {
    let place = Place::new();
    let (model, clip) = (retrieval(&place), clip(&place));
    let database = database(&place, 40, 16);
    let line = |more: &[&str]| {
        let usual = ["-p", "a cat", "--clip", &clip, "--cfg", "3"];
        run(&place, "retrieve2img", &model, &[&usual, more].concat())
    };
    let two = images(
        &place,
        &line(&["--database", &database, "-k", "4", "--batch-size", "2"]),
    );
    let alone = images(
        &place,
        &line(&["--database", &database, "-k", "4", "-s", "4"]),
    );
    assert_eq!(alone[0], two[1]);
    let without = images(&place, &line(&["-k", "0", "-s", "4"]));
    assert_ne!(without, alone, "the neighbours count");
    line(&["-k", "4"]).refused(2, &["--database"]);
    line(&["--database", &database, "-k", "21"]).refused(2, &["0 to 20"]);
    line(&["--database", "none.npz"]).refused(3, &["none.npz"]);
    run(&place, "retrieve2img", &model, &["-p", "a cat"]).refused(2, &["--clip"]);
    run(
        &place,
        "retrieve2img",
        &model,
        &["-p", "a cat", "--clip", "none"],
    )
    .refused(3, &["none"]);
    let narrow = self::database(&place, 4, 8);
    line(&["--database", &narrow]).refused(3, &["vectors of 8 numbers, and the model takes 16"]);
}

#[test]
fn a_hole_is_filled_with_nothing_to_download() {
    let place = Place::new();
    // A sky that brightens towards the ground.
    let sky = Tensor::from_fn([1, 64, 64, 3], |i| {
        let height = (i / 192) as f32 / 63.0;
        [0.1 + 0.5 * height, 0.3 + 0.4 * height, 0.9][i % 3]
    });
    write_png(&place.path().join("a.png"), &sky, &[], Existing::Replace).unwrap();
    let inside =
        |pixel: usize| (20..44).contains(&(pixel % 64)) && (20..44).contains(&(pixel / 64));
    labels(&place, "m.png", [64, 64], |pixel| {
        255 * u8::from(inside(pixel as usize))
    });
    let line = [
        "inpaint", "-i", "a.png", "--mask", "m.png", "-t", "1", "-s", "1",
    ];
    let drawn = images(&place, &place.ldm(&line));
    let before = read_image(&place.path().join("a.png")).unwrap().into_data();
    let (mut distance, mut count) = (0.0, 0);
    for (index, (new, old)) in drawn[0].2.iter().zip(&before).enumerate() {
        if inside(index / 3) {
            distance += (new - old).abs();
            count += 1;
        } else {
            assert_eq!(new, old, "the rest is kept");
        }
    }
    // Of a range of 2; what is hidden from the network is black, 1.5 away.
    let distance = distance / count as f32;
    assert!(distance < 0.4, "{distance}");
    let told = [&line[..], &["-p", "a red balloon", "--steps", "2"]].concat();
    assert_ne!(
        images(&place, &place.ldm(&told)),
        drawn,
        "the other demo reads prompts"
    );
}
