//! The users whose messages somebody does not want to see.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#ignoring-users>

use std::collections::{BTreeMap, HashSet};

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, de::IgnoredAny};

use super::tables::AccountData;
use crate::{
    event::StoredEvent,
    store::{Result, RoomNid, Snapshot},
};

/// The account data that says whom.
pub const EVENT_TYPE: &str = "m.ignored_user_list";

/// Whom one user ignores.
#[derive(Clone, Debug, Default)]
pub struct Ignored(HashSet<OwnedUserId>);

impl Ignored {
    /// Of `user`'s account data, which is his client's word: what is not a user id there ignores nobody.
    pub fn load(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Self> {
        #[derive(Deserialize)]
        struct Content {
            ignored_users: BTreeMap<String, IgnoredAny>,
        }
        let datum = snapshot.get::<AccountData>(&(user, RoomNid(0), EVENT_TYPE))?;
        let content = datum.and_then(|datum| serde_json::from_str::<Content>(&datum.content).ok());
        let ids = content.into_iter().flat_map(|content| content.ignored_users.into_keys());
        Ok(Self(ids.filter_map(|id| OwnedUserId::try_from(id).ok()).filter(|id| id != user).collect()))
    }

    pub fn contains(&self, user: &UserId) -> bool {
        self.0.contains(user)
    }

    /// Whether an event is left out of what the user reads. State events never are, so that rooms look the same.
    pub fn hides(&self, event: &StoredEvent) -> bool {
        event.state_key.is_none() && self.contains(&event.sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_user_id_ignores_nobody() {
        let ids = ["@mallory:domain", "mallory", ""];
        let ignored = Ignored(ids.iter().filter_map(|id| OwnedUserId::try_from(*id).ok()).collect());
        assert!(ignored.contains(<&UserId>::try_from("@mallory:domain").unwrap()));
        assert_eq!(ignored.0.len(), 1);
    }
}
