//! The instructions of pickles: a stack of values, marks in it, and a memory of values that are used again.

use super::rebuild::global;
use super::{Pickle, Value, damaged};
use std::collections::HashMap;

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<usize, Value<'a>>,
    pub(super) made: Pickle<'a>,
}

impl<'a> Machine<'a> {
    /// A machine for the pickle that begins at `start`.
    pub(super) fn new(bytes: &'a [u8], start: usize) -> Self {
        Self {
            bytes,
            at: start,
            stack: vec![],
            marks: vec![],
            memo: HashMap::new(),
            made: Pickle::default(),
        }
    }

    /// What was made, after the last instruction.
    pub(super) fn finish(mut self) -> Result<Pickle<'a>, String> {
        self.made.root = self.pop()?;
        self.made.end = self.at;
        Ok(self.made)
    }

    /// Does one instruction; true after the last. The comments are the names that Python's `pickletools` has for them.
    pub(super) fn step(&mut self) -> Result<bool, String> {
        let value = match self.take(1)?[0] {
            // STOP
            b'.' => return Ok(true),
            // PROTO, FRAME: nothing to do
            0x80 => return self.take(1).map(|_| false),
            0x95 => return self.take(8).map(|_| false),
            // MARK, POP, POP_MARK
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(false);
            }
            b'0' => {
                if self
                    .marks
                    .pop_if(|mark| *mark == self.stack.len())
                    .is_none()
                {
                    self.pop()?;
                }
                return Ok(false);
            }
            b'1' => return self.above_mark().map(|_| false),
            // NONE, NEWTRUE, NEWFALSE, BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(self.number(4)? as u32 as i32)),
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => self.skip(8)?,
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, BINSTRING, SHORT_BINSTRING
            b'X' | b'T' => self.text(4)?,
            0x8c | b'U' => self.text(1)?,
            0x8d => self.text(8)?,
            // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
            b'B' => self.data(4).map(|_| Value::Opaque)?,
            b'C' => self.data(1).map(|_| Value::Opaque)?,
            0x8e | 0x96 => self.data(8).map(|_| Value::Opaque)?,
            // EMPTY_TUPLE, EMPTY_LIST, TUPLE, LIST, TUPLE1, TUPLE2, TUPLE3
            b')' | b']' => self.sequence(vec![]),
            b't' | b'l' => {
                let items = self.above_mark()?;
                self.sequence(items)
            }
            count @ 0x85..=0x87 => {
                let mut items = (0x84..count)
                    .map(|_| self.pop())
                    .collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                self.sequence(items)
            }
            // APPEND, APPENDS
            b'a' => {
                let item = self.pop()?;
                return self.append(vec![item]);
            }
            b'e' => {
                let items = self.above_mark()?;
                return self.append(items);
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.dictionary(),
            b'd' => {
                let items = self.above_mark()?;
                let made = self.dictionary();
                self.stack.push(made);
                return self.set(&items);
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                return self.set(&[key, value]);
            }
            b'u' => {
                let items = self.above_mark()?;
                return self.set(&items);
            }
            // EMPTY_SET, ADDITEMS, FROZENSET
            0x8f => Value::Opaque,
            0x90 => return self.above_mark().map(|_| false),
            0x91 => self.above_mark().map(|_| Value::Opaque)?,
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => return self.remember(1),
            b'r' => return self.remember(4),
            0x94 => {
                let top = self.top()?;
                self.memo.insert(self.memo.len(), top);
                return Ok(false);
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            // GLOBAL, STACK_GLOBAL, INST, OBJ
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                global(module, name)?
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => global(module, name)?,
                _ => return Err(damaged("a class has a name that is no text")),
            },
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                global(module, name)?;
                self.above_mark().map(|_| Value::Opaque)?
            }
            b'o' => self.above_mark().map(|_| Value::Opaque)?,
            // REDUCE, NEWOBJ, NEWOBJ_EX
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let called = self.pop()?;
                self.call(called, arguments)?
            }
            0x92 => {
                for _ in 0..3 {
                    self.pop()?;
                }
                Value::Opaque
            }
            // BUILD: attributes are nothing that weights need
            b'b' => {
                self.pop()?;
                return self.top().map(|_| false);
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?
            }
            other => {
                return Err(damaged(&format!(
                    "no checkpoint has the instruction {other:#04x}"
                )));
            }
        };
        self.stack.push(value);
        Ok(false)
    }
}

/// Where a machine takes its bytes and values from.
impl<'a> Machine<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken =
            taken.ok_or("is truncated: it ends in the middle of a pickle; download it again")?;
        self.at += length;
        Ok(taken)
    }

    /// An unsigned little-endian number of `length` bytes, 8 at most.
    fn number(&mut self, length: usize) -> Result<u64, String> {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(self.take(length)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Bytes behind their number, which itself has `length` bytes.
    fn data(&mut self, length: usize) -> Result<&'a [u8], String> {
        let size = self.number(length)?;
        self.take(usize::try_from(size).unwrap_or(usize::MAX))
    }

    fn skip(&mut self, length: usize) -> Result<Value<'a>, String> {
        self.take(length).map(|_| Value::Opaque)
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>, String> {
        let bytes = self.data(length)?;
        Ok(std::str::from_utf8(bytes).map_or(Value::Opaque, Value::Text))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .unwrap_or(rest.len());
        let line = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| damaged("a class has a name that is no text"))
    }

    /// A signed little-endian integer behind its number of bytes.
    fn long(&mut self, length: usize) -> Result<Value<'a>, String> {
        let bytes = self.data(length)?;
        if bytes.len() > 8 {
            return Ok(Value::Long(bytes));
        }
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(all)))
    }

    /// The value on top, which must lie above the last mark.
    fn top(&self) -> Result<Value<'a>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack[floor..].last().copied();
        top.ok_or_else(|| damaged("an instruction has no value to work on"))
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Takes the values above the last mark, and the mark.
    fn above_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| damaged("a mark is missing"))?;
        Ok(self.stack.drain(mark..).collect())
    }

    fn remember(&mut self, length: usize) -> Result<bool, String> {
        let place = self.number(length)? as usize;
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(false)
    }

    fn recall(&mut self, length: usize) -> Result<Value<'a>, String> {
        let place = self.number(length)? as usize;
        let found = self.memo.get(&place).copied();
        found.ok_or_else(|| damaged("a value is used that was never made"))
    }
}

/// What a machine makes itself.
impl<'a> Machine<'a> {
    fn sequence(&mut self, items: Vec<Value<'a>>) -> Value<'a> {
        self.made.sequences.push(items);
        Value::Sequence(self.made.sequences.len() - 1)
    }

    pub(super) fn dictionary(&mut self) -> Value<'a> {
        self.made.dictionaries.push(vec![]);
        Value::Dictionary(self.made.dictionaries.len() - 1)
    }

    /// Adds items to the list on top; where that is something else, they are of no use.
    fn append(&mut self, items: Vec<Value<'a>>) -> Result<bool, String> {
        if let Value::Sequence(list) = self.top()? {
            self.made.sequences[list].extend(items);
        }
        Ok(false)
    }

    /// Puts keys and values, by turns, into the dictionary on top; where that is something else, they are of no use.
    fn set(&mut self, items: &[Value<'a>]) -> Result<bool, String> {
        if let Value::Dictionary(dictionary) = self.top()? {
            let entries = items.chunks_exact(2).filter_map(|pair| match pair {
                [Value::Text(key), value] => Some((*key, *value)),
                _ => None,
            });
            self.made.dictionaries[dictionary].extend(entries);
        }
        Ok(false)
    }
}
