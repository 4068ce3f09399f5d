//! The form of one event on disk: a small header, then two JSON objects that are copied out as they are.
//!
//! ```text
//! flags u8, present u8, room_pos, depth, origin_server_ts, [state_after 17 bytes], [replaces], [redacted_by],
//! event_id, sender, event_type, [state_key], [rel_type, relates_to], [redacts], common, federation
//! ```
//!
//! Numbers are LEB128, `room_pos` zigzag before that; texts have their length in front, only `federation`, the last,
//! has not. The version byte in front of all this is the store's.

use std::{fmt, str};

use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedUserId, RoomId, UserId,
    room_version_rules::{EventIdFormatVersion, RoomIdFormatVersion, RoomVersionRules},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Pdu, Verified, format, sticky};

/// A state of a room: the root of its state trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateRoot {
    /// Levels of the trie under this root.
    pub height: u8,
    /// Hash of the root node's content.
    pub hash: [u8; 16],
}

impl StateRoot {
    /// The state before a room's first event.
    pub const EMPTY: Self = Self { height: 0, hash: [0; 16] };
}

/// What became of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Refused by the authorization rules at its own place: final, never part of any state.
    pub rejected: bool,
    /// Allowed at its own place, but not by the state of the room when it came: not shown to clients.
    pub soft_failed: bool,
    /// Content removed by a redaction.
    pub redacted: bool,
    /// Known for the authorization of others only; it has no place in the timeline.
    pub outlier: bool,
    /// Content removed because the event had expired: it is answered to nobody any more.
    pub purged: bool,
}

impl Flags {
    fn to_byte(self) -> u8 {
        let Self { rejected, soft_failed, redacted, outlier, purged } = self;
        u8::from(rejected)
            | u8::from(soft_failed) << 1
            | u8::from(redacted) << 2
            | u8::from(outlier) << 3
            | u8::from(purged) << 4
    }

    fn from_byte(byte: u8) -> Option<Self> {
        let bit = |n: u8| byte & (1 << n) != 0;
        (byte < 32).then(|| Self {
            rejected: bit(0),
            soft_failed: bit(1),
            redacted: bit(2),
            outlier: bit(3),
            purged: bit(4),
        })
    }
}

/// `m.relates_to` of an event: what kind of relation, and to which event. A plain reply is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub rel_type: String,
    pub event_id: OwnedEventId,
}

/// Where and as what a [`Verified`] event is stored; worked out by whoever appends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    pub flags: Flags,
    /// See [`StoredEvent::room_pos`].
    pub room_pos: i64,
    /// See [`StoredEvent::state_after`].
    pub state_after: Option<StateRoot>,
    /// See [`StoredEvent::replaces`].
    pub replaces: Option<u32>,
}

/// One event as it is stored, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    pub flags: Flags,
    /// Place in the order of the room: the stream position of its commit for live events, negative for backfilled ones
    /// (the further back, the smaller), 0 for outliers.
    pub room_pos: i64,
    pub depth: u64,
    /// Milliseconds since 1970, as the sending server claims.
    pub origin_server_ts: u64,
    /// The state of the room after this event; `None` for outliers, whose state nobody knows.
    pub state_after: Option<StateRoot>,
    /// The number of the state event that this one took the place of.
    pub replaces: Option<u32>,
    /// The number of the redaction that was applied.
    pub redacted_by: Option<u32>,
    pub event_id: OwnedEventId,
    pub sender: OwnedUserId,
    pub event_type: String,
    pub state_key: Option<String>,
    pub relation: Option<Relation>,
    /// What this redaction redacts, read from where the room version keeps it.
    pub redacts: Option<OwnedEventId>,
    /// JSON object: the members that clients and servers both see.
    pub common: String,
    /// JSON object: the other members that servers see, without `room_id`, `event_id` and `unsigned`.
    pub federation: String,
}

/// One event as it is stored, borrowed from the bytes: nothing is copied, nothing is parsed but the header.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    pub flags: Flags,
    pub room_pos: i64,
    pub depth: u64,
    pub origin_server_ts: u64,
    pub state_after: Option<StateRoot>,
    pub replaces: Option<u32>,
    pub redacted_by: Option<u32>,
    pub event_id: &'a EventId,
    pub sender: &'a UserId,
    pub event_type: &'a str,
    pub state_key: Option<&'a str>,
    /// Relation type and parent.
    pub relation: Option<(&'a str, &'a EventId)>,
    pub redacts: Option<&'a EventId>,
    pub common: &'a str,
    pub federation: &'a str,
}

/// The bytes are not what we write: a bad disk, or a bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unreadable stored event: {0}")]
pub struct DecodeError(pub(super) String);

impl DecodeError {
    fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

/// The members of `common`.
const COMMON: [&str; 6] = ["content", sticky::KEY, "origin_server_ts", "sender", "state_key", "type"];

impl StoredEvent {
    /// The user whose membership this event says; `None` if it is no member event, or of nobody.
    pub fn member(&self) -> Option<&UserId> {
        let member = self.state_key.as_deref().filter(|_| self.event_type == "m.room.member")?;
        <&UserId>::try_from(member).ok()
    }

    pub fn new(event: &Verified, rules: &RoomVersionRules, placement: Placement) -> Self {
        let pdu = event.pdu();
        let (common, federation) = split(event.json().clone(), rules);
        Self {
            flags: placement.flags,
            room_pos: placement.room_pos,
            depth: pdu.depth,
            origin_server_ts: pdu.origin_server_ts.get().into(),
            state_after: placement.state_after,
            replaces: placement.replaces,
            redacted_by: None,
            event_id: pdu.event_id.clone(),
            sender: pdu.sender.clone(),
            event_type: pdu.r#type.clone(),
            state_key: pdu.state_key.clone(),
            relation: relation(event.json()),
            redacts: pdu.redacts.clone(),
            common,
            federation,
        }
    }

    /// Appends the bytes of this event to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.view().encode(out);
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        EventView::parse(bytes).map(|view| Self::from(&view))
    }

    /// This event for functions that read views.
    pub fn view(&self) -> EventView<'_> {
        EventView {
            flags: self.flags,
            room_pos: self.room_pos,
            depth: self.depth,
            origin_server_ts: self.origin_server_ts,
            state_after: self.state_after,
            replaces: self.replaces,
            redacted_by: self.redacted_by,
            event_id: &self.event_id,
            sender: &self.sender,
            event_type: &self.event_type,
            state_key: self.state_key.as_deref(),
            relation: self.relation.as_ref().map(|relation| (relation.rel_type.as_str(), &*relation.event_id)),
            redacts: self.redacts.as_deref(),
            common: &self.common,
            federation: &self.federation,
        }
    }
}

impl From<&EventView<'_>> for StoredEvent {
    fn from(view: &EventView<'_>) -> Self {
        Self {
            flags: view.flags,
            room_pos: view.room_pos,
            depth: view.depth,
            origin_server_ts: view.origin_server_ts,
            state_after: view.state_after,
            replaces: view.replaces,
            redacted_by: view.redacted_by,
            event_id: view.event_id.to_owned(),
            sender: view.sender.to_owned(),
            event_type: view.event_type.to_owned(),
            state_key: view.state_key.map(str::to_owned),
            relation: view
                .relation
                .map(|(rel_type, event_id)| Relation { rel_type: rel_type.to_owned(), event_id: event_id.to_owned() }),
            redacts: view.redacts.map(ToOwned::to_owned),
            common: view.common.to_owned(),
            federation: view.federation.to_owned(),
        }
    }
}

/// Which optional parts of the header follow; one bit each.
mod present {
    pub const STATE_AFTER: u8 = 1;
    pub const REPLACES: u8 = 2;
    pub const REDACTED_BY: u8 = 4;
    pub const STATE_KEY: u8 = 8;
    pub const RELATION: u8 = 16;
    pub const REDACTS: u8 = 32;
    pub const ALL: u8 = 63;
}

impl<'a> EventView<'a> {
    /// Reads the header of a stored event; whatever the bytes are, the answer is a view or an error.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { rest: bytes };
        let flags = Flags::from_byte(reader.byte()?).ok_or_else(|| DecodeError::new("unknown flags"))?;
        let present = reader.byte()?;
        if present & !present::ALL != 0 {
            return Err(DecodeError::new("unknown optional parts"));
        }
        let has = |part: u8| present & part != 0;
        Ok(Self {
            flags,
            room_pos: unzigzag(reader.number()?),
            depth: reader.number()?,
            origin_server_ts: reader.number()?,
            state_after: has(present::STATE_AFTER).then(|| reader.state_root()).transpose()?,
            replaces: has(present::REPLACES).then(|| reader.nid()).transpose()?,
            redacted_by: has(present::REDACTED_BY).then(|| reader.nid()).transpose()?,
            event_id: reader.id()?,
            sender: reader.id()?,
            event_type: reader.text()?,
            state_key: has(present::STATE_KEY).then(|| reader.text()).transpose()?,
            relation: has(present::RELATION).then(|| Ok((reader.text()?, reader.id()?))).transpose()?,
            redacts: has(present::REDACTS).then(|| reader.id()).transpose()?,
            common: object(reader.text()?)?,
            federation: object(utf8(reader.rest)?)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let part = |bit: u8, is_there: bool| if is_there { bit } else { 0 };
        out.push(self.flags.to_byte());
        out.push(
            part(present::STATE_AFTER, self.state_after.is_some())
                | part(present::REPLACES, self.replaces.is_some())
                | part(present::REDACTED_BY, self.redacted_by.is_some())
                | part(present::STATE_KEY, self.state_key.is_some())
                | part(present::RELATION, self.relation.is_some())
                | part(present::REDACTS, self.redacts.is_some()),
        );
        put_number(out, zigzag(self.room_pos));
        put_number(out, self.depth);
        put_number(out, self.origin_server_ts);
        if let Some(root) = self.state_after {
            out.push(root.height);
            out.extend(root.hash);
        }
        for nid in [self.replaces, self.redacted_by].into_iter().flatten() {
            put_number(out, nid.into());
        }
        for text in [self.event_id.as_str(), self.sender.as_str(), self.event_type] {
            put_text(out, text);
        }
        if let Some(state_key) = self.state_key {
            put_text(out, state_key);
        }
        if let Some((rel_type, event_id)) = self.relation {
            put_text(out, rel_type);
            put_text(out, event_id.as_str());
        }
        if let Some(redacts) = self.redacts {
            put_text(out, redacts.as_str());
        }
        put_text(out, self.common);
        out.extend(self.federation.as_bytes());
    }

    /// The content, as it was signed or as a redaction left it.
    pub fn content(&self) -> Result<&'a RawValue, DecodeError> {
        #[derive(Deserialize)]
        struct Common<'a> {
            #[serde(borrow)]
            content: &'a RawValue,
        }
        let common: Common<'a> = serde_json::from_str(self.common).map_err(DecodeError::new)?;
        Ok(common.content)
    }

    /// The whole event in the federation format, for hashing and redaction.
    pub fn json(&self, room_id: &RoomId, rules: &RoomVersionRules) -> Result<CanonicalJsonObject, DecodeError> {
        format::parse_kept(&self.federation_json(room_id, rules)).map_err(DecodeError::new)
    }

    /// The event as the authorization rules read it.
    pub fn to_pdu(&self, room_id: &RoomId, rules: &RoomVersionRules) -> Result<Pdu, DecodeError> {
        let json = self.json(room_id, rules)?;
        let mut pdu = Pdu::from_json(&json, rules).map_err(DecodeError::new)?;
        pdu.rejected = self.flags.rejected;
        Ok(pdu)
    }

    /// The event as it is sent to other servers, signatures included, made by copying slices.
    pub fn federation_json(&self, room_id: &RoomId, rules: &RoomVersionRules) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.common.len() + self.federation.len() + 100);
        out.push(b'{');
        put_members(&mut out, self.common);
        put_members(&mut out, self.federation);
        if rules.event_id_format == EventIdFormatVersion::V1 {
            put_member(&mut out, "event_id", self.event_id.as_str());
        }
        let is_create = self.event_type == "m.room.create";
        if rules.room_id_format == RoomIdFormatVersion::V1 || !is_create {
            put_member(&mut out, "room_id", room_id.as_str());
        }
        out.push(b'}');
        out
    }
}

/// Adds the members of the JSON object `object` to the JSON object that `out` ends in the middle of.
pub(super) fn put_members(out: &mut Vec<u8>, object: &str) {
    let members = &object.as_bytes()[1..object.len() - 1];
    if !members.is_empty() {
        put_comma(out);
        out.extend(members);
    }
}

/// Adds a member with a string to the JSON object that `out` ends in the middle of.
pub(super) fn put_member(out: &mut Vec<u8>, key: &'static str, text: &str) {
    put_key(out, key);
    serde_json::to_writer(out, text).expect("a string serializes, and a Vec takes every byte");
}

/// Adds a key to the JSON object that `out` ends in the middle of; the value must follow.
pub(super) fn put_key(out: &mut Vec<u8>, key: &'static str) {
    put_comma(out);
    out.push(b'"');
    out.extend(key.as_bytes());
    out.extend(b"\":");
}

fn put_comma(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

/// Splits an event into `common` and `federation`.
pub(super) fn split(event: CanonicalJsonObject, rules: &RoomVersionRules) -> (String, String) {
    let (common, mut federation): (CanonicalJsonObject, CanonicalJsonObject) =
        event.into_iter().partition(|(key, _)| COMMON.contains(&key.as_str()));
    federation.retain(|key, _| match key.as_str() {
        "room_id" | "unsigned" => false,
        // Since version 3 this is no field of an event; should a peer send it all the same, its hashes cover it.
        "event_id" => rules.event_id_format != EventIdFormatVersion::V1,
        _ => true,
    });
    (format::canonical(&common), format::canonical(&federation))
}

fn relation(event: &CanonicalJsonObject) -> Option<Relation> {
    let relates_to = event.get("content")?.as_object()?.get("m.relates_to")?.as_object()?;
    let event_id = relates_to.get("event_id")?.as_str()?;
    Some(Relation {
        rel_type: relates_to.get("rel_type")?.as_str()?.to_owned(),
        event_id: EventId::parse(event_id).ok()?,
    })
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend(text.as_bytes());
}

fn zigzag(number: i64) -> u64 {
    (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    str::from_utf8(bytes).map_err(DecodeError::new)
}

/// Checks no more than what copying relies on: the outer braces.
fn object(json: &str) -> Result<&str, DecodeError> {
    if json.len() >= 2 && json.starts_with('{') && json.ends_with('}') {
        return Ok(json);
    }
    Err(DecodeError::new("a part is no JSON object"))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| DecodeError::new("too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(DecodeError::new("number over 64 bits"))
    }

    fn nid(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.number()?).map_err(DecodeError::new)
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let length = usize::try_from(self.number()?).map_err(DecodeError::new)?;
        utf8(self.take(length)?)
    }

    fn id<T: ?Sized>(&mut self) -> Result<&'a T, DecodeError>
    where
        &'a T: TryFrom<&'a str, Error = ruma::IdParseError>,
    {
        <&'a T>::try_from(self.text()?).map_err(DecodeError::new)
    }

    fn state_root(&mut self) -> Result<StateRoot, DecodeError> {
        let height = self.byte()?;
        let hash = self.take(16)?.try_into().map_err(DecodeError::new)?;
        Ok(StateRoot { height, hash })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};
    use ruma::{RoomVersionId, room_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::event::testing::{Forge, draft};

    fn encoded(event: &StoredEvent) -> Vec<u8> {
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        bytes
    }

    fn sample() -> StoredEvent {
        StoredEvent {
            flags: Flags { rejected: true, outlier: true, ..Flags::default() },
            room_pos: -2,
            depth: 300,
            origin_server_ts: 1,
            state_after: Some(StateRoot { height: 3, hash: *b"0123456789abcdef" }),
            replaces: Some(128),
            redacted_by: Some(5),
            event_id: "$e".try_into().unwrap(),
            sender: "@a:b".try_into().unwrap(),
            event_type: "t".to_owned(),
            state_key: Some(String::new()),
            relation: Some(Relation { rel_type: "m.thread".to_owned(), event_id: "$p".try_into().unwrap() }),
            redacts: Some("$r".try_into().unwrap()),
            common: r#"{"content":{},"type":"t"}"#.to_owned(),
            federation: r#"{"depth":300}"#.to_owned(),
        }
    }

    // What is on disk stays readable: a change of these bytes needs a new version byte and a reader for the old ones.
    #[test]
    fn the_bytes_of_a_sample_do_not_change() {
        let expected = b"\x09\x3f\x03\xac\x02\x01\x030123456789abcdef\x80\x01\x05\x02$e\x04@a:b\x01t\x00\
            \x08m.thread\x02$p\x02$r\x19{\"content\":{},\"type\":\"t\"}{\"depth\":300}";
        assert_eq!(encoded(&sample()), expected);
        assert_eq!(StoredEvent::decode(expected).unwrap(), sample());
    }

    #[test]
    fn a_header_that_is_cut_off_or_unknown_is_an_error() {
        let bytes = encoded(&sample());
        let header = bytes.len() - sample().federation.len();
        for length in 0..=header {
            EventView::parse(&bytes[..length]).unwrap_err();
        }
        for (at, byte) in [(0, 0x20), (1, 0x40), (0, 0xff), (1, 0xff)] {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            EventView::parse(&bytes).unwrap_err();
        }
        let mut endless = bytes[..2].to_vec();
        endless.extend([0xff; 20]);
        EventView::parse(&endless).unwrap_err();
    }

    #[test]
    fn parts_hold_what_their_readers_need() {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        let message = forge.event("alice", draft("x", Some("k"), &json!({ "a": 1 })), &[&create], &[&create]);
        let stored = StoredEvent::new(&message, forge.rules, Placement::default());
        let keys = |json: &str| {
            let object: serde_json::Map<String, Value> = serde_json::from_str(json).unwrap();
            object.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&stored.common), ["content", "origin_server_ts", "sender", "state_key", "type"]);
        assert_eq!(keys(&stored.federation), ["auth_events", "depth", "hashes", "prev_events", "signatures"]);
        assert_eq!(stored.view().content().unwrap().get(), r#"{"a":1}"#);
        assert_eq!((stored.depth, stored.origin_server_ts), (2, 1_700_000_000_000));
        assert_eq!(stored.event_id, message.pdu().event_id);
    }

    #[test]
    fn only_relations_with_a_type_and_a_parent_are_relations() {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        let mut relation_of = |relates_to: Value| {
            let event = draft("m.room.message", None, &json!({ "m.relates_to": relates_to }));
            let event = forge.event("alice", event, &[&create], &[]);
            StoredEvent::new(&event, forge.rules, Placement::default()).relation
        };
        let thread = json!({ "rel_type": "m.thread", "event_id": "$p", "m.in_reply_to": { "event_id": "$r" } });
        let expected = Relation { rel_type: "m.thread".to_owned(), event_id: "$p".try_into().unwrap() };
        assert_eq!(relation_of(thread), Some(expected));
        let no_relations = [
            json!({ "m.in_reply_to": { "event_id": "$r" } }),
            json!({ "rel_type": "m.thread" }),
            json!({ "rel_type": 1, "event_id": "$p" }),
            json!({ "rel_type": "m.thread", "event_id": "p" }),
            json!("m.thread"),
            json!(null),
        ];
        for none in no_relations {
            assert_eq!(relation_of(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn a_pdu_knows_that_it_was_rejected() {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        let rejected = Placement { flags: Flags { rejected: true, ..Flags::default() }, ..Placement::default() };
        for (placement, expected) in [(rejected, true), (Placement::default(), false)] {
            let stored = StoredEvent::new(&create, forge.rules, placement);
            let pdu = stored.view().to_pdu(room_id!("!room:domain"), forge.rules).unwrap();
            assert_eq!(pdu.rejected, expected);
        }
    }

    #[test]
    fn an_event_id_that_a_peer_put_into_a_new_event_stays_in_it() {
        let event = json!({ "event_id": "$x:y", "room_id": "!r", "unsigned": {}, "type": "x" });
        let split = |version| split(serde_json::from_value(event.clone()).unwrap(), version).1;
        assert_eq!(split(&RoomVersionRules::V2), "{}");
        assert_eq!(split(&RoomVersionRules::V3), r#"{"event_id":"$x:y"}"#);
    }

    #[test]
    fn the_type_is_as_the_event_says_it() {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        let named = "org.matrix.call.sdp_stream_metadata_changed"; // ruma takes it for the one of the specification
        let event = forge.event("alice", draft(named, None, &json!({})), &[&create], &[]);
        assert_eq!(StoredEvent::new(&event, forge.rules, Placement::default()).event_type, named);
    }

    fn root() -> impl Strategy<Value = StateRoot> {
        any::<(u8, [u8; 16])>().prop_map(|(height, hash)| StateRoot { height, hash })
    }

    fn id() -> impl Strategy<Value = OwnedEventId> {
        "\\$[^:\u{0}]{0,20}".prop_map(|id| EventId::parse(id).unwrap())
    }

    fn json_object() -> impl Strategy<Value = String> {
        "\\PC{0,40}".prop_map(|text| json!({ "text": text }).to_string())
    }

    prop_compose! {
        fn events()(
            flags in (0_u8..32).prop_map(|byte| Flags::from_byte(byte).unwrap()),
            numbers in any::<(i64, u64, u64, Option<u32>, Option<u32>)>(),
            state_after in option::of(root()),
            event_id in id(),
            sender in "@[a-zé/]{0,9}:[a-z]{1,9}".prop_map(|id| UserId::parse(id).unwrap()),
            event_type in ".{0,20}",
            state_key in option::of(".{0,200}"),
            relation in option::of((".{0,9}", id())),
            redacts in option::of(id()),
            common in json_object(),
            federation in json_object(),
        ) -> StoredEvent {
            let (room_pos, depth, origin_server_ts, replaces, redacted_by) = numbers;
            let relation = relation.map(|(rel_type, event_id)| Relation { rel_type, event_id });
            StoredEvent {
                flags, room_pos, depth, origin_server_ts, state_after, replaces, redacted_by, event_id, sender,
                event_type, state_key, relation, redacts, common, federation,
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(event in events()) {
            prop_assert_eq!(StoredEvent::decode(&encoded(&event)).unwrap(), event);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>) {
            if let Ok(event) = EventView::parse(&bytes) {
                let _ = event.to_pdu(room_id!("!room:domain"), &RoomVersionRules::V1);
            }
        }

        #[test]
        fn no_changed_byte_makes_reading_panic(event in events(), at: prop::sample::Index, byte: u8) {
            let mut bytes = encoded(&event);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(event) = EventView::parse(&bytes) {
                let _ = event.content();
                let _ = event.to_pdu(room_id!("!room:domain"), &RoomVersionRules::V12);
                let _ = event.federation_json(room_id!("!room:domain"), &RoomVersionRules::V12);
                let _ = super::super::client_form::raw(&event, None, &Default::default());
            }
        }
    }
}
