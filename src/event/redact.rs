//! Redaction: what is left of an event when its content must go.

use std::borrow::Cow;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, RoomId, canonical_json, room_version_rules::RoomVersionRules};

use super::{
    FormatError, Pdu, StoredEvent,
    stored::{self, DecodeError, EventView},
};

/// The event without everything that the room version does not protect.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#redactions>
pub fn redact(mut event: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<CanonicalJsonObject, FormatError> {
    remove_malformed_invite(&mut event, rules);
    canonical_json::redact(event, &rules.redaction, None).map_err(|error| FormatError::bad(error.to_string()))
}

/// `event` as its id and its signatures cover it, for ruma: of a `third_party_invite` that is no object redaction leaves
/// nothing, and ruma all.
///
/// <https://spec.matrix.org/v1.19/rooms/v11/#redactions>
pub(super) fn without_malformed_invite<'e>(
    event: &'e CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Cow<'e, CanonicalJsonObject> {
    if !has_malformed_invite(event, rules) {
        return Cow::Borrowed(event);
    }
    let mut event = event.clone();
    remove_malformed_invite(&mut event, rules);
    Cow::Owned(event)
}

/// See [`without_malformed_invite`].
pub(super) fn remove_malformed_invite(event: &mut CanonicalJsonObject, rules: &RoomVersionRules) {
    if has_malformed_invite(event, rules)
        && let Some(CanonicalJsonValue::Object(content)) = event.get_mut("content")
    {
        content.remove("third_party_invite");
    }
}

fn has_malformed_invite(event: &CanonicalJsonObject, rules: &RoomVersionRules) -> bool {
    let is_member = event.get("type").and_then(CanonicalJsonValue::as_str) == Some("m.room.member");
    let invite = event.get("content").and_then(|content| content.as_object()?.get("third_party_invite"));
    is_member
        && rules.redaction.keep_room_member_third_party_invite_signed
        && invite.is_some_and(|invite| invite.as_object().is_none())
}

/// The stored form of `event` after the redaction `redacted_by` (the number of that event) was applied to it.
///
/// Its place, its state and its ids stay; content, unknown fields and relation go. Redacting twice changes nothing more.
pub fn redact_stored(
    event: &EventView<'_>,
    room_id: &RoomId,
    rules: &RoomVersionRules,
    redacted_by: u32,
) -> Result<StoredEvent, DecodeError> {
    let json = redact(event.json(room_id, rules)?, rules).map_err(|error| DecodeError(error.to_string()))?;
    let pdu = Pdu::from_json(&json, rules).map_err(|error| DecodeError(error.to_string()))?;
    let mut redacted = StoredEvent::from(event);
    redacted.flags.redacted = true;
    redacted.redacted_by = Some(redacted_by);
    redacted.relation = None;
    redacted.redacts = pdu.redacts;
    (redacted.common, redacted.federation) = stored::split(json, rules);
    Ok(redacted)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::event::rules::{SUPPORTED, rules};

    /// The content of `event_type` after redaction in each version, 1 first.
    fn contents(event_type: &str, content: &Value) -> Vec<Value> {
        let redacted = |version| {
            let event = json!({ "type": event_type, "content": content });
            let event = redact(serde_json::from_value(event).unwrap(), rules(version).unwrap()).unwrap();
            serde_json::to_value(&event["content"]).unwrap()
        };
        SUPPORTED.iter().map(redacted).collect()
    }

    /// `before` in the versions before `since`, `after` from it on.
    fn changes_in(since: usize, before: &Value, after: &Value) -> Vec<Value> {
        (1..=12).map(|version| if version < since { before.clone() } else { after.clone() }).collect()
    }

    #[test]
    fn the_content_that_stays_is_that_of_the_version() {
        let member = json!({
            "membership": "join", "displayname": "x", "join_authorised_via_users_server": "@a:b",
            "third_party_invite": { "signed": {}, "display_name": "x" },
        });
        let mut expected = changes_in(
            9,
            &json!({ "membership": "join" }),
            &json!({ "membership": "join", "join_authorised_via_users_server": "@a:b" }),
        );
        for since_11 in &mut expected[10..] {
            since_11["third_party_invite"] = json!({ "signed": {} });
        }
        assert_eq!(contents("m.room.member", &member), expected);
        for malformed in [json!(null), json!("x"), json!([{ "signed": {} }])] {
            let member = json!({ "membership": "join", "third_party_invite": malformed });
            assert_eq!(contents("m.room.member", &member), vec![json!({ "membership": "join" }); 12]);
        }
        let unsigned = json!({ "membership": "join", "third_party_invite": { "display_name": "x" } });
        let since_11 = json!({ "membership": "join", "third_party_invite": {} });
        assert_eq!(contents("m.room.member", &unsigned), changes_in(11, &json!({ "membership": "join" }), &since_11));

        let create = json!({ "creator": "@a:b", "room_version": "x", "m.federate": false });
        assert_eq!(contents("m.room.create", &create), changes_in(11, &json!({ "creator": "@a:b" }), &create));

        let rules = json!({ "join_rule": "restricted", "allow": [], "x": 1 });
        let expected =
            changes_in(8, &json!({ "join_rule": "restricted" }), &json!({ "join_rule": "restricted", "allow": [] }));
        assert_eq!(contents("m.room.join_rules", &rules), expected);

        let kept = json!({
            "ban": 1, "events": {}, "events_default": 1, "kick": 1, "redact": 1, "state_default": 1, "users": {},
            "users_default": 1,
        });
        let mut levels = kept.clone();
        levels["invite"] = json!(1);
        let since_11 = levels.clone();
        levels["notifications"] = json!({});
        assert_eq!(contents("m.room.power_levels", &levels), changes_in(11, &kept, &since_11));

        let redaction = json!({ "redacts": "$a", "reason": "x" });
        assert_eq!(contents("m.room.redaction", &redaction), changes_in(11, &json!({}), &json!({ "redacts": "$a" })));

        let aliases = json!({ "aliases": [], "x": 1 });
        assert_eq!(contents("m.room.aliases", &aliases), changes_in(6, &json!({ "aliases": [] }), &json!({})));

        let visibility = json!({ "history_visibility": "shared" });
        assert_eq!(contents("m.room.history_visibility", &visibility), vec![visibility; 12]);
        assert_eq!(contents("m.room.message", &json!({ "body": "x" })), vec![json!({}); 12]);
        assert_eq!(contents("m.room.topic", &json!({ "topic": "x" })), vec![json!({}); 12]);
    }

    #[test]
    fn the_fields_that_stay_are_those_of_the_version() {
        let always = [
            "auth_events",
            "content",
            "depth",
            "event_id",
            "hashes",
            "origin_server_ts",
            "prev_events",
            "room_id",
            "sender",
            "signatures",
            "state_key",
            "type",
        ];
        for (version, number) in SUPPORTED.iter().zip(1..) {
            let mut event = json!({ "type": "x", "content": {} });
            for field in always.iter().chain(&["origin", "membership", "prev_state", "unsigned", "redacts", "x"]) {
                if event.get(field).is_none() {
                    event[field] = json!({});
                }
            }
            let event = redact(serde_json::from_value(event).unwrap(), rules(version).unwrap()).unwrap();
            let mut expected = always.to_vec();
            if number < 11 {
                expected.extend(["origin", "membership", "prev_state"]);
            }
            expected.sort_unstable();
            assert_eq!(event.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{version}");
        }
    }
}
