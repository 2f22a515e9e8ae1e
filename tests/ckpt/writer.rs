//! Writes PyTorch's older layout of checkpoints, instruction by instruction, so that each can be wrong.

/// A text.
pub fn text(text: &str) -> Vec<u8> {
    [
        b"X",
        (text.len() as u32).to_le_bytes().as_slice(),
        text.as_bytes(),
    ]
    .concat()
}

/// A tuple of whole numbers.
fn sizes(sizes: &[i32]) -> Vec<u8> {
    let mut tuple = b"(".to_vec();
    for size in sizes {
        tuple.push(b'J');
        tuple.extend(size.to_le_bytes());
    }
    tuple.push(b't');
    tuple
}

/// A tensor of `count` elements of a storage, such as `FloatStorage`.
pub fn tensor(kind: &str, key: &str, count: i32, place: (i32, &[i32], &[i32])) -> Vec<u8> {
    let (offset, shape, strides) = place;
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{kind}\n").into_bytes(),
        text(key),
        text("cpu"),
        [b"J".as_slice(), &count.to_le_bytes()].concat(),
        b"NtQJ".to_vec(),
        offset.to_le_bytes().to_vec(),
        sizes(shape),
        sizes(strides),
        b"\x89NtR".to_vec(),
    ]
    .concat()
}

/// A dictionary.
pub fn dictionary<'a>(entries: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let mut made = b"}(".to_vec();
    for (key, value) in entries {
        made.extend(text(key));
        made.extend(value);
    }
    made.push(b'u');
    made
}

/// A file that holds `object` and storages, each with its number of elements and their bytes.
pub fn file(object: &[u8], storages: &[(&str, u64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    bytes.extend(b"\x80\x02M\xe9\x03.\x80\x02}.\x80\x02");
    bytes.extend(object);
    bytes.extend(b".\x80\x02](");
    for (key, ..) in storages {
        bytes.extend(text(key));
    }
    bytes.extend(b"e.");
    for (_, count, data) in storages {
        bytes.extend(count.to_le_bytes());
        bytes.extend(data);
    }
    bytes
}
