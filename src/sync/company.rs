//! With whom a user shares rooms.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, events::StateEventType};

use super::{
    answer::Context,
    changes::{Changes, Room},
};
use crate::{
    error::Result,
    room::{
        Membership, View,
        tables::{Members, Origin, Rooms},
    },
    store::RoomNid,
};

/// Who came to share one of these rooms with the user, or came back to it: of what changed in between his server told ours nothing.
/// Of a room that the user himself came into that is everybody, him included: his other devices are there now.
pub fn met<'r>(context: &Context<'_>, joined: impl IntoIterator<Item = &'r Room>) -> Result<BTreeSet<OwnedUserId>> {
    let mut met = BTreeSet::new();
    let may_have = |room: &&Room| room.after.is_none() || room.is_completed || !room.log.is_empty();
    for room in joined.into_iter().filter(may_have) {
        let view = context.view(room.nid)?;
        // Who was there before the user and becomes known now is met now, where it matters.
        if room.after.is_none() || room.is_completed && is_encrypted(&view)? {
            met.extend(view.members(Membership::Join)?.into_iter().map(|(user, _)| user));
        } else {
            met.extend(room.log.arrivals(&view)?);
        }
    }
    Ok(met)
}

fn is_encrypted(view: &View<'_>) -> Result<bool> {
    Ok(view.state_nid(view.current_state(), &StateEventType::RoomEncryption, "")?.is_some())
}

/// The others who were in a room with the user and no longer are. They may share another one.
pub fn parted(context: &Context<'_>, changes: &Changes) -> Result<BTreeSet<OwnedUserId>> {
    let mut parted = BTreeSet::new();
    let Changes { joined, invited, knocked, left, .. } = changes;
    let rooms = [joined, invited, knocked, left].into_iter().flatten();
    for room in rooms.filter(|room| !room.log.is_empty()) {
        let view = context.view(room.nid)?;
        let (were_there, others): (Vec<_>, Vec<_>) =
            room.log.members(&view)?.into_iter().partition(|member| member.old == Some(Membership::Join));
        if room.row.membership != Membership::Join {
            if !were_there.iter().any(|member| member.user_id == context.user_id()) {
                continue; // the user was not
            }
            // Who came in since may have done so after the user was removed, which is not his to know.
            let came: BTreeSet<_> = others.into_iter().map(|member| member.user_id).collect();
            let there = view.members(Membership::Join)?.into_iter().map(|(user, _)| user);
            parted.extend(there.filter(|user| !came.contains(user)));
        }
        let gone = were_there.into_iter().filter(|member| member.new != Some(Membership::Join));
        parted.extend(gone.map(|member| member.user_id));
    }
    parted.remove(context.user_id());
    Ok(parted)
}

/// At most `limit` of our users who share a room with the user, himself included.
pub fn some_of_ours(context: &Context<'_>, changes: &Changes, limit: usize) -> Result<BTreeSet<OwnedUserId>> {
    let mut some = BTreeSet::new();
    for room in changes.all_joined() {
        for row in context.snapshot.list::<Members>(&(room, Membership::Join, Origin::Local)) {
            if some.len() >= limit {
                return Ok(some);
            }
            let row = row?;
            some.insert(row.key()?.3.to_owned());
        }
    }
    Ok(some)
}

/// Those of `users` who share a room with the user, himself included.
pub fn sharing(
    context: &Context<'_>,
    changes: &Changes,
    users: &BTreeSet<OwnedUserId>,
) -> Result<BTreeSet<OwnedUserId>> {
    let mut sharing = BTreeSet::new();
    let mut sought = users.clone();
    if sought.remove(context.user_id()) {
        sharing.insert(context.user_id().to_owned());
    }
    for room in changes.all_joined() {
        if sought.is_empty() {
            break;
        }
        let found = members_among(context, room, &sought)?;
        sought.retain(|user| !found.contains(user));
        sharing.extend(found);
    }
    Ok(sharing)
}

/// Those of `users` who are joined to a room. Reads the fewer of them and of all members.
fn members_among(context: &Context<'_>, room: RoomNid, users: &BTreeSet<OwnedUserId>) -> Result<Vec<OwnedUserId>> {
    let joined = context.snapshot.get::<Rooms>(&room)?.map_or(0, |row| row.joined);
    if joined < users.len() as u64 {
        let members = context.view(room)?.members(Membership::Join)?.into_iter();
        return Ok(members.map(|(user, _)| user).filter(|user| users.contains(user)).collect());
    }
    let mut found = Vec::new();
    for user in users {
        let origin = if context.server.is_ours(user) { Origin::Local } else { Origin::Remote };
        if context.snapshot.contains::<Members>(&(room, Membership::Join, origin, user))? {
            found.push(user.clone());
        }
    }
    Ok(found)
}
