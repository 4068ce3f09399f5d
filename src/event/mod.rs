//! One event: parse, check, build, sign, redact, authorize, store, show. Pure functions: no store, no HTTP, no clock.
//!
//! What a peer sends becomes [`Received`], then [`Verified`]; what a local user sends starts as a [`Draft`] and also
//! becomes [`Verified`]. Only a [`Verified`] event can become part of a room. On disk it is a [`StoredEvent`], read
//! through an [`EventView`].

pub mod authorize;
pub mod build;
pub mod client_form;
pub mod fields;
pub mod format;
pub mod hash;
mod owned_state;
mod pdu;
pub mod policy;
pub mod redact;
pub mod rules;
pub mod sticky;
pub mod stored;

pub use authorize::Refusal;
pub use build::{Context, Draft};
pub use format::{FormatError, Received};
pub use hash::Verified;
pub use pdu::Pdu;
pub use stored::{EventView, Flags, Placement, StateRoot, StoredEvent};

#[cfg(test)]
pub mod testing;

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::{Value, json};

    use super::{
        Placement, StoredEvent, client_form, format, hash, redact,
        rules::SUPPORTED,
        stored::EventView,
        testing::{Forge, draft, public_keys},
    };

    /// Every kind of event that the versions treat differently, each with the event it follows.
    fn room(version: RoomVersionId) -> (Forge, Vec<super::Verified>) {
        let mut forge = Forge::new(version);
        let create = forge.create("alice");
        let auth: &[_] = if forge.rules.authorization.room_create_event_id_as_room_id { &[] } else { &[&create] };
        let alice = forge.member("alice", "alice", "join", &[&create], auth);
        let levels = json!({ "users_default": 50, "invite": 7, "x": [1, "ü\u{0}\""] });
        let levels = forge.event("alice", draft("m.room.power_levels", Some(""), &levels), &[&alice], auth);
        let message = json!({ "body": "hi", "m.relates_to": { "rel_type": "m.thread", "event_id": "$parent:x" } });
        let message = forge.event("alice", draft("m.room.message", None, &message), &[&levels, &alice], auth);
        let target = message.pdu().event_id.clone();
        let redaction = forge.event("alice", super::Draft::redaction(target, Some("why")), &[&message], auth);
        (forge, vec![create, alice, levels, message, redaction])
    }

    fn round_trip(version: RoomVersionId) {
        let (forge, events) = room(version);
        let room_id = forge.room_id.as_deref().unwrap();
        for built in events {
            let sent = format::canonical(built.json());

            let received = format::parse(sent.as_bytes(), forge.rules).unwrap();
            let verified = hash::verify(received, forge.rules, &public_keys()).unwrap();
            assert_eq!(verified.json(), built.json(), "nothing was redacted");

            let placement = Placement { room_pos: 7, ..Placement::default() };
            let mut bytes = Vec::new();
            StoredEvent::new(&verified, forge.rules, placement).encode(&mut bytes);
            let view = EventView::parse(&bytes).unwrap();
            let resent: Value = serde_json::from_slice(&view.federation_json(room_id, forge.rules)).unwrap();
            assert_eq!(resent, serde_json::from_str::<Value>(&sent).unwrap());

            let pdu = view.to_pdu(room_id, forge.rules).unwrap();
            assert_eq!(format!("{pdu:?}"), format!("{:?}", built.pdu()));

            let client = client_form::raw(&view, Some(room_id), &client_form::Unsigned::default()).unwrap();
            let client: Value = serde_json::from_str(client.get()).unwrap();
            assert_eq!(client["event_id"], pdu.event_id.as_str());
            assert_eq!(client["room_id"], room_id.as_str());
            assert_eq!(client["type"], pdu.event_type.to_string());
            assert_eq!(client.get("state_key").and_then(Value::as_str), pdu.state_key.as_deref());
            assert!(client.get("hashes").is_none() && client.get("prev_events").is_none());
        }
    }

    fn redaction_keeps_identity(version: RoomVersionId) {
        let (forge, events) = room(version);
        let room_id = forge.room_id.as_deref().unwrap();
        for event in events {
            let stored = StoredEvent::new(&event, forge.rules, Placement::default());
            let redacted = redact::redact_stored(&stored.view(), room_id, forge.rules, 9).unwrap();
            let sent = redacted.view().federation_json(room_id, forge.rules);
            let received = format::parse(&sent, forge.rules).unwrap();
            let verified = hash::verify(received, forge.rules, &public_keys()).unwrap();
            assert_eq!(verified.pdu().event_id, event.pdu().event_id);
            assert_eq!(redact::redact_stored(&redacted.view(), room_id, forge.rules, 9).unwrap(), redacted);
        }
    }

    #[test]
    fn events_of_every_version_are_built_sent_verified_stored_and_shown() {
        SUPPORTED.into_iter().for_each(round_trip);
    }

    #[test]
    fn a_redacted_event_of_any_version_keeps_its_id_and_its_signatures() {
        SUPPORTED.into_iter().for_each(redaction_keeps_identity);
    }
}
