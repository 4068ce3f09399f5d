//! Getting into and out of rooms that we are not in: another server says where our member event stands, and we build it.
//! Nothing that a server returned is ever signed: of its draft we take the place in the graph and who vouches, after
//! seeing that the rest says what we asked for.

use std::{collections::HashMap, sync::Arc};

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::error::ErrorKind, events::StateEventType, room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::{
    Server,
    error::{Error, Result},
    event::{
        Context, Draft, Verified,
        build::{self, Legacy},
        format::{MAX_AUTH_EVENTS, MAX_PREV_EVENTS},
        rules,
    },
    room::{
        Membership, View, invited,
        membership::Content,
        remote,
        tables::{RoomIds, UserRoom, UserRooms},
    },
};

/// The most servers that are asked one after the other.
const MAX_ASKED: usize = 15;

/// Where another server says that a member event of ours stands in its room.
#[derive(Debug)]
pub struct Prepared {
    pub version: RoomVersionId,
    pub rules: &'static RoomVersionRules,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    depth: u64,
    hashes: HashMap<OwnedEventId, String>,
    /// Who there vouches that the user may join a restricted room.
    pub authorizer: Option<OwnedUserId>,
}

/// The draft that a server sends: everything that we check, and nothing that we take without.
#[derive(Deserialize)]
struct Template {
    r#type: String,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    state_key: String,
    content: TemplateContent,
    prev_events: Vec<Value>,
    auth_events: Vec<Value>,
    depth: u64,
}

#[derive(Deserialize)]
struct TemplateContent {
    membership: String,
    join_authorised_via_users_server: Option<Value>,
}

impl Prepared {
    /// Reads the draft of an event by which `user` becomes `to` in `room_id`. A server that drafts anything else is not
    /// believed in anything.
    pub fn read(
        version: Option<RoomVersionId>,
        draft: &RawValue,
        room_id: &RoomId,
        user: &UserId,
        to: Membership,
    ) -> Result<Self> {
        let version = version.unwrap_or(RoomVersionId::V1);
        let rules = rules::rules(&version).ok_or_else(|| {
            let message = format!("This server knows no rooms of version {version}");
            Error::refused(ErrorKind::UnsupportedRoomVersion, message)
        })?;
        let template: Template = serde_json::from_str(draft.get())
            .map_err(|e| Error::bad_json(format!("The other server's draft is malformed: {e}")))?;
        let is_ours = template.r#type == "m.room.member"
            && template.room_id == room_id
            && template.sender == user
            && template.state_key == user.as_str()
            && template.content.membership == to.to_state().as_str();
        if !is_ours {
            return Err(Error::refused(
                ErrorKind::Unknown,
                "The other server drafted another event than was asked for",
            ));
        }
        let mut hashes = HashMap::new();
        let prev_events = references(&template.prev_events, MAX_PREV_EVENTS, &mut hashes)?;
        let auth_events = references(&template.auth_events, MAX_AUTH_EVENTS, &mut hashes)?;
        let authorizer = template.content.join_authorised_via_users_server;
        let authorizer = authorizer.as_ref().and_then(Value::as_str).and_then(|user| UserId::parse(user).ok());
        let authorizer = authorizer.filter(|_| to == Membership::Join && rules.authorization.restricted_join_rule);
        Ok(Self { version, rules, prev_events, auth_events, depth: template.depth, hashes, authorizer })
    }

    /// Our event at that place, with our own content.
    pub fn build(self, server: &Server, room_id: &RoomId, user: &UserId, content: &Content) -> Result<Verified> {
        let content = to_raw_value(content).expect("a JSON object serializes");
        let draft = Draft::state(StateEventType::RoomMember, user.as_str(), content);
        let localpart = build::needs_legacy(self.rules).then(|| server.random.text(18));
        let context = Context {
            rules: self.rules,
            room_id: Some(room_id),
            sender: user,
            prev_events: &self.prev_events,
            auth_events: &self.auth_events,
            depth: self.depth,
            origin_server_ts: server.clock.now(),
            server_name: server.name(),
            key: &server.key,
            legacy: localpart.as_deref().map(|localpart| Legacy { localpart, hashes: &self.hashes }),
        };
        build::build(draft, &context).map_err(|e| Error::bad_json(format!("The member event can't be made: {e}")))
    }
}

/// `[id, …]`, or `[[id, {"sha256": hash}], …]` as room versions 1 and 2 have it.
fn references(list: &[Value], limit: usize, hashes: &mut HashMap<OwnedEventId, String>) -> Result<Vec<OwnedEventId>> {
    let bad = || Error::bad_json("The other server's draft names events that are none");
    if list.len() > limit {
        return Err(bad());
    }
    let mut ids = Vec::with_capacity(list.len());
    for entry in list {
        let (id, hash) = match entry {
            Value::Array(pair) => (pair.first(), pair.get(1).and_then(|hashes| hashes.get("sha256")?.as_str())),
            id => (Some(id), None),
        };
        let id = id.and_then(Value::as_str).and_then(|id| EventId::parse(id).ok()).ok_or_else(bad)?;
        if let Some(hash) = hash {
            hashes.insert(id.clone(), hash.to_owned());
        }
        ids.push(id);
    }
    Ok(ids)
}

/// What another server is sent.
pub fn raw(event: &Verified) -> Box<RawValue> {
    to_raw_value(event.json()).expect("canonical JSON serializes")
}

/// The servers to ask about a room, the likeliest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// The server of who invited, or that took the knock, and those that the client names.
    pub named: Vec<OwnedServerName>,
    /// Those that we know to be in the room, and the one that the room's id names.
    pub others: Vec<OwnedServerName>,
}

impl Candidates {
    pub async fn find(server: &Arc<Server>, user: &UserId, room_id: &RoomId, via: &[OwnedServerName]) -> Result<Self> {
        let (user, id) = (user.to_owned(), room_id.to_owned());
        let known = server
            .blocking(move |server| {
                let snapshot = server.store.snapshot();
                let Some(nid) = snapshot.get::<RoomIds>(&&*id)? else { return Ok((None, Vec::new())) };
                let view = View::of(&server.rooms, &snapshot, nid)?;
                let waits_for = match snapshot.get::<UserRooms>(&(&user, nid))? {
                    Some(UserRoom { membership: Membership::Invite, event, .. }) => {
                        Some(view.event(event)?.sender.server_name().to_owned())
                    }
                    Some(UserRoom { membership: Membership::Knock, .. }) => invited::knocked_through(&view, &user)?,
                    _ => None,
                };
                Ok((waits_for, remote::servers(&view, server.name())?))
            })
            .await?;
        let (waits_for, present) = known;
        let mut found = Self::default();
        for name in waits_for.iter().chain(via) {
            if name != server.name() && found.len() < MAX_ASKED && !found.named.contains(name) {
                found.named.push(name.clone());
            }
        }
        for name in present.iter().map(|name| &**name).chain(room_id.server_name()) {
            if name != server.name() && found.len() < MAX_ASKED && found.iter().all(|known| known != name) {
                found.others.push(name.to_owned());
            }
        }
        Ok(found)
    }

    pub fn iter(&self) -> impl Iterator<Item = &OwnedServerName> {
        self.named.iter().chain(&self.others)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.named.len() + self.others.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ROOM: &str = "!room:elsewhere";
    const USER: &str = "@alice:here";

    fn draft() -> Value {
        json!({
            "type": "m.room.member", "room_id": ROOM, "sender": USER, "state_key": USER, "depth": 7,
            "content": { "membership": "join", "displayname": "not hers" },
            "prev_events": ["$prev"], "auth_events": ["$create", "$rules"],
            "origin_server_ts": 1, "hashes": { "sha256": "x" }, "signatures": { "here": { "ed25519:1": "x" } },
        })
    }

    fn read(version: RoomVersionId, draft: &Value) -> Result<Prepared> {
        let draft = to_raw_value(draft).unwrap();
        Prepared::read(Some(version), &draft, ROOM.try_into().unwrap(), USER.try_into().unwrap(), Membership::Join)
    }

    #[test]
    fn only_a_draft_of_what_was_asked_for_is_taken() {
        read(RoomVersionId::V11, &draft()).unwrap();
        let wrong = [
            ("type", json!("m.room.power_levels")),
            ("room_id", json!("!other:elsewhere")),
            ("sender", json!("@bob:here")),
            ("state_key", json!("@bob:here")),
            ("state_key", json!(null)),
            ("content", json!({ "membership": "leave" })),
            ("content", json!({})),
            ("prev_events", json!(vec!["$prev"; 21])),
            ("auth_events", json!(vec!["$auth"; 11])),
            ("prev_events", json!([1])),
            ("prev_events", json!(null)),
            ("depth", json!(-1)),
            ("depth", json!("7")),
        ];
        for (field, value) in wrong {
            let mut wrong = draft();
            wrong[field] = value.clone();
            assert!(read(RoomVersionId::V11, &wrong).is_err(), "{field}: {value}");
        }
        assert!(read(RoomVersionId::try_from("13").unwrap(), &draft()).is_err());
    }

    #[test]
    fn of_a_draft_the_place_is_taken_and_who_vouches_and_nothing_else() {
        let mut restricted = draft();
        restricted["content"]["join_authorised_via_users_server"] = json!("@bob:elsewhere");
        let prepared = read(RoomVersionId::V11, &restricted).unwrap();
        assert_eq!(prepared.authorizer.as_deref(), Some("@bob:elsewhere".try_into().unwrap()));
        assert_eq!((prepared.depth, prepared.prev_events.len(), prepared.auth_events.len()), (7, 1, 2));
        let too_old = read(RoomVersionId::V7, &restricted).unwrap();
        assert_eq!(too_old.authorizer, None, "rooms of version 7 know no restricted joins");
        restricted["content"]["join_authorised_via_users_server"] = json!(["@bob:elsewhere"]);
        assert_eq!(read(RoomVersionId::V11, &restricted).unwrap().authorizer, None);
    }

    #[test]
    fn the_first_versions_name_hashes_beside_ids() {
        let mut old = draft();
        old["prev_events"] = json!([["$prev:elsewhere", { "sha256": "hash" }]]);
        old["auth_events"] = json!([["$create:elsewhere", {}]]); // Synapse does not know every hash
        let prepared = read(RoomVersionId::V1, &old).unwrap();
        assert_eq!(prepared.hashes.values().collect::<Vec<_>>(), ["hash"]);
        assert_eq!((prepared.prev_events.len(), prepared.auth_events.len()), (1, 1));
    }
}
