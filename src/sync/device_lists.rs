//! Whose device keys the client has to ask for again, and whose it need no longer follow.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync>

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::{OwnedUserId, presence::PresenceState};

use super::{
    answer::Context,
    changes::{Changes, Room},
    json::Object,
    request::{Request, StateForm},
    token::Token,
};
use crate::{
    Server,
    error::Result,
    room::{
        Membership,
        tables::{Members, Origin, Rooms},
    },
    store::{Group, RoomNid, Scan, StreamPos},
    user::{
        keys::{self, tables::UserSignatureChanges},
        session::Caller,
        tables::KeyChanges,
    },
};

/// The users of both lists.
#[derive(Debug, Default)]
pub struct DeviceLists {
    pub changed: BTreeSet<OwnedUserId>,
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// For `/keys/changes`: all since the moment of `from`, a token of the user's. The last change of each user is all
    /// that is kept, so changes after the end that the client names are in it too; it will only ask once too often.
    pub fn since(server: &Server, caller: Caller, from: Token) -> Result<Self> {
        let snapshot = server.store.snapshot();
        let request = Request {
            user_id: caller.user_id,
            device_id: caller.device_id,
            since: Some(from),
            filter: Arc::default(),
            full_state: false,
            state_form: StateForm::Before,
            timeout: Duration::ZERO,
            set_presence: PresenceState::Offline,
        };
        let mut context = Context::open(server, &snapshot, &request)?;
        // A token from a future that was lost, with a restored backup: all may have changed.
        context.since.get_or_insert_default();
        Self::read(&context, &Changes::find(&context)?)
    }

    fn read(context: &Context<'_>, changes: &Changes) -> Result<Self> {
        let Some(since) = context.since else { return Ok(Self::default()) };
        let met = met(context, changes)?;
        let parted = parted(context, changes, since)?;
        let mut changed = sharing(context, changes, &key_changes(context, since)?)?;
        if context.may_have_changed::<UserSignatureChanges>(Group::of(context.user_id()), since) {
            changed.extend(keys::users_signed(context.snapshot, context.user_id(), since, context.now)?);
        }
        changed.extend(met);
        let still_there = sharing(context, changes, &parted)?;
        let left = parted.difference(&still_there).cloned().collect();
        Ok(Self { changed, left })
    }
}

/// Writes both lists; `false` if they are empty, or it is an initial sync.
pub fn write(context: &Context<'_>, changes: &Changes, out: &mut Vec<u8>) -> Result<bool> {
    let DeviceLists { changed, left } = DeviceLists::read(context, changes)?;
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
