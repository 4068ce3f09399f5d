//! The rooms that a list is about.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashSet},
};

use ruma::{
    OwnedRoomId, RoomId,
    events::{AnyStrippedStateEvent, StateEventType},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::request::Filters;
use crate::{
    error::Result,
    event::StateRoot,
    room::{
        Membership, View, show,
        tables::{StateKeys, UserRoom},
        visibility::{Sight, Standing},
    },
    store::RoomNid,
    sync::answer::Context,
    user::{account_data, tags},
};

/// The rooms that a user's account data calls direct chats. It is his client's word: what is no list of rooms there
/// names none.
pub fn direct_rooms(context: &Context<'_>) -> Result<HashSet<OwnedRoomId>> {
    let content = account_data::get(context.snapshot, context.user_id(), account_data::GLOBAL, "m.direct")?;
    let content: Option<BTreeMap<String, Value>> = content.and_then(|content| serde_json::from_str(&content).ok());
    let rooms = content.iter().flat_map(BTreeMap::values).filter_map(Value::as_array).flatten();
    Ok(rooms.filter_map(Value::as_str).filter_map(|room| RoomId::parse(room).ok()).collect())
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
        let view = context.view(nid)?;
        if filters.is_dm.is_some_and(|wanted| wanted != self.direct.contains(view.room_id())) {
            return Ok(false);
        }
        if self.children.as_ref().is_some_and(|children| !children.contains(view.room_id().as_str())) {
            return Ok(false);
        }
        let facts = Facts { context, view: &view, row, state: OnceCell::new() };
        if let Some(wanted) = filters.is_encrypted
            && facts.content(&StateEventType::RoomEncryption)?.is_some() != wanted
        {
            return Ok(false);
        }
        if (filters.room_types.is_some() || filters.not_room_types.is_some()) && !self.allows_type(&facts)? {
            return Ok(false);
        }
        match &filters.room_name_like {
            Some(wanted) => Ok(facts.name()?.to_lowercase().contains(&wanted.to_lowercase())),
            None => Ok(true),
        }
    }

    fn allows_tags(&self, context: &Context<'_>, nid: RoomNid) -> Result<bool> {
        let found = tags::list(context.snapshot, context.user_id(), nid)?;
        let has_any = |tags: &Vec<String>| tags.iter().any(|tag| found.contains_key(tag));
        Ok(self.filters.tags.as_ref().is_none_or(has_any) && !self.filters.not_tags.as_ref().is_some_and(has_any))
    }

    /// A room whose create event the user may not know has no known type, and passes no filter for types.
    fn allows_type(&self, facts: &Facts<'_, '_>) -> Result<bool> {
        let Some(create) = facts.content(&StateEventType::RoomCreate)? else { return Ok(false) };
        let room_type = create.get("type").and_then(Value::as_str);
        let is_among = |types: &Vec<Option<String>>| types.iter().any(|kind| kind.as_deref() == room_type);
        let Filters { room_types, not_room_types, .. } = self.filters;
        Ok(room_types.as_ref().is_none_or(is_among) && !not_room_types.as_ref().is_some_and(is_among))
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

/// What a user may know of a room's state: as it is, as it was when he left, or as he was told with an invite.
struct Facts<'v, 's> {
    context: &'v Context<'s>,
    view: &'v View<'s>,
    row: &'v UserRoom,
    state: OnceCell<State>,
}

enum State {
    Root(StateRoot),
    Stripped(Vec<Raw<AnyStrippedStateEvent>>),
}

impl Facts<'_, '_> {
    fn content(&self, event_type: &StateEventType) -> Result<Option<Map<String, Value>>> {
        match self.state()? {
            State::Root(root) => Ok(self.view.state_content(*root, event_type, "")?),
            State::Stripped(events) => {
                let of_type = |event: &&Raw<AnyStrippedStateEvent>| {
                    let found = event.get_field::<String>("type").ok().flatten();
                    found.is_some_and(|found| found == event_type.to_string())
                };
                Ok(events.iter().find(of_type).and_then(|event| event.get_field("content").ok().flatten()))
            }
        }
    }

    fn state(&self) -> Result<&State> {
        if let Some(state) = self.state.get() {
            return Ok(state);
        }
        let state = match self.row.membership {
            Membership::Join => State::Root(self.view.current_state()),
            Membership::Invite | Membership::Knock => State::Stripped(show::stripped_state(self.view, self.row.event)?),
            Membership::Leave | Membership::Ban => match Sight::of(self.view, self.context.user_id())?.standing {
                Standing::Left(departure) => State::Root(departure.state),
                Standing::Joined | Standing::Stranger => State::Stripped(Vec::new()),
            },
        };
        Ok(self.state.get_or_init(|| state))
    }

    fn name(&self) -> Result<String> {
        let text = |event_type, key: &str| -> Result<Option<String>> {
            let content = self.content(&event_type)?;
            Ok(content.and_then(|content| content.get(key).and_then(Value::as_str).map(str::to_owned)))
        };
        let name = text(StateEventType::RoomName, "name")?.filter(|name| !name.is_empty());
        match name {
            Some(name) => Ok(name),
            None => Ok(text(StateEventType::RoomCanonicalAlias, "alias")?.unwrap_or_default()),
        }
    }
}
