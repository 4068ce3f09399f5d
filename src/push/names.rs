//! By what a room, and who speaks in it, are called to a user who is told of it.

use ruma::{OwnedRoomAliasId, UserId, events::StateEventType};
use serde::Deserialize;

use crate::{
    error::Result,
    room::{Membership, View, known_state::KnownState, tables::UserRooms},
    sync::summary::Summary,
};

pub struct Names<'v, 's> {
    view: &'v View<'s>,
    reader: &'v UserId,
    is_joined: bool,
    state: KnownState<'v, 's>,
}

impl<'v, 's> Names<'v, 's> {
    pub fn of(view: &'v View<'s>, reader: &'v UserId) -> Result<Self> {
        let row = view.snapshot.get::<UserRooms>(&(reader, view.nid))?;
        let is_joined = row.is_some_and(|row| row.membership == Membership::Join);
        Ok(Self { view, reader, is_joined, state: KnownState::of(view, reader, row.as_ref())? })
    }

    /// The name that somebody has in the room.
    pub fn display_name(&self, user: &UserId) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Content {
            displayname: Option<String>,
        }
        let content = self.state.content(&StateEventType::RoomMember, user.as_str())?;
        Ok(content.and_then(|content: Content| content.displayname))
    }

    pub fn room_alias(&self) -> Result<Option<OwnedRoomAliasId>> {
        #[derive(Deserialize)]
        struct Content {
            alias: Option<OwnedRoomAliasId>,
        }
        let content = self.state.content(&StateEventType::RoomCanonicalAlias, "")?;
        Ok(content.and_then(|content: Content| content.alias))
    }

    /// The name of the room, or, where it has none, the names of others who are in it, which only members may know.
    pub fn room_name(&self) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Content {
            name: String,
        }
        let content = self.state.content(&StateEventType::RoomName, "")?;
        if let Some(Content { name }) = content.filter(|content: &Content| !content.name.is_empty()) {
            return Ok(Some(name));
        }
        if let Some(alias) = self.room_alias()? {
            return Ok(Some(alias.to_string()));
        }
        if !self.is_joined {
            return Ok(None);
        }
        let mut names = Vec::new();
        for hero in Summary::work_out(self.view, self.reader)?.heroes.into_iter().flatten() {
            names.push(self.display_name(&hero)?.unwrap_or_else(|| hero.to_string()));
        }
        Ok((!names.is_empty()).then(|| names.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::room::testing::{TestRoom, user};

    fn name_for(room: &TestRoom, localpart: &str) -> Option<String> {
        room.read(localpart, |reader, _| Names::of(reader.view(), &user(localpart)).unwrap().room_name().unwrap())
    }

    #[test]
    fn whoever_is_invited_is_told_the_names_of_when_he_was() {
        let room = TestRoom::new();
        room.state("alice", "m.room.name", "", &json!({ "name": "Before" }));
        room.member("alice", "bob", "invite");
        room.state("alice", "m.room.name", "", &json!({ "name": "After" }));
        assert_eq!(name_for(&room, "bob").as_deref(), Some("Before"));
        assert_eq!(name_for(&room, "alice").as_deref(), Some("After"));
    }

    #[test]
    fn whoever_is_invited_is_not_told_who_is_in_a_nameless_room() {
        let room = TestRoom::new();
        room.member("carol", "carol", "join");
        room.member("alice", "bob", "invite");
        assert_eq!(name_for(&room, "bob"), None);
        assert_eq!(name_for(&room, "alice").as_deref(), Some("@carol:chappe.test, @bob:chappe.test"));
    }
}
