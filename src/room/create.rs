//! Making a room: all of its first events are built and allowed in memory, then written, so that a request with
//! something wrong in it leaves nothing behind.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UInt,
    UserId, api::error::ErrorKind, events::StateEventType, room_version_rules::RoomVersionRules,
};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};
use tracing::warn;

use super::{aliases, directory, founding, local_event, local_event::Place, membership, retention, upgrade};
use crate::{
    Server,
    appservice::query,
    error::{Error, Result},
    event::{Draft, Pdu, Refusal, Verified, authorize, build, hash, rules},
    federation::inviting,
    store::{RoomNid, Snapshot},
    user::moderation,
};

/// How many events and invites a client may ask for at once. Source: our choice; each is built, signed and written.
const MAX_ASKED: usize = 5_000;

/// How many users of other servers are invited at a time: their servers may be silent. Source: our choice; each makes an
/// end of the room's graph at the worst.
const INVITES_AT_ONCE: usize = 8;

/// What a client asks for. Checked here, not before.
#[derive(Clone, Debug)]
pub struct NewRoom {
    pub version: RoomVersionId,
    pub preset: Preset,
    /// Whether it appears in the directory of public rooms.
    pub is_listed: bool,
    /// One of ours; it becomes the canonical alias.
    pub alias: Option<OwnedRoomAliasId>,
    pub name: Option<String>,
    pub topic: Option<String>,
    pub invite: Vec<OwnedUserId>,
    /// The invites are to a direct chat.
    pub is_direct: bool,
    pub initial_state: Vec<InitialState>,
    /// Further members of the create event's content.
    pub creation_content: Map<String, Value>,
    /// Members that replace those of the default power levels.
    pub power_levels: Map<String, Value>,
    /// The room that it takes the place of: gives its aliases and its place in the directory away.
    pub replaces: Option<RoomNid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    PrivateChat,
    TrustedPrivateChat,
    PublicChat,
}

/// A state event that the client asks for.
#[derive(Clone, Debug)]
pub struct InitialState {
    pub event_type: StateEventType,
    pub state_key: String,
    pub content: Box<RawValue>,
}

/// Makes a room, and answers when all of it is durable.
///
/// Errors: `M_INVALID_ROOM_STATE` where the rules of the room version do not allow what is asked for,
/// `M_UNSUPPORTED_ROOM_VERSION`, `M_ROOM_IN_USE` if the alias is taken, `M_INVITE_BLOCKED`, `M_BAD_JSON`, `M_TOO_LARGE`.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
pub async fn create(server: &Arc<Server>, creator: &UserId, new: NewRoom) -> Result<OwnedRoomId> {
    moderation::check_not_suspended(&server.store.snapshot(), creator)?;
    for invited in new.invite.iter().filter(|user| server.is_ours(user)) {
        query::user_exists(server, invited).await?; // an application service may make him only now
    }
    let (elsewhere, is_direct) = (new.invited_elsewhere(server), new.is_direct);
    let (version, alias, is_listed, replaces) = (new.version.clone(), new.alias.clone(), new.is_listed, new.replaces);
    let creator = creator.to_owned();
    let (maker, inviter) = (creator.clone(), creator.clone());
    // Who looked at the clock before he asked finds nothing of the room at that time, coarse as times of events are.
    server.clock.tick().await;
    let events = server.blocking(move |server| first_events(server, &maker, &new)).await?;
    let room_id = events.first().map(|create| create.pdu().room_id.clone());
    let room_id = room_id.ok_or_else(|| Error::internal("a room begins with its create event"))?;
    let server = Arc::clone(server);
    // A client that hangs up must not leave a room to which only some of those are invited whom it named.
    Server::detached(async move {
        founding::found(&server, version, events, move |tx, room| {
            if let Some(alias) = alias
                && !aliases::claim(tx, &alias, room, &creator)?
            {
                return Err(alias_taken(&alias));
            }
            if is_listed {
                directory::list(tx, room);
            }
            if let Some(old) = replaces {
                upgrade::move_names(tx, old, room)?;
            }
            Ok(())
        })
        .await?;
        if !elsewhere.is_empty() {
            invite_elsewhere(&server, &inviter, &room_id, elsewhere, is_direct).await?;
        }
        Ok(room_id)
    })
    .await
}

/// Invites users of other servers to a new room. It is there by now: the client can ask again for those who could not
/// be reached.
async fn invite_elsewhere(
    server: &Arc<Server>,
    inviter: &UserId,
    room_id: &RoomId,
    invited: BTreeSet<OwnedUserId>,
    is_direct: bool,
) -> Result<()> {
    let room = membership::known(server, room_id)?;
    let invite = |invited: OwnedUserId| async move {
        let content = is_direct.then(|| ("is_direct".to_owned(), true.into())).into_iter().collect();
        if let Err(error) = inviting::invite(server, inviter, &invited, room, content).await {
            warn!(%room_id, %invited, "an invite to a new room failed: {error:?}");
        }
    };
    stream::iter(invited).for_each_concurrent(INVITES_AT_ONCE, invite).await;
    Ok(())
}

fn alias_taken(alias: &OwnedRoomAliasId) -> Error {
    Error::refused(ErrorKind::RoomInUse, format!("The alias {alias} is in use"))
}

pub fn unknown_version() -> Error {
    Error::refused(ErrorKind::UnsupportedRoomVersion, "This server does not know that room version")
}

/// The events of a new room, in the order that the specification gives them.
pub(super) fn first_events(server: &Server, creator: &UserId, new: &NewRoom) -> Result<Vec<Verified>> {
    let snapshot = server.store.snapshot();
    let rules = rules::rules(&new.version).ok_or_else(unknown_version)?;
    if new.initial_state.len() + new.invite.len() > MAX_ASKED {
        let message = format!("A room is made with at most {MAX_ASKED} events and invites; send the others later");
        return Err(Error::refused(ErrorKind::TooLarge, message));
    }
    if let Some(alias) = &new.alias
        && aliases::resolve(&snapshot, alias)?.is_some()
    {
        return Err(alias_taken(alias)); // seen early, so that nothing need be built; who comes first is decided later
    }
    let mut events = Blueprint::new(server, rules, creator);
    let created_at = UInt::new_saturating(server.rooms.creation_time_ms(server.clock.now_ms()));
    let create = state("m.room.create", &create_content(creator, new, rules)?);
    events.add(Draft { origin_server_ts: Some(MilliSecondsSinceUnixEpoch(created_at)), ..create })?;
    let join = membership::content_with_profile(&snapshot, creator, "join")?;
    events.add(Draft::state(StateEventType::RoomMember, creator.as_str(), raw(&join)))?;
    events.add(state("m.room.power_levels", &power_levels(creator, new, rules)))?;
    if let Some(alias) = &new.alias {
        events.add(state("m.room.canonical_alias", &json!({ "alias": alias })))?;
    }
    for (event_type, content) in preset_state(new.preset) {
        if !new.sets(event_type) {
            events.add(state(event_type, &content))?;
        }
    }
    add_initial_state(&mut events, &snapshot, new)?;
    if let Some(name) = &new.name {
        events.add(state("m.room.name", &json!({ "name": name })))?;
    }
    if let Some(topic) = &new.topic {
        let rich = json!({ "m.text": [{ "body": topic }] });
        events.add(state("m.room.topic", &json!({ "topic": topic, "m.topic": rich })))?;
    }
    for invited in new.invite.iter().filter(|invited| server.is_ours(invited)).collect::<BTreeSet<_>>() {
        membership::check_invite(server, &snapshot, creator, invited)?;
        let mut content = membership::content_with_profile(&snapshot, invited, "invite")?;
        if new.is_direct {
            content.insert("is_direct".to_owned(), true.into());
        }
        events.add(Draft::state(StateEventType::RoomMember, invited.as_str(), raw(&content)))?;
    }
    Ok(events.made)
}

/// `initial_state`, without what `name` and `topic` overwrite.
fn add_initial_state(events: &mut Blueprint<'_>, snapshot: &Snapshot<'_>, new: &NewRoom) -> Result<()> {
    for InitialState { event_type, state_key, content } in &new.initial_state {
        let is_overwritten = state_key.is_empty()
            && match event_type {
                StateEventType::RoomName => new.name.is_some(),
                StateEventType::RoomTopic => new.topic.is_some(),
                _ => false,
            };
        if is_overwritten {
            continue;
        }
        if *event_type == StateEventType::RoomMember {
            membership::check_initial(events.server, snapshot, events.creator, state_key, content)?;
        }
        let draft = Draft::state(event_type.clone(), state_key, content.clone());
        retention::check_draft(&draft)?;
        events.add(draft)?;
    }
    Ok(())
}

impl NewRoom {
    /// Who is invited and is of another server.
    fn invited_elsewhere(&self, server: &Server) -> BTreeSet<OwnedUserId> {
        self.invite.iter().filter(|invited| !server.is_ours(invited)).cloned().collect()
    }

    /// Whether `initial_state` has an event of this type with an empty state key.
    fn sets(&self, event_type: &str) -> bool {
        self.initial_state.iter().any(|event| event.state_key.is_empty() && event.event_type == event_type.into())
    }
}

/// The content of the create event. What a client gives is checked here where rooms would be read wrongly by it.
fn create_content(creator: &UserId, new: &NewRoom, rules: &RoomVersionRules) -> Result<Value> {
    let mut content = new.creation_content.clone();
    content.remove("creator");
    if !rules.authorization.use_room_create_sender {
        content.insert("creator".to_owned(), creator.as_str().into());
    }
    content.insert("room_version".to_owned(), new.version.as_str().into());
    let is_wrong = |key: &str, is_right: fn(&Value) -> bool| content.get(key).is_some_and(|value| !is_right(value));
    let names_room = |value: &Value| value.get("room_id").is_some_and(Value::is_string);
    if is_wrong("m.federate", Value::is_boolean)
        || is_wrong("type", Value::is_string)
        || is_wrong("predecessor", names_room)
    {
        return Err(Error::bad_json(
            "`creation_content` has an `m.federate`, `type` or `predecessor` of the wrong form",
        ));
    }
    if rules.authorization.additional_room_creators && new.preset == Preset::TrustedPrivateChat {
        add_creators(&mut content, creator, &new.invite)?;
    }
    Ok(content.into())
}

/// Makes everybody who is invited a creator, beside those who are named as such.
fn add_creators(content: &mut Map<String, Value>, creator: &UserId, invited: &[OwnedUserId]) -> Result<()> {
    let creators = content.entry("additional_creators").or_insert_with(|| json!([]));
    let Value::Array(creators) = creators else {
        return Err(Error::bad_json("`additional_creators` is no array"));
    };
    for user in invited {
        let user = Value::from(user.as_str());
        if user != creator.as_str() && !creators.contains(&user) {
            creators.push(user);
        }
    }
    Ok(())
}

/// The default power levels, with the client's on top.
fn power_levels(creator: &UserId, new: &NewRoom, rules: &RoomVersionRules) -> Value {
    let has_privileged_creators = rules.authorization.explicitly_privilege_room_creators;
    let mut users = Map::new();
    if !has_privileged_creators {
        users.insert(creator.to_string(), 100.into());
        if new.preset == Preset::TrustedPrivateChat {
            users.extend(new.invite.iter().map(|user| (user.to_string(), 100.into())));
        }
    }
    // Above everything that an administrator of the room may do: only its creators replace a room. And it
    // "MUST explicitly be higher than `state_default`", which is the client's to say.
    let state_default = new.power_levels.get("state_default").and_then(Value::as_i64).unwrap_or_default();
    let tombstone = if has_privileged_creators { state_default.saturating_add(1).max(150) } else { 100 };
    let mut levels = json!({
        "ban": 50,
        "events": {
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.encryption": 100,
            "m.room.history_visibility": 100,
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": tombstone,
        },
        "events_default": 0,
        "invite": if new.preset == Preset::PublicChat { 50 } else { 0 },
        "kick": 50,
        "redact": 50,
        "state_default": 50,
        "users": users,
        "users_default": 0,
    });
    for (key, value) in &new.power_levels {
        levels[key] = value.clone();
    }
    if has_privileged_creators && let Some(events) = levels["events"].as_object_mut() {
        events.entry("m.room.tombstone").or_insert_with(|| tombstone.into());
    }
    levels
}

/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom> (the table of presets)
fn preset_state(preset: Preset) -> Vec<(&'static str, Value)> {
    let (join_rule, is_open_to_guests) = match preset {
        Preset::PrivateChat | Preset::TrustedPrivateChat => ("invite", true),
        Preset::PublicChat => ("public", false),
    };
    let mut state = vec![
        ("m.room.join_rules", json!({ "join_rule": join_rule })),
        ("m.room.history_visibility", json!({ "history_visibility": "shared" })),
    ];
    // NOTSPEC: the table has `forbidden` for public rooms. Without this event guests are not let in either, and Synapse,
    // too, leaves that unsaid.
    if is_open_to_guests {
        state.push(("m.room.guest_access", json!({ "guest_access": "can_join" })));
    }
    state
}

fn state(event_type: &str, content: &Value) -> Draft {
    Draft::state(event_type.into(), "", to_raw_value(content).expect("a JSON value serializes"))
}

fn raw(content: &Map<String, Value>) -> Box<RawValue> {
    to_raw_value(content).expect("a JSON object serializes")
}

/// The first events of a room, each allowed by those before it. Nothing of it is written.
struct Blueprint<'a> {
    server: &'a Server,
    rules: &'static RoomVersionRules,
    creator: &'a UserId,
    made: Vec<Verified>,
    /// Which event is the state of a type and state key.
    state: HashMap<(String, String), usize>,
    /// Only room versions 1 and 2 need them.
    hashes: HashMap<OwnedEventId, String>,
}

impl<'a> Blueprint<'a> {
    fn new(server: &'a Server, rules: &'static RoomVersionRules, creator: &'a UserId) -> Self {
        Self { server, rules, creator, made: Vec::new(), state: HashMap::new(), hashes: HashMap::new() }
    }

    /// Builds the next event, or says why there can't be such a room.
    fn add(&mut self, draft: Draft) -> Result<()> {
        let place = self.place(&draft)?;
        let event = local_event::make(self.server, self.rules, self.creator, draft, &place)?;
        self.check(event.pdu()).map_err(invalid_state)?;
        if build::needs_legacy(self.rules) {
            let hash = hash::reference_sha256(event.json(), self.rules).map_err(|e| Error::internal(e.to_string()))?;
            self.hashes.insert(event.pdu().event_id.clone(), hash);
        }
        if let Some(state_key) = &event.pdu().state_key {
            let key = (event.pdu().r#type.clone(), state_key.clone());
            self.state.insert(key, self.made.len());
        }
        self.made.push(event);
        Ok(())
    }

    fn place(&self, draft: &Draft) -> Result<Place> {
        let Draft { event_type, state_key, content, .. } = draft;
        let event_type = event_type.as_str().into();
        let types = authorize::auth_types(&event_type, self.creator, state_key.as_deref(), content, self.rules);
        let types = types.map_err(invalid_state)?;
        let allowing = types.iter().filter_map(|(event_type, key)| self.current(event_type, key));
        let auth_events: Vec<_> = allowing.map(|pdu| pdu.event_id.clone()).collect();
        let prev_events: Vec<_> = self.made.last().map(|event| event.pdu().event_id.clone()).into_iter().collect();
        let named = prev_events.iter().chain(&auth_events);
        Ok(Place {
            room_id: self.room_id()?,
            hashes: named.filter_map(|id| Some((id.clone(), self.hashes.get(id)?.clone()))).collect(),
            depth: self.made.len() as u64 + 1,
            prev_events,
            auth_events,
        })
    }

    /// That of the room, which is made up for its first event if that does not give the room its id.
    fn room_id(&self) -> Result<Option<OwnedRoomId>> {
        if let Some(create) = self.made.first() {
            return Ok(Some(create.pdu().room_id.clone()));
        }
        if !self.rules.event_format.require_room_create_room_id {
            return Ok(None);
        }
        let room_id = OwnedRoomId::try_from(format!("!{}:{}", self.server.random.text(18), self.server.name()));
        room_id.map(Some).map_err(|e| Error::internal(format!("a generated room id is none: {e}")))
    }

    fn current(&self, event_type: &StateEventType, state_key: &str) -> Option<&Pdu> {
        let index = self.state.get(&(event_type.to_string(), state_key.to_owned()))?;
        Some(self.made[*index].pdu())
    }

    fn check(&self, pdu: &Pdu) -> Result<(), Refusal> {
        let made = |id: &ruma::EventId| self.made.iter().map(Verified::pdu).find(|pdu| pdu.event_id == id);
        authorize::check_against_auth_events(self.rules, pdu, made)?;
        authorize::check_against_state(self.rules, pdu, |event_type, key| self.current(event_type, key))
    }
}

fn invalid_state(refusal: Refusal) -> Error {
    let reason = format!("The rules of the room version do not allow such a room: {}", refusal.0);
    Error::refused(ErrorKind::InvalidRoomState, reason)
}
