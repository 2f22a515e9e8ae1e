//! `--guidance-interval`: what it draws, what is written of it, and what is refused.

use super::support::Place;
use super::tasks::{infotext, pixels, sample, unconditional};
use serde_json::Value;

/// Three steps without a steering scale to spare, so that guidance shows.
const ASKED: [&str; 8] = ["-p", "x", "-s", "3", "--steps", "3", "--cfg", "6"];

#[test]
fn an_interval_of_all_levels_or_of_none_draws_what_is_drawn_without() {
    let place = Place::new();
    let drawn = |more: &[&str]| pixels(&place, &place.sample(&[&ASKED[..], more].concat()));
    let (always, never) = (drawn(&[]), drawn(&["--scale", "1"]));
    assert_eq!(drawn(&["--guidance-interval", "0:inf"]), always);
    assert_eq!(drawn(&["--guidance-interval", "1e6:inf"]), never);
    assert_eq!(
        drawn(&["--cuts", "off", "--cfg-interval", "1e6:2e6"]),
        never
    );
    let some = drawn(&["--guidance_interval", "0.5:3"]);
    assert!(some != always && some != never);
}

#[test]
fn an_image_says_its_interval_and_is_drawn_again_from_it() {
    let place = Place::new();
    let interval = ["--guidance-interval", "0.5:3", "-o", "a.png"];
    let first = place.sample(&[&ASKED[..], &interval].concat());
    let said = infotext(&place, &first).extra;
    assert!(
        said.contains(&("Guidance interval".into(), "0.5:3".into())),
        "{said:?}"
    );
    let again = place.sample(&["--from-image", "a.png", "--json", "-o", "b.png"]);
    let line: Value = serde_json::from_str(again.lines()[0]).unwrap();
    assert_eq!(line["guidance_interval"], "0.5:3");
    let again = place.sample(&["--from-image", "a.png", "-o", "c.png"]);
    assert_eq!(pixels(&place, &again), pixels(&place, &first));
}

#[test]
fn a_plan_says_what_steps_without_guidance_take() {
    let place = Place::new();
    let line = "plan --steps 3 --guidance-interval 0.5:3 --device cpu";
    let plan = |more: &[&str]| place.on_model(line, more).lines().join("\n");
    let answer: Value = serde_json::from_str(&plan(&["--json"])).unwrap();
    let unet = &answer["stages"][1];
    let [whole, part] = [&unet["arena_bytes"], &unet["unguided"]["arena_bytes"]];
    assert!(part.as_u64().unwrap() > 0 && part.as_u64() < whole.as_u64());
    let (steps, of) = (&unet["unguided"]["steps"], &unet["unguided"]["of"]);
    assert!(plan(&[]).contains(&format!("for {steps} of {of} steps without guidance")));
}

#[test]
fn an_interval_that_is_none_or_has_nothing_to_keep_is_refused() {
    let place = Place::new();
    for interval in ["5:1", "1:1", "-1:5", "NaN:5", "1:NaN", "3", "a:b", ""] {
        let refused = place.sample(&[&ASKED[..], &["--guidance-interval", interval]].concat());
        refused.refused(2, &[&format!("`{interval}`"), "START:END"]);
    }
    let without = place.sample(&["-p", "x", "--cfg", "1", "--guidance-interval", "1:5"]);
    without.refused(2, &["1:5", "scale is 1", "--cfg-scale"]);
    let model = unconditional(&place);
    let refused = sample(&place, &model, &["--guidance-interval", "1:5"]);
    refused.refused(2, &["1:5", "without its condition"]);
    assert_eq!(place.names("."), ["model"]);
}
