//! Replacing a room by one of another version.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

pub mod carry_over;

use std::sync::Arc;

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    events::{StateEventType, room::power_levels::RoomPowerLevels},
    int,
};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    Membership, View, aliases, append,
    append::Step,
    create::{self, InitialState, NewRoom, Preset},
    membership, power_levels, retention, tables,
};
use crate::{
    Server,
    error::{Error, Result},
    event::{Draft, rules},
    store::RoomNid,
};

/// The state that goes over to the new room, beside power levels, and what it is where the old room does not say it:
/// never what the preset of a new room would make of it.
const TRANSFERRED: [(StateEventType, Option<&str>); 9] = [
    (StateEventType::RoomJoinRules, Some(r#"{"join_rule":"invite"}"#)),
    (StateEventType::RoomHistoryVisibility, Some(r#"{"history_visibility":"shared"}"#)),
    (StateEventType::RoomGuestAccess, Some(r#"{"guest_access":"forbidden"}"#)),
    (StateEventType::RoomEncryption, None),
    (StateEventType::RoomServerAcl, None),
    (StateEventType::RoomName, None),
    (StateEventType::RoomTopic, None),
    (StateEventType::RoomAvatar, None),
    (StateEventType::RoomCanonicalAlias, None),
];

/// How many bans and children go over.
const MAX_TRANSFERRED: usize = 4_000;

/// What creators have in versions that do not privilege them. Source: the specification.
const LEVEL_OF_CREATORS: i64 = 100;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pub version: RoomVersionId,
    /// Of room versions that know such; others pass over it.
    pub additional_creators: Vec<OwnedUserId>,
}

/// Makes a room that takes the place of `old`, moves its names there, and closes the old one. Answers with its id.
///
/// Errors: `M_FORBIDDEN` for whoever may not send `m.room.tombstone`, `M_UNSUPPORTED_ROOM_VERSION`, and those of
/// [`create::create`].
///
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidupgrade>
pub async fn upgrade(server: &Arc<Server>, user: &UserId, old: &RoomId, upgrade: Upgrade) -> Result<OwnedRoomId> {
    let room = membership::known(server, old)?;
    let (server, user) = (Arc::clone(server), user.to_owned());
    // A client that hangs up must not leave two rooms of which neither knows the other.
    Server::detached(async move {
        let upgrader = user.clone();
        let plan = server.blocking(move |server| Plan::work_out(server, room, &upgrader, upgrade)).await?;
        let new = create::create(&server, &user, plan.new).await?;
        if let Some(levels) = plan.final_levels {
            let draft = Draft::state(StateEventType::RoomPowerLevels, "", levels);
            append::send(&server, membership::known(&server, &new)?, &user, draft, None).await?;
        }
        let tombstone = json!({ "body": "This room has been replaced", "replacement_room": new });
        append::send(&server, room, &user, state(StateEventType::RoomTombstone, &tombstone), None).await?;
        close(&server, room, &user).await?;
        Ok(new)
    })
    .await
}

/// What the upgrade of a room comes to.
struct Plan {
    new: NewRoom,
    /// Power levels that the new room gets last: before, whoever upgrades it needs more than he keeps.
    final_levels: Option<Box<RawValue>>,
}

impl Plan {
    fn work_out(server: &Server, room: RoomNid, user: &UserId, upgrade: Upgrade) -> Result<Self> {
        let rules = rules::rules(&upgrade.version).ok_or_else(create::unknown_version)?;
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        let state = view.current_state();
        if view.membership(state, user)? != Some(Membership::Join) {
            return Err(Error::forbidden("You are not in this room"));
        }
        let levels = power_levels(&view)?;
        if !levels.user_can_send_state(user, StateEventType::RoomTombstone) {
            return Err(Error::forbidden("You may not upgrade this room"));
        }
        let has_creators = rules.authorization.explicitly_privilege_room_creators;
        let mut creators = vec![user.to_owned()];
        let has_additional = rules.authorization.additional_room_creators;
        if has_additional {
            creators.extend(upgrade.additional_creators.iter().filter(|other| *other != user).cloned());
        }
        let kept = kept_levels(&view, &levels, has_creators.then_some(&creators))?;
        let (first, last) = if has_creators { (kept, None) } else { raised_levels(kept, user) };
        let is_below = |other: &UserId| match has_creators {
            true => !creators.iter().any(|creator| creator == other),
            false => level_in(&first, other) < level_in(&first, user),
        };
        let initial_state = initial_state(&view, &levels, user, is_below)?;
        let creators = if has_additional { &creators[1..] } else { &[] };
        let new = NewRoom {
            creation_content: creation_content(&view, creators, rules.authorization.room_create_event_id_as_room_id)?,
            version: upgrade.version,
            preset: Preset::PrivateChat,
            is_listed: false,
            alias: None,
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            initial_state,
            power_levels: first,
            replaces: Some(room),
        };
        Ok(Self { new, final_levels: last.map(|levels| raw(&levels.into())) })
    }
}

/// `is_known_by_room`: the new version's rooms name their predecessor by its id only.
fn creation_content(
    view: &View<'_>,
    additional_creators: &[OwnedUserId],
    is_known_by_room: bool,
) -> Result<Map<String, Value>> {
    let old: Option<Map<String, Value>> = view.state_content(view.current_state(), &StateEventType::RoomCreate, "")?;
    let old = old.unwrap_or_default();
    let mut content = Map::new();
    let kept = ["type", "m.federate"].into_iter().filter_map(|key| Some((key.to_owned(), old.get(key)?.clone())));
    content.extend(kept);
    let mut predecessor = json!({ "room_id": view.room_id() });
    if !additional_creators.is_empty() {
        content.insert("additional_creators".to_owned(), json!(additional_creators));
    }
    let last = view.events(view.forward_extremities())?.into_iter().max_by_key(|event| event.depth);
    if let Some(last) = last.filter(|_| !is_known_by_room) {
        predecessor["event_id"] = last.event_id.as_str().into();
    }
    content.insert("predecessor".to_owned(), predecessor);
    Ok(content)
}

/// The old room's power levels as they are to be in the new one, `creators` of which, if it privileges them, have none.
fn kept_levels(
    view: &View<'_>,
    levels: &RoomPowerLevels,
    creators: Option<&Vec<OwnedUserId>>,
) -> Result<Map<String, Value>> {
    let old: Option<Map<String, Value>> =
        view.state_content(view.current_state(), &StateEventType::RoomPowerLevels, "")?;
    let mut kept: Map<String, Value> = Map::new();
    // What the old room does not say has the specification's default, which is not that of new rooms everywhere.
    let defaults = json!({
        "ban": 50, "events": {}, "events_default": 0, "invite": 0, "kick": 50, "redact": 50, "state_default": 50,
        "users": {}, "users_default": 0,
    });
    kept.extend(defaults.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
    kept.extend(old.unwrap_or_default());
    make_integers(&mut kept);
    let users = users_in(&mut kept);
    match creators {
        Some(creators) => creators.iter().for_each(|creator| drop(users.remove(creator.as_str()))),
        // Who could do everything in the old room by having made it needs a number for that in the new one.
        None => {
            for creator in levels.rules.privileged_creators.iter().flatten() {
                users.insert(creator.to_string(), LEVEL_OF_CREATORS.into());
            }
            // It is above that where creators need no number, and nobody could ever replace the new room.
            if levels.rules.privileged_creators.is_some()
                && let Some(tombstone) = kept.get_mut("events").and_then(|events| events.get_mut("m.room.tombstone"))
                && tombstone.as_i64() > Some(LEVEL_OF_CREATORS)
            {
                *tombstone = LEVEL_OF_CREATORS.into();
            }
        }
    }
    Ok(kept)
}

/// Versions before 10 take levels that are written as strings, which later ones do not.
fn make_integers(levels: &mut Map<String, Value>) {
    let make_integer = |value: &mut Value| {
        if let Some(level) = value.as_str().and_then(|text| text.trim().parse::<i64>().ok()) {
            *value = level.into();
        }
    };
    for (key, value) in levels {
        match (key.as_str(), value) {
            ("events" | "notifications" | "users", Value::Object(levels)) => {
                levels.values_mut().for_each(make_integer);
            }
            ("ban" | "events_default" | "invite" | "kick" | "redact" | "state_default" | "users_default", value) => {
                make_integer(value);
            }
            _ => {}
        }
    }
}

fn users_in(levels: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let users = levels.entry("users").or_insert_with(|| json!({}));
    if !users.is_object() {
        *users = json!({});
    }
    users.as_object_mut().expect("this was made an object")
}

/// The levels with which `user` can set up the room, and those to set in the end, if they differ.
fn raised_levels(kept: Map<String, Value>, user: &UserId) -> (Map<String, Value>, Option<Map<String, Value>>) {
    let level = |key: &str| kept.get(key).and_then(Value::as_i64).unwrap_or_default();
    let events = kept.get("events").and_then(Value::as_object);
    let of_events = events.into_iter().flat_map(|events| events.values().filter_map(Value::as_i64));
    let needed = of_events.chain([level("state_default"), level("ban"), level("kick")]).max().unwrap_or(100);
    if level_in(&kept, user) >= needed {
        return (kept, None);
    }
    let mut raised = kept.clone();
    users_in(&mut raised).insert(user.to_string(), needed.into());
    (raised, Some(kept))
}

fn level_in(levels: &Map<String, Value>, user: &UserId) -> i64 {
    let own = levels.get("users").and_then(|users| users.get(user.as_str())).and_then(Value::as_i64);
    own.or_else(|| levels.get("users_default").and_then(Value::as_i64)).unwrap_or_default()
}

/// `is_below`: whether somebody is less in the new room than `user`, who makes it.
fn initial_state(
    view: &View<'_>,
    levels: &RoomPowerLevels,
    user: &UserId,
    is_below: impl Fn(&UserId) -> bool,
) -> Result<Vec<InitialState>> {
    let mut transferred = Vec::new();
    let mut add = |event_type: StateEventType, state_key: String, content: Box<RawValue>| {
        transferred.push(InitialState { event_type, state_key, content });
    };
    for (event_type, default) in TRANSFERRED {
        let content: Option<Map<String, Value>> = view.state_content(view.current_state(), &event_type, "")?;
        let default = default.and_then(|text| serde_json::from_str(text).ok());
        if let Some(content) = content.filter(|content| !content.is_empty()).or(default) {
            add(event_type, String::new(), raw(&content.into()));
        }
    }
    // NOTSPEC: what is forgotten after a while in the old room is in the new one, too.
    for event_type in retention::TYPES.map(StateEventType::from) {
        let policy = view.state_pdu(view.current_state(), &event_type, "")?;
        if let Some(policy) = policy.filter(|policy| retention::is_policy(policy.content.get())) {
            add(event_type, String::new(), policy.content.clone());
        }
    }
    for row in view.snapshot.list::<tables::StateKeys>(&(view.nid, "m.space.child")).take(MAX_TRANSFERRED) {
        let row = row?;
        let (_, _, child) = row.key()?;
        // The rules reserve a key that is a user id for that user.
        if <&RoomId>::try_from(child).is_err() {
            continue;
        }
        let content: Option<Map<String, Value>> =
            view.state_content(view.current_state(), &StateEventType::SpaceChild, child)?;
        if let Some(content) = content.filter(|content| content.contains_key("via")) {
            add(StateEventType::SpaceChild, child.to_owned(), raw(&content.into()));
        }
    }
    // NOTSPEC: member events are not to go over, since nobody can speak for others. A ban is the word of whoever
    // upgrades the room, and without it everybody who was banned could come back. One that the new room's rules forbid
    // would keep that room from being made.
    if levels.user_can_ban(user) {
        let room_for = MAX_TRANSFERRED.saturating_sub(transferred.len());
        let banned = view.members(Membership::Ban)?.into_iter().filter(|(banned, _)| is_below(banned));
        for (banned, event) in banned.take(room_for) {
            let content: Map<String, Value> =
                serde_json::from_str(view.pdu(event)?.content.get()).map_err(Error::internal)?;
            let kept = ["membership", "reason"].into_iter();
            let kept: Map<_, _> = kept.filter_map(|key| Some((key.to_owned(), content.get(key)?.clone()))).collect();
            transferred.push(InitialState {
                event_type: StateEventType::RoomMember,
                state_key: banned.to_string(),
                content: raw(&kept.into()),
            });
        }
    }
    Ok(transferred)
}

/// Nobody shall go on in the old room as if nothing had happened: it loses its names and most lose their say. What
/// `user` may not do of that stays undone.
async fn close(server: &Arc<Server>, room: RoomNid, user: &UserId) -> Result<()> {
    let nameless = append::act(server, room, user, None, |_, view| {
        let content: Option<Map<String, Value>> =
            view.state_content(view.current_state(), &StateEventType::RoomCanonicalAlias, "")?;
        match content.is_some_and(|content| !content.is_empty()) {
            true => Ok(Step::Send(state(StateEventType::RoomCanonicalAlias, &json!({})))),
            false => Err(nothing_to_do()),
        }
    });
    let silent = append::act(server, room, user, None, |_, view| {
        let content: Option<Map<String, Value>> =
            view.state_content(view.current_state(), &StateEventType::RoomPowerLevels, "")?;
        let levels = power_levels(view)?;
        let least = levels.users_default.saturating_add(int!(1)).max(int!(50));
        let mut content = content.unwrap_or_default();
        let mut is_changed = false;
        for (key, present) in [("events_default", levels.events_default), ("invite", levels.invite)] {
            if present < least {
                content.insert(key.to_owned(), i64::from(least).into());
                is_changed = true;
            }
        }
        match is_changed {
            true => Ok(Step::Send(state(StateEventType::RoomPowerLevels, &content.into()))),
            false => Err(nothing_to_do()),
        }
    });
    for done in [nameless.await, silent.await] {
        match done {
            Ok(_) | Err(Error::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn nothing_to_do() -> Error {
    Error::forbidden("The room is closed already")
}

/// Moves the aliases of this server and the place in the directory from one room to another.
pub(super) fn move_names(
    tx: &mut crate::store::Transaction<'_>,
    from: RoomNid,
    to: RoomNid,
) -> crate::store::Result<()> {
    aliases::move_all(tx, from, to)?;
    super::directory::move_listing(tx, from, to)
}

fn state(event_type: StateEventType, content: &Value) -> Draft {
    Draft::state(event_type, "", raw(content))
}

fn raw(content: &Value) -> Box<RawValue> {
    to_raw_value(content).expect("a JSON value serializes")
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn whoever_upgrades_has_for_a_while_what_setting_up_the_room_needs() {
        let user = user_id!("@a:b");
        let levels = |own: i64| {
            let levels = json!({ "state_default": 50, "ban": 50, "kick": 50, "users_default": 0,
                "events": { "m.room.server_acl": 100 }, "users": { user: own } });
            levels.as_object().unwrap().clone()
        };
        let (first, last) = raised_levels(levels(60), user);
        assert_eq!((first, last), (levels(100), Some(levels(60))));
        assert_eq!(raised_levels(levels(100), user), (levels(100), None));
    }
}
