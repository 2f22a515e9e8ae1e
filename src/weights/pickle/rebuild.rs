//! What calls in a pickle amount to: tensors of storages, and for all else nothing.

use super::machine::Machine;
use super::{Storage, Tensor, Value, damaged};
use crate::weights::printable;
use safetensors::Dtype;

/// The most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// PyTorch's storages by the names of their classes, with the bytes of an element.
const STORAGES: [(&str, Dtype, usize); 10] = [
    ("HalfStorage", Dtype::F16, 2),
    ("BFloat16Storage", Dtype::BF16, 2),
    ("FloatStorage", Dtype::F32, 4),
    ("DoubleStorage", Dtype::F64, 8),
    ("LongStorage", Dtype::I64, 8),
    ("IntStorage", Dtype::I32, 4),
    ("ShortStorage", Dtype::I16, 2),
    ("CharStorage", Dtype::I8, 1),
    ("ByteStorage", Dtype::U8, 1),
    ("BoolStorage", Dtype::BOOL, 1),
];

/// Modules whose functions reach beyond a program, so that no checkpoint names one.
const DANGEROUS_MODULES: [&str; 14] = [
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "shutil",
    "socket",
    "runpy",
    "pty",
    "importlib",
    "ctypes",
    "pdb",
    "webbrowser",
    "pickle",
];
/// The same among what Python has built in.
const DANGEROUS_BUILTINS: [&str; 7] = [
    "eval",
    "exec",
    "execfile",
    "compile",
    "open",
    "__import__",
    "apply",
];

impl<'a> Machine<'a> {
    /// What a call of a class or function amounts to.
    pub(super) fn call(
        &mut self,
        called: Value<'a>,
        arguments: Value<'a>,
    ) -> Result<Value<'a>, String> {
        let Value::Sequence(arguments) = arguments else {
            return Ok(Value::Opaque);
        };
        let arguments = &self.made.sequences[arguments];
        match called {
            Value::Global("collections", "OrderedDict") if arguments.is_empty() => {
                Ok(self.dictionary())
            }
            Value::Global("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => {
                let tensor = self.tensor(arguments)?;
                Ok(tensor.map_or(Value::Opaque, |tensor| {
                    self.made.tensors.push(tensor);
                    Value::Tensor(self.made.tensors.len() - 1)
                }))
            }
            Value::Global(
                "torch._utils",
                "_rebuild_parameter" | "_rebuild_parameter_with_state",
            ) => Ok(arguments.first().copied().unwrap_or(Value::Opaque)),
            _ => Ok(Value::Opaque),
        }
    }

    /// The tensor that PyTorch would rebuild of these arguments; `None` if its values are not simply those of a storage.
    fn tensor(&self, arguments: &[Value<'a>]) -> Result<Option<Tensor<'a>>, String> {
        let wrong = || {
            damaged(
                "a tensor is made of something else than a storage, an offset, sizes and strides",
            )
        };
        let [
            storage,
            Value::Int(offset),
            Value::Sequence(shape),
            Value::Sequence(strides),
            rest @ ..,
        ] = arguments
        else {
            return Err(wrong());
        };
        let storage = match storage {
            Value::Storage(storage) => *storage,
            Value::Opaque => return Ok(None),
            _ => return Err(wrong()),
        };
        let sizes = |sequence: usize| {
            let sizes = self.made.sequences[sequence].iter().map(|size| match size {
                Value::Int(size) => usize::try_from(*size).ok(),
                _ => None,
            });
            sizes.take(MAX_RANK + 1).collect::<Option<Vec<usize>>>()
        };
        let shape = sizes(*shape).ok_or_else(wrong)?;
        let strides = sizes(*strides).ok_or_else(wrong)?;
        let offset = usize::try_from(*offset).map_err(|_| wrong())?;
        if shape.len() != strides.len() || shape.len() > MAX_RANK {
            return Err(damaged(&format!(
                "a tensor has {} sizes and {} strides, where each of at most {MAX_RANK} sizes has one",
                shape.len(),
                strides.len()
            )));
        }
        // The last argument says that the elements are to be negated or conjugated.
        let as_stored = match rest.get(2) {
            None | Some(Value::None) => true,
            Some(Value::Dictionary(about)) => self.made.dictionaries[*about].is_empty(),
            Some(_) => false,
        };
        Ok(as_stored.then_some(Tensor {
            storage,
            offset,
            shape,
            strides,
        }))
    }

    /// What lies beside the pickle under this id.
    pub(super) fn storage(&mut self, id: Value<'a>) -> Result<Value<'a>, String> {
        let Value::Sequence(id) = id else {
            return Ok(Value::Opaque);
        };
        let (kind, key, count, view) = match self.made.sequences[id].as_slice() {
            [
                Value::Text("storage"),
                kind,
                Value::Text(key),
                _,
                Value::Int(count),
                view @ ..,
            ] => (*kind, *key, *count, view.first().copied()),
            [Value::Text("storage"), ..] => {
                return Err(damaged("a storage is described in an unknown way"));
            }
            _ => return Ok(Value::Opaque),
        };
        if view.is_some_and(|view| !matches!(view, Value::None)) {
            return Err(format!(
                "has a storage `{}` that is a part of another, as only PyTorch before 0.4 wrote: load and save it with a \
                 newer one",
                printable(key)
            ));
        }
        let count =
            usize::try_from(count).map_err(|_| damaged("a storage has less than no element"))?;
        let element = STORAGES.iter().find_map(|(class, dtype, size)| match kind {
            Value::Global("torch", found) if found == *class => Some((*dtype, *size)),
            _ => None,
        });
        let storage = Storage {
            key,
            count,
            element,
        };
        self.made.storages.entry(key).or_insert(storage);
        Ok(Value::Storage(storage))
    }
}

/// A class or function by its name, unless only an attack would name it.
pub(super) fn global<'a>(module: &'a str, name: &'a str) -> Result<Value<'a>, String> {
    let package = module.split('.').next().unwrap_or(module);
    let built_in = matches!(package, "builtins" | "__builtin__");
    let first = name.split('.').next().unwrap_or(name);
    if DANGEROUS_MODULES.contains(&package) || built_in && DANGEROUS_BUILTINS.contains(&first) {
        return Err(format!(
            "names `{}.{}`, which no checkpoint has use for and an attack has: do not trust it; nothing of it was run",
            printable(module),
            printable(name)
        ));
    }
    Ok(Value::Global(module, name))
}
