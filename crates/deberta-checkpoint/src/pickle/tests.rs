//! The machine against `serde_pickle`, which writes pickles of plain values and reads them back.

use proptest::prelude::*;
use serde_pickle::{HashableValue, SerOptions, Value};

use super::{Id, Node, Pickle, PickleError, parse};

fn plain() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_filter("NaN is not equal to itself", |x| !x.is_nan()).prop_map(Value::F64),
        ".{0,12}".prop_map(Value::String),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Tuple),
            prop::collection::btree_map("[a-z]{0,6}".prop_map(HashableValue::String), inner, 0..6)
                .prop_map(Value::Dict),
        ]
    })
}

/// Whether a node says what a value is.
fn same(pickle: &Pickle<'_>, id: Id, value: &Value) -> bool {
    let each = |ids: &[Id], values: &[Value]| {
        ids.len() == values.len() && ids.iter().zip(values).all(|(&i, v)| same(pickle, i, v))
    };
    match (pickle.node(id), value) {
        (Node::None, Value::None) => true,
        (Node::Bool(a), Value::Bool(b)) => a == b,
        (Node::Int(a), Value::I64(b)) => a == b,
        (Node::Float(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
        (Node::Str(a), Value::String(b)) => pickle.text(a) == b.as_bytes(),
        (Node::Bytes(a), Value::Bytes(b)) => pickle.text(a) == b,
        (Node::List(a), Value::List(b)) | (Node::Tuple(a), Value::Tuple(b)) => each(a, b),
        (Node::Dict(a), Value::Dict(b)) => {
            a.len() == b.len()
                && a.iter().all(|&(key, inner)| {
                    let key = pickle.str(key).map(|k| HashableValue::String(k.to_owned()));
                    key.and_then(|k| b.get(&k)).is_some_and(|v| same(pickle, inner, v))
                })
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn plain_values_come_back(value in plain(), old in any::<bool>()) {
        let options = if old { SerOptions::new().proto_v2() } else { SerOptions::new() };
        let bytes = serde_pickle::value_to_vec(&value, options).unwrap();
        let (pickle, outcome) = parse(&bytes);
        prop_assert_eq!(outcome, Ok(()));
        prop_assert_eq!(pickle.len(), bytes.len());
        // Protocol 2 writes bytes as a call of _codecs.encode, which stays a call.
        if !(old && format!("{value:?}").contains("Bytes")) {
            prop_assert!(same(&pickle, pickle.root().unwrap(), &value), "{:?}", value);
        }
        prop_assert!(pickle.refused().is_none());
    }

    #[test]
    fn what_serde_pickle_reads_is_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // Of random bytes nearly all are damaged. What the other reader accepts must be accepted, and nothing may panic.
        let (_, outcome) = parse(&bytes);
        if serde_pickle::value_from_slice(&bytes, serde_pickle::DeOptions::new()).is_ok() {
            prop_assert!(outcome.is_ok() || matches!(outcome, Err(PickleError::Operand { .. })), "{:?}", outcome);
        }
    }

    #[test]
    fn a_cut_pickle_is_truncated(value in plain(), cut in any::<prop::sample::Index>()) {
        let bytes = serde_pickle::value_to_vec(&value, SerOptions::new()).unwrap();
        let cut = cut.index(bytes.len());
        let (_, outcome) = parse(&bytes[..cut]);
        prop_assert!(matches!(outcome, Err(PickleError::Truncated { .. })), "{:?}", outcome);
    }
}

#[test]
fn protocol_zero_is_read_too() {
    let text = b"(dp0\nS'a\\'\\x41'\np1\nI7\nsV\\u00e4\\U0001F600\np2\n(lp3\nL12345678901234567890L\naF1.5\naI01\nas.";
    let (pickle, outcome) = parse(text);
    assert_eq!(outcome, Ok(()));
    let items = pickle.items(pickle.root().unwrap()).unwrap();
    assert_eq!(pickle.str(items[0].0), Some("a'A"));
    assert_eq!(pickle.int(items[0].1), Some(7));
    assert_eq!(pickle.str(items[1].0), Some("ä😀"));
    let Node::List(list) = pickle.node(items[1].1) else { panic!("not a list") };
    assert!(matches!(pickle.node(list[0]), Node::Long(_)));
    assert_eq!(*pickle.node(list[1]), Node::Float(1.5));
    assert_eq!(*pickle.node(list[2]), Node::Bool(true));
}

#[test]
fn calls_are_written_down_and_refused() {
    let (pickle, outcome) = parse(b"cposix\nsystem\n(S'echo hi'\ntR.");
    assert_eq!(outcome, Ok(()));
    let refused = pickle.refused().unwrap();
    assert_eq!((refused.module.as_str(), refused.name.as_str()), ("posix", "system"));
    assert_eq!(refused.call.as_deref(), Some("posix.system(\"echo hi\")"));
    assert_eq!(refused.effect, "run a shell command");
}

#[test]
fn opcodes_that_no_checkpoint_needs_are_named() {
    assert!(matches!(parse(b"\x80\x02\x82\x01.").1, Err(PickleError::RefusedOpcode { .. })));
    assert!(matches!(parse(b"\x80\x05\x97.").1, Err(PickleError::RefusedOpcode { .. })));
    assert!(matches!(parse(b"\x80\x06N.").1, Err(PickleError::Protocol { protocol: 6 })));
    assert!(matches!(parse(b"\xfe").1, Err(PickleError::UnknownOpcode { at: 0, opcode: 0xfe })));
    assert!(matches!(parse(b"t.").1, Err(PickleError::Stack { .. })));
}
