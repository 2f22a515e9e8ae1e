//! The settings of an image as text, in the form that the AUTOMATIC1111 web UI began and others read.
//!
//! First the prompt, then `Negative prompt: ...` if there is one, then one line of `Key: value` pairs. The form cannot carry every
//! prompt (one with a line that begins `Negative prompt:` reads back as two); the `ldm` chunk, JSON, is exact.

use std::fmt::{self, Display, Formatter};

/// How an image was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Infotext {
    /// The prompt; may have several lines.
    pub prompt: String,
    /// The negative prompt, or nothing.
    pub negative_prompt: String,
    /// Sampling steps.
    pub steps: u32,
    /// The sampler's display name: `Euler a`, `DPM++ 2M`.
    pub sampler: String,
    /// The spacing of noise levels where it is not the sampler's own: `Karras`.
    pub schedule_type: Option<String>,
    /// Guidance scale; 1 is none.
    pub cfg_scale: f64,
    /// This image's own seed, not its batch's.
    pub seed: u64,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The model's name.
    pub model: Option<String>,
    /// How much of an initial image was replaced, 0..1.
    pub denoising_strength: Option<f64>,
    /// Where noise came from; readers take a missing one for the GPU, so `CPU` must be said.
    pub rng: Option<String>,
    /// Other settings, in order. A key has two or more of letters, digits, `_`, blanks, `-` and `/`, and begins with a letter or digit.
    pub extra: Vec<(String, String)>,
    /// The program and its version.
    pub version: Option<String>,
}

impl Display for Infotext {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let number = |number: f64| number.to_string();
        let mut pairs: Vec<(&str, Option<String>)> = vec![
            ("Steps", Some(self.steps.to_string())),
            ("Sampler", Some(self.sampler.clone())),
            ("Schedule type", self.schedule_type.clone()),
            ("CFG scale", Some(number(self.cfg_scale))),
            ("Seed", Some(self.seed.to_string())),
            ("Size", Some(format!("{}x{}", self.width, self.height))),
            ("Model", self.model.clone()),
            ("Denoising strength", self.denoising_strength.map(number)),
            ("RNG", self.rng.clone()),
        ];
        pairs.extend(
            self.extra
                .iter()
                .map(|(key, value)| (key.as_str(), Some(value.clone()))),
        );
        pairs.push(("Version", self.version.clone()));
        let pairs: Vec<String> = pairs
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}: {}", quoted(value?))))
            .collect();

        let mut text = format!("{}\n", self.prompt);
        if !self.negative_prompt.is_empty() {
            text += &format!("Negative prompt: {}\n", self.negative_prompt);
        }
        text += &pairs.join(", ");
        f.write_str(text.trim())
    }
}

impl Infotext {
    /// Reads the text back, ours or another program's; `None` if it lacks the settings that make an image.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (prompts, last) = text.rsplit_once('\n').unwrap_or(("", text));
        let mut extra = pairs(last);
        let mut take = |key: &str| {
            let place = extra.iter().position(|(k, _)| k == key)?;
            Some(extra.remove(place).1)
        };
        let size = take("Size")?;
        let (width, height) = size.split_once('x')?;
        let (prompt, negative) = match prompts.strip_prefix("Negative prompt:") {
            Some(negative) => ("", negative),
            None => prompts
                .split_once("\nNegative prompt:")
                .unwrap_or((prompts, "")),
        };
        Some(Self {
            prompt: prompt.to_owned(),
            negative_prompt: negative.strip_prefix(' ').unwrap_or(negative).to_owned(),
            steps: take("Steps")?.parse().ok()?,
            sampler: take("Sampler")?,
            schedule_type: take("Schedule type"),
            cfg_scale: take("CFG scale")?.parse().ok()?,
            seed: take("Seed")?.parse().ok()?,
            width: width.parse().ok()?,
            height: height.parse().ok()?,
            model: take("Model"),
            denoising_strength: take("Denoising strength").and_then(|value| value.parse().ok()),
            rng: take("RNG"),
            version: take("Version"),
            extra,
        })
    }
}

/// A value as it stands in the line: as a JSON string if it would break the line up otherwise.
fn quoted(value: String) -> String {
    let breaks =
        value.contains([',', ':', '\n']) || value.starts_with('"') || value.trim() != value;
    if breaks {
        serde_json::Value::String(value).to_string()
    } else {
        value
    }
}

/// The `Key: value` pairs of a line, values unquoted.
fn pairs(line: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once(':') {
        let Some(key) = key(before) else {
            rest = after;
            continue;
        };
        let after = after.trim_start();
        let (value, next) = match json_string(after) {
            Some(found) => found,
            None => {
                let (value, next) = after.split_once(',').unwrap_or((after, ""));
                (value.to_owned(), next)
            }
        };
        pairs.push((key.to_owned(), value));
        rest = next;
    }
    pairs
}

/// The key that ends `text`, if a key does.
fn key(text: &str) -> Option<&str> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let start = text.rfind(|c| !word(c) && !" -/".contains(c));
    let key = start.map_or(text, |at| {
        let end = text[at..].chars().next().map_or(0, char::len_utf8);
        &text[at + end..]
    });
    let key = key.trim_start_matches(|c| !word(c));
    (key.chars().count() >= 2).then_some(key)
}

/// The JSON string that opens `text` and fills a value, and what follows its comma.
fn json_string(text: &str) -> Option<(String, &str)> {
    if !text.starts_with('"') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let value = values.next()?.ok()?;
    let rest = &text[values.byte_offset()..];
    match rest.strip_prefix(',') {
        Some(rest) => Some((value, rest)),
        None => rest.is_empty().then_some((value, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Infotext {
        Infotext {
            prompt: "a \"red\" balloon,\nover mountains: sunset".into(),
            negative_prompt: "blurry".into(),
            steps: 20,
            sampler: "DPM++ 2M".into(),
            schedule_type: Some("Karras".into()),
            cfg_scale: 7.0,
            seed: 4_294_967_296,
            width: 512,
            height: 768,
            model: Some("demo, v1: \"final\"".into()),
            denoising_strength: Some(0.75),
            rng: Some("CPU".into()),
            extra: vec![("Clip skip".into(), "2".into())],
            version: Some("ldm 0.1.0".into()),
        }
    }

    #[test]
    fn the_text_is_the_one_that_others_read() {
        let text = "a \"red\" balloon,\nover mountains: sunset\nNegative prompt: blurry\n\
            Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 4294967296, Size: 512x768, \
            Model: \"demo, v1: \\\"final\\\"\", Denoising strength: 0.75, RNG: CPU, Clip skip: 2, Version: ldm 0.1.0";
        assert_eq!(example().to_string(), text);
        assert_eq!(Infotext::parse(text), Some(example()));
        let bare = Infotext {
            sampler: "DDIM".into(),
            ..Infotext::default()
        };
        let text = "Steps: 0, Sampler: DDIM, CFG scale: 0, Seed: 0, Size: 0x0";
        assert_eq!(bare.to_string(), text);
        assert_eq!(Infotext::parse(text), Some(bare));
    }

    #[test]
    fn texts_of_other_programs_are_read() {
        let text = "cat\nNegative prompt: dog\nSteps: 28, Sampler: Euler a, CFG scale: 7.5, Seed: 1, Size: 512x512, \
            Model hash: cc6cb27103, Model: v1-5, Lora hashes: \"a: 1, b: 2\", Hires upscale: 2";
        let read = Infotext::parse(text).unwrap();
        assert_eq!(
            (read.sampler.as_str(), read.cfg_scale, read.model.as_deref()),
            ("Euler a", 7.5, Some("v1-5"))
        );
        let hashes = ("Lora hashes".to_owned(), "a: 1, b: 2".to_owned());
        assert_eq!(read.extra[1], hashes);
        assert_eq!(Infotext::parse("a prompt alone"), None);
        assert_eq!(Infotext::parse("Steps: 20, Sampler: x, Size: 1"), None);
    }

    /// Texts with what the form is made of, and other scripts.
    fn texts() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec![
                "a",
                "Steps",
                ":",
                ",",
                " ",
                "\n",
                "\"",
                "\\",
                "红气球",
                "é",
                "\t",
                "Negative prompt",
                "Size: 1x1",
                "x",
                "\u{85}",
            ]),
            0..12,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn settings_survive_a_round_trip(
            prompt in texts(),
            negative in texts(),
            names in (texts(), proptest::option::of(texts()), proptest::option::of(texts())),
            numbers in (any::<u32>(), 0.0f64..100.0, any::<u64>(), proptest::option::of(0.0f64..1.0)),
            extra in texts(),
        ) {
            prop_assume!(!format!("{prompt}\n{negative}").contains("Negative prompt:"));
            let (sampler, model, version) = names;
            let infotext = Infotext {
                // The form loses blanks around the whole.
                prompt: prompt.trim_start().to_owned(),
                negative_prompt: negative,
                steps: numbers.0,
                sampler,
                cfg_scale: numbers.1,
                seed: numbers.2,
                width: numbers.0,
                height: 8,
                model,
                denoising_strength: numbers.3,
                extra: vec![("Clip skip".into(), extra), ("x-y/z 2".into(), "2".into())],
                version,
                ..Infotext::default()
            };
            prop_assert_eq!(Infotext::parse(&infotext.to_string()), Some(infotext));
        }

        #[test]
        fn any_text_is_read_without_panic(text in texts()) {
            Infotext::parse(&text);
        }
    }
}
