//! Whose device keys the client has to ask for again, and whose it need no longer follow.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync>

use std::collections::BTreeSet;

use ruma::OwnedUserId;

use super::{
    answer::Context,
    changes::{Changes, Room},
    json::Object,
};
use crate::{
    error::Result,
    room::{
        Membership,
        tables::{Members, Origin, Rooms},
    },
    store::{Group, RoomNid, Scan, StreamPos},
    user::tables::KeyChanges,
};

/// Writes both lists; `false` if they are empty, or it is an initial sync.
pub fn write(context: &Context<'_>, changes: &Changes, out: &mut Vec<u8>) -> Result<bool> {
    let Some(since) = context.since else { return Ok(false) };
    let met = met(context, changes)?;
    let parted = parted(context, changes, since)?;
    let mut changed = sharing(context, changes, &key_changes(context, since)?)?;
    changed.extend(met);
    let still_there = sharing(context, changes, &parted)?;
    let left: BTreeSet<_> = parted.difference(&still_there).collect();
    let mut object = Object::begin(out);
    if !changed.is_empty() {
        object.member("changed", &changed);
    }
    if !left.is_empty() {
        object.member("left", &left);
    }
    let has_news = !object.is_empty();
    object.end();
    Ok(has_news)
}

/// The users whose keys changed, wherever they are.
fn key_changes(context: &Context<'_>, since: StreamPos) -> Result<BTreeSet<OwnedUserId>> {
    if !context.may_have_changed::<KeyChanges>(Group::of(()), since) {
        return Ok(BTreeSet::new());
    }
    let rows = context.snapshot.scan::<KeyChanges>(Scan::from::<KeyChanges>(&since.next(), &()));
    rows.map(|row| Ok(row?.key()?.1.to_owned())).collect()
}

/// The others who came to share a room with the user.
fn met(context: &Context<'_>, changes: &Changes) -> Result<BTreeSet<OwnedUserId>> {
    let mut met = BTreeSet::new();
    for room in &changes.joined {
        let view = context.view(room.nid)?;
        if room.after.is_none() {
            met.extend(view.members(Membership::Join)?.into_iter().map(|(user, _)| user));
            continue;
        }
        let come = room.log.members(&view)?.into_iter();
        let come = come.filter(|member| member.new == Some(Membership::Join) && member.old != Some(Membership::Join));
        met.extend(come.map(|member| member.user_id));
    }
    met.remove(context.user_id());
    Ok(met)
}

/// The others who were in a room with the user and no longer are. They may share another one.
fn parted(context: &Context<'_>, changes: &Changes, since: StreamPos) -> Result<BTreeSet<OwnedUserId>> {
    let mut parted = BTreeSet::new();
    let is_quit = |room: &&Room| room.row.joined_at.is_some_and(|joined| joined <= since);
    for room in changes.joined.iter().chain(changes.left.iter().filter(is_quit)) {
        let view = context.view(room.nid)?;
        let gone = room.log.members(&view)?.into_iter().filter(|member| member.old == Some(Membership::Join));
        let gone: Vec<_> = gone.collect();
        let have_we_left = room.row.membership != Membership::Join;
        let was_there = gone.iter().any(|member| member.user_id == context.user_id());
        if have_we_left && was_there {
            parted.extend(view.members(Membership::Join)?.into_iter().map(|(user, _)| user));
        }
        if !have_we_left || was_there {
            let gone = gone.into_iter().filter(|member| member.new != Some(Membership::Join));
            parted.extend(gone.map(|member| member.user_id));
        }
    }
    parted.remove(context.user_id());
    Ok(parted)
}

/// Those of `users` who share a room with the user, himself included.
fn sharing(context: &Context<'_>, changes: &Changes, users: &BTreeSet<OwnedUserId>) -> Result<BTreeSet<OwnedUserId>> {
    let mut sharing = BTreeSet::new();
    let mut sought = users.clone();
    if sought.remove(context.user_id()) {
        sharing.insert(context.user_id().to_owned());
    }
    for &room in &changes.all_joined {
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
