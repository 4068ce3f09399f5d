//! From untrusted bytes to an event of the right shape: strict JSON, sizes, types.

use std::{collections::BTreeMap, fmt};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ID_MAX_BYTES, Int, OwnedEventId, ServerName,
    room_version_rules::RoomVersionRules,
    signatures::{Ed25519KeyPair, sign_json},
    state_res::check_pdu_format,
};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Pdu, owned_state, pdu, redact, rules::has_owned_state};

/// The largest event, in bytes of canonical JSON with its signatures.
///
/// Source: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>.
pub const MAX_BYTES: usize = 65_536;

/// The most events that one event may name as previous ones, and as those that allow it.
/// <https://spec.matrix.org/v1.19/rooms/v1/#event-format>
pub const MAX_PREV_EVENTS: usize = 20;
pub const MAX_AUTH_EVENTS: usize = 10;

/// How deeply objects and arrays may be nested, the event itself counted.
///
/// Source: our choice. serde_json, which reads what we store and answer, gives up at 128, and answers wrap events.
pub const MAX_DEPTH: usize = 100;

/// Why an event cannot be an event at all: it is dropped, not rejected, and never stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Over a size limit: `M_TOO_LARGE` to the client who sent it.
    #[error("event is too large: {0}")]
    TooLarge(String),
    /// Not canonical JSON or not the shape of an event: `M_BAD_JSON` to the client who sent it.
    #[error("malformed event: {0}")]
    BadJson(String),
}

impl FormatError {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::BadJson(message.into())
    }
}

/// An event from another server whose format is right and whose signatures nobody has looked at.
#[derive(Clone, Debug)]
pub struct Received {
    pub(super) pdu: Pdu,
    pub(super) json: CanonicalJsonObject,
}

impl Received {
    /// The fields of the event, as claimed: nothing of them is proved before `hash::verify`.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// The event, without `unsigned`.
    pub fn json(&self) -> &CanonicalJsonObject {
        &self.json
    }

    /// Adds our signature to those that the event has. What is signed must have been looked at field by field, and must
    /// not leave this server before `hash::verify` has found the signature of the sender's server right.
    pub fn cosign(
        &mut self,
        server_name: &ServerName,
        key: &Ed25519KeyPair,
        rules: &RoomVersionRules,
    ) -> Result<(), FormatError> {
        let mut signed = redact::redact(self.json.clone(), rules)?;
        sign_json(server_name.as_str(), key, &mut signed).map_err(|error| FormatError::bad(error.to_string()))?;
        if let Some(signatures) = signed.remove("signatures") {
            self.json.insert("signatures".to_owned(), signatures);
        }
        check(&mut self.json, rules)
    }
}

/// Reads an event in the federation format, as another server sent it, for a room with `rules`.
///
/// `unsigned` is left out unread: no signature covers it, and a bad number in it must not cost us the event.
pub fn parse(json: &[u8], rules: &RoomVersionRules) -> Result<Received, FormatError> {
    let mut json = read_event(json, rules)?;
    check(&mut json, rules)?;
    Ok(Received { pdu: Pdu::from_json(&json, rules)?, json })
}

/// The id of what [`parse`] refuses, for the answer to whoever sent it. `None` if nobody can tell it: what makes it no event
/// must be a part that a redaction removes.
pub fn id_of_refused(json: &[u8], rules: &RoomVersionRules) -> Option<OwnedEventId> {
    let mut members: Members<'_> = serde_json::from_slice(json).ok()?;
    members.remove("unsigned");
    let content = serde_json::from_str(members.remove("content")?.get()).ok()?;
    let (mut event, unreadable) = readable(members, MAX_DEPTH - 1);
    let (content, unreadable_content) = readable(content, MAX_DEPTH - 2);
    event.insert("content".to_owned(), CanonicalJsonValue::Object(content));
    let redacted = redact::redact(event, rules).ok()?;
    let content = redacted.get("content")?.as_object()?;
    let is_kept = unreadable.iter().any(|key| redacted.contains_key(key))
        || unreadable_content.iter().any(|key| content.contains_key(key));
    if is_kept { None } else { pdu::event_id(&redacted, rules).ok() }
}

/// As [`parse`], of an event of a room's past, which may name more events than one may today.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid>
pub fn parse_past(json: &[u8], rules: &RoomVersionRules) -> Result<Received, FormatError> {
    let mut json = read_event(json, rules)?;
    check_sizes(&json, rules)?;
    let surplus = [("prev_events", MAX_PREV_EVENTS), ("auth_events", MAX_AUTH_EVENTS)].map(|(field, most)| {
        let list = json.get_mut(field).and_then(CanonicalJsonValue::as_array_mut).filter(|list| list.len() > most);
        (field, list.map(|list| list.split_off(most)).unwrap_or_default())
    });
    check_fields(&mut json, rules)?;
    for (field, surplus) in surplus {
        if let Some(list) = json.get_mut(field).and_then(CanonicalJsonValue::as_array_mut) {
            list.extend(surplus);
        }
    }
    Ok(Received { pdu: Pdu::from_json(&json, rules)?, json })
}

type Members<'j> = BTreeMap<String, &'j RawValue>;

/// An object with `null` in place of what can't be read, and the keys of that.
fn readable(members: Members<'_>, levels_left: usize) -> (CanonicalJsonObject, Vec<String>) {
    let (mut object, mut unreadable) = (CanonicalJsonObject::new(), Vec::new());
    for (key, json) in members {
        let guards = Strict { levels_left, unique_keys: false, left_out: &[] };
        let value = guards.deserialize(&mut serde_json::Deserializer::from_str(json.get())).unwrap_or_else(|_| {
            unreadable.push(key.clone());
            CanonicalJsonValue::Null
        });
        object.insert(key, value);
    }
    (object, unreadable)
}

/// Reads the content of an event that a client wants to send to a room with `rules`.
pub fn parse_content(json: &[u8], rules: &RoomVersionRules) -> Result<CanonicalJsonObject, FormatError> {
    read(json, Strict { levels_left: MAX_DEPTH - 1, ..Strict::new(rules) })
}

/// Reads again what was read by [`parse`], or made here, and kept.
pub(super) fn parse_kept(json: &[u8]) -> Result<CanonicalJsonObject, FormatError> {
    read(json, Strict { levels_left: MAX_DEPTH, unique_keys: false, left_out: &[] })
}

/// Reads what another server sent as an event, but for `unsigned`.
fn read_event(json: &[u8], rules: &RoomVersionRules) -> Result<CanonicalJsonObject, FormatError> {
    read(json, Strict { levels_left: MAX_DEPTH, left_out: &["unsigned"], ..Strict::new(rules) })
}

fn read(json: &[u8], guards: Strict<'_>) -> Result<CanonicalJsonObject, FormatError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = guards.deserialize(&mut deserializer).map_err(|error| FormatError::bad(error.to_string()))?;
    deserializer.end().map_err(|error| FormatError::bad(error.to_string()))?;
    match value {
        CanonicalJsonValue::Object(object) => Ok(object),
        _ => Err(FormatError::bad("expected a JSON object")),
    }
}

/// Checks sizes and the types of the fields of an event that has its signatures.
pub(super) fn check(json: &mut CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), FormatError> {
    check_sizes(json, rules)?;
    check_fields(json, rules)
}

/// The types of the fields, and how many events are named, of an event whose sizes are right.
fn check_fields(json: &mut CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), FormatError> {
    // ruma's limit for the whole is one byte below the specification's. We have measured the whole, so let it see the
    // event without signatures, which are always far longer than a byte. And without what it takes for too long.
    let mut hidden = vec![("signatures", json.remove("signatures"))];
    for field in COUNTED_IN_CHARACTERS {
        if text(json, field).is_some_and(|text| text.len() > ID_MAX_BYTES) {
            hidden.push((field, json.insert(field.to_owned(), CanonicalJsonValue::String("long".to_owned()))));
        }
    }
    let checked = check_pdu_format(json, &rules.event_format).map_err(FormatError::BadJson);
    json.extend(hidden.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))));
    checked
}

/// What had at most 255 characters, not bytes, before version 11.
///
/// NOTSPEC: the specification counts bytes in all versions. Synapse always counted characters in the old ones, and what
/// it let in is part of their states.
const COUNTED_IN_CHARACTERS: [&str; 2] = ["type", "state_key"];

/// Version 11 is that which moved `redacts` into the content.
fn counts_bytes(rules: &RoomVersionRules) -> bool {
    rules.redaction.content_field_redacts
}

fn text<'j>(json: &'j CanonicalJsonObject, field: &str) -> Option<&'j str> {
    json.get(field).and_then(CanonicalJsonValue::as_str)
}

/// How long these may be.
fn max_size(field: &str, rules: &RoomVersionRules) -> usize {
    if field == "state_key" && has_owned_state(rules) { owned_state::MAX_STATE_KEY } else { ID_MAX_BYTES }
}

/// What we ourselves make has at most 255 bytes in these fields in every version, as the specification wants it.
pub(super) fn check_own_sizes(json: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), FormatError> {
    for field in COUNTED_IN_CHARACTERS {
        check_size(field, text(json, field).map_or(0, str::len), max_size(field, rules), "bytes")?;
    }
    Ok(())
}

fn check_size(field: &str, size: usize, max: usize, unit: &str) -> Result<(), FormatError> {
    if size > max {
        return Err(FormatError::TooLarge(format!("`{field}` is longer than {max} {unit}")));
    }
    Ok(())
}

fn check_sizes(json: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), FormatError> {
    for field in ["sender", "room_id", "event_id"] {
        check_size(field, text(json, field).map_or(0, str::len), ID_MAX_BYTES, "bytes")?;
    }
    if counts_bytes(rules) {
        check_own_sizes(json, rules)?;
    }
    for field in COUNTED_IN_CHARACTERS {
        let characters = text(json, field).map_or(0, |text| text.chars().count());
        check_size(field, characters, max_size(field, rules), "characters")?;
    }
    let bytes = canonical(json).len();
    if bytes > MAX_BYTES {
        return Err(FormatError::TooLarge(format!("{bytes} bytes, at most {MAX_BYTES} are allowed")));
    }
    Ok(())
}

/// The canonical JSON of an object.
pub(super) fn canonical(json: &CanonicalJsonObject) -> String {
    serde_json::to_string(json).expect("maps with string keys, strings and integers always serialize")
}

/// What serde_json calls a piece of JSON text inside of itself. Where it reads a `Value` it takes any object with this key
/// for such a piece: it fails, or makes something else of what everybody else reads as an object.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// Builds a canonical value straight from the input, with the guards that serde_json's own `Value` lacks.
///
/// NOTSPEC: versions 1 to 5 should accept any number. Here all versions refuse what canonical JSON has not: ruma's, by which
/// events are hashed, signed and redacted, holds integers of up to 2^53 - 1 only, and fractions have no one text to be hashed.
///
/// NOTSPEC: and no object may have the key [`RAW_VALUE`]. Some of what reads events later, in ruma too, panics at it, so that
/// one message could stop the push notifications of everybody here.
#[derive(Clone, Copy)]
struct Strict<'a> {
    levels_left: usize,
    /// Whether a key that comes twice is an error; if not, the last one wins.
    unique_keys: bool,
    /// Members of the outermost object that are skipped whatever they hold.
    left_out: &'a [&'a str],
}

impl Strict<'_> {
    fn new(rules: &RoomVersionRules) -> Self {
        Self { levels_left: 0, unique_keys: rules.authorization.strict_canonical_json, left_out: &[] }
    }

    /// The guards for the members of the value that these are for.
    fn inside<E: de::Error>(self) -> Result<Strict<'static>, E> {
        match self.levels_left.checked_sub(1) {
            Some(levels_left) => Ok(Strict { levels_left, unique_keys: self.unique_keys, left_out: &[] }),
            None => Err(E::custom(format_args!("nested more than {MAX_DEPTH} levels deep"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = CanonicalJsonValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = CanonicalJsonValue;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("canonical JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Int::new(value).map(CanonicalJsonValue::Integer).ok_or_else(|| E::custom("integer out of range"))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Int::try_from(value).map(CanonicalJsonValue::Integer).map_err(|_| E::custom("integer out of range"))
    }

    // Fractions, exponents, negative zero and integers of more than 64 bits arrive here.
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(E::custom("number that is no integer in the range of canonical JSON"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let inside = self.inside()?;
        let mut values = Vec::new();
        while let Some(value) = array.next_element_seed(inside)? {
            values.push(value);
        }
        Ok(CanonicalJsonValue::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let inside = self.inside()?;
        let mut members = CanonicalJsonObject::new();
        while let Some(key) = object.next_key::<String>()? {
            if self.left_out.contains(&key.as_str()) {
                object.next_value::<IgnoredAny>()?;
                continue;
            }
            if key == RAW_VALUE {
                return Err(de::Error::custom(format_args!("the key {RAW_VALUE:?}")));
            }
            if self.unique_keys && members.contains_key(&key) {
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            // Before version 6, where JSON must not be judged strictly, the last of several wins, as in Python's parser,
            // which nearly all events of that time were hashed by.
            members.insert(key, object.next_value_seed(inside)?);
        }
        Ok(CanonicalJsonValue::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};
    use serde_json::{Value, json};

    use super::*;
    use crate::event::{
        rules::{SUPPORTED, rules},
        testing::{Forge, draft},
    };

    fn event(version: u8) -> Value {
        let reference = |id: &str| if version < 3 { json!([id, { "sha256": "hash" }]) } else { json!(id) };
        json!({
            "auth_events": [reference("$auth:example.org")],
            "content": { "body": "hi" },
            "depth": 12,
            "event_id": "$event:example.org",
            "hashes": { "sha256": "hash" },
            "origin_server_ts": 1_838_188_000,
            "prev_events": [reference("$prev:example.org")],
            "room_id": "!room:example.org",
            "sender": "@alice:example.org",
            "signatures": { "example.org": { "ed25519:1": "signature" } },
            "type": "m.room.message",
        })
    }

    fn with(field: &str, value: Value) -> Value {
        let mut event = event(11);
        event[field] = value;
        event
    }

    fn parse_v11(event: &Value) -> Result<Received, FormatError> {
        parse(event.to_string().as_bytes(), &RoomVersionRules::V11)
    }

    fn is_bad(result: &Result<Received, FormatError>) -> bool {
        matches!(result, Err(FormatError::BadJson(_)))
    }

    fn is_too_large(result: &Result<Received, FormatError>) -> bool {
        matches!(result, Err(FormatError::TooLarge(_)))
    }

    fn content(json: &str) -> Result<String, FormatError> {
        parse_content(json.as_bytes(), &RoomVersionRules::V11).map(|content| canonical(&content))
    }

    // https://spec.matrix.org/v1.19/appendices/#canonical-json, all examples of integers that are written as such.
    #[test]
    fn canonical_json_is_as_in_the_examples_of_the_specification() {
        let auth = r#"{"auth":{"success":true,"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe",
            "three_pids":[{"medium":"email","address":"john.doe@example.org"},
            {"medium":"msisdn","address":"123456789"}]}}}"#;
        let auth_canonical = r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","#
            .to_owned()
            + r#""three_pids":[{"address":"john.doe@example.org","medium":"email"},"#
            + r#"{"address":"123456789","medium":"msisdn"}]},"success":true}}"#;
        let examples = [
            ("{}", "{}"),
            (r#"{"one": 1, "two": "Two"}"#, r#"{"one":1,"two":"Two"}"#),
            (r#"{"b": "2", "a": "1"}"#, r#"{"a":"1","b":"2"}"#),
            (r#"{"b":"2","a":"1"}"#, r#"{"a":"1","b":"2"}"#),
            (auth, &auth_canonical),
            (r#"{"a": "日本語"}"#, r#"{"a":"日本語"}"#),
            (r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#),
            (r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#),
            (r#"{"a": null}"#, r#"{"a":null}"#),
        ];
        for (input, expected) in examples {
            assert_eq!(content(input).unwrap(), expected);
        }
    }

    #[test]
    fn control_characters_are_escaped_the_shortest_way() {
        let input = r#"{"a":"\u0000\u0007\u0008\u0009\u000a\u000b\u000c\u000d\u001f\"\\\/\u007f"}"#;
        let expected = "{\"a\":\"\\u0000\\u0007\\b\\t\\n\\u000b\\f\\r\\u001f\\\"\\\\/\u{7f}\"}";
        assert_eq!(content(input).unwrap(), expected);
    }

    #[test]
    fn integers_reach_from_one_to_the_other_end_of_the_canonical_range() {
        for good in ["0", "-1", "9007199254740991", "-9007199254740991"] {
            assert_eq!(content(&format!(r#"{{"a":[{good}]}}"#)).unwrap(), format!(r#"{{"a":[{good}]}}"#));
        }
        let too_large =
            ["9007199254740992", "-9007199254740992", "9223372036854775808", "18446744073709551616", "1e999"];
        for bad in
            too_large.into_iter().chain(["-0", "1.0", "1.5", "1e10", "-0.0", "NaN", "Infinity", "01", "+1", "0x1"])
        {
            assert!(content(&format!(r#"{{"a":[{bad}]}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_integer_out_of_range_anywhere_in_an_event_is_refused_in_every_version() {
        for (version, number) in SUPPORTED.iter().zip(1..) {
            for field in ["depth", "origin_server_ts", "content", "anything"] {
                let text = event(number).to_string();
                let bad = text.replacen('{', &format!(r#"{{"{field}":9223372036854775808,"#), 1);
                assert!(is_bad(&parse(bad.as_bytes(), rules(version).unwrap())), "{version} {field}");
            }
        }
    }

    #[test]
    fn duplicate_keys_are_refused_since_version_6_and_the_last_one_counts_before() {
        let read = |version| parse_content(br#"{"a":{"b":1,"b":2}}"#, version).map(|content| canonical(&content));
        assert!(read(&RoomVersionRules::V6).is_err());
        assert!(read(&RoomVersionRules::V12).is_err());
        assert_eq!(read(&RoomVersionRules::V5).unwrap(), r#"{"a":{"b":2}}"#);
    }

    #[test]
    fn text_that_is_no_unicode_is_refused() {
        for bad in [r#"{"a":"\ud800"}"#, r#"{"a":"\udc00\ud800"}"#, r#"{"\ud800x":1}"#] {
            assert!(content(bad).is_err(), "{bad}");
        }
        assert_eq!(content(r#"{"a":"\ud83d\ude00"}"#).unwrap(), "{\"a\":\"😀\"}");
        assert!(parse_content(b"{\"a\":\"\xff\"}", &RoomVersionRules::V11).is_err());
    }

    #[test]
    fn what_serde_json_would_read_otherwise_is_refused_wherever_it_stands() {
        for text in ["no JSON", "{}"] {
            let json = json!({ "list": [{ RAW_VALUE: text, "more": 1 }] });
            assert!(content(&json.to_string()).is_err(), "{text}");
            assert!(is_bad(&parse_v11(&with("anything", json.clone()))), "{text}");
            assert!(serde_json::from_str::<Value>(&json.to_string()).is_err(), "if not, nothing need be refused");
            let unsigned = event(11).to_string().replacen('{', &format!(r#"{{"unsigned":{json},"#), 1);
            parse(unsigned.as_bytes(), &RoomVersionRules::V11).unwrap();
        }
        let escaped = r#"{"\u0024serde_json::private::RawValue":"{}"}"#;
        assert!(content(escaped).is_err());
    }

    #[test]
    fn what_is_not_exactly_one_object_is_refused() {
        for bad in ["", " ", "null", "[]", "1", "\"a\"", "{} {}", "{}x", "{", r#"{"a"}"#, r#"{"a":1,}"#, "{a:1}"] {
            assert!(content(bad).is_err(), "{bad}");
        }
        assert_eq!(content(" {} \n").unwrap(), "{}");
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        // The event and its content are two levels.
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let event = |levels| event(11).to_string().replace("\"hi\"", &nested(levels));
        let parse = |levels| parse(event(levels).as_bytes(), &RoomVersionRules::V11);
        parse(MAX_DEPTH - 2).unwrap();
        assert!(is_bad(&parse(MAX_DEPTH - 1)));
        assert!(is_bad(&parse(1_000_000)));

        let content = |levels| content(&format!(r#"{{"a":{}}}"#, nested(levels)));
        content(MAX_DEPTH - 2).unwrap();
        content(MAX_DEPTH - 1).unwrap_err();
        assert!(super::parse_content("{\"a\":".repeat(1_000_000).as_bytes(), &RoomVersionRules::V11).is_err());
    }

    #[test]
    fn unsigned_is_skipped_whatever_it_holds() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for unsigned in ["1e999", "null", r#"{"age":9223372036854775808}"#, r#"{"a":1,"a":2}"#, &deep] {
            let json = event(11).to_string().replacen('{', &format!(r#"{{"unsigned":{unsigned},"#), 1);
            let received = parse(json.as_bytes(), &RoomVersionRules::V11).unwrap();
            assert!(!received.json().contains_key("unsigned"));
        }
        assert_eq!(content(r#"{"unsigned":1}"#).unwrap(), r#"{"unsigned":1}"#, "of no meaning in a content");
    }

    #[test]
    fn what_is_refused_has_the_id_that_its_redacted_form_has() {
        let with_field = |version: u8, field: &str, text: &str| {
            event(version).to_string().replacen('{', &format!(r#"{{"{field}":{text},"#), 1)
        };
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        for (number, version) in (1..).zip(&SUPPORTED) {
            let rules = rules(version).unwrap();
            let id = pdu::event_id(&serde_json::from_value(event(number)).unwrap(), rules).unwrap();
            for bad in
                ["1.5", "-0", "1e999999", "9223372036854775808", r#"{"$serde_json::private::RawValue":1}"#, &deep]
            {
                let in_content = event(number).to_string().replace("\"hi\"", bad);
                for json in [in_content, with_field(number, "anything", bad)] {
                    assert!(is_bad(&parse(json.as_bytes(), rules)), "{version} {bad:.40}");
                    assert_eq!(id_of_refused(json.as_bytes(), rules).as_ref(), Some(&id), "{version} {bad:.40}");
                }
                let protected = event(number).to_string().replace("12", bad);
                assert_eq!(id_of_refused(protected.as_bytes(), rules), None, "{version} {bad:.40}");
            }
        }
        let rules = &RoomVersionRules::V11;
        for none in ["", "1", "{}", r#"{"type":"x","content":[]}"#, r#"{"type":1,"content":{}}"#, "{\"\\ud800\":1}"] {
            assert_eq!(id_of_refused(none.as_bytes(), rules), None, "{none}");
        }
    }

    #[test]
    fn an_event_may_have_65536_bytes_and_not_one_more() {
        let size = event(11).to_string().len() - "hi".len();
        let filled = |bytes: usize| parse_v11(&with("content", json!({ "body": "x".repeat(bytes - size) })));
        let largest = filled(MAX_BYTES).unwrap();
        assert_eq!(canonical(largest.json()).len(), 65_536);
        assert!(is_too_large(&filled(MAX_BYTES + 1)));
    }

    #[test]
    fn sizes_are_counted_in_bytes_of_canonical_json() {
        // Six bytes here, two there.
        let escaped = event(11).to_string().replace("hi", &r"\u00e4".repeat(30_000));
        parse(escaped.as_bytes(), &RoomVersionRules::V11).unwrap();
        // One character here, six bytes there.
        assert!(is_too_large(&parse_v11(&with("content", json!({ "body": "\u{0}".repeat(11_000) })))));
    }

    #[test]
    fn fields_may_have_255_bytes_and_not_one_more() {
        let cases = [("type", ""), ("state_key", ""), ("sender", "@:a"), ("room_id", "!"), ("state_key", "é")];
        for (field, start) in cases {
            let of_length = |bytes: usize| {
                let filling = "x".repeat(bytes - start.len());
                let text = start.replacen('@', &format!("@{filling}"), 1);
                let text = if text == start { start.to_owned() + &filling } else { text };
                assert_eq!(text.len(), bytes);
                parse_v11(&with(field, json!(text)))
            };
            of_length(255).unwrap();
            assert!(is_too_large(&of_length(256)), "{field}");
        }
        let with_id = |bytes: usize| {
            let mut event = event(1);
            event["event_id"] = json!(format!("${}:a", "x".repeat(bytes - 3)));
            parse(event.to_string().as_bytes(), &RoomVersionRules::V1)
        };
        with_id(255).unwrap();
        assert!(is_too_large(&with_id(256)));
    }

    #[test]
    fn types_and_state_keys_of_old_versions_are_counted_in_characters() {
        let with_key = |version: u8, field: &str, characters: usize| {
            let mut event = event(version);
            event[field] = json!("é".repeat(characters));
            parse(event.to_string().as_bytes(), rules(&SUPPORTED[usize::from(version) - 1]).unwrap())
        };
        for field in ["type", "state_key"] {
            let long = with_key(10, field, 255).unwrap();
            assert_eq!(long.json()[field].as_str().map(str::len), Some(510));
            assert!(is_too_large(&with_key(10, field, 256)), "{field}");
            assert!(is_too_large(&with_key(11, field, 128)), "{field}");
        }
        let mut forge = Forge::new(RoomVersionId::V10);
        let create = forge.create("alice");
        let ours = forge.try_event("alice", draft("x", Some(&"é".repeat(128)), &json!({})), &[&create], &[&create]);
        assert!(matches!(ours, Err(FormatError::TooLarge(_))), "what we make has at most 255 bytes");
    }

    #[test]
    fn an_event_has_at_most_20_previous_and_10_auth_events_of_usable_ids() {
        for (field, most) in [("prev_events", 20), ("auth_events", 10)] {
            let list = |length: usize| parse_v11(&with(field, json!(vec!["$id"; length])));
            list(most).unwrap();
            assert!(is_bad(&list(most + 1)), "{field}");
            for bad in [json!(["id"]), json!([1]), json!([["$id", {}]]), json!([null]), json!({})] {
                assert!(is_bad(&parse_v11(&with(field, bad.clone()))), "{field} {bad}");
            }
            let past = |list: Vec<&str>| {
                let event = with(field, json!(list)).to_string();
                parse_past(event.as_bytes(), &RoomVersionRules::V11).map(|received| received.json()[field].clone())
            };
            let old = past(vec!["$id"; 50]).unwrap();
            assert_eq!(old.as_array().unwrap().len(), 50, "{field} of an old event");
            assert!(past([vec!["$id"; 50], vec!["id"]].concat()).is_err(), "{field} of an old event");
            assert!(is_bad(&parse_v11(&with(field, json!([format!("${}", "x".repeat(255))])))), "{field} of 256 bytes");
        }
    }

    #[test]
    fn references_of_versions_1_and_2_are_pairs() {
        for bad in [json!(["$id:a"]), json!([[]]), json!([[1, {}]]), json!([["id", {}]])] {
            let mut event = event(2);
            event["prev_events"] = bad.clone();
            assert!(is_bad(&parse(event.to_string().as_bytes(), &RoomVersionRules::V2)), "{bad}");
        }
        let received = parse(event(1).to_string().as_bytes(), &RoomVersionRules::V1).unwrap();
        assert_eq!(received.pdu().prev_events, ["$prev:example.org"]);
        assert_eq!(received.pdu().auth_events, ["$auth:example.org"]);
        assert_eq!(received.pdu().event_id, "$event:example.org");
    }

    #[test]
    fn required_fields_must_be_there_and_of_their_type() {
        for field in ["auth_events", "content", "depth", "origin_server_ts", "prev_events", "room_id", "sender", "type"]
        {
            let mut event = event(11);
            event.as_object_mut().unwrap().remove(field).unwrap();
            assert!(is_bad(&parse_v11(&event)), "without {field}");
            for wrong in [json!(null), json!(true), json!(-1), json!([1]), json!("no id")] {
                let fits = field == "type" && wrong.is_string();
                assert_eq!(parse_v11(&with(field, wrong.clone())).is_ok(), fits, "{field}: {wrong}");
            }
        }
        for wrong in [json!(null), json!(1), json!({})] {
            assert!(is_bad(&parse_v11(&with("state_key", wrong))));
        }
        let mut no_server = event(1);
        no_server["event_id"] = json!("$no_server");
        assert!(is_bad(&parse(no_server.to_string().as_bytes(), &RoomVersionRules::V1)));
    }

    #[test]
    fn only_the_create_event_of_version_12_names_no_room() {
        let rules = &RoomVersionRules::V12;
        let mut create = with("type", json!("m.room.create"));
        create["auth_events"] = json!([]);
        assert!(is_bad(&parse(create.to_string().as_bytes(), rules)), "it may not name one");
        create.as_object_mut().unwrap().remove("room_id");
        let create = parse(create.to_string().as_bytes(), rules).unwrap();
        assert_eq!(create.pdu().room_id.strip_sigil(), &create.pdu().event_id.as_str()[1..]);

        let mut message = event(11);
        message["auth_events"] = json!([create.pdu().event_id]);
        message["room_id"] = json!(create.pdu().room_id);
        assert!(is_bad(&parse(message.to_string().as_bytes(), rules)), "the create event is no auth event");
        message["auth_events"] = json!([]);
        parse(message.to_string().as_bytes(), rules).unwrap();
        message.as_object_mut().unwrap().remove("room_id");
        assert!(is_bad(&parse(message.to_string().as_bytes(), rules)));
    }

    /// JSON that is often nearly an event.
    fn near_events() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[@!$#]?[a-z]{0,3}(:[a-z]{0,3})?".prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z0-9.]{0,6}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        });
        let fields = event(11).as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        (prop::sample::select(fields), value, 1_u8..13).prop_map(|(field, value, version)| {
            let mut event = event(version);
            event[field] = value;
            event.to_string()
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(bytes: Vec<u8>, version in 0..SUPPORTED.len()) {
            let _ = parse(&bytes, rules(&SUPPORTED[version]).unwrap());
        }

        #[test]
        fn no_near_event_makes_parsing_panic_and_what_passes_is_canonical(json in near_events(), version in 0..SUPPORTED.len()) {
            let rules = rules(&SUPPORTED[version]).unwrap();
            if let Ok(received) = parse(json.as_bytes(), rules) {
                let again = parse(canonical(received.json()).as_bytes(), rules).unwrap();
                prop_assert_eq!(again.json(), received.json());
                prop_assert_eq!(&again.pdu().event_id, &received.pdu().event_id);
            }
        }
    }
}
