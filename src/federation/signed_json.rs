//! What a server has signed of the body of a request: its canonical JSON, whatever numbers stand in it.
//!
//! A body holds what its sender did not write himself: events and messages of others. A number in one of them that
//! canonical JSON does not have must not cost the others the whole transaction, so numbers stay here as they came. What
//! they are good for is judged where each event or message is read.
//!
//! Synapse signs and sends one and the same text, in which Python has written the numbers (`1e-07`). So do servers that
//! take the text of numbers over. The rest is as strict as canonical JSON: of several members with one key the last
//! counts, as in the parsers of those who sign, and a text that is no Unicode has no canonical form that anybody could have
//! signed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map},
    slice,
};

use serde_json::value::RawValue;

/// How deeply arrays and objects may be nested. An event that is nested too deeply for us may be in the transaction of a
/// server that took it: Python's parser goes down to about this level.
const MAX_DEPTH: usize = 1_000;

/// Why nobody can have signed a body.
#[derive(Debug, thiserror::Error)]
pub enum Unsignable {
    #[error("it is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("it is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
}

/// A value, and where in the list of all values those are that it holds. (A tree would need as much stack as it is deep.)
enum Node<'j> {
    /// A text in its shortest form; a number, `true`, `false` or `null` as it came.
    Scalar(Cow<'j, str>),
    Array(Vec<usize>),
    Object(BTreeMap<Cow<'j, str>, usize>),
}

/// The text that is signed.
pub fn canonical(json: &[u8]) -> Result<String, Unsignable> {
    // From here on it is JSON, and reading it means no more than telling its pieces apart.
    let json: &RawValue = serde_json::from_slice(json)?;
    Ok(write(&read(json.get())?))
}

fn read(json: &str) -> Result<Vec<Node<'_>>, Unsignable> {
    let mut nodes = Vec::new();
    // The arrays and objects around the next piece, and the key of the member whose value it is.
    let mut around: Vec<usize> = Vec::new();
    let mut key = None;
    let mut rest = json;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', ',', ':']);
        let Some(first) = rest.bytes().next() else { return Ok(nodes) };
        let (piece, after) = rest.split_at(length(rest, first));
        rest = after;
        if matches!(first, b']' | b'}') {
            around.pop();
            continue;
        }
        let place = nodes.len();
        match around.last().and_then(|&at| nodes.get_mut(at)) {
            Some(Node::Array(values)) => values.push(place),
            Some(Node::Object(members)) => match key.take() {
                Some(key) => {
                    members.insert(key, place);
                }
                None => {
                    key = Some(unescaped(piece)?);
                    continue;
                }
            },
            Some(Node::Scalar(_)) | None => {}
        }
        let node = match first {
            b'[' => Node::Array(Vec::new()),
            b'{' => Node::Object(BTreeMap::new()),
            b'"' if piece.contains('\\') => Node::Scalar(quoted(&unescaped(piece)?).into()),
            _ => Node::Scalar(piece.into()),
        };
        if !matches!(node, Node::Scalar(_)) {
            around.push(place);
            if around.len() > MAX_DEPTH {
                return Err(Unsignable::TooDeep);
            }
        }
        nodes.push(node);
    }
}

/// The bytes of the piece that begins with `first`: a bracket, a text with its quotes, a number or a word.
fn length(rest: &str, first: u8) -> usize {
    let end = match first {
        b'[' | b']' | b'{' | b'}' => Some(1),
        b'"' => {
            let mut is_escaped = false;
            let ends = |byte: u8| {
                let ends = byte == b'"' && !is_escaped;
                is_escaped = byte == b'\\' && !is_escaped;
                ends
            };
            rest.bytes().skip(1).position(ends).map(|before| before + 2)
        }
        _ => rest.find([' ', '\t', '\n', '\r', ',', ']', '}']),
    };
    end.unwrap_or(rest.len())
}

/// What a text says.
fn unescaped(text: &str) -> serde_json::Result<Cow<'_, str>> {
    match text.contains('\\') {
        true => Ok(Cow::Owned(serde_json::from_str(text)?)),
        false => Ok(Cow::Borrowed(text.trim_matches('"'))),
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text always serializes")
}

/// An array or object that is being written.
enum Open<'n, 'j> {
    Array(slice::Iter<'n, usize>),
    Object(btree_map::Iter<'n, Cow<'j, str>, usize>),
}

fn write(nodes: &[Node<'_>]) -> String {
    let mut out = String::new();
    let mut around: Vec<Open<'_, '_>> = Vec::new();
    let mut next = nodes.first();
    while let Some(node) = next {
        match node {
            Node::Scalar(text) => out.push_str(text),
            Node::Array(values) => {
                out.push('[');
                around.push(Open::Array(values.iter()));
            }
            Node::Object(members) => {
                out.push('{');
                around.push(Open::Object(members.iter()));
            }
        }
        next = loop {
            let (key, place, end) = match around.last_mut() {
                None => break None,
                Some(Open::Array(values)) => (None, values.next(), ']'),
                Some(Open::Object(members)) => {
                    let (key, place) = members.next().unzip();
                    (key, place, '}')
                }
            };
            let Some(&place) = place else {
                out.push(end);
                around.pop();
                continue;
            };
            if !out.ends_with(['[', '{']) {
                out.push(',');
            }
            if let Some(key) = key {
                out.push_str(&quoted(key));
                out.push(':');
            }
            break nodes.get(place);
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::CanonicalJsonValue;

    use super::*;

    fn text(json: &str) -> String {
        canonical(json.as_bytes()).unwrap()
    }

    /// By Python: `json.dumps(…, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)`, which is what
    /// Synapse signs.
    #[test]
    fn what_synapse_signs_is_signed_as_it_came() {
        let by_python = concat!(
            r#"{"a":{"A":true,"z":null,"é":"\u0000\u001f"#,
            "\u{7f}",
            r#"\"\\/\b\f\n\r\t😀"},"b":[1.0,1e+16,1e-07,-0.0,0.1,1.5e+300,1.2345678901234568e+17,9223372036854775808,-1,0]}"#,
        );
        assert_eq!(text(by_python), by_python);
    }

    #[test]
    fn members_are_sorted_and_everything_but_numbers_is_in_its_shortest_form() {
        let cases = [
            (r#" { "b" : [ 1.50 , -0 , 1E+2 ] , "a" : { } , "" : [ ] } "#, r#"{"":[],"a":{},"b":[1.50,-0,1E+2]}"#),
            (r#"{"本":2,"日":"\u65E5\/\u0022\u0007"}"#, r#"{"日":"日/\"\u0007","本":2}"#),
            ("{\"\\ud83d\\ude00\":1,\"\u{ffff}\":2}", "{\"\u{ffff}\":2,\"😀\":1}"),
            (r#"{"a\"b":["\\","[{,:}]"],"a":"\\\""}"#, r#"{"a":"\\\"","a\"b":["\\","[{,:}]"]}"#),
            ("[[],[[]],{\"a\":[{}]},[\n1\t]]", r#"[[],[[]],{"a":[{}]},[1]]"#),
            (" \"a\" ", "\"a\""),
            ("-1.5e3", "-1.5e3"),
            ("null", "null"),
        ];
        for (json, expected) in cases {
            assert_eq!(text(json), expected, "{json}");
        }
    }

    #[test]
    fn of_several_members_with_one_key_the_last_counts() {
        assert_eq!(text(r#"{"b":{"x":1},"a":2,"\u0062":[3,3]}"#), r#"{"a":2,"b":[3,3]}"#);
    }

    #[test]
    fn what_nobody_can_have_signed_is_refused() {
        let bad = ["", "{", "[1,]", "{} {}", "01", "NaN", "{a:1}", r#"{"a":"\ud800"}"#, r#"{"\ud800":1}"#, "\"\u{1}\""];
        for bad in bad {
            assert!(canonical(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(canonical(b"\"\xff\"").is_err());
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(text(&nested(MAX_DEPTH)), nested(MAX_DEPTH));
        let objects = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        assert_eq!(text(&objects(MAX_DEPTH)), objects(MAX_DEPTH));
        for too_deep in [nested(MAX_DEPTH + 1), objects(MAX_DEPTH + 1), nested(1_000_000)] {
            assert!(matches!(canonical(too_deep.as_bytes()), Err(Unsignable::TooDeep)));
        }
    }

    fn values() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i32>().prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_canonical_json_can_express_is_as_ruma_writes_it(value in values()) {
            let ruma: CanonicalJsonValue = value.clone().try_into().unwrap();
            let expected = serde_json::to_string(&ruma).unwrap();
            prop_assert_eq!(text(&value.to_string()), expected.clone());
            prop_assert_eq!(text(&serde_json::to_string_pretty(&value).unwrap()), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = canonical(&bytes);
        }
    }
}
