//! Where the records of a zip archive lie that stores them as they are, as PyTorch's checkpoints do.
//!
//! Nothing is unpacked, and no record is read or even looked for before it is asked for, so checksums are not compared either: as with safetensors
//! files, that would read gigabytes before the first of them is needed.

use super::printable;
use std::collections::HashMap;
use std::ops::Range;

/// The end of the directory: its signature, and its size without the comment, which has at most 65,535 bytes.
const END: &[u8] = b"PK\x05\x06";
const END_SIZE: usize = 22;
/// The same of archives with 64-bit sizes, and what says where it is, which comes just before [`END`].
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR: &[u8] = b"PK\x06\x07";
const LOCATOR_SIZE: usize = 20;
/// A record's entry in the directory, and what stands before the record itself.
const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_SIZE: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_SIZE: usize = 30;
/// What stands in a field of 32 bits whose value is among the extra fields.
const ELSEWHERE: u64 = u32::MAX as u64;

/// What the directory says of a record. Whether its bytes can be used where they lie is seen when they are asked for, so that a
/// record that nobody wants (an optimizer's state) is neither touched nor a reason to refuse the archive.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    name: &'a str,
    entry: &'a [u8],
    extra: &'a [u8],
}

impl Record<'_> {
    /// Where the record's bytes lie.
    ///
    /// # Errors
    /// If it is compressed, encrypted or not where the directory says, in words that follow the file's path.
    pub(super) fn locate(&self, bytes: &[u8]) -> Result<Range<usize>, String> {
        place(bytes, self.entry, self.extra).map_err(|problem| {
            format!(
                "has an unusable record `{}`: {problem}",
                printable(self.name)
            )
        })
    }
}

/// The records by name.
///
/// # Errors
/// If the archive is cut off or damaged, in words that follow the file's path.
pub(super) fn records(bytes: &[u8]) -> Result<HashMap<&str, Record<'_>>, String> {
    let (count, mut at) = directory(bytes)?;
    let mut records = HashMap::new();
    for _ in 0..count {
        let outside = || damaged("its directory is cut off");
        let entry = part(bytes, at, ENTRY_SIZE).filter(|entry| entry.starts_with(ENTRY));
        let entry = entry.ok_or_else(outside)?;
        let lengths = [28, 30, 32].map(|place| field(entry, place, 2));
        at += ENTRY_SIZE as u64;
        let name = part(bytes, at, lengths[0] as usize).ok_or_else(outside)?;
        let extra = part(bytes, at + lengths[0], lengths[1] as usize).ok_or_else(outside)?;
        at += lengths.iter().sum::<u64>();
        let name = std::str::from_utf8(name).map_err(|_| damaged("a record's name is no text"))?;
        if records
            .insert(name, Record { name, entry, extra })
            .is_some()
        {
            return Err(damaged(&format!(
                "record `{}` is listed twice",
                printable(name)
            )));
        }
    }
    Ok(records)
}

/// How many records there are, and where the first one's entry begins.
fn directory(bytes: &[u8]) -> Result<(u64, u64), String> {
    let last = bytes.len().saturating_sub(END_SIZE);
    let first = last.saturating_sub(usize::from(u16::MAX));
    let end = (first..=last).rev().find(|&place| {
        // A comment may hold anything, this signature too; the true one's comment ends with the file.
        part(bytes, place as u64, END_SIZE).is_some_and(|end| {
            end.starts_with(END)
                && place as u64 + END_SIZE as u64 + field(end, 20, 2) == bytes.len() as u64
        })
    });
    let end = end.ok_or("is truncated: a zip archive ends with its directory, and this one has none; download it again")?;
    let locator = end
        .checked_sub(LOCATOR_SIZE)
        .and_then(|place| part(bytes, place as u64, LOCATOR_SIZE))
        .filter(|locator| locator.starts_with(LOCATOR));
    if let Some(locator) = locator {
        let end = part(bytes, field(locator, 8, 8), 56).filter(|end| end.starts_with(END64));
        let end = end.ok_or_else(|| damaged("its directory is not where it should be"))?;
        return Ok((field(end, 32, 8), field(end, 48, 8)));
    }
    let end = &bytes[end..];
    Ok((field(end, 10, 2), field(end, 16, 4)))
}

/// Where the bytes of a record are, by its entry in the directory.
fn place(bytes: &[u8], entry: &[u8], extra: &[u8]) -> Result<Range<usize>, String> {
    if field(entry, 8, 2) & 1 != 0 {
        return Err("it is encrypted".into());
    }
    if field(entry, 10, 2) != 0 {
        return Err("it is compressed: unpack the archive".into());
    }
    let mut wide = wide_fields(extra);
    let mut value = |place| match field(entry, place, 4) {
        ELSEWHERE => {
            let (value, rest) = wide.split_first_chunk::<8>().ok_or("its size is missing")?;
            wide = rest;
            Ok(u64::from_le_bytes(*value))
        }
        value => Ok::<_, String>(value),
    };
    // In this order they stand among the extra fields: of the unpacked bytes, of the packed ones, of the place.
    let (size, packed, start) = (value(24)?, value(20)?, value(42)?);
    if size != packed {
        return Err("its two sizes differ".into());
    }
    let local = part(bytes, start, LOCAL_SIZE).filter(|local| local.starts_with(LOCAL));
    let local = local.ok_or("it is not where the directory says")?;
    let begin = start as usize + LOCAL_SIZE + (field(local, 26, 2) + field(local, 28, 2)) as usize;
    let end = usize::try_from(size)
        .ok()
        .and_then(|size| begin.checked_add(size));
    match end {
        Some(end) if end <= bytes.len() => Ok(begin..end),
        _ => Err("it reaches beyond the end of the file".into()),
    }
}

/// The extra field that holds values of 64 bits; empty if there is none.
fn wide_fields(mut extra: &[u8]) -> &[u8] {
    while extra.len() >= 4 {
        let (id, size) = (field(extra, 0, 2), field(extra, 2, 2) as usize);
        let Some((found, rest)) = extra[4..].split_at_checked(size) else {
            break;
        };
        if id == 1 {
            return found;
        }
        extra = rest;
    }
    &[]
}

/// `size` bytes from `start`, if there are as many.
fn part(bytes: &[u8], start: u64, size: usize) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get(start..start.checked_add(size)?)
}

/// The little-endian number of `size` bytes at `place`, which the caller knows to be there.
fn field(bytes: &[u8], place: usize, size: usize) -> u64 {
    let mut number = [0; 8];
    number[..size].copy_from_slice(&bytes[place..place + size]);
    u64::from_le_bytes(number)
}

fn damaged(problem: &str) -> String {
    format!("is a damaged zip archive: {problem}")
}
