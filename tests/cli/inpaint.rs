//! Drawing a part of an image anew: with models that are told of masks, with all others, and what does not fit.

use super::support::{Place, Run};
use super::tasks::{NO_CONTEXT, classes, infotext, pair, pixels, sample, told, unconditional};
use latent_diffusion::Tensor;
use latent_diffusion::image::{Existing, to_bytes, write_png};

/// CompVis's inpainting: four channels of noise, four of the masked image, one of the mask.
fn inpainting(place: &Place) -> String {
    let changes = [
        NO_CONTEXT,
        ("in_channels: 4", "in_channels: 9"),
        ("conditioning_key: crossattn", "conditioning_key: concat"),
        ("cfg_scale: 2.0", "cfg_scale: 1.0"),
    ];
    told(place, " __is_first_stage__", &changes)
}

/// Stable Diffusion's.
fn hybrid(place: &Place) -> String {
    let changes = [
        ("in_channels: 4", "in_channels: 9"),
        ("conditioning_key: crossattn", "conditioning_key: hybrid"),
    ];
    told(place, "text", &changes)
}

fn inpaint(place: &Place, model: &str, arguments: &[&str]) -> Run {
    place.ldm(&[&["inpaint", "-m", model, "-t", "1"], arguments].concat())
}

#[test]
fn every_model_with_an_autoencoder_draws_a_part_anew_and_keeps_the_rest() {
    let place = Place::new();
    let photo = pair(&place, ["a.png", "m.png"], [20, 16]);
    let photo = to_bytes(&photo).unwrap();
    let line = ["-i", "a.png", "--mask", "m.png", "-s", "1"];
    type Model = fn(&Place) -> String;
    let cases: [(Model, &[&str]); 5] = [
        (inpainting, &[]),
        (hybrid, &["-p", "a cat"]),
        (|place| told(place, "text", &[]), &["-p", "a cat"]),
        (unconditional, &[]),
        (|place| classes(place, 1001), &["--class", "3"]),
    ];
    for (model, told) in cases {
        let model = model(&place);
        let run = inpaint(&place, &model, &[&line[..], told].concat());
        let found = pixels(&place, &run).remove(0);
        let drawn = |i: usize| i / 3 % 20 < 10;
        let kept = (0..found.len()).all(|i| drawn(i) || found[i] == photo[i]);
        assert!(kept, "{model} changes what is kept");
        let changed = (0..found.len()).filter(|&i| found[i] != photo[i]).count();
        assert!(changed > found.len() / 4, "{model} changes {changed} bytes");
        let read = infotext(&place, &run);
        assert!(
            read.extra.contains(&("Mask".into(), "m.png".into())),
            "{read:?}"
        );
        // The same image of a batch, and from the settings that it holds.
        let batch = ["--num", "3", "-s", "0", "--eta", "1"];
        let batch = inpaint(&place, &model, &[&line[..], told, &batch[..]].concat());
        let alone = ["-s", "2", "--eta", "1"];
        let alone = inpaint(&place, &model, &[&line[..], told, &alone[..]].concat());
        assert_eq!(
            pixels(&place, &batch)[2],
            pixels(&place, &alone)[0],
            "{model}"
        );
        let again = ["--from-image", run.lines()[0]];
        assert_eq!(pixels(&place, &sample(&place, &model, &again))[0], found);
    }
}

#[test]
fn masks_may_be_inverted_and_softened() {
    let place = Place::new();
    let photo = to_bytes(&pair(&place, ["a.png", "m.png"], [16, 16])).unwrap();
    let model = inpainting(&place);
    let line = ["-i", "a.png", "--mask", "m.png", "-s", "1"];
    let inverted = inpaint(&place, &model, &[&line[..], &["--invert-mask"]].concat());
    let inverted = pixels(&place, &inverted).remove(0);
    let left = |i: usize| i / 3 % 16 < 8;
    assert!((0..photo.len()).all(|i| !left(i) || inverted[i] == photo[i]));
    let sharp = pixels(&place, &inpaint(&place, &model, &line)).remove(0);
    let soft = inpaint(
        &place,
        &model,
        &[&line[..], &["--mask-blur", "1.5"]].concat(),
    );
    let soft = pixels(&place, &soft).remove(0);
    assert_ne!(soft, sharp);
    // Three deviations from the edge there is nothing of it.
    let far = |i: usize| (i / 3 % 16).abs_diff(8) > 6;
    assert!((0..photo.len()).all(|i| !far(i) || soft[i] == sharp[i]));
}

#[test]
fn a_folder_of_pairs_gives_an_image_of_each_name() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("in")).unwrap();
    pair(&place, ["in/boat.png", "in/boat_mask.png"], [16, 16]);
    pair(&place, ["in/bridge.png", "in/bridge_mask.png"], [24, 16]);
    place.file("in/notes.txt", "");
    let run = inpaint(
        &place,
        &inpainting(&place),
        &["--indir", "in", "--outdir", "out"],
    );
    assert_eq!(run.lines(), ["out/boat.png", "out/bridge.png"]);
    let refused = |arguments: &[&str], code, words: &[&str]| {
        inpaint(&place, &inpainting(&place), arguments).refused(code, words);
    };
    refused(&["--indir", "model"], 3, &["holds no pairs", "_mask.png"]);
    refused(&["--indir", "none"], 3, &["none", "cannot be read"]);
}

#[test]
fn images_and_masks_that_do_not_fit_are_named() {
    let place = Place::new();
    pair(&place, ["a.png", "m.png"], [16, 16]);
    pair(&place, ["b.png", "n.png"], [18, 16]);
    let black = Tensor::full([1, 16, 16, 3], -1.0);
    write_png(&place.path().join("black.png"), &black, &[], Existing::Keep).unwrap();
    let model = inpainting(&place);
    let refused = |arguments: &[&str], words: &[&str]| {
        inpaint(&place, &model, arguments).refused(2, words);
    };
    refused(&["-i", "a.png"], &["--mask"]);
    refused(&["--mask", "m.png"], &["--init-image"]);
    refused(
        &["-i", "a.png", "--mask", "n.png"],
        &["18x16", "16x16", "one size"],
    );
    refused(
        &["-i", "b.png", "--mask", "n.png"],
        &["width 18", "16 and 20"],
    );
    refused(&["-i", "a.png", "--mask", "black.png"], &["black all over"]);
    refused(
        &["-i", "a.png", "--mask", "m.png", "--mask-blur", "-1"],
        &["blur of -1"],
    );
    refused(
        &["-i", "a.png", "--mask", "m.png", "-p", "x"],
        &["cannot draw a prompt"],
    );
    let missing = ["-i", "a.png", "--mask", "none.png"];
    inpaint(&place, &model, &missing).refused(3, &["none.png"]);
    refused(&["-i", "a.png", "--invert-mask"], &["--mask"]);
    let rounded = ["-i", "b.png", "--mask", "n.png", "--round-size"];
    assert_eq!(inpaint(&place, &model, &rounded).lines().len(), 1);
    // What these models are for is all that they do.
    let only = ["cannot draw", "it can draw a part of an image anew"];
    sample(&place, &model, &[]).refused(2, &only);
    sample(&place, &hybrid(&place), &["-p", "a cat"]).refused(2, &only);
}

#[test]
fn somebody_who_has_just_built_it() {
    let place = Place::new();
    let photo = to_bytes(&pair(&place, ["a.png", "m.png"], [48, 32])).unwrap();
    let line = ["inpaint", "-i", "a.png", "--mask", "m.png", "--steps", "2"];
    let run = place.ldm(&line);
    let found = pixels(&place, &run).remove(0);
    assert!((0..found.len()).all(|i| i / 3 % 48 < 24 || found[i] == photo[i]));
    let read = infotext(&place, &run);
    assert_eq!(
        (read.model.as_deref(), read.cfg_scale),
        (Some("inpaint-demo"), 1.0)
    );
    // A prompt is for the model that reads some.
    let run = place.ldm(&[&line[..], &["-p", "a red balloon"]].concat());
    assert_eq!(infotext(&place, &run).model.as_deref(), Some("demo"));
}
