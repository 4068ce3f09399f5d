//! Events of our own users: from what a client asks for to a signed event.

use std::collections::HashMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, ServerName, UInt,
    UserId,
    events::{StateEventContent, StateEventType, room::member::RoomMemberEventContent},
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
    owned_state, redact, sticky,
};

/// What an event shall say; where it goes in its room is the [`Context`]'s part.
#[derive(Clone, Debug)]
pub struct Draft {
    /// As it was given: ruma's enum takes some types for others.
    pub event_type: String,
    pub state_key: Option<String>,
    /// As the client sent it: checked when the event is built.
    pub content: Box<RawValue>,
    /// The event to redact, for `m.room.redaction`; put where the room version wants it.
    pub redacts: Option<OwnedEventId>,
    /// When an application service says that it happened; `None` for now.
    pub origin_server_ts: Option<MilliSecondsSinceUnixEpoch>,
    /// For how long it is to be sticky, in milliseconds.
    pub sticky_ms: Option<u32>,
}

impl Draft {
    pub fn message(event_type: String, content: Box<RawValue>) -> Self {
        Self { event_type, state_key: None, content, redacts: None, origin_server_ts: None, sticky_ms: None }
    }

    pub fn state(event_type: StateEventType, state_key: impl Into<String>, content: Box<RawValue>) -> Self {
        Self { state_key: Some(state_key.into()), ..Self::message(event_type.to_string(), content) }
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
        Self { redacts: Some(target), ..Self::message("m.room.redaction".to_owned(), content) }
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
    /// `hash::reference_sha256` of the previous and auth events.
    // NOTSPEC: one whose hash is not here is named without. Synapse leaves hashes out of the drafts of joins, and no server
    // checks them; without that, its rooms of version 1 can't be joined.
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
    let owner_counts = owned_state::owner_counts(context.rules, &draft.event_type.as_str().into());
    if let Some(state_key) = draft.state_key.as_deref().filter(|_| owner_counts) {
        owned_state::owner(state_key)?;
    }
    let mut json = unsigned_event(draft, context)?;
    format::check_own_sizes(&json, context.rules)?;
    hash_and_sign_event(context.server_name.as_str(), context.key, &mut json, &context.rules.redaction).map_err(
        |error| match error {
            JsonError::PduTooLarge => FormatError::TooLarge(format!("at most {MAX_BYTES} bytes are allowed")),
            error => FormatError::bad(error.to_string()),
        },
    )?;
    format::check(&mut json, context.rules)?;
    Ok(Verified::signed_by_us(Pdu::from_json(&json, context.rules)?, json))
}

/// An event for another server to complete and sign.
#[derive(Clone, Debug)]
pub struct Template {
    /// The event as the rules would read it.
    pub pdu: Pdu,
    /// Without hashes and signatures and, where servers choose it, without its id.
    pub json: CanonicalJsonObject,
}

/// The event that `draft` asks for, for the server of its sender to sign. Errors: as of [`build`].
pub fn template(draft: Draft, context: &Context<'_>) -> Result<Template, FormatError> {
    let mut json = unsigned_event(draft, context)?;
    let pdu = Pdu::from_json(&json, context.rules)?;
    if needs_legacy(context.rules) {
        json.remove("event_id");
    }
    Ok(Template { pdu, json })
}

fn unsigned_event(draft: Draft, context: &Context<'_>) -> Result<CanonicalJsonObject, FormatError> {
    let rules = context.rules;
    let mut content = format::parse_content(draft.content.get().as_bytes(), rules)?;
    let mut json = CanonicalJsonObject::new();
    if draft.event_type == "m.room.redaction" {
        // Clients give it in the content, or in a path, whatever the version of the room.
        let target = draft.redacts.map(|target| text(target.as_str())).or_else(|| content.remove("redacts"));
        let place = if rules.redaction.content_field_redacts { &mut content } else { &mut json };
        place.extend(target.map(|target| ("redacts".to_owned(), target)));
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
            ("type", text(&draft.event_type)),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    if let Some(state_key) = draft.state_key {
        json.insert("state_key".to_owned(), state_key.into());
    }
    if let Some(duration) = draft.sticky_ms {
        let sticky = CanonicalJsonObject::from([("duration_ms".to_owned(), Int::from(duration).into())]);
        json.insert(sticky::KEY.to_owned(), sticky.into());
    }
    if let Some(room_id) = context.room_id {
        json.insert("room_id".to_owned(), text(room_id.as_str()));
    }
    if needs_legacy(rules) {
        let event_id = format!("${}:{}", legacy(context)?.localpart, context.server_name);
        json.insert("event_id".to_owned(), event_id.into());
    }
    // What redaction does not leave need not be there in the first place, and ruma would sign it.
    redact::remove_malformed_invite(&mut json, rules);
    Ok(json)
}

/// `prev_events` or `auth_events` as the room version writes them.
fn references(ids: &[OwnedEventId], context: &Context<'_>) -> Result<CanonicalJsonValue, FormatError> {
    if context.rules.events_reference_format != EventsReferenceFormatVersion::V1 {
        return Ok(CanonicalJsonValue::Array(ids.iter().map(|id| text(id.as_str())).collect()));
    }
    let hashes = legacy(context)?.hashes;
    let reference = |id: &OwnedEventId| {
        let hash: CanonicalJsonObject =
            hashes.get(id).map(|hash| ("sha256".to_owned(), text(hash))).into_iter().collect();
        CanonicalJsonValue::Array(vec![text(id.as_str()), hash.into()])
    };
    Ok(CanonicalJsonValue::Array(ids.iter().map(reference).collect()))
}

fn legacy<'a>(context: &Context<'a>) -> Result<Legacy<'a>, FormatError> {
    context.legacy.ok_or_else(|| FormatError::bad("room versions 1 and 2 need an event id and reference hashes"))
}

fn text(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, event_id, room_version_rules::RoomVersionRules, server_name, user_id};
    use serde_json::Value;

    use super::*;
    use crate::event::{
        format::canonical,
        rules::SUPPORTED,
        testing::{Forge, draft, key, user},
    };

    fn value(event: &Verified) -> Value {
        serde_json::from_str(&canonical(event.json())).unwrap()
    }

    fn number(version: &RoomVersionId) -> u8 {
        version.as_str().parse().unwrap()
    }

    #[test]
    fn ids_and_references_are_those_of_the_version() {
        for version in SUPPORTED {
            let mut forge = Forge::new(version.clone());
            let create = forge.create("alice");
            let event = forge.event("alice", draft("x", None, &json!({})), &[&create], &[]);
            let (json, id) = (value(&event), event.pdu().event_id.as_str());
            let create_id = create.pdu().event_id.as_str();
            if number(&version) < 3 {
                assert_eq!(id, "$event2:domain");
                assert_eq!(json["event_id"], id);
                assert_eq!(json["prev_events"][0][0], create_id);
                assert_eq!(json["prev_events"][0][1]["sha256"].as_str().unwrap().len(), 43);
            } else {
                let hash = id.strip_prefix('$').unwrap();
                assert_eq!(hash.len(), 43, "unpadded base64 of a SHA-256");
                assert!(number(&version) == 3 || !hash.contains(['+', '/']), "URL-safe since version 4");
                assert!(json.get("event_id").is_none());
                assert_eq!(json["prev_events"], json!([create_id]));
            }
            assert_eq!(json["depth"], 2);
            assert!(json.get("origin").is_none() && json.get("unsigned").is_none());
            assert_eq!(value(&create).get("room_id").is_none(), number(&version) == 12);
        }
    }

    #[test]
    fn a_redaction_names_its_target_where_the_version_wants_it_wherever_the_client_put_it() {
        let target = event_id!("$target:domain");
        for version in SUPPORTED {
            let mut forge = Forge::new(version.clone());
            let create = forge.create("alice");
            let by_path = Draft::redaction(target.to_owned(), Some("rude"));
            let by_content = draft("m.room.redaction", None, &json!({ "redacts": target, "reason": "rude" }));
            for draft in [by_path, by_content] {
                let event = forge.event("alice", draft, &[&create], &[]);
                let json = value(&event);
                let (top, content) = if number(&version) < 11 {
                    (json!(target), json!({ "reason": "rude" }))
                } else {
                    (json!(null), json!({ "reason": "rude", "redacts": target }))
                };
                assert_eq!(json.get("redacts").unwrap_or(&Value::Null), &top, "{version}");
                assert_eq!(json["content"], content, "{version}");
                assert_eq!(event.pdu().redacts.as_deref(), Some(target), "{version}");
            }
        }
    }

    #[test]
    fn a_redacts_that_is_no_event_id_or_not_in_a_redaction_redacts_nothing() {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        for redacts in [json!(1), json!("target"), json!(null)] {
            let draft = draft("m.room.redaction", None, &json!({ "redacts": redacts }));
            assert_eq!(forge.event("alice", draft, &[&create], &[]).pdu().redacts, None);
        }
        let message = draft("m.room.message", None, &json!({ "redacts": "$target" }));
        assert_eq!(forge.event("alice", message, &[&create], &[]).pdu().redacts, None);
    }

    #[test]
    fn a_client_is_told_what_is_wrong_with_its_event() {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        let mut send = |draft| forge.try_event("alice", draft, &[&create], &[]).map(|event| event.pdu().clone());
        let long = "x".repeat(256);
        let too_large = [
            draft(&long, None, &json!({})),
            draft("x", Some(&long), &json!({})),
            draft("x", None, &json!({ "body": "x".repeat(65_536) })),
            draft("x", None, &json!({ "body": "x".repeat(65_250) })), // too large by its signatures only
        ];
        for draft in too_large {
            assert!(matches!(send(draft), Err(FormatError::TooLarge(_))));
        }
        let raw = |json: &str| Draft::message("x".into(), RawValue::from_string(json.to_owned()).unwrap());
        for bad in
            ["1", "[]", "null", r#"{"a":1.5}"#, r#"{"a":9007199254740992}"#, r#"{"a":1,"a":1}"#, r#"{"a":"\ud800"}"#]
        {
            assert!(matches!(send(raw(bad)), Err(FormatError::BadJson(_))), "{bad}");
        }
        send(draft("x", None, &json!({ "body": "x".repeat(64_000) }))).unwrap();
        send(draft("x", Some(&long[..255]), &json!({}))).unwrap();
    }

    #[test]
    fn depth_stays_in_the_canonical_range() {
        let (key, rules) = (key(), &RoomVersionRules::V12);
        let context = Context {
            rules,
            room_id: Some(ruma::room_id!("!room")),
            sender: user_id!("@a:domain"),
            prev_events: &[],
            auth_events: &[],
            depth: u64::MAX,
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::MIN),
            server_name: server_name!("domain"),
            key: &key,
            legacy: None,
        };
        let event = build(draft("x", None, &json!({})), &context).unwrap();
        assert_eq!(event.pdu().depth, (1 << 53) - 1);
        let without_legacy = Context { rules: &RoomVersionRules::V2, ..context };
        build(draft("x", None, &json!({})), &without_legacy).unwrap_err();
    }

    #[test]
    fn the_time_is_the_drafts_or_else_the_contexts() {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        let ts = MilliSecondsSinceUnixEpoch(UInt::from(5_u32));
        let old = Draft { origin_server_ts: Some(ts), ..draft("x", None, &json!({})) };
        assert_eq!(forge.event("alice", old, &[&create], &[]).pdu().origin_server_ts, ts);
        let now = forge.event("alice", draft("x", None, &json!({})), &[&create], &[]);
        assert_eq!(u64::from(now.pdu().origin_server_ts.get()), 1_700_000_000_000);
    }

    #[test]
    fn drafts_of_state_carry_type_key_and_content() {
        use ruma::events::room::{member::MembershipState, topic::RoomTopicEventContent};
        let member = Draft::member(&user("bob"), &RoomMemberEventContent::new(MembershipState::Invite));
        assert_eq!(member.event_type, "m.room.member");
        assert_eq!(member.state_key.as_deref(), Some("@bob:domain"));
        assert_eq!(member.content.get(), r#"{"membership":"invite"}"#);
        let topic = Draft::typed_state("", &RoomTopicEventContent::new("chat".to_owned()));
        assert_eq!((topic.event_type.as_str(), topic.state_key.as_deref()), ("m.room.topic", Some("")));
    }
}
