//! Changes of memberships in the current state of a room.

use ruma::{OwnedUserId, UserId};

use super::{
    Membership, View,
    invited::StrippedStates,
    state::trie::Difference,
    tables::{self, Origin, UserRoom},
    view::membership_in,
};
use crate::{
    Server,
    error::Result,
    store::{self, EventNid, RoomNid, StreamPos, Transaction},
};

/// A change of one user's membership in the current state.
#[derive(Clone, Debug)]
pub struct MemberChange {
    pub user_id: OwnedUserId,
    pub origin: Origin,
    pub old: Option<Membership>,
    pub new: Option<(Membership, EventNid)>,
}

/// The membership changes among `changes` of the current state.
pub fn member_changes(view: &View<'_>, server: &Server, changes: &[Difference]) -> Result<Vec<MemberChange>> {
    let membership = |event: Option<EventNid>| -> Result<Option<(Membership, EventNid)>> {
        let Some(event) = event else { return Ok(None) };
        Ok(membership_in(view.pdu(event)?.content.get()).map(|membership| (membership, event)))
    };
    let mut members = Vec::new();
    for &(key, old, new) in changes {
        let name = view.state_key_name(key)?;
        if name.event_type != "m.room.member" {
            continue;
        }
        // The rules let no member event into a state whose key is not a user id.
        let Ok(user_id) = OwnedUserId::try_from(name.state_key) else { continue };
        let origin = if server.is_ours(&user_id) { Origin::Local } else { Origin::Remote };
        let old = membership(old)?.map(|(old, _)| old);
        members.push(MemberChange { user_id, origin, old, new: membership(new)? });
    }
    Ok(members)
}

impl MemberChange {
    /// As the list of servers in a room wants it.
    pub fn as_noted(&self) -> (&UserId, Origin, Option<Membership>, Option<Membership>) {
        (&self.user_id, self.origin, self.old, self.new.map(|(new, _)| new))
    }

    /// `known_as`: the number by which the event of this transaction was known before. `omits_members`: the new state
    /// came without its members, so that nobody has lost what it does not have of him.
    pub fn write(
        &self,
        tx: &mut Transaction<'_>,
        room: RoomNid,
        known_as: Option<EventNid>,
        omits_members: bool,
    ) -> store::Result<()> {
        let user = &*self.user_id;
        if let Some(old) = self.old {
            tx.delete::<tables::Members>(&(room, old, self.origin, user));
        }
        let Some((membership, event)) = self.new else {
            return if omits_members { Ok(()) } else { self.write_loss(tx, room) };
        };
        tx.put::<tables::Members>(&(room, membership, self.origin, user), &event);
        if self.origin == Origin::Local {
            let before = tx.get::<tables::UserRooms>(&(user, room))?;
            tx.delete::<StrippedStates>(&(room, user));
            let row = match before {
                // The user knows of it: it came before it had its place in the room.
                Some(row) if row.membership == membership && [Some(event), known_as].contains(&Some(row.event)) => {
                    UserRoom { event, ..row }
                }
                before => user_room(before, membership, event, tx.pos()),
            };
            tx.put::<tables::UserRooms>(&(user, room), &row);
        }
        Ok(())
    }

    /// The state has no member event of the user any more, as state resolution may have it. Who was in the room is not in it
    /// then, and sees it as he did before.
    fn write_loss(&self, tx: &mut Transaction<'_>, room: RoomNid) -> store::Result<()> {
        let user = &*self.user_id;
        if self.origin == Origin::Local
            && let Some(row) = tx.get::<tables::UserRooms>(&(user, room))?
        {
            tx.delete::<StrippedStates>(&(room, user));
            tx.put::<tables::UserRooms>(&(user, room), &user_room(Some(row), Membership::Leave, row.event, tx.pos()));
        }
        Ok(())
    }
}

/// What is kept of a room for a user whose membership changes at `since`.
pub fn user_room(before: Option<UserRoom>, membership: Membership, event: EventNid, since: StreamPos) -> UserRoom {
    let stays = before.as_ref().is_some_and(|before| before.membership == Membership::Join);
    let joined_at = match (membership, before) {
        (Membership::Join, Some(before)) if stays => before.joined_at,
        (Membership::Join, _) => Some(since),
        (_, before) => before.and_then(|before| before.joined_at),
    };
    let is_forgotten =
        before.is_some_and(|before| before.is_forgotten) && matches!(membership, Membership::Leave | Membership::Ban);
    UserRoom { membership, event, since, joined_at, is_forgotten }
}

#[cfg(test)]
mod tests {
    use ruma::EventId;

    use super::*;
    use crate::room::{
        testing::{TestRoom, user},
        visibility::Standing,
    };

    #[test]
    fn who_has_no_member_event_any_more_is_not_in_the_room_and_sees_it_as_it_was() {
        let room = TestRoom::new();
        room.member("bob", "bob", "join");
        let said = room.message("alice", "before");
        let lost = MemberChange { user_id: user("bob"), origin: Origin::Local, old: Some(Membership::Join), new: None };
        let nid = room.nid;
        room.change(move |tx| lost.write(tx, nid, None, false).unwrap());
        let secret = room.message("alice", "after");
        room.read("bob", |reader, _| {
            assert!(matches!(reader.sight.standing, Standing::Left(_)));
            let is_seen = |id: &EventId| crate::room::history::visible(reader, id).unwrap().is_some();
            assert!(is_seen(&said) && !is_seen(&secret));
        });
    }
}
