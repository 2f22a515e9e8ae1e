//! What becomes a launch, and what is refused.

use super::*;
use crate::cuda::Operand as Of;
use crate::cuda::door::fake::{Block, Fake};
use crate::cuda::table::Parameter;
use crate::cuda::tensor_map::{Axis, Swizzle, TensorMap};

const fn parameter(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind }
}

const fn pointer(element: Element, written: bool) -> Kind {
    Kind::Pointer { element, written }
}

static ENTRY: Entry = Entry {
    name: "scale_f16",
    file: "scale.cu",
    threads: 128,
    blocks_per_multiprocessor: 1,
    cluster: 1,
    parameters: &[
        parameter("y", pointer(Element::Half, true)),
        parameter("x", pointer(Element::Half, false)),
        parameter("bias", pointer(Element::Float, false)),
        parameter("parts", pointer(Element::Float, true)),
        parameter("count", Kind::Int),
        parameter("factor", Kind::Float),
        parameter("arrived", pointer(Element::Int, true)),
    ],
};

fn operands() -> Operands {
    let memory = |address, bytes| Span::whole(&Block::at(address, bytes));
    let operand = |address, precision| Operand {
        span: memory(address, 64),
        precision,
        behind: (address == 512).then(|| memory(768, 32)),
    };
    Operands {
        output: operand(256, Precision::F16),
        inputs: vec![
            operand(512, Precision::F16),
            operand(1028, Precision::F16),
            operand(512, Precision::F32),
        ],
        also: None,
        assigned: 0,
        weights: vec![operand(768, Precision::F32)],
        workspace: Some(memory(2048, 128)),
        counters: Some(memory(4096, 16)),
    }
}

fn launch() -> Launch {
    Launch {
        entry: ENTRY.name.to_owned(),
        grid: [1, 2, 3],
        shared_bytes: 0,
        arguments: vec![
            Argument::Output,
            Argument::Input(0),
            Argument::Weight(0),
            Argument::Workspace {
                offset: 64,
                bytes: 64,
            },
            Argument::Int(7),
            Argument::Float(0.5),
            Argument::Counters(4),
        ],
    }
}

fn checked(launch: &Launch) -> Result<Call, String> {
    let target = Target::a100(Precision::F16);
    let door = Fake::new(0);
    super::call("node", launch, &ENTRY, &operands(), &target, &door)
}

#[test]
fn a_launch_that_fits_has_every_address_and_value() {
    let call = checked(&launch()).unwrap_or_else(|problem| panic!("{problem}"));
    let factor = u64::from(0.5f32.to_bits());
    assert_eq!(call.words(), [256, 512, 768, 2112, 7, factor, 4096]);
    let memory = |value: &Value| value.memory().map(|m| (m.written, m.weight));
    let memories: Vec<_> = call.values.iter().filter_map(memory).collect();
    let [written, read, weight] = [(true, false), (false, false), (false, true)];
    let kinds = [written, read, weight, written, written];
    assert_eq!(memories, kinds);
}

#[test]
fn what_lies_behind_an_operand_is_floats_that_are_read() {
    let mut launch = launch();
    launch.arguments[2] = Argument::InputTail(0, 32);
    let call = checked(&launch).unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(call.words()[2], 768);
}

/// Changes a launch that fits, and expects a refusal that holds these words.
fn refused(change: impl Fn(&mut Launch), words: &[&str]) {
    let mut launch = launch();
    change(&mut launch);
    let problem = checked(&launch).err().unwrap_or_default();
    let named = [&["scale_f16"], words].concat();
    assert!(named.iter().all(|word| problem.contains(word)), "{problem}");
}

#[test]
fn a_launch_that_does_not_fit_is_refused_by_name() {
    refused(|l| l.shared_bytes = 1 << 20, &["1048576", "166912"]);
    refused(|l| l.grid = [1, 0, 1], &["1 x 0 x 1"]);
    refused(|l| l.grid = [1, 65_536, 1], &["65536", "65535"]);
    refused(|l| l.arguments.truncate(5), &["7 arguments", "not 5"]);
    let set = |index: usize, argument| move |l: &mut Launch| l.arguments[index] = argument;
    refused(set(1, Argument::Input(2)), &["`x`", "Half", "Float"]);
    refused(set(1, Argument::Input(1)), &["`x`", "0x404", "16"]);
    refused(set(1, Argument::Input(3)), &["`x`", "none of this number"]);
    refused(set(0, Argument::Input(0)), &["`y`", "only be read"]);
    refused(set(2, Argument::Int(1)), &["`bias`", "not memory"]);
    refused(set(4, Argument::Float(1.0)), &["`count`", "another type"]);
    refused(set(2, Argument::InputTail(0, 33)), &["`bias`", "33 bytes"]);
    refused(set(2, Argument::Tail(8)), &["`bias`", "8 bytes"]);
    refused(set(3, Argument::InputTail(0, 32)), &["`parts`", "read"]);
    refused(set(3, Argument::Counters(4)), &["`parts`", "integers"]);
    refused(set(6, Argument::Counters(5)), &["`arrived`", "none"]);
    let beyond = Argument::Workspace {
        offset: 96,
        bytes: 64,
    };
    refused(set(3, beyond), &["`parts`", "128 bytes"]);
}

static HOPPER: Entry = Entry {
    name: "sums_sm90",
    file: "sums_sm90.cu",
    threads: 384,
    blocks_per_multiprocessor: 1,
    cluster: 2,
    parameters: &[parameter("x", Kind::Map), parameter("y", Kind::Map)],
};

/// A call of an entry for Hopper GPUs with maps of 4 rows of so many halves, or its refusal.
fn mapped(halves: usize, of: [Of; 2], grid: u32, compute_capability: u32) -> Result<Call, String> {
    let axes = [Axis::new(halves, 2, 8), Axis::new(4, halves * 2, 1)];
    let map = TensorMap::new(0, &axes, Swizzle::None)?;
    let launch = Launch {
        entry: HOPPER.name.to_owned(),
        grid: [grid, 1, 1],
        shared_bytes: 0,
        arguments: of.map(|of| Argument::Map { of, map }).to_vec(),
    };
    let target = Target {
        compute_capability,
        ..Target::a100(Precision::F16)
    };
    let door = Fake::new(0);
    super::call("node", &launch, &HOPPER, &operands(), &target, &door)
}

#[test]
fn a_map_is_passed_whole_and_names_its_memory() {
    let call = mapped(8, [Of::Input(0), Of::Output], 4, 90);
    let call = call.unwrap_or_else(|problem| panic!("{problem}"));
    let mut words = call.words();
    let addresses = call.arguments(&mut words);
    let [Value::Map(x, encoded), Value::Map(y, _)] = call.values.as_slice() else {
        panic!("two maps are passed");
    };
    assert_eq!(
        addresses[0].cast_const(),
        std::ptr::from_ref(encoded).cast()
    );
    assert_eq!(encoded.0[0], 512);
    assert_eq!((x.span.address(), x.written, x.weight), (512, false, false));
    assert_eq!((y.span.address(), y.written, y.weight), (256, true, false));
}

#[test]
fn a_map_that_does_not_fit_is_refused_by_name() {
    let x = Of::Input(0);
    for (call, words) in [
        (mapped(8, [x, x], 4, 80), ["sm_90 alone", "is sm_80"]),
        (mapped(8, [x, x], 4, 120), ["sm_90 alone", "is sm_120"]),
        (mapped(8, [x, x], 3, 90), ["3 blocks", "clusters of 2"]),
        (mapped(16, [x, x], 4, 90), ["`x`", "byte 128 of 64"]),
        (mapped(8, [x, Of::Input(2)], 4, 90), ["`y`", "Float"]),
        (mapped(8, [Of::Input(1), x], 4, 90), ["`x`", "0x404"]),
        (mapped(8, [x, Of::Weight(7)], 4, 90), ["`y`", "none of"]),
    ] {
        let problem = call.err().unwrap_or_default();
        let named = [&["sums_sm90"], &words[..]].concat();
        assert!(named.iter().all(|word| problem.contains(word)), "{problem}");
    }
    let map = TensorMap::new(0, &[Axis::new(8, 2, 8)], Swizzle::None).unwrap();
    let of = Of::Output;
    refused(
        |l| l.arguments[1] = Argument::Map { of, map },
        &["`x`", "not memory"],
    );
    refused(
        |l| l.arguments[4] = Argument::Map { of, map },
        &["`count`", "another type"],
    );
}
