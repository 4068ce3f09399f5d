//! Which servers a room lets take part: its `m.room.server_acl`, by the current state.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#server-access-control-lists-acls-for-rooms>

use ruma::{OwnedServerName, ServerName, events::StateEventType};
use serde_json::Value;

use super::View;
use crate::{
    error::{Error, Result},
    push::glob,
    store::{EventNid, RoomNid},
};

/// No server name is longer, so that no pattern with more characters can match one.
const MAX_NAME_BYTES: usize = 255;

/// How many verdicts are kept in memory, of all rooms together.
pub(super) const CACHED_VERDICTS: usize = 20_000;

/// Which server was judged, and by what: the event, and how long its content is, because a redaction changes that.
pub(super) type Question = (RoomNid, EventNid, usize, OwnedServerName);

/// `M_FORBIDDEN` if the room does not let `server` take part.
pub fn check(view: &View<'_>, server: &ServerName) -> Result<()> {
    match allows(view, server)? {
        true => Ok(()),
        false => Err(Error::forbidden("Your server is not allowed to take part in this room")),
    }
}

/// Whether the room lets `server` take part. Asked for the first time, it costs as much as the list is long.
pub fn allows(view: &View<'_>, server: &ServerName) -> Result<bool> {
    let acl = view.state_nid(view.current_state(), &StateEventType::RoomServerAcl, "")?;
    let Some(acl) = acl else { return Ok(true) };
    let pdu = view.pdu(acl)?;
    let verdicts = &view.rooms().acl_verdicts;
    let question = (view.nid, acl, pdu.content.get().len(), server.to_owned());
    if let Some(known) = verdicts.get(&question) {
        return Ok(known);
    }
    let is_allowed = is_allowed_by(pdu.content.get(), server);
    verdicts.insert(question, is_allowed);
    Ok(is_allowed)
}

/// What the content of an ACL event says of `server`. What is not of the specification's type counts as absent.
fn is_allowed_by(content: &str, server: &ServerName) -> bool {
    let content: Value = serde_json::from_str(content).unwrap_or_default();
    if content["allow_ip_literals"] == false && server.is_ip_literal() {
        return false;
    }
    let host = server.host();
    let has = |list: &str| {
        let patterns = content[list].as_array().into_iter().flatten().filter_map(Value::as_str);
        patterns.into_iter().any(|pattern| matches(pattern, host))
    };
    !has("deny") && has("allow")
}

/// Whether `pattern` matches the whole of `host`, in time linear in both. Patterns that can match no server name are not
/// tried: their size is the choice of whoever wrote them.
fn matches(pattern: &str, host: &str) -> bool {
    let length = pattern.chars().filter(|character| *character != '*').count();
    pattern.is_ascii() && length <= MAX_NAME_BYTES && glob::matches(pattern, host)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::room::testing::TestRoom;

    fn server(name: &str) -> &ServerName {
        name.try_into().unwrap()
    }

    fn allowed(content: &Value, name: &str) -> bool {
        is_allowed_by(&content.to_string(), server(name))
    }

    #[test]
    fn a_denied_server_is_denied_whatever_its_port_and_capitals_and_whatever_is_allowed() {
        let acl = json!({ "allow": ["*"], "deny": ["Evil.example", "*.bad.example", "e?.example"] });
        for denied in ["evil.example", "EVIL.example:8448", "a.b.bad.example", "ex.example:1"] {
            assert!(!allowed(&acl, denied), "{denied}");
        }
        for other in ["good.example", "bad.example", "notevil.example", "exx.example"] {
            assert!(allowed(&acl, other), "{other}");
        }
    }

    #[test]
    fn who_is_not_on_the_list_of_allowed_servers_is_not_allowed() {
        let acl = json!({ "allow": ["*.gouv.example"] });
        assert!(allowed(&acl, "culture.GOUV.example:443"));
        assert!(!allowed(&acl, "elsewhere.example"));
        for nobody in [json!({}), json!({ "allow": [] }), json!({ "allow": "*" }), json!({ "allow": [1, null] })] {
            assert!(!allowed(&nobody, "culture.gouv.example"), "{nobody}");
        }
    }

    #[test]
    fn ip_literals_are_refused_where_the_room_says_so() {
        let acl = |literals: Value| json!({ "allow": ["*"], "allow_ip_literals": literals });
        for literal in ["127.0.0.1", "127.0.0.1:8448", "[::1]", "[::1]:8448"] {
            assert!(!allowed(&acl(json!(false)), literal), "{literal}");
            for yes in [json!(true), json!("false"), json!(null)] {
                assert!(allowed(&acl(yes), literal), "{literal}");
            }
        }
        assert!(allowed(&acl(json!(false)), "127.0.0.example"));
        assert!(!allowed(&json!({ "allow": ["*"], "deny": ["[::1]"] }), "[::1]:8448"));
    }

    #[test]
    fn patterns_made_to_cost_time_cost_little() {
        let long = "a".repeat(230);
        let acl = json!({ "allow": ["*"], "deny": vec![format!("{}b", "*a".repeat(200)); 150] });
        let huge = json!({ "allow": ["*"], "deny": ["é".repeat(30_000), "?".repeat(60_000)] });
        let started = Instant::now();
        assert!(allowed(&acl, &long) && allowed(&huge, &long));
        assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
    }

    #[test]
    fn the_current_event_decides_and_a_redacted_one_allows_nobody() {
        let room = TestRoom::new();
        let may = |room: &TestRoom| room.read("alice", |reader, _| allows(reader.view(), server("a.example")).unwrap());
        assert!(may(&room));
        let first = room.state("alice", "m.room.server_acl", "", &json!({ "allow": ["*"], "deny": ["a.example"] }));
        assert!(!may(&room));
        let second = room.state("alice", "m.room.server_acl", "", &json!({ "allow": ["a.*"] }));
        assert!(may(&room));
        room.send("alice", crate::event::Draft::redaction(first, None)).unwrap();
        assert!(may(&room));
        room.send("alice", crate::event::Draft::redaction(second, None)).unwrap();
        assert!(!may(&room));
        room.read("alice", |reader, _| check(reader.view(), server("a.example")).unwrap_err());
    }
}
