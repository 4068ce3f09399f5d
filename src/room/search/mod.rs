//! Finding events by the words that they say.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#server-side-search>

pub mod index;
pub mod token;
pub mod words;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, api::client::filter::RoomEventFilter, events::StateEventType};
use serde::Deserialize;

use self::{
    index::{Field, SearchWords},
    token::{Group, Place, Token},
};
use super::{
    View,
    event_filter::EventFilter,
    show::Reader,
    tables::{RoomIds, UserRooms},
    timeline::Entry,
    visibility::unreadable,
};
use crate::{
    Server,
    error::Result,
    permits::Permits,
    store::{Beginning, EventNid, RoomNid, RoomPos, Scan, Snapshot},
};

/// What one search may cost: time, rows of the index for one word in one room, and events that are looked at. A search
/// that reaches one of these answers with what it has.
const MAX_TIME: Duration = Duration::from_secs(3);
const MAX_ROWS: usize = 20_000;
const MAX_EVENTS: usize = 2_000;

/// How many searches run at a time: they read much, and everybody else reads the same disk. And how many one user may
/// have running and waiting.
const MAX_RUNNING: usize = 2;
const MAX_OF_USER: usize = 8;

/// How many words of a search count.
const MAX_WORDS: usize = 16;

/// From how many characters on a word also finds longer ones that begin with it.
const MIN_BEGINNING: usize = 3;

/// How many rooms are followed back from one that replaced another.
const MAX_PREDECESSORS: usize = 20;

/// How well a word fits: a whole one, and the beginning of a longer one.
const WHOLE: u32 = 100;
const PART: u32 = 50;

/// Who may search now.
pub fn permits() -> Permits {
    Permits::new(MAX_RUNNING, MAX_OF_USER)
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct Query {
    pub term: String,
    pub fields: Vec<Field>,
    pub filter: RoomEventFilter,
    pub order: Order,
    pub limit: usize,
    pub after: Option<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The ones that fit best first, of these the newest.
    Rank,
    Recent,
}

/// An event that was found.
#[derive(Clone, Debug)]
pub struct Match {
    pub place: Place,
    pub entry: Entry,
}

#[derive(Clone, Debug, Default)]
pub struct Found {
    /// How many events the reader may see of those that were looked at.
    pub count: usize,
    /// In the order asked for, as many as fit on the page.
    pub page: Vec<Match>,
    /// The sender and room of each match that was left for later pages.
    pub left: Vec<(OwnedUserId, RoomNid)>,
    /// The words that were looked for.
    pub words: BTreeSet<String>,
}

/// The rooms that a user may search, as he sees them.
pub struct Rooms<'s> {
    views: BTreeMap<RoomNid, View<'s>>,
}

impl<'s> Rooms<'s> {
    /// The rooms that `user` is or was in, as far as the filter wants them: with the rooms that they replaced.
    pub fn of(server: &'s Server, snapshot: &'s Snapshot<'s>, user: &UserId, filter: &RoomEventFilter) -> Result<Self> {
        let wanted = match &filter.rooms {
            Some(rooms) => Some(with_predecessors(server, snapshot, rooms)?),
            None => None,
        };
        let mut views = BTreeMap::new();
        for row in snapshot.list::<UserRooms>(&user) {
            let row = row?;
            let (_, room) = row.key()?;
            let was_in = row.value.joined_at.is_some() && !row.value.is_forgotten;
            if !was_in || wanted.as_ref().is_some_and(|wanted| !wanted.contains(&room)) {
                continue;
            }
            let view = View::of(&server.rooms, snapshot, room)?;
            let is_unwanted = filter.not_rooms.iter().any(|unwanted| unwanted == view.room_id());
            // What is said in an encrypted room the server does not know.
            let is_encrypted = view.state_nid(view.current_state(), &StateEventType::RoomEncryption, "")?.is_some();
            if !is_unwanted && !is_encrypted {
                views.insert(room, view);
            }
        }
        Ok(Self { views })
    }

    pub fn readers<'v>(&'v self, user: &'v UserId, device: &'v ruma::DeviceId, now_ms: u64) -> Result<Readers<'v, 's>> {
        let mut readers = BTreeMap::new();
        for (room, view) in &self.views {
            readers.insert(*room, Reader::open(view, user, Some(device), now_ms)?);
        }
        Ok(readers)
    }
}

/// One reader for each room.
pub type Readers<'v, 's> = BTreeMap<RoomNid, Reader<'v, 's>>;

fn with_predecessors(server: &Server, snapshot: &Snapshot<'_>, rooms: &[OwnedRoomId]) -> Result<BTreeSet<RoomNid>> {
    #[derive(Deserialize)]
    struct Create {
        predecessor: Predecessor,
    }
    #[derive(Deserialize)]
    struct Predecessor {
        room_id: OwnedRoomId,
    }
    let nid = |room_id: &RoomId| snapshot.get::<RoomIds>(&room_id);
    let mut wanted = BTreeSet::new();
    for room_id in rooms {
        let mut next = nid(room_id)?;
        for _ in 0..MAX_PREDECESSORS {
            let Some(room) = next.filter(|room| wanted.insert(*room)) else { break };
            let view = View::of(&server.rooms, snapshot, room)?;
            let create = view.state_content::<Create>(view.current_state(), &StateEventType::RoomCreate, "")?;
            next = match create {
                Some(create) => nid(&create.predecessor.room_id)?,
                None => None,
            };
        }
    }
    Ok(wanted)
}

/// Looks in the rooms of `readers`, up to the place `newest`.
pub fn find(readers: &Readers<'_, '_>, newest: RoomPos, query: &Query) -> Result<Found> {
    let deadline = Instant::now() + MAX_TIME;
    let words: BTreeSet<String> = words::of(&query.term).into_iter().take(MAX_WORDS).collect();
    let mut places = Vec::new();
    for reader in readers.values() {
        if words.is_empty() || Instant::now() > deadline {
            break;
        }
        places.extend(in_room(reader, newest, query, &words)?);
    }
    match query.order {
        Order::Rank => places.sort_by_key(|(place, _)| std::cmp::Reverse((place.rank, place.pos, place.room))),
        Order::Recent => places.sort_by_key(|(place, _)| std::cmp::Reverse((place.pos, place.room))),
    }
    let mut found = Found { words, ..Found::default() };
    let mut filter = query.filter.clone();
    filter.rooms = None; // they were chosen before, with those that they replaced
    // The first ones are looked at for their number, those after the token for the page.
    let (mut looked_at, mut from_token) = (0, 0);
    for (place, nid) in places {
        let is_on_page = query.after.as_ref().is_none_or(|after| is_after(query.order, &place, &after.place));
        looked_at += 1;
        from_token += usize::from(is_on_page);
        if from_token > MAX_EVENTS || Instant::now() > deadline {
            break;
        }
        if looked_at > MAX_EVENTS && !is_on_page {
            continue;
        }
        let Some(reader) = readers.get(&place.room) else { continue };
        let Some(entry) = visible(reader, &filter, &place, nid)? else { continue };
        found.count += usize::from(looked_at <= MAX_EVENTS);
        let group = query.after.as_ref().and_then(|after| after.group.as_ref());
        if !is_on_page || group.is_some_and(|group| !is_in(group, reader, &entry)) {
            continue;
        }
        if found.page.len() < query.limit {
            found.page.push(Match { place, entry });
        } else {
            found.left.push((entry.event.sender, place.room));
        }
    }
    Ok(found)
}

fn is_after(order: Order, place: &Place, after: &Place) -> bool {
    match order {
        Order::Rank => (place.rank, place.pos, place.room) < (after.rank, after.pos, after.room),
        Order::Recent => (place.pos, place.room) < (after.pos, after.room),
    }
}

fn is_in(group: &Group, reader: &Reader<'_, '_>, entry: &Entry) -> bool {
    match group {
        Group::Room(room_id) => room_id == reader.view().room_id(),
        Group::Sender(sender) => *sender == entry.event.sender,
    }
}

/// The events of one room that say all the words.
fn in_room(
    reader: &Reader<'_, '_>,
    newest: RoomPos,
    query: &Query,
    words: &BTreeSet<String>,
) -> Result<Vec<(Place, EventNid)>> {
    let view = reader.view();
    let newest = newest.min(reader.sight.horizon()?);
    // Long words are rare: what does not say them need not be remembered.
    let mut words: Vec<&String> = words.iter().collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let mut all: HashMap<RoomPos, (u32, index::Said)> = HashMap::new();
    for (round, word) in words.iter().enumerate() {
        let finds_longer = word.chars().count() >= MIN_BEGINNING;
        let scan = if finds_longer {
            Scan::prefix::<SearchWords>(&(view.nid, Beginning(word)))
        } else {
            Scan::prefix::<SearchWords>(&(view.nid, word.as_str()))
        };
        let mut of_word: HashMap<RoomPos, (u32, index::Said)> = HashMap::new();
        // Backward, a word itself comes before longer ones, and of each the newest event first.
        for row in view.snapshot.scan::<SearchWords>(scan.backward()).take(MAX_ROWS) {
            let row = row?;
            let (_, found, pos) = row.key()?;
            let before = if round == 0 { Some(0) } else { all.get(&pos).map(|(weight, _)| *weight) };
            let Some(before) = before.filter(|_| pos <= newest && query.fields.contains(&row.value.field)) else {
                continue;
            };
            let weight = before + if found == **word { WHOLE } else { PART };
            of_word.entry(pos).or_insert((weight, row.value));
        }
        all = of_word;
    }
    let place = |(pos, (weight, said)): (RoomPos, (u32, index::Said))| {
        // The fewer other words a text has, the more it is about these.
        let rank = weight * 1_000 / (u32::try_from(words.len()).unwrap_or(1) * (10 + u32::from(said.words)));
        (Place { rank, pos, room: view.nid }, said.event)
    };
    Ok(all.into_iter().map(place).collect())
}

/// An event that was found, if the reader may see it and asked for it.
fn visible(reader: &Reader<'_, '_>, filter: &RoomEventFilter, place: &Place, nid: EventNid) -> Result<Option<Entry>> {
    let event = reader.view().event(nid)?;
    let is_wanted = EventFilter::new(filter, reader.view().room_id()).allows(&event).map_err(unreadable)?;
    let is_shown = is_wanted && !event.flags.redacted && !reader.ignored()?.hides(&event);
    // That it was found would tell what it said.
    let is_found = is_shown && reader.sight.may_see(nid, &event)? && !reader.hides_content(&event)?;
    Ok(is_found.then_some(Entry { pos: place.pos, nid, event }))
}
