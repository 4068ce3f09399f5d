//! The rooms that a list is about.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, RoomId, events::StateEventType};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::request::Filters;
use crate::{
    error::Result,
    metrics::CacheUse,
    room::{
        Membership, View,
        known_state::KnownState,
        tables::{StateChanges, StateKeys, UserRoom},
        visibility::{Sight, Standing},
    },
    store::{Group, RoomNid, StreamPos},
    sync::{account_data::Changed, answer::Context},
    user::{account_data, tags},
};

const DIRECT: &str = "m.direct";

/// The rooms that a user's account data calls direct chats. It is his client's word: what is no list of rooms there
/// names none.
pub fn direct_rooms(context: &Context<'_>) -> Result<HashSet<OwnedRoomId>> {
    let content = account_data::get(context.snapshot, context.user_id(), account_data::GLOBAL, DIRECT)?;
    let content: Option<BTreeMap<String, Value>> = content.and_then(|content| serde_json::from_str(&content).ok());
    let rooms = content.iter().flat_map(BTreeMap::values).filter_map(Value::as_array).flatten();
    Ok(rooms.filter_map(Value::as_str).filter_map(|room| RoomId::parse(room).ok()).collect())
}

/// Whether these may be others than at the client's last answer, since when so much of the user's account data changed.
pub fn has_new_direct_rooms(changed: &Changed) -> bool {
    changed.global.contains(DIRECT)
}

/// A list's filters, with what they need to know.
pub struct Filter<'f> {
    filters: &'f Filters,
    direct: &'f HashSet<OwnedRoomId>,
    /// The children of the spaces; `None` if there is no such filter.
    children: Option<HashSet<String>>,
}

impl<'f> Filter<'f> {
    pub fn new(context: &Context<'_>, filters: &'f Filters, direct: &'f HashSet<OwnedRoomId>) -> Result<Self> {
        let children = filters.spaces.as_ref().map(|spaces| children(context, spaces)).transpose()?;
        Ok(Self { filters, direct, children })
    }

    /// Whether every room passes.
    pub fn is_open(&self) -> bool {
        let Filters {
            is_dm,
            spaces,
            is_encrypted,
            is_invite,
            room_types,
            not_room_types,
            room_name_like,
            tags,
            not_tags,
        } = self.filters;
        is_dm.is_none()
            && spaces.is_none()
            && is_encrypted.is_none()
            && is_invite.is_none()
            && room_types.is_none()
            && not_room_types.is_none()
            && room_name_like.is_none()
            && tags.is_none()
            && not_tags.is_none()
    }

    pub fn allows(&self, context: &Context<'_>, nid: RoomNid, row: &UserRoom) -> Result<bool> {
        let filters = self.filters;
        if filters.is_invite.is_some_and(|wanted| wanted != (row.membership == Membership::Invite)) {
            return Ok(false);
        }
        if (filters.tags.is_some() || filters.not_tags.is_some()) && !self.allows_tags(context, nid)? {
            return Ok(false);
        }
        let facts = Facts::of(context, nid, row)?;
        let is_one_of = |rooms: &HashSet<String>| rooms.contains(facts.room_id.as_str());
        Ok(filters.is_dm.is_none_or(|wanted| wanted == self.direct.contains(&facts.room_id))
            && self.children.as_ref().is_none_or(is_one_of)
            && filters.is_encrypted.is_none_or(|wanted| wanted == facts.is_encrypted)
            && self.allows_type(&facts)
            && filters.room_name_like.as_ref().is_none_or(|wanted| facts.name.contains(&wanted.to_lowercase())))
    }

    fn allows_tags(&self, context: &Context<'_>, nid: RoomNid) -> Result<bool> {
        let found = tags::list(context.snapshot, context.user_id(), nid)?;
        let has_any = |tags: &Vec<String>| tags.iter().any(|tag| found.contains_key(tag));
        Ok(self.filters.tags.as_ref().is_none_or(has_any) && !self.filters.not_tags.as_ref().is_some_and(has_any))
    }

    /// A room whose create event the user may not know has no known type, and passes no filter for types.
    fn allows_type(&self, facts: &Facts) -> bool {
        let Filters { room_types, not_room_types, .. } = self.filters;
        if room_types.is_none() && not_room_types.is_none() {
            return true;
        }
        let Some(room_type) = &facts.room_type else { return false };
        let is_among = |types: &Vec<Option<String>>| types.contains(room_type);
        room_types.as_ref().is_none_or(is_among) && !not_room_types.as_ref().is_some_and(is_among)
    }
}

/// The rooms that the spaces name as their children, if the user is joined to the spaces.
fn children(context: &Context<'_>, spaces: &[String]) -> Result<HashSet<String>> {
    #[derive(Deserialize)]
    struct Child {
        #[serde(default)]
        via: Vec<Value>,
    }
    let mut children = HashSet::new();
    for space in spaces {
        let Ok(space) = RoomId::parse(space) else { continue };
        let Some(view) = View::open(&context.server.rooms, context.snapshot, &space)? else { continue };
        if Sight::of(&view, context.user_id())?.standing != Standing::Joined {
            continue;
        }
        for row in context.snapshot.list::<StateKeys>(&(view.nid, "m.space.child")) {
            let row = row?;
            let room = row.key()?.2;
            let child: Option<Child> = view.state_content(view.current_state(), &StateEventType::SpaceChild, room)?;
            if child.is_some_and(|child| !child.via.is_empty()) {
                children.insert(room.to_owned());
            }
        }
    }
    Ok(children)
}

/// Of how many rooms what filters ask for is kept in memory.
const CACHED_ROOMS: usize = 20_000;

/// What filters ask of rooms that users are joined to, and when it was so for certain.
pub struct KnownFacts(Cache<RoomNid, (StreamPos, Arc<Facts>)>);

impl Default for KnownFacts {
    fn default() -> Self {
        Self(Cache::new(CACHED_ROOMS))
    }
}

impl KnownFacts {
    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.0)
    }
}

/// What a user may know of a room.
#[derive(Debug)]
struct Facts {
    room_id: OwnedRoomId,
    /// `None` if the user may not know its create event.
    room_type: Option<Option<String>>,
    is_encrypted: bool,
    /// In small letters.
    name: String,
}

impl Facts {
    fn of(context: &Context<'_>, nid: RoomNid, row: &UserRoom) -> Result<Arc<Self>> {
        if row.membership != Membership::Join {
            return Self::read(context, nid, row).map(Arc::new);
        }
        let known = &context.server.room_facts.0;
        if let Some((as_of, facts)) = known.get(&nid)
            && !context.may_have_changed::<StateChanges>(Group::of(nid), as_of.min(context.now))
        {
            return Ok(facts);
        }
        let facts = Arc::new(Self::read(context, nid, row)?);
        known.insert(nid, (context.now, Arc::clone(&facts)));
        Ok(facts)
    }

    fn read(context: &Context<'_>, nid: RoomNid, row: &UserRoom) -> Result<Self> {
        let view = context.view(nid)?;
        let state = KnownState::of(&view, context.user_id(), Some(row))?;
        let text = |content: Option<Map<String, Value>>, key: &str| {
            content.and_then(|content| content.get(key).and_then(Value::as_str).map(str::to_owned))
        };
        let create = state.content(&StateEventType::RoomCreate, "")?;
        let name = text(state.content(&StateEventType::RoomName, "")?, "name").filter(|name| !name.is_empty());
        let name = match name {
            Some(name) => name,
            None => text(state.content(&StateEventType::RoomCanonicalAlias, "")?, "alias").unwrap_or_default(),
        };
        Ok(Self {
            room_id: view.room_id().to_owned(),
            room_type: create.map(|create| text(Some(create), "type")),
            is_encrypted: state.content::<Map<String, Value>>(&StateEventType::RoomEncryption, "")?.is_some(),
            name: name.to_lowercase(),
        })
    }
}
