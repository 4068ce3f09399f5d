//! When something last happened in each room.

use quick_cache::sync::Cache;

use crate::{
    error::Result,
    metrics::CacheUse,
    room::{View, tables::Timeline},
    store::{Group, RoomNid, RoomPos, Scan, StreamPos},
    sync::answer::Context,
};

/// Of how many rooms it is kept in memory.
const CACHED_ROOMS: usize = 20_000;

/// How many events are looked at for one that counts as activity.
const MAX_EVENTS: usize = 500;

/// <https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/4186-simplified-sliding-sync.md#common-fields>,
/// with the names that two of them have while they are proposals.
const ACTIVE_TYPES: [&str; 9] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];

pub struct Activities {
    /// The place of the last event, and when it was so for certain.
    last: Cache<RoomNid, (StreamPos, RoomPos)>,
    /// The place of the last event that counts as activity, as of a last event.
    active: Cache<RoomNid, (RoomPos, RoomPos)>,
}

impl Default for Activities {
    fn default() -> Self {
        Self { last: Cache::new(CACHED_ROOMS), active: Cache::new(CACHED_ROOMS) }
    }
}

impl Activities {
    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.last)
    }

    /// The place of the last event of each room; of a room without any, the first place there is.
    pub fn last(&self, context: &Context<'_>, rooms: impl Iterator<Item = RoomNid>) -> Result<Vec<RoomPos>> {
        rooms.map(|room| self.last_of(context, room)).collect()
    }

    fn last_of(&self, context: &Context<'_>, room: RoomNid) -> Result<RoomPos> {
        if let Some((as_of, last)) = self.last.get(&room)
            && !context.may_have_changed::<Timeline>(Group::of(room), as_of.min(context.now))
        {
            return Ok(last);
        }
        let newest =
            context.snapshot.scan::<Timeline>(Scan::prefix::<Timeline>(&room).backward()).next().transpose()?;
        let last = newest.map_or(Ok(RoomPos::MIN), |row| row.key().map(|(_, pos)| pos))?;
        self.last.insert(room, (context.now, last));
        Ok(last)
    }

    /// The place of the last event that counts as activity.
    pub fn active(&self, context: &Context<'_>, view: &View<'_>) -> Result<RoomPos> {
        let last = self.last_of(context, view.nid)?;
        let known = self.active.get(&view.nid).filter(|(as_of, _)| *as_of <= last);
        let (as_of, mut active) = known.unwrap_or((RoomPos::MIN, RoomPos::MIN));
        let after = RoomPos(as_of.0.saturating_add(1));
        let scan = Scan::range::<Timeline>(&(view.nid, after), &(view.nid, RoomPos::MAX)).backward();
        for row in view.snapshot.scan::<Timeline>(scan).take(MAX_EVENTS) {
            let row = row?;
            if ACTIVE_TYPES.contains(&view.event(row.value)?.event_type.as_str()) {
                active = row.key()?.1;
                break;
            }
        }
        self.active.insert(view.nid, (last, active));
        Ok(active)
    }
}
