//! The users of other servers whom ours meet in rooms: a reader of the log.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedUserId, UserId, events::room::member::RoomMemberEventContent};
use serde::Deserialize;

use super::{Entries, Entry, MAX_PUBLIC_ROOMS, put, search::is_public};
use crate::{
    Server,
    error::{Error, Result},
    log::{self, Entry as LogEntry},
    room::{
        Membership, View,
        tables::{Members, Origin},
        view::membership_in,
        visibility::{comes_in, is_first},
    },
    store::{EventNid, RoomNid, Scan, Transaction},
};

const READER: &str = "user_directory";
const AT_ONCE: usize = 200;
/// How many members of a room are written at once.
const MEMBERS_AT_ONCE: usize = 500;

/// Follows the log until the server ends.
pub async fn run(server: Arc<Server>) {
    log::follow(server, READER, AT_ONCE, work).await;
}

/// Somebody who may have to get an entry, or another one.
struct Seen {
    user_id: OwnedUserId,
    room: RoomNid,
    /// What he is called there, if that is nobody's secret.
    shown: Option<(Option<String>, Option<String>)>,
}

async fn work(server: Arc<Server>, entries: Vec<LogEntry>) -> Result<()> {
    let Some(last) = entries.last().map(|entry| entry.pos) else { return Ok(()) };
    let (seen, rooms) = server.blocking(move |server| read(server, &entries)).await?;
    for room in rooms {
        add_members(&server, room).await?;
    }
    let done = move |tx: &mut Transaction<'_>| {
        log::done(tx, READER, last);
        write(tx, seen)
    };
    server.store.commit(done).await
}

/// The users of other servers who joined rooms or changed there, and the rooms all of whose members have to get entries: those
/// that the first of ours came into, and public ones that may not have been so before.
fn read(server: &Server, entries: &[LogEntry]) -> Result<(Vec<Seen>, BTreeSet<RoomNid>)> {
    let snapshot = server.store.snapshot();
    let (mut seen, mut rooms) = (Vec::new(), BTreeSet::new());
    for entry in entries {
        let view = View::of(&server.rooms, &snapshot, entry.room)?;
        let pdu = view.pdu(entry.event)?;
        let Some(state_key) = pdu.state_key.as_deref() else { continue };
        match &*pdu.r#type {
            "m.room.member" => {
                let Ok(user) = <&UserId>::try_from(state_key) else { continue };
                if membership_in(pdu.content.get()) != Some(Membership::Join) {
                    continue;
                }
                if !server.is_ours(user) {
                    seen.push(see(&view, user, entry.event, is_public(&view)?)?);
                } else if comes_in(&view, &view.event(entry.event)?)? && is_first(&view, user, entry.pos)? {
                    rooms.insert(entry.room);
                }
            }
            "m.room.join_rules" | "m.room.history_visibility"
                if state_key.is_empty() && opens(&view, entry.event)? && is_public(&view)? =>
            {
                rooms.insert(entry.room);
            }
            _ => {}
        }
    }
    Ok((seen, rooms))
}

/// Whether an event says that everybody may know the room, and the one that it replaced did not.
fn opens(view: &View<'_>, event: EventNid) -> Result<bool> {
    let says = |event: EventNid| -> Result<bool> {
        let said: Openness = serde_json::from_str(view.pdu(event)?.content.get()).unwrap_or_default();
        Ok(said.join_rule.as_deref() == Some("public") || said.history_visibility.as_deref() == Some("world_readable"))
    };
    let replaced = view.event(event)?.replaces.map(EventNid);
    Ok(says(event)? && !replaced.map(says).transpose()?.unwrap_or_default())
}

/// The contents of both kinds of events that open a room.
#[derive(Default, Deserialize)]
struct Openness {
    join_rule: Option<String>,
    history_visibility: Option<String>,
}

fn see(view: &View<'_>, user: &UserId, event: EventNid, is_public: bool) -> Result<Seen> {
    let content = serde_json::from_str::<RoomMemberEventContent>(view.pdu(event)?.content.get()).ok();
    let shown = content.filter(|_| is_public).map(|content| {
        let name = content.displayname.filter(|name| name.len() <= 1_024);
        (name, content.avatar_url.map(|url| url.to_string()).filter(|url| url.len() <= 1_024))
    });
    Ok(Seen { user_id: user.to_owned(), room: view.nid, shown })
}

/// Gives all who are in a room an entry.
pub async fn add_members(server: &Arc<Server>, room: RoomNid) -> Result<()> {
    let mut after: Option<OwnedUserId> = None;
    loop {
        let from = after.take();
        let page = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            let is_public = is_public(&view)?;
            let prefix = (room, Membership::Join, Origin::Remote);
            let scan = match &from {
                Some(user) => Scan::from::<Members>(&(room, Membership::Join, Origin::Remote, &**user), &prefix),
                None => Scan::prefix::<Members>(&prefix),
            };
            let mut seen = Vec::new();
            for row in snapshot.scan::<Members>(scan).skip(usize::from(from.is_some())).take(MEMBERS_AT_ONCE) {
                let row = row?;
                seen.push(see(&view, row.key()?.3, row.value, is_public)?);
            }
            Ok(seen)
        };
        let seen = server.blocking(page).await?;
        let Some(last) = seen.last() else { return Ok(()) };
        after = Some(last.user_id.clone());
        server.store.commit(move |tx| write(tx, seen)).await?;
    }
}

fn write(tx: &mut Transaction<'_>, seen: Vec<Seen>) -> Result<()> {
    let mut written = std::collections::HashMap::<OwnedUserId, Entry>::new();
    for Seen { user_id, room, shown } in seen {
        let known = match written.remove(&user_id) {
            Some(entry) => entry,
            None => tx.get::<Entries>(&&*user_id)?.unwrap_or_else(|| Entry::new(&user_id, None, None)),
        };
        let mut entry = match shown {
            Some((name, avatar)) => {
                let mut entry = Entry::new(&user_id, name, avatar);
                entry.public_rooms = known.public_rooms;
                entry.public_rooms.retain(|other| *other != room);
                entry.public_rooms.push(room);
                entry
            }
            None => known,
        };
        let too_many = entry.public_rooms.len().saturating_sub(MAX_PUBLIC_ROOMS);
        entry.public_rooms.drain(..too_many);
        written.insert(user_id, entry);
    }
    for (user_id, entry) in written {
        put(tx, &user_id, entry)?;
    }
    Ok::<_, Error>(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        room::testing::{TestRoom, user},
        store::StreamPos,
    };

    #[test]
    fn all_members_are_met_when_the_first_of_ours_comes_in_and_not_when_he_changes_his_name() {
        let room = TestRoom::new();
        room.state("alice", "m.room.join_rules", "", &json!({ "join_rule": "invite" }));
        room.member("alice", "bob", "invite");
        room.member("bob", "bob", "join");
        let snapshot = room.server.store.snapshot();
        let entries = log::next(&room.server, &snapshot, StreamPos::default(), AT_ONCE).unwrap();
        let (_, rooms) = read(&room.server, &entries).unwrap();
        assert_eq!(rooms, BTreeSet::from([room.nid]), "two of ours are there by now");

        let bobs = entries.last().unwrap();
        assert!(read(&room.server, &[*bobs]).unwrap().1.is_empty(), "alice was there before");
        room.member("bob", "bob", "leave");
        let named = json!({ "membership": "join", "displayname": "Alice" });
        room.state("alice", "m.room.member", user("alice").as_str(), &named);
        let snapshot = room.server.store.snapshot();
        let entries = log::next(&room.server, &snapshot, bobs.pos, AT_ONCE).unwrap();
        assert_eq!(entries.len(), 2);
        assert!(read(&room.server, &entries).unwrap().1.is_empty());
    }
}
