//! What a user was told of, or would have been, newest first: worked out from the timelines of his rooms and his rules
//! as they are now, so nothing is kept for it.

use std::collections::{BTreeMap, HashMap};

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt, UserId, api::client::push::get_notifications::v3::Notification, push::Action,
};

use super::reader;
use crate::{
    Server,
    error::{Error, Result},
    log::Entry,
    room::{
        Membership, View,
        show::{Format, Reader},
        tables::{Timeline, UserRooms},
    },
    store::{RoomNid, RoomPos, Row, Rows, Scan, Snapshot, StreamPos},
};

/// How many events one request looks at: then it answers with what it has and a token to go on from.
const MAX_LOOKED_AT: usize = 5_000;

/// What a client asks for.
pub struct Page {
    /// Only what is older.
    pub from: Option<StreamPos>,
    pub limit: usize,
    pub only_highlights: bool,
}

pub struct Found {
    pub notifications: Vec<Notification>,
    pub next_token: Option<String>,
}

/// A token of an earlier answer. `M_INVALID_PARAM` if it is none.
pub fn parse_token(token: &str) -> Result<StreamPos> {
    let pos = token.strip_prefix('n').and_then(|pos| pos.parse().ok());
    pos.map(StreamPos).ok_or_else(|| Error::invalid_param("`from` is no token of this server"))
}

/// The newest notifications of `user`.
pub fn list(server: &Server, user: &UserId, page: &Page) -> Result<Found> {
    let snapshot = server.store.snapshot();
    let mut rooms = Merged::of(server, &snapshot, user, page.from)?;
    let mut notifications = Vec::new();
    for _ in 0..MAX_LOOKED_AT {
        let Some(entry) = rooms.next()? else { return Ok(Found { notifications, next_token: None }) };
        let view = &rooms.views[&entry.room];
        let event = view.event(entry.event)?;
        if let Some(told) = reader::tell(server, view, user, &entry, &event)?
            && (!page.only_highlights || told.actions.iter().any(Action::is_highlight))
        {
            let shown = Reader::open(view, user, None, server.clock.now_ms())?;
            let shown = shown.raw(entry.event, &event, Format::WithoutRoomId)?;
            let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(event.origin_server_ts));
            let room_id = view.room_id().to_owned();
            notifications.push(Notification::new(told.actions, shown, told.has_read, room_id, ts));
        }
        if notifications.len() == page.limit {
            return Ok(Found { notifications, next_token: Some(format!("n{}", entry.pos)) });
        }
        rooms.looked_at = entry.pos;
    }
    Ok(Found { notifications, next_token: Some(format!("n{}", rooms.looked_at)) })
}

/// The live events of all rooms that a user is in or invited to, newest first.
struct Merged<'s> {
    views: HashMap<RoomNid, View<'s>>,
    timelines: HashMap<RoomNid, Rows<'s, Timeline>>,
    /// The next event of each room. What was fetched into a gap may have the place of an event of another room.
    heads: BTreeMap<(StreamPos, RoomNid), Entry>,
    /// The place of the last event that was looked at.
    looked_at: StreamPos,
}

impl<'s> Merged<'s> {
    fn of(server: &'s Server, snapshot: &'s Snapshot<'s>, user: &UserId, from: Option<StreamPos>) -> Result<Self> {
        let before = from.map_or(RoomPos::MAX, RoomPos::from);
        let mut merged = Self {
            views: HashMap::new(),
            timelines: HashMap::new(),
            heads: BTreeMap::new(),
            looked_at: StreamPos::MAX,
        };
        for row in snapshot.list::<UserRooms>(&user) {
            let row = row?;
            let room = row.key()?.1;
            // Of an invitation there is one event, and of a stay nothing that is older.
            let since = match row.value.membership {
                Membership::Join => row.value.joined_at.unwrap_or(row.value.since),
                Membership::Invite => row.value.since,
                _ => continue,
            };
            let scan = Scan::range::<Timeline>(&(room, RoomPos::from(since)), &(room, before)).backward();
            merged.views.insert(room, View::of(&server.rooms, snapshot, room)?);
            merged.timelines.insert(room, snapshot.scan::<Timeline>(scan));
            merged.advance(room)?;
        }
        Ok(merged)
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        let Some((_, entry)) = self.heads.pop_last() else { return Ok(None) };
        self.advance(entry.room)?;
        Ok(Some(entry))
    }

    /// Reads the next event of a room.
    fn advance(&mut self, room: RoomNid) -> Result<()> {
        let row: Option<Row<Timeline>> = self.timelines.get_mut(&room).and_then(Iterator::next).transpose()?;
        let Some(row) = row else { return Ok(()) };
        if let Ok(pos) = u64::try_from(row.key()?.1.0) {
            let pos = StreamPos(pos);
            self.heads.insert((pos, room), Entry { pos, room, event: row.value });
        }
        Ok(())
    }
}
