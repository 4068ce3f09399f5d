//! Events as clients see them, made by copying what is stored and adding what depends on the reader and on time.

use ruma::{EventId, RoomId, UserId};
use serde_json::{Map, Value, value::RawValue};

use super::stored::{DecodeError, EventView, put_key, put_member, put_members};

/// `unsigned` of a client event: everything that depends on who reads, and when. None of it is ever stored.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#definition-clientevent_unsigneddata>
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsigned<'a> {
    /// Milliseconds since `origin_server_ts`; negative if a clock is wrong.
    pub age: Option<i64>,
    /// Only for the device that sent the event with it.
    pub transaction_id: Option<&'a str>,
    /// Only for the user who had the event sent later (MSC4140).
    pub delay_id: Option<&'a str>,
    /// The content of the state event that this one replaced, if the reader may see it.
    pub prev_content: Option<&'a RawValue>,
    /// The sender of that state event. NOTSPEC: servers have always sent it, and clients read who invited from it.
    pub prev_sender: Option<&'a UserId>,
    /// The id of the state event that this one replaced.
    pub replaces_state: Option<&'a EventId>,
    /// The redaction, as a client event.
    pub redacted_because: Option<&'a RawValue>,
    /// The membership of the reader at the time of the event (MSC4115).
    pub membership: Option<&'a str>,
    /// For how many milliseconds it is sticky yet (MSC4354).
    pub sticky_ms: Option<u64>,
    /// The bundled aggregations, `m.relations`.
    pub relations: Option<&'a RawValue>,
}

impl Unsigned<'_> {
    /// Appends the object, or nothing if there is nothing in it.
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = vec![b'{'];
        if let Some(age) = self.age {
            put_raw(&mut object, "age", &age.to_string());
        }
        if let Some(left) = self.sticky_ms {
            put_raw(&mut object, "msc4354_sticky_duration_ttl_ms", &left.to_string());
        }
        let texts = [
            ("membership", self.membership),
            ("prev_sender", self.prev_sender.map(UserId::as_str)),
            ("org.matrix.msc4140.delay_id", self.delay_id),
            ("replaces_state", self.replaces_state.map(EventId::as_str)),
            ("transaction_id", self.transaction_id),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                put_member(&mut object, key, text);
            }
        }
        let values = [
            ("m.relations", self.relations),
            ("prev_content", self.prev_content),
            ("redacted_because", self.redacted_because),
        ];
        for (key, value) in values {
            if let Some(value) = value {
                put_raw(&mut object, key, value.get());
            }
        }
        if object.len() > 1 {
            object.push(b'}');
            put_key(out, "unsigned");
            out.extend(object);
        }
    }
}

/// Appends the client form of an event to `out`: with `room_id`, or without it, as in `/sync`.
pub fn write(
    out: &mut Vec<u8>,
    event: &EventView<'_>,
    room_id: Option<&RoomId>,
    unsigned: &Unsigned<'_>,
) -> Result<(), DecodeError> {
    out.push(b'{');
    if event.event_type == "m.room.redaction" {
        put_members(out, &with_redacts_twice(event)?);
    } else {
        put_members(out, event.common);
    }
    put_member(out, "event_id", event.event_id.as_str());
    if let Some(room_id) = room_id {
        put_member(out, "room_id", room_id.as_str());
    }
    unsigned.write(out);
    out.push(b'}');
    Ok(())
}

/// The client form for `Raw` fields of ruma's types; [`write`] where bytes will do.
pub fn raw(
    event: &EventView<'_>,
    room_id: Option<&RoomId>,
    unsigned: &Unsigned<'_>,
) -> Result<Box<RawValue>, DecodeError> {
    let mut out = Vec::with_capacity(event.common.len() + 300);
    write(&mut out, event, room_id, unsigned)?;
    to_raw(out)
}

/// The stripped form of a state event: `type`, `state_key`, `sender` and `content` alone.
///
/// NOTSPEC: and of the create event its time, which tells more of a room than its name does. Synapse shows it too, and
/// Complement asks for it (MSC4311).
///
/// <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
pub fn stripped(event: &EventView<'_>) -> Result<Box<RawValue>, DecodeError> {
    let content = event.content()?.get();
    let mut out = Vec::with_capacity(content.len() + 200);
    out.push(b'{');
    put_raw(&mut out, "content", content);
    if event.event_type == "m.room.create" {
        put_raw(&mut out, "origin_server_ts", &event.origin_server_ts.to_string());
    }
    put_member(&mut out, "sender", event.sender.as_str());
    put_member(&mut out, "state_key", event.state_key.ok_or_else(|| DecodeError("no state event".to_owned()))?);
    put_member(&mut out, "type", event.event_type);
    out.push(b'}');
    to_raw(out)
}

/// The common members of a redaction with `redacts` both where old clients and where new clients look for it.
///
/// What a sender wrote at the place that does not count in the room's version is not passed on.
///
/// <https://spec.matrix.org/v1.19/rooms/v11/#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property>
fn with_redacts_twice(event: &EventView<'_>) -> Result<String, DecodeError> {
    let unreadable = |error: serde_json::Error| DecodeError(error.to_string());
    let mut common: Map<String, Value> = serde_json::from_str(event.common).map_err(unreadable)?;
    let content = common.get_mut("content").and_then(Value::as_object_mut);
    let content = content.ok_or_else(|| DecodeError("content is no object".to_owned()))?;
    match event.redacts {
        Some(redacts) => {
            content.insert("redacts".to_owned(), redacts.as_str().into());
            common.insert("redacts".to_owned(), redacts.as_str().into());
        }
        None => {
            content.remove("redacts");
        }
    }
    serde_json::to_string(&common).map_err(unreadable)
}

fn put_raw(out: &mut Vec<u8>, key: &'static str, json: &str) {
    put_key(out, key);
    out.extend(json.as_bytes());
}

fn to_raw(json: Vec<u8>) -> Result<Box<RawValue>, DecodeError> {
    let json = String::from_utf8(json).map_err(|error| DecodeError(error.to_string()))?;
    RawValue::from_string(json).map_err(|error| DecodeError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, event_id, room_id};
    use serde_json::json;

    use super::*;
    use crate::event::{
        Draft, StoredEvent,
        rules::SUPPORTED,
        stored::Placement,
        testing::{Forge, draft},
    };

    fn stored(version: RoomVersionId, draft: Draft) -> StoredEvent {
        let mut forge = Forge::new(version);
        let create = forge.create("alice");
        let event = forge.event("alice", draft, &[&create], &[]);
        StoredEvent::new(&event, forge.rules, Placement::default())
    }

    fn shown(event: &StoredEvent, room_id: Option<&RoomId>, unsigned: &Unsigned<'_>) -> Value {
        serde_json::from_str(raw(&event.view(), room_id, unsigned).unwrap().get()).unwrap()
    }

    #[test]
    fn clients_see_what_the_specification_lists_and_nothing_else() {
        let event = stored(RoomVersionId::V11, draft("m.room.topic", Some(""), &json!({ "topic": "ü\"\\" })));
        let mut expected = json!({
            "content": { "topic": "ü\"\\" }, "event_id": event.event_id, "origin_server_ts": 1_700_000_000_000_u64,
            "sender": "@alice:domain", "state_key": "", "type": "m.room.topic",
        });
        assert_eq!(shown(&event, None, &Unsigned::default()), expected);
        expected["room_id"] = json!("!room:domain");
        assert_eq!(shown(&event, Some(room_id!("!room:domain")), &Unsigned::default()), expected);
    }

    #[test]
    fn everything_in_unsigned_is_shown_as_given() {
        let event = stored(RoomVersionId::V11, draft("x", Some("k"), &json!({})));
        let json = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let (content, because, relations) = (json(r#"{"a":1}"#), json(r#"{"type":"m.room.redaction"}"#), json("{}"));
        let unsigned = Unsigned {
            age: Some(-5),
            transaction_id: Some("t\"1"),
            delay_id: Some("d"),
            prev_content: Some(&content),
            prev_sender: Some(ruma::user_id!("@before:domain")),
            replaces_state: Some(event_id!("$old")),
            redacted_because: Some(&because),
            membership: Some("join"),
            sticky_ms: Some(5),
            relations: Some(&relations),
        };
        let expected = json!({
            "age": -5, "transaction_id": "t\"1", "prev_content": { "a": 1 }, "prev_sender": "@before:domain", "replaces_state": "$old",
            "redacted_because": { "type": "m.room.redaction" }, "membership": "join", "m.relations": {},
            "org.matrix.msc4140.delay_id": "d", "msc4354_sticky_duration_ttl_ms": 5,
        });
        assert_eq!(shown(&event, None, &unsigned)["unsigned"], expected);
        let transaction = Unsigned { transaction_id: Some("1"), ..Unsigned::default() };
        assert_eq!(shown(&event, None, &transaction)["unsigned"], json!({ "transaction_id": "1" }));
    }

    #[test]
    fn a_redaction_shows_its_target_twice_in_every_version() {
        for version in SUPPORTED {
            let event = stored(version, Draft::redaction(event_id!("$target:x").to_owned(), Some("rude")));
            let shown = shown(&event, None, &Unsigned::default());
            assert_eq!(shown["redacts"], "$target:x");
            assert_eq!(shown["content"], json!({ "redacts": "$target:x", "reason": "rude" }));
        }
    }

    #[test]
    fn a_target_that_does_not_count_is_not_shown() {
        let nothing = stored(RoomVersionId::V11, draft("m.room.redaction", None, &json!({ "redacts": 1 })));
        let shown_nothing = shown(&nothing, None, &Unsigned::default());
        assert_eq!((shown_nothing.get("redacts"), &shown_nothing["content"]), (None, &json!({})));

        let mut wrong_place = stored(RoomVersionId::V11, Draft::redaction(event_id!("$real").to_owned(), None));
        wrong_place.federation = r#"{"redacts":"$wrong"}"#.to_owned();
        assert_eq!(shown(&wrong_place, None, &Unsigned::default())["redacts"], "$real");
    }

    #[test]
    fn ids_of_any_characters_stay_json() {
        let mut event = stored(RoomVersionId::V11, draft("x", None, &json!({})));
        event.event_id = ruma::EventId::parse("$a\"\\\u{1}\n").unwrap();
        assert_eq!(shown(&event, None, &Unsigned::default())["event_id"], "$a\"\\\u{1}\n");
    }

    #[test]
    fn stripped_state_has_four_members_and_the_create_event_its_time() {
        let event = stored(RoomVersionId::V12, draft("m.room.name", Some(""), &json!({ "name": "x" })));
        let stripped_event: Value = serde_json::from_str(stripped(&event.view()).unwrap().get()).unwrap();
        let expected =
            json!({ "content": { "name": "x" }, "sender": "@alice:domain", "state_key": "", "type": "m.room.name" });
        assert_eq!(stripped_event, expected);
        stripped(&stored(RoomVersionId::V12, draft("x", None, &json!({}))).view()).unwrap_err();
        let create = stored(RoomVersionId::V11, draft("m.room.create", Some(""), &json!({})));
        let create: Value = serde_json::from_str(stripped(&create.view()).unwrap().get()).unwrap();
        assert!(create["origin_server_ts"].is_u64(), "{create}");
    }
}
