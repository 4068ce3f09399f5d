//! Events of our own users: from what a client asks for to a signed event.

use std::collections::HashMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, ServerName, UInt,
    UserId,
    events::{StateEventContent, StateEventType, TimelineEventType, room::member::RoomMemberEventContent},
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
    signatures::{Ed25519KeyPair, JsonError, hash_and_sign_event},
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::{
    FormatError, Pdu, Verified,
    format::{self, MAX_BYTES},
};

/// What an event shall say; where it goes in its room is the [`Context`]'s part.
#[derive(Clone, Debug)]
pub struct Draft {
    pub event_type: TimelineEventType,
    pub state_key: Option<String>,
    /// As the client sent it: checked when the event is built.
    pub content: Box<RawValue>,
    /// The event to redact, for `m.room.redaction`; put where the room version wants it.
    pub redacts: Option<OwnedEventId>,
    /// When an application service says that it happened; `None` for now.
    pub origin_server_ts: Option<MilliSecondsSinceUnixEpoch>,
}

impl Draft {
    pub fn message(event_type: TimelineEventType, content: Box<RawValue>) -> Self {
        Self { event_type, state_key: None, content, redacts: None, origin_server_ts: None }
    }

    pub fn state(event_type: StateEventType, state_key: impl Into<String>, content: Box<RawValue>) -> Self {
        Self { state_key: Some(state_key.into()), ..Self::message(event_type.to_string().into(), content) }
    }

    /// A state event from ruma's type for its content.
    pub fn typed_state<C: StateEventContent>(state_key: impl Into<String>, content: &C) -> Self {
        let raw = to_raw_value(content).expect("ruma's contents serialize to JSON objects");
        Self::state(content.event_type(), state_key, raw)
    }

    /// A change of the membership of `user`.
    pub fn member(user: &UserId, content: &RoomMemberEventContent) -> Self {
        Self::typed_state(user.as_str(), content)
    }

    pub fn redaction(target: OwnedEventId, reason: Option<&str>) -> Self {
        let content = match reason {
            Some(reason) => json!({ "reason": reason }),
            None => json!({}),
        };
        let content = to_raw_value(&content).expect("a JSON value serializes");
        Self { redacts: Some(target), ..Self::message(TimelineEventType::RoomRedaction, content) }
    }
}

/// What an event needs to know of its room and of us.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub rules: &'a RoomVersionRules,
    /// `None` only for the create event of a room whose id is the hash of that event (version 12 and later).
    pub room_id: Option<&'a RoomId>,
    pub sender: &'a UserId,
    pub prev_events: &'a [OwnedEventId],
    pub auth_events: &'a [OwnedEventId],
    /// One more than the greatest depth of the previous events; more than 2^53 - 1 becomes 2^53 - 1.
    pub depth: u64,
    /// The time now, for drafts that bring none.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    pub server_name: &'a ServerName,
    pub key: &'a Ed25519KeyPair,
    /// Must be there in room versions 1 and 2, is not looked at in others.
    pub legacy: Option<Legacy<'a>>,
}

/// What only room versions 1 and 2 need.
#[derive(Clone, Copy, Debug)]
pub struct Legacy<'a> {
    /// Random text for the part of the event id between `$` and the server name.
    pub localpart: &'a str,
    /// `hash::reference_sha256` of every previous and auth event.
    pub hashes: &'a HashMap<OwnedEventId, String>,
}

/// Whether events of this room version need [`Context::legacy`].
pub fn needs_legacy(rules: &RoomVersionRules) -> bool {
    rules.event_id_format == EventIdFormatVersion::V1
}

/// Makes the event that `draft` asks for, hashed and signed.
///
/// Errors are the client's: its content is no canonical JSON, or something is too long. Whether the event is allowed in
/// its room is not looked at here.
pub fn build(draft: Draft, context: &Context<'_>) -> Result<Verified, FormatError> {
    let mut json = unsigned_event(draft, context)?;
    hash_and_sign_event(context.server_name.as_str(), context.key, &mut json, &context.rules.redaction).map_err(
        |error| match error {
            JsonError::PduTooLarge => FormatError::TooLarge(format!("at most {MAX_BYTES} bytes are allowed")),
            error => FormatError::bad(error.to_string()),
        },
    )?;
    format::check(&mut json, context.rules)?;
    Ok(Verified::signed_by_us(Pdu::from_json(&json, context.rules)?, json))
}

fn unsigned_event(draft: Draft, context: &Context<'_>) -> Result<CanonicalJsonObject, FormatError> {
    let rules = context.rules;
    let mut content = format::parse_object(draft.content.get().as_bytes(), rules, &[])?;
    let mut json = CanonicalJsonObject::new();
    if let Some(target) = draft.redacts {
        let place = if rules.redaction.content_field_redacts { &mut content } else { &mut json };
        place.insert("redacts".to_owned(), text(target.as_str()));
    }
    let ts = draft.origin_server_ts.unwrap_or(context.origin_server_ts);
    let depth = UInt::try_from(context.depth).unwrap_or(UInt::MAX);
    json.extend(
        [
            ("auth_events", references(context.auth_events, context)?),
            ("content", content.into()),
            ("depth", Int::from(depth).into()),
            ("origin_server_ts", Int::from(ts.get()).into()),
            ("prev_events", references(context.prev_events, context)?),
            ("sender", text(context.sender.as_str())),
            ("type", text(&draft.event_type.to_string())),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    if let Some(state_key) = draft.state_key {
        json.insert("state_key".to_owned(), state_key.into());
    }
    if let Some(room_id) = context.room_id {
        json.insert("room_id".to_owned(), text(room_id.as_str()));
    }
    if needs_legacy(rules) {
        let event_id = format!("${}:{}", legacy(context)?.localpart, context.server_name);
        json.insert("event_id".to_owned(), event_id.into());
    }
    Ok(json)
}

/// `prev_events` or `auth_events` as the room version writes them.
fn references(ids: &[OwnedEventId], context: &Context<'_>) -> Result<CanonicalJsonValue, FormatError> {
    if context.rules.events_reference_format != EventsReferenceFormatVersion::V1 {
        return Ok(CanonicalJsonValue::Array(ids.iter().map(|id| text(id.as_str())).collect()));
    }
    let hashes = legacy(context)?.hashes;
    let reference = |id: &OwnedEventId| {
        let hash = hashes.get(id).ok_or_else(|| FormatError::bad(format!("no reference hash of {id}")))?;
        let hash = CanonicalJsonObject::from([("sha256".to_owned(), text(hash))]);
        Ok(CanonicalJsonValue::Array(vec![text(id.as_str()), hash.into()]))
    };
    ids.iter().map(reference).collect::<Result<_, _>>().map(CanonicalJsonValue::Array)
}

fn legacy<'a>(context: &Context<'a>) -> Result<Legacy<'a>, FormatError> {
    context.legacy.ok_or_else(|| FormatError::bad("room versions 1 and 2 need an event id and reference hashes"))
}

fn text(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}
