//! Reading a tokenizer's files, with a sentence for each way they can be wrong.
//!
//! Which special tokens exist, and whether each is looked for before or after normalisation, is spread over four files that older
//! and newer tools write differently; the order of precedence here is the one of `transformers`.

mod bert;

use super::bpe::{Bpe, WORD_END};
use super::split::{Special, normalize};
use super::{Tokenizer, Words};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The positions of CLIP's text encoder, and of latent diffusion's BERT.
const LENGTH: usize = 77;
/// CLIP's own files are under 3 MB; anything beyond this is some other file.
const MAX_FILE_BYTES: u64 = 64 << 20;

type Vocab = HashMap<String, u32>;
type Merges = Vec<(String, String)>;

/// A token that is matched as a whole. (`lstrip`, `rstrip` and `single_word` are off in every CLIP tokenizer, and not read.)
#[derive(Clone, Deserialize)]
struct Added {
    content: String,
    #[serde(default)]
    normalized: bool,
}

/// A special token by its text, or with its properties.
#[derive(Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "a special token is its text, or that with its properties"
)]
enum Named {
    Text(String),
    Added(Added),
}

impl From<Named> for Added {
    fn from(named: Named) -> Self {
        match named {
            Named::Text(content) => Self {
                content,
                normalized: false,
            },
            Named::Added(added) => added,
        }
    }
}

/// What is read of `tokenizer_config.json` and of `special_tokens_map.json`.
#[derive(Default, Deserialize)]
struct Settings {
    bos_token: Option<Named>,
    eos_token: Option<Named>,
    unk_token: Option<Named>,
    pad_token: Option<Named>,
    model_max_length: Option<serde_json::Number>,
    do_lower_case: Option<bool>,
    added_tokens_decoder: Option<BTreeMap<String, Added>>,
}

impl Settings {
    /// The tokenizer at the length that the settings name.
    fn limit(&self, tokenizer: Tokenizer) -> Result<Tokenizer> {
        let length = self.model_max_length.as_ref();
        // Tools write a huge number where they know no limit.
        match length.and_then(|length| u16::try_from(length.as_u64()?).ok()) {
            Some(length) => tokenizer.with_max_length(length.into()),
            None => Ok(tokenizer),
        }
    }
}

/// What is read of `tokenizer.json`.
#[derive(Deserialize)]
struct Whole {
    model: Model,
    normalizer: Option<Normalizer>,
    #[serde(default)]
    added_tokens: Vec<Numbered>,
}

#[derive(Deserialize)]
struct Normalizer {
    lowercase: Option<bool>,
}

#[derive(Deserialize)]
struct Model {
    r#type: Option<String>,
    vocab: Vocab,
    #[serde(default)]
    merges: Vec<Merge>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
struct Numbered {
    id: u32,
    #[serde(flatten)]
    token: Added,
}

/// A merge as older and as newer files write it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a merge is a line or a pair")]
enum Merge {
    Line(String),
    Pair(String, String),
}

/// See [`Tokenizer::open`].
pub(super) fn open(folder: &Path) -> Result<Tokenizer> {
    let config_path = folder.join("tokenizer_config.json");
    let mut settings: Settings = read_optional(&config_path)?.unwrap_or_default();
    let mut added: Vec<Added> = settings
        .added_tokens_decoder
        .take()
        .into_iter()
        .flat_map(BTreeMap::into_values)
        .collect();
    if added.is_empty()
        && let Some(map) = read_optional::<Settings>(&folder.join("special_tokens_map.json"))?
    {
        settings.bos_token = map.bos_token.or(settings.bos_token);
        settings.eos_token = map.eos_token.or(settings.eos_token);
        settings.unk_token = map.unk_token.or(settings.unk_token);
        settings.pad_token = map.pad_token.or(settings.pad_token);
    }

    let whole_path = folder.join("tokenizer.json");
    let vocab_path = folder.join("vocab.json");
    let merges_path = folder.join("merges.txt");
    let pieces_path = folder.join("vocab.txt");
    if let Some(bytes) = read_bytes(&pieces_path)? {
        let vocab = bert::vocabulary(&pieces_path, &bytes)?;
        return bert::build(&vocab, &settings, &pieces_path);
    }
    if let Some(bytes) = read_bytes(&whole_path)? {
        let whole: Whole = parse_json(&whole_path, &bytes)?;
        if whole.model.r#type.as_deref() == Some("WordPiece") {
            let lowercase = whole.normalizer.and_then(|normalizer| normalizer.lowercase);
            settings.do_lower_case = lowercase.or(settings.do_lower_case);
            return bert::build(&whole.model.vocab, &settings, &whole_path);
        }
        let (vocab, merges, listed) = of_clip(whole, &whole_path)?;
        added.extend(listed);
        return build(vocab, &merges, added, settings, &whole_path, &whole_path);
    }
    match (read_bytes(&vocab_path)?, read_bytes(&merges_path)?) {
        (Some(vocab), Some(merges)) => {
            let vocab = parse_json(&vocab_path, &vocab)?;
            let merges = parse_merges(&merges_path, &merges)?;
            build(vocab, &merges, added, settings, &vocab_path, &merges_path)
        }
        (None, None) => Err(Error::file(
            folder,
            "no tokenizer there: expected vocab.json and merges.txt (CLIP), vocab.txt (BERT), or tokenizer.json",
        )),
        (None, _) => Err(Error::file(
            vocab_path,
            "missing, but merges.txt is there: a tokenizer needs both",
        )),
        (_, None) => Err(Error::file(
            merges_path,
            "missing, but vocab.json is there: a tokenizer needs both",
        )),
    }
}

/// See [`Tokenizer::from_bytes`].
pub(super) fn from_bytes(vocab: &[u8], merges: &[u8]) -> Result<Tokenizer> {
    let (vocab_path, merges_path) = (Path::new("vocab.json"), Path::new("merges.txt"));
    let vocab = parse_json(vocab_path, vocab)?;
    let merges = parse_merges(merges_path, merges)?;
    build(
        vocab,
        &merges,
        Vec::new(),
        Settings::default(),
        vocab_path,
        merges_path,
    )
}

fn build(
    vocab: Vocab,
    merges: &Merges,
    added: Vec<Added>,
    mut settings: Settings,
    vocab_path: &Path,
    merges_path: &Path,
) -> Result<Tokenizer> {
    let mut tokens = added.clone();
    let mut name = |named: Option<Named>, default: &str| {
        let mut token = Added::from(named.unwrap_or_else(|| Named::Text(default.to_owned())));
        if let Some(listed) = added.iter().find(|a| a.content == token.content) {
            token = listed.clone();
        }
        tokens.push(token.clone());
        lookup(&vocab, &token.content, "CLIP", vocab_path)
    };
    let begin = name(settings.bos_token.take(), "<|startoftext|>")?;
    let end = name(settings.eos_token.take(), "<|endoftext|>")?;
    let unknown = name(settings.unk_token.take(), "<|endoftext|>")?;
    let pad = name(settings.pad_token.take(), "<|endoftext|>")?;

    let mut specials: Vec<Special> = Vec::new();
    for token in tokens.into_iter().filter(|token| !token.content.is_empty()) {
        let id = lookup(&vocab, &token.content, "CLIP", vocab_path)?;
        // Of two that name one token, the later decides, as in the reference.
        specials.retain(|special| special.id != id);
        let content = if token.normalized {
            normalize(&token.content)
        } else {
            token.content
        };
        specials.push(Special {
            content,
            id,
            normalized: token.normalized,
        });
    }
    let tokenizer = Tokenizer {
        words: Words::Clip(Box::new(Bpe::new(&vocab, merges, unknown, merges_path)?)),
        specials,
        begin,
        end,
        pad,
        max_length: LENGTH,
        vocab_size: size(&vocab),
    };
    settings.limit(tokenizer)
}

/// One more than the largest id.
fn size(vocab: &Vocab) -> usize {
    vocab.values().max().map_or(0, |id| *id as usize + 1)
}

fn lookup(vocab: &Vocab, token: &str, whose: &str, path: &Path) -> Result<u32> {
    vocab.get(token).copied().ok_or_else(|| {
        Error::file(
            path,
            format!("has no token `{token}`: this is not the vocabulary of a {whose} text encoder"),
        )
    })
}

/// What is CLIP's in a `tokenizer.json`.
fn of_clip(whole: Whole, path: &Path) -> Result<(Vocab, Merges, Vec<Added>)> {
    let mut model = whole.model;
    if model.end_of_word_suffix.as_deref() != Some(WORD_END) {
        return Err(Error::file(
            path,
            format!("is not a CLIP tokenizer: its words do not end in `{WORD_END}`"),
        ));
    }
    let mut merges = Merges::with_capacity(model.merges.len());
    for (i, merge) in model.merges.into_iter().enumerate() {
        merges.push(match merge {
            Merge::Pair(left, right) => (left, right),
            Merge::Line(line) => {
                pair(&line).ok_or_else(|| not_a_pair(path, "merge", i + 1, &line))?
            }
        });
    }
    for added in &whole.added_tokens {
        model.vocab.insert(added.token.content.clone(), added.id);
    }
    let listed = whole.added_tokens.into_iter().map(|added| added.token);
    Ok((model.vocab, merges, listed.collect()))
}

fn parse_merges(path: &Path, bytes: &[u8]) -> Result<Merges> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::file(path, "is not UTF-8 text: expected two tokens a line"))?;
    let mut merges = Merges::new();
    for (i, line) in text.lines().enumerate() {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        merges.push(pair(line).ok_or_else(|| not_a_pair(path, "line", i + 1, line))?);
    }
    Ok(merges)
}

fn pair(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' '))
        .then(|| (left.to_owned(), right.to_owned()))
}

fn not_a_pair(path: &Path, what: &str, number: usize, line: &str) -> Error {
    let shown: String = line.chars().take(40).collect();
    Error::file(
        path,
        format!(
            "{what} {number} is not two tokens with a blank between them: `{}`",
            shown.escape_debug()
        ),
    )
}

fn parse_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::file(
            path,
            format!("is damaged, or not a tokenizer's file: {error}"),
        )
    })
}

fn read_optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    read_bytes(path)?
        .map(|bytes| parse_json(path, &bytes))
        .transpose()
}

/// A file's contents, or `None` if there is no such file.
fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    let unreadable = |error: std::io::Error| Error::file(path, format!("cannot be read: {error}"));
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error)),
        Ok(data) if data.len() > MAX_FILE_BYTES => Err(Error::file(
            path,
            format!("is {} MiB large: not a tokenizer's file", data.len() >> 20),
        )),
        Ok(_) => std::fs::read(path).map(Some).map_err(unreadable),
    }
}
