//! What another server may see of a room that both are in: the history visibility, applied to each event by who of its
//! users was in the room then.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
};

use ruma::{
    OwnedUserId, ServerName, UserId,
    events::{StateEventType, room::history_visibility::HistoryVisibility},
};

use super::{
    Membership, View, outliers, servers::RoomServers, show::without_content, tables::StateKeys, view::membership_in,
    visibility::visibility_in,
};
use crate::{
    error::Result,
    event::{StateRoot, StoredEvent},
    store::{self, EventNid, StateKeyNid},
    user::erasure,
};

/// Another server that looks at a room. What it finds out about states it remembers, so that a page of events of one
/// state costs one look-up.
pub struct ServerSight<'v, 's> {
    pub view: &'v View<'s>,
    server: &'v ServerName,
    /// The state keys of all users of the server who ever were anything in the room.
    member_keys: OnceCell<Vec<StateKeyNid>>,
    known_states: RefCell<HashMap<StateRoot, AtState>>,
    known_erased: RefCell<HashMap<OwnedUserId, bool>>,
}

/// What decides which servers may see the events of one state.
#[derive(Clone, Copy, Debug)]
struct AtState {
    visibility: Visibility,
    presence: Presence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visibility {
    /// To every server that is in the room now.
    Shared,
    Invited,
    Joined,
}

/// The most that any user of the server is to the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Presence {
    None,
    Invited,
    Joined,
}

/// Whether a user of `server` is joined to the room now.
pub fn is_in_room(view: &View<'_>, server: &ServerName) -> store::Result<bool> {
    let presence = view.snapshot.get::<RoomServers>(&(view.nid, server))?;
    Ok(presence.is_some_and(|presence| presence.joined > 0))
}

impl<'v, 's> ServerSight<'v, 's> {
    pub fn of(view: &'v View<'s>, server: &'v ServerName) -> Self {
        Self {
            view,
            server,
            member_keys: OnceCell::new(),
            known_states: RefCell::default(),
            known_erased: RefCell::default(),
        }
    }

    /// The event as the server gets it, in the federation format. What its users may not see it gets as a redaction
    /// would leave it, since without such events it could not follow the graph. `None` for what nobody is given:
    /// rejected events, those whose place in the room we do not know, and expired ones.
    pub fn show(&self, event: &StoredEvent) -> Result<Option<Vec<u8>>> {
        if event.flags.rejected || event.flags.outlier || event.state_after.is_none() || self.view.has_expired(event)? {
            return Ok(None);
        }
        let json = if self.sees_whole(event)? { self.whole(event) } else { self.redacted(event)? };
        Ok(Some(json))
    }

    /// As [`Self::show`], for an event that was told to us as part of a state: servers are told the ids of those, too.
    /// While it is in the room's state, a server in the room may see it; later it gets what the rules look at.
    pub fn show_told(&self, nid: EventNid, event: &StoredEvent) -> Result<Option<Vec<u8>>> {
        let Some(state_key) = event.state_key.as_deref().filter(|_| event.flags.outlier) else { return Ok(None) };
        if event.flags.rejected || outliers::is_out_of_band(self.view, nid, event)? {
            return Ok(None);
        }
        let event_type = StateEventType::from(event.event_type.as_str());
        let is_current = self.view.state_nid(self.view.current_state(), &event_type, state_key)? == Some(nid);
        Ok(Some(if is_current { self.whole(event) } else { self.redacted(event)? }))
    }

    /// Whether the server may see the content of an event.
    pub fn sees_whole(&self, event: &StoredEvent) -> Result<bool> {
        let Some(state) = event.state_after else { return Ok(false) };
        Ok(self.may_see(event, state)? && !self.is_hidden_by_erasure(event, state)?)
    }

    /// The event as a redaction would leave it.
    pub fn redacted(&self, event: &StoredEvent) -> Result<Vec<u8>> {
        Ok(self.whole(&without_content(self.view, event)?))
    }

    /// The event with all of its content: for states and auth chains, whose receivers must judge by them.
    pub fn whole(&self, event: &StoredEvent) -> Vec<u8> {
        event.view().federation_json(self.view.room_id(), self.view.rules)
    }

    fn may_see(&self, event: &StoredEvent, state: StateRoot) -> Result<bool> {
        let after = self.at(state)?;
        if after.allows() {
            return Ok(true);
        }
        let before = self.before(event, after)?;
        Ok(before.is_some_and(|before| before.allows()))
    }

    /// What decided before a history-visibility event, or before a member event of a user of the server; `None` for
    /// other events, before which nothing else decided than after them.
    fn before(&self, event: &StoredEvent, after: AtState) -> store::Result<Option<AtState>> {
        let replaced = event.replaces.map(EventNid);
        let is_of_server = |user: &str| <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == self.server);
        match (event.event_type.as_str(), event.state_key.as_deref()) {
            ("m.room.history_visibility", Some("")) => {
                Ok(Some(AtState { visibility: self.visibility_by(replaced)?, ..after }))
            }
            ("m.room.member", Some(user)) if is_of_server(user) => {
                let before = replaced.map_or(Ok(Presence::None), |replaced| self.presence_by(replaced))?;
                Ok(Some(AtState { presence: before.max(after.presence), ..after }))
            }
            _ => Ok(None),
        }
    }

    fn at(&self, state: StateRoot) -> store::Result<AtState> {
        if let Some(known) = self.known_states.borrow().get(&state) {
            return Ok(*known);
        }
        let visibility = self.view.state_nid(state, &StateEventType::RoomHistoryVisibility, "")?;
        let visibility = self.visibility_by(visibility)?;
        let presence = match visibility {
            Visibility::Shared => Presence::None, // which is not looked at
            Visibility::Invited | Visibility::Joined => self.presence_in(state)?,
        };
        let at = AtState { visibility, presence };
        self.known_states.borrow_mut().insert(state, at);
        Ok(at)
    }

    fn visibility_by(&self, event: Option<EventNid>) -> store::Result<Visibility> {
        let pdu = event.map(|event| self.view.pdu(event)).transpose()?;
        Ok(match pdu.map(|pdu| visibility_in(pdu.content.get())) {
            Some(HistoryVisibility::Invited) => Visibility::Invited,
            Some(HistoryVisibility::Joined) => Visibility::Joined,
            _ => Visibility::Shared,
        })
    }

    fn presence_in(&self, state: StateRoot) -> store::Result<Presence> {
        let tries = self.view.tries();
        let mut most = Presence::None;
        for &key in self.member_keys()? {
            if let Some(event) = tries.get(state, key)? {
                most = most.max(self.presence_by(event)?);
            }
            if most == Presence::Joined {
                break;
            }
        }
        Ok(most)
    }

    fn presence_by(&self, member_event: EventNid) -> store::Result<Presence> {
        Ok(match membership_in(self.view.pdu(member_event)?.content.get()) {
            Some(Membership::Join) => Presence::Joined,
            Some(Membership::Invite) => Presence::Invited,
            _ => Presence::None,
        })
    }

    fn member_keys(&self) -> store::Result<&[StateKeyNid]> {
        if let Some(keys) = self.member_keys.get() {
            return Ok(keys);
        }
        let mut keys = Vec::new();
        for row in self.view.snapshot.list::<StateKeys>(&(self.view.nid, "m.room.member")) {
            let row = row?;
            let (_, _, user) = row.key()?;
            if <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == self.server) {
                keys.push(row.value);
            }
        }
        Ok(self.member_keys.get_or_init(|| keys))
    }

    /// Whether the sender had his account erased, and the server has no copy from when the event was sent.
    fn is_hidden_by_erasure(&self, event: &StoredEvent, state: StateRoot) -> Result<bool> {
        Ok(self.is_erased(&event.sender)? && self.presence_in(state)? != Presence::Joined)
    }

    fn is_erased(&self, sender: &UserId) -> Result<bool> {
        if let Some(known) = self.known_erased.borrow().get(sender) {
            return Ok(*known);
        }
        let is_erased = erasure::is_erased(self.view.snapshot, sender)?;
        self.known_erased.borrow_mut().insert(sender.to_owned(), is_erased);
        Ok(is_erased)
    }
}

impl AtState {
    fn allows(self) -> bool {
        match self.visibility {
            Visibility::Shared => true,
            Visibility::Invited => self.presence >= Presence::Invited,
            Visibility::Joined => self.presence == Presence::Joined,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ruma::{OwnedEventId, server_name, user_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        event::Flags,
        room::testing::{TestRoom, user},
        user::tables::{Account, Accounts, Deactivated},
    };

    const NAME: &str = "other.test";

    /// What `server` is given of an event: all of it, what a redaction leaves, or nothing.
    fn shown(room: &TestRoom, server: &str, event_id: &OwnedEventId, flags: Option<Flags>) -> &'static str {
        room.read("alice", |reader, _| {
            let sight = ServerSight::of(reader.view(), server.try_into().unwrap());
            let mut event = reader.view().event_by_id(event_id).unwrap().unwrap();
            event.flags = flags.unwrap_or(event.flags);
            let Some(json) = sight.show(&event).unwrap() else { return "nothing" };
            let json: Value = serde_json::from_slice(&json).unwrap();
            assert!(json["signatures"].is_object() && json["hashes"].is_object());
            if json["content"] == json!({}) { "redacted" } else { "whole" }
        })
    }

    /// What the other server is given of messages sent at the stages of its user's time with a room.
    fn story(visibility: &str) -> BTreeMap<&'static str, &'static str> {
        let room = TestRoom::new();
        let bob = user_id!("@bob:other.test");
        room.visibility(visibility);
        let mut said = BTreeMap::from([("1 before", room.message("alice", "x"))]);
        room.state("alice", "m.room.member", bob.as_str(), &json!({ "membership": "invite" }));
        said.insert("2 invited", room.message("alice", "x"));
        room.receive_member(bob, "join");
        said.insert("3 joined", room.message("alice", "x"));
        room.receive_member(bob, "leave");
        said.insert("4 left", room.message("alice", "x"));
        room.receive_member(user_id!("@carol:other.test"), "join");
        said.into_iter().map(|(when, event_id)| (when, shown(&room, NAME, &event_id, None))).collect()
    }

    fn all(stages: [&'static str; 4]) -> BTreeMap<&'static str, &'static str> {
        ["1 before", "2 invited", "3 joined", "4 left"].into_iter().zip(stages).collect()
    }

    #[test]
    fn a_server_gets_the_content_that_its_users_could_see_then() {
        let (whole, redacted) = ("whole", "redacted");
        assert_eq!(story("shared"), all([whole; 4]));
        assert_eq!(story("world_readable"), all([whole; 4]));
        assert_eq!(story("invited"), all([redacted, whole, whole, redacted]));
        assert_eq!(story("joined"), all([redacted, redacted, whole, redacted]));
    }

    #[test]
    fn rejected_events_and_outliers_are_given_to_nobody_and_soft_failed_ones_to_who_asks() {
        let room = TestRoom::new();
        let said = room.message("alice", "x");
        let with = |flags| shown(&room, NAME, &said, Some(flags));
        assert_eq!(with(Flags { rejected: true, ..Flags::default() }), "nothing");
        assert_eq!(with(Flags { outlier: true, ..Flags::default() }), "nothing");
        assert_eq!(with(Flags { soft_failed: true, ..Flags::default() }), "whole");
    }

    #[test]
    fn what_an_erased_user_said_is_given_only_to_servers_that_were_there() {
        let room = TestRoom::new();
        room.member("eve", "eve", "join");
        room.receive_member(user_id!("@bob:other.test"), "join");
        let said = room.message("eve", "x");
        room.receive_member(user_id!("@dan:late.test"), "join");
        room.change(|tx| {
            let gone = Account {
                deactivated: Some(Deactivated { at_ms: 0, is_erased: true }),
                ..Account::without_password(0)
            };
            tx.put::<Accounts>(&&*user("eve"), &gone);
        });
        assert_eq!(shown(&room, NAME, &said, None), "whole");
        assert_eq!(shown(&room, "late.test", &said, None), "redacted");
    }

    #[test]
    fn a_server_is_in_a_room_while_a_user_of_its_is() {
        let room = TestRoom::new();
        let is_in = || room.read("alice", |reader, _| is_in_room(reader.view(), server_name!("other.test")).unwrap());
        let bob = user_id!("@bob:other.test");
        room.state("alice", "m.room.member", bob.as_str(), &json!({ "membership": "invite" }));
        assert!(!is_in());
        room.receive_member(bob, "join");
        assert!(is_in());
        room.receive_member(bob, "leave");
        assert!(!is_in());
    }
}
