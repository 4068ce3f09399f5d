//! From untrusted bytes to an event of the right shape: strict JSON, sizes, types.

use std::fmt;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ID_MAX_BYTES, Int, room_version_rules::RoomVersionRules,
    state_res::check_pdu_format,
};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Pdu;

/// The largest event, in bytes of canonical JSON with its signatures.
///
/// Source: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>.
pub const MAX_BYTES: usize = 65_536;

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
}

/// Reads an event in the federation format, as another server sent it, for a room with `rules`.
///
/// `unsigned` is left out unread: no signature covers it, and a bad number in it must not cost us the event.
pub fn parse(json: &[u8], rules: &RoomVersionRules) -> Result<Received, FormatError> {
    let mut json = parse_object(json, rules, &["unsigned"])?;
    check(&mut json, rules)?;
    Ok(Received { pdu: Pdu::from_json(&json, rules)?, json })
}

/// Reads one JSON object, such as the `content` that a client sends, as strictly as the room version asks for.
///
/// `left_out` are members of the object itself that are skipped whatever they hold.
///
/// NOTSPEC: versions 1 to 5 should accept any number. Here, as in ruma, all versions refuse numbers that canonical JSON
/// cannot express, because neither their hash nor their signature could be checked.
pub fn parse_object(
    json: &[u8],
    rules: &RoomVersionRules,
    left_out: &[&str],
) -> Result<CanonicalJsonObject, FormatError> {
    let seed = Strict { levels_left: MAX_DEPTH, unique_keys: rules.authorization.strict_canonical_json, left_out };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = seed.deserialize(&mut deserializer).map_err(|error| FormatError::bad(error.to_string()))?;
    deserializer.end().map_err(|error| FormatError::bad(error.to_string()))?;
    match value {
        CanonicalJsonValue::Object(object) => Ok(object),
        _ => Err(FormatError::bad("expected a JSON object")),
    }
}

/// Checks sizes and the types of the fields of an event that has its signatures.
pub(super) fn check(json: &mut CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), FormatError> {
    check_sizes(json)?;
    // ruma's limit for the whole is one byte below the specification's. We have measured the whole, so let it see the
    // event without signatures, which are always far longer than a byte.
    let signatures = json.remove("signatures");
    let checked = check_pdu_format(json, &rules.event_format).map_err(FormatError::BadJson);
    if let Some(signatures) = signatures {
        json.insert("signatures".to_owned(), signatures);
    }
    checked
}

fn check_sizes(json: &CanonicalJsonObject) -> Result<(), FormatError> {
    for field in ["type", "state_key", "sender", "room_id", "event_id"] {
        if json.get(field).and_then(CanonicalJsonValue::as_str).is_some_and(|text| text.len() > ID_MAX_BYTES) {
            return Err(FormatError::TooLarge(format!("`{field}` is longer than {ID_MAX_BYTES} bytes")));
        }
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

/// Builds a canonical value straight from the input, with the guards that serde_json's own `Value` lacks.
#[derive(Clone, Copy)]
struct Strict<'a> {
    levels_left: usize,
    unique_keys: bool,
    left_out: &'a [&'a str],
}

impl Strict<'_> {
    /// The guards for a member of the value that these are for.
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
