//! Layouts, objects in boxes, as the tokens that the layout model reads instead of words.
//!
//! Each object is three tokens: its class, and the two corners of its box on a grid that the vocabulary has room for (90 by 90 of
//! 8192). What objects are missing is filled up with the last token, and the crop's two corners come last. A class has a token for
//! every combination of four properties.

use super::ClassNames;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// The whole picture.
const FULL: [f64; 4] = [0.0, 0.0, 1.0, 1.0];
/// Rounding in a file that says where a box ends is no mistake.
const SLACK: f64 = 1e-6;

/// Objects in boxes, and which part of the picture to draw.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The objects; their order is told to the model, and was random in training.
    pub boxes: Vec<Object>,
    /// `[x, y, width, height]` of the part to draw, in shares of the whole picture.
    #[serde(default = "full")]
    pub crop: [f64; 4],
}

/// An object of a layout.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// What it is.
    pub class: Class,
    /// `[x, y, width, height]` in shares of the picture, from its upper left corner.
    pub r#box: [f64; 4],
    /// Whether it is several of the class.
    #[serde(default)]
    pub group: bool,
    /// Whether something lies before it.
    #[serde(default)]
    pub occluded: bool,
    /// Whether it is a picture of the class, a drawing for example.
    #[serde(default)]
    pub depiction: bool,
    /// Whether it is seen from inside.
    #[serde(default)]
    pub inside: bool,
}

/// A class by its number or by its name.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged, expecting = "a class is its name or its number")]
pub enum Class {
    /// Its number.
    Number(usize),
    /// Its name.
    Name(String),
}

fn full() -> [f64; 4] {
    FULL
}

impl Layout {
    /// Reads a layout from JSON; `file` is named in errors.
    ///
    /// ```json
    /// {"boxes": [{"class": "Dog", "box": [0.1, 0.4, 0.5, 0.6], "group": false}, {"class": 12, "box": [0, 0, 1, 0.4]}]}
    /// ```
    ///
    /// # Errors
    /// If it is something else.
    pub fn parse(file: &Path, json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|error| Error::file(file, format!("is not a layout: {error}")))
    }
}

/// How layouts become tokens for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutTokenizer {
    vocab: usize,
    /// How many objects there is room for.
    objects: usize,
    /// Points of the grid along a side.
    sections: usize,
}

impl LayoutTokenizer {
    /// For an encoder of so many tokens, which reads so many.
    ///
    /// # Errors
    /// If there is no room for an object, or no grid.
    ///
    /// # Source
    /// `ObjectsBoundingBoxConditionalBuilder` of CompVis/taming-transformers.
    pub fn new(vocab: usize, positions: usize) -> Result<Self> {
        let (objects, sections) = (positions.saturating_sub(2) / 3, vocab.isqrt());
        if objects == 0 || positions != 3 * objects + 2 || sections < 2 {
            return Err(Error::request(format!(
                "an encoder of {vocab} tokens that reads {positions} is not one of layouts, which have three tokens an object and \
                 two for the crop"
            )));
        }
        Ok(Self {
            vocab,
            objects,
            sections,
        })
    }

    /// The tokens of a layout.
    ///
    /// # Errors
    /// If a class is not known, a box lies outside of the picture, there are too many objects, or an object has properties and no
    /// names tell how classes were counted.
    pub fn encode(&self, layout: &Layout, names: Option<&ClassNames>) -> Result<Vec<u32>> {
        if layout.boxes.len() > self.objects {
            return Err(Error::request(format!(
                "the layout has {} boxes, and the model reads at most {}",
                layout.boxes.len(),
                self.objects
            )));
        }
        check_box("the crop", layout.crop)?;
        let mut ids = Vec::with_capacity(3 * self.objects + 2);
        for (index, object) in layout.boxes.iter().enumerate() {
            let what = format!("box {index} (`{}`)", object.class.shown(names));
            let [x, y, width, height] = check_box(&what, object.r#box)?;
            let token = self.class_token(object, names, &what)?;
            // Nothing is told of what the crop leaves out.
            if overlap([x, y, width, height], layout.crop) {
                let end = [x + width.min(1.0 - x), y + height.min(1.0 - y)];
                ids.extend([token, self.point([x, y]), self.point(end)]);
            }
        }
        ids.resize(3 * self.objects, self.none());
        let [x, y, width, height] = layout.crop;
        ids.extend([self.point([x, y]), self.point([x + width, y + height])]);
        Ok(ids)
    }

    /// The layout that says nothing, for guidance: no object, and the whole picture.
    pub fn unconditional(&self) -> Vec<u32> {
        let mut ids = vec![self.none(); 3 * self.objects];
        ids.extend([self.point([0.0, 0.0]), self.point([1.0, 1.0])]);
        ids
    }

    /// The token that stands for no object.
    fn none(&self) -> u32 {
        (self.vocab - 1) as u32
    }

    /// The token of a point, by the nearest of the grid; halves go to the even one, as Python rounds.
    fn point(&self, at: [f64; 2]) -> u32 {
        let most = self.sections - 1;
        let [x, y] = at.map(|at| ((at * most as f64).round_ties_even() as usize).min(most));
        (y * self.sections + x) as u32
    }

    /// The token of an object's class and properties.
    fn class_token(&self, object: &Object, names: Option<&ClassNames>, what: &str) -> Result<u32> {
        let class = match (&object.class, names) {
            (Class::Number(class), _) => *class,
            (Class::Name(name), Some(names)) => names.find(name)?,
            (Class::Name(name), None) => {
                return Err(Error::request(format!(
                    "no names of classes are there for `{}`: put `classes.txt`, a name a line in the order of the classes, beside \
                     the model, or give classes by number",
                    name.escape_debug()
                )));
            }
        };
        let known = names.map_or(self.vocab - 1, ClassNames::count);
        if class >= known {
            return Err(Error::request(format!(
                "{what} has class {class}, and classes are numbered 0 to {}",
                known - 1
            )));
        }
        let properties = [
            object.group,
            object.occluded,
            object.depiction,
            object.inside,
        ];
        let bits = properties.iter().enumerate();
        let modifier: usize = bits.map(|(bit, set)| usize::from(*set) << bit).sum();
        let stride = match (modifier, names) {
            (0, _) => 0,
            (_, Some(names)) => names.stride(),
            (_, None) => {
                return Err(Error::request(format!(
                    "{what} has properties, whose tokens are counted by the number of classes: put `classes.txt` beside the model"
                )));
            }
        };
        let token = class.saturating_add(stride.saturating_mul(modifier));
        match token < self.vocab - 1 {
            true => Ok(token as u32),
            false => Err(Error::request(format!(
                "{what} would be token {token}, and the model knows {}: its classes are counted by {stride}",
                self.vocab
            ))),
        }
    }
}

impl Class {
    fn shown(&self, names: Option<&ClassNames>) -> String {
        match self {
            Self::Name(name) => name.escape_debug().to_string(),
            Self::Number(class) => names
                .and_then(|names| names.name(*class))
                .map_or(class.to_string(), str::to_owned),
        }
    }
}

/// The box, if it lies in the picture and has a size.
fn check_box(what: &str, bounds: [f64; 4]) -> Result<[f64; 4]> {
    let [x, y, width, height] = bounds;
    let inside = |at: f64, size: f64| (0.0..=1.0).contains(&at) && at + size <= 1.0 + SLACK;
    match inside(x, width) && inside(y, height) && width > 0.0 && height > 0.0 {
        true => Ok(bounds),
        false => Err(Error::request(format!(
            "{what} is at {bounds:?}: x, y, width and height are shares of the picture, 0 to 1, and a box ends inside of it"
        ))),
    }
}

/// Whether two boxes have an area in common.
fn overlap(a: [f64; 4], b: [f64; 4]) -> bool {
    let along = |at: usize| (a[at] + a[at + 2]).min(b[at] + b[at + 2]) - a[at].max(b[at]);
    along(0) > 0.0 && along(1) > 0.0
}
