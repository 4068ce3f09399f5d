//! By what a room, and who speaks in it, are called to a user who is told of it.

use ruma::{OwnedRoomAliasId, UserId, events::StateEventType};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    error::Result,
    room::{View, invited::stripped_state_of},
    sync::summary::Summary,
};

pub struct Names<'v, 's> {
    view: &'v View<'s>,
    reader: &'v UserId,
    /// What he was told of a room that he is invited to, and that we are not in.
    told: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    r#type: String,
    state_key: String,
    content: Box<RawValue>,
}

impl<'v, 's> Names<'v, 's> {
    pub fn of(view: &'v View<'s>, reader: &'v UserId) -> Result<Self> {
        let told = stripped_state_of(view, reader)?;
        let told = told.iter().filter_map(|event| serde_json::from_str(event.get()).ok()).collect();
        Ok(Self { view, reader, told })
    }

    fn content<T: DeserializeOwned>(&self, event_type: &StateEventType, state_key: &str) -> Result<Option<T>> {
        if self.told.is_empty() {
            return Ok(self.view.state_content(self.view.current_state(), event_type, state_key)?);
        }
        let event_type = event_type.to_string();
        let event = self.told.iter().find(|told| told.r#type == event_type && told.state_key == state_key);
        Ok(event.and_then(|event| serde_json::from_str(event.content.get()).ok()))
    }

    /// The name that somebody has in the room.
    pub fn display_name(&self, user: &UserId) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Content {
            displayname: Option<String>,
        }
        let content = self.content(&StateEventType::RoomMember, user.as_str())?;
        Ok(content.and_then(|content: Content| content.displayname))
    }

    pub fn room_alias(&self) -> Result<Option<OwnedRoomAliasId>> {
        #[derive(Deserialize)]
        struct Content {
            alias: Option<OwnedRoomAliasId>,
        }
        let content = self.content(&StateEventType::RoomCanonicalAlias, "")?;
        Ok(content.and_then(|content: Content| content.alias))
    }

    /// The name of the room, or, where it has none, the names of others who are in it.
    pub fn room_name(&self) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Content {
            name: String,
        }
        let content = self.content(&StateEventType::RoomName, "")?;
        if let Some(Content { name }) = content.filter(|content: &Content| !content.name.is_empty()) {
            return Ok(Some(name));
        }
        if let Some(alias) = self.room_alias()? {
            return Ok(Some(alias.to_string()));
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
    use crate::{
        room::{
            invited::StrippedStates,
            testing::{TestRoom, user},
        },
        store::Json,
    };

    #[test]
    fn whoever_is_invited_is_told_the_names_that_came_with_the_invite() {
        let room = TestRoom::new();
        let (bob, zoe) = (user("bob"), ruma::user_id!("@zoe:there"));
        let nid = room.read("alice", |reader, _| reader.view().nid);
        let told = json!([
            { "type": "m.room.name", "state_key": "", "sender": zoe, "content": { "name": "Over there" } },
            { "type": "m.room.member", "state_key": zoe, "sender": zoe, "content": { "displayname": "Zoe" } },
        ]);
        room.change(move |tx| tx.put::<StrippedStates>(&(nid, &*user("bob")), &Json::of(&told)));
        room.read("bob", |reader, _| {
            let names = Names::of(reader.view(), &bob).unwrap();
            assert_eq!(names.room_name().unwrap().as_deref(), Some("Over there"));
            assert_eq!(names.display_name(zoe).unwrap().as_deref(), Some("Zoe"));
        });
    }
}
