//! A search, and who may find whom.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use ruma::events::room::join_rules::RoomJoinRulesEventContent;
use ruma::{OwnedMxcUri, OwnedUserId, UserId, events::StateEventType, room::JoinRule};

use super::{Entries, Entry, Words, avatar_of, words};
use crate::{
    Server,
    error::Result,
    permits::Permits,
    room::{
        Membership, View, aliases,
        tables::{Members, Origin, UserRooms},
    },
    store::{self, Key, RoomNid, Scan, Snapshot},
};

/// How many words of users one search looks at, and how many users whose names match. Source: our choice.
const MAX_ROWS: usize = 20_000;
const MAX_CANDIDATES: usize = 2_000;
/// How many searches run at a time, and how many one user may have running and waiting: clients send one with each letter.
const MAX_RUNNING: usize = 2;
const MAX_OF_USER: usize = 8;
/// How many users one answer has at most.
const MAX_RESULTS: usize = 50;

/// Who may search now.
pub fn permits() -> Permits {
    Permits::new(MAX_RUNNING, MAX_OF_USER)
}

pub struct Found {
    pub user_id: OwnedUserId,
    pub display_name: Option<String>,
    pub avatar_url: Option<OwnedMxcUri>,
}

/// The beginning of a word, as the beginning of a key.
struct Beginning<'a>(&'a str);

impl<'a> Key<'a> for Beginning<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }
    fn read(_: &mut &'a [u8]) -> Option<Self> {
        None // nothing has such a key
    }
}

/// The users whom `searcher` may find and whose names have words that begin with all those of `term`; whose whole id it
/// is comes first. Also whether there are more than `limit`.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3user_directorysearch>
pub fn search(server: &Server, searcher: &UserId, term: &str, limit: usize) -> Result<(Vec<Found>, bool)> {
    let snapshot = server.store.snapshot();
    let limit = limit.min(MAX_RESULTS);
    let wanted = Wanted::of(term);
    let sight = Sight::of(server, &snapshot, searcher)?;
    let mut found = Vec::new();
    if let Some(exact) = wanted.exact.as_deref()
        && let Some(entry) = snapshot.get::<Entries>(&exact)?
        && sight.reaches(exact, &entry)?
    {
        found.push((exact.to_owned(), entry));
    }
    let mut others = candidates(&snapshot, &wanted)?;
    if let Some((exact, _)) = found.first() {
        others.remove(exact);
    }
    // Our own users first, then those with a name.
    let mut others: Vec<_> = others.into_iter().collect();
    others.sort_by_key(|(user, entry)| (!server.is_ours(user), entry.display_name.is_none()));
    for (user, entry) in others {
        if found.len() > limit {
            break;
        }
        if sight.reaches(&user, &entry)? {
            found.push((user, entry));
        }
    }
    let is_limited = found.len() > limit;
    found.truncate(limit);
    let shown = |(user_id, entry): (OwnedUserId, Entry)| Found {
        user_id,
        avatar_url: avatar_of(&entry),
        display_name: entry.display_name,
    };
    Ok((found.into_iter().map(shown).collect(), is_limited))
}

/// What a search is for.
struct Wanted {
    words: Vec<String>,
    /// The user whose whole id it is.
    exact: Option<OwnedUserId>,
    /// What the server's name begins with, if the term is the beginning of an id.
    server: Option<String>,
}

impl Wanted {
    fn of(term: &str) -> Self {
        let term = term.trim();
        let (name, server) = match term.strip_prefix('@') {
            Some(id) => id.split_once(':').map_or((id, None), |(name, server)| (name, Some(server.to_lowercase()))),
            None => (term, None),
        };
        Self { words: words::of_name(name).collect(), exact: term.try_into().ok(), server }
    }

    fn is(&self, user: &UserId, entry: &Entry) -> bool {
        let has = |wanted: &String| {
            entry.words.range(wanted.clone()..).next().is_some_and(|word| word.starts_with(wanted.as_str()))
        };
        self.words.iter().all(has)
            && self.server.as_ref().is_none_or(|server| user.server_name().as_str().starts_with(server.as_str()))
    }
}

/// Those whose names match, found by the longest of the words.
fn candidates(snapshot: &Snapshot<'_>, wanted: &Wanted) -> Result<BTreeMap<OwnedUserId, Entry>> {
    let mut found = BTreeMap::new();
    let Some(longest) = wanted.words.iter().max_by_key(|word| word.len()) else { return Ok(found) };
    for row in snapshot.scan::<Words>(Scan::prefix::<Words>(&Beginning(longest))).take(MAX_ROWS) {
        let row = row?;
        let (_, user) = row.key()?;
        if found.contains_key(user) {
            continue;
        }
        let Some(entry) = snapshot.get::<Entries>(&user)? else { continue };
        if wanted.is(user, &entry) {
            found.insert(user.to_owned(), entry);
        }
        if found.len() >= MAX_CANDIDATES {
            break;
        }
    }
    Ok(found)
}

/// Whom one user may find.
struct Sight<'s> {
    searcher: &'s UserId,
    server: &'s Server,
    snapshot: &'s Snapshot<'s>,
    rooms: Vec<RoomNid>,
    /// The rooms of which it was found out whether they are public: thousands of users may be in the same ones.
    known: RefCell<HashMap<RoomNid, bool>>,
}

impl<'s> Sight<'s> {
    fn of(server: &'s Server, snapshot: &'s Snapshot<'s>, searcher: &'s UserId) -> Result<Self> {
        Ok(Self { searcher, server, snapshot, rooms: rooms_of(snapshot, searcher)?, known: RefCell::default() })
    }

    /// Those who share a room with the searcher or are in a public one, and all of ours if the configuration says so. The
    /// searcher himself if everybody finds him.
    fn reaches(&self, user: &UserId, entry: &Entry) -> Result<bool> {
        if user == self.searcher {
            return self.any_is_public(&self.rooms);
        }
        if self.server.is_ours(user) {
            if self.server.config.user_directory.search_all_users {
                return Ok(true);
            }
            let rooms = rooms_of(self.snapshot, user)?;
            if rooms.iter().any(|room| self.rooms.binary_search(room).is_ok()) {
                return Ok(true);
            }
            return self.any_is_public(&rooms);
        }
        let is_in =
            |room: &RoomNid| self.snapshot.contains::<Members>(&(*room, Membership::Join, Origin::Remote, user));
        for room in &self.rooms {
            if is_in(room)? {
                return Ok(true);
            }
        }
        for room in &entry.public_rooms {
            if is_in(room)? && self.is_public(*room)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn any_is_public(&self, rooms: &[RoomNid]) -> Result<bool> {
        for room in rooms {
            if self.is_public(*room)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_public(&self, room: RoomNid) -> Result<bool> {
        if let Some(known) = self.known.borrow().get(&room) {
            return Ok(*known);
        }
        let view = View::of(&self.server.rooms, self.snapshot, room)?;
        // What became of a room that all of ours left nobody knows.
        let is_public = view.is_resident()? && is_public(&view)?;
        self.known.borrow_mut().insert(room, is_public);
        Ok(is_public)
    }
}

/// Whether everybody may know who is in a room.
pub fn is_public(view: &View<'_>) -> Result<bool> {
    let rules: Option<RoomJoinRulesEventContent> =
        view.state_content(view.current_state(), &StateEventType::RoomJoinRules, "")?;
    Ok(rules.is_some_and(|content| content.join_rule == JoinRule::Public) || aliases::is_world_readable(view)?)
}

/// The rooms that one of our users is joined to, in order.
fn rooms_of(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Vec<RoomNid>> {
    let rows = snapshot.list::<UserRooms>(&user);
    let joined = rows.filter(|row| row.as_ref().map_or(true, |row| row.value.membership == Membership::Join));
    Ok(joined.map(|row| Ok(row?.key()?.1)).collect::<store::Result<_>>()?)
}
