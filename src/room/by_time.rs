//! Events by the time that their senders claim.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event>

use super::View;
use crate::{
    error::Result,
    event::StoredEvent,
    store::{Direction, EventNid, Family, RoomNid, Scan, Table},
};

/// How many events that the asker may not see are passed by.
const MAX_SCANNED: usize = 5_000;

/// The events of the timeline by `origin_server_ts`, in milliseconds since the Unix epoch.
pub struct EventTimes;
impl Table for EventTimes {
    const NAME: &'static str = "event_times";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 131;
    type Key<'a> = (RoomNid, u64, EventNid);
    type Value = ();
}

/// The event of that time, or the nearest after it, or before it with `Direction::Backward`, that `may_see` lets pass.
pub fn nearest(
    view: &View<'_>,
    ts_ms: u64,
    direction: Direction,
    mut may_see: impl FnMut(EventNid, &StoredEvent) -> Result<bool>,
) -> Result<Option<(EventNid, StoredEvent)>> {
    let scan = match direction {
        Direction::Forward => Scan::from::<EventTimes>(&(view.nid, ts_ms), &view.nid),
        Direction::Backward => match ts_ms.checked_add(1) {
            Some(after) => Scan::before::<EventTimes>(&(view.nid, after), &view.nid).backward(),
            None => Scan::prefix::<EventTimes>(&view.nid).backward(),
        },
    };
    for row in view.snapshot.scan::<EventTimes>(scan).take(MAX_SCANNED) {
        let nid = row?.key()?.2;
        let event = view.event(nid)?;
        if may_see(nid, &event)? {
            return Ok(Some((nid, event)));
        }
    }
    Ok(None)
}

/// Whether an event of the time `found` is the nearest to `wanted` in that direction, rather than one of `other`.
pub fn is_nearer(direction: Direction, wanted: u64, found: u64, other: Option<u64>) -> bool {
    match direction {
        Direction::Forward => found >= wanted && other.is_none_or(|other| found < other),
        Direction::Backward => found <= wanted && other.is_none_or(|other| found > other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::testing::{START_MS, TestRoom};

    #[test]
    fn the_nearest_event_that_may_be_seen_is_found_in_both_directions() {
        let room = TestRoom::new(); // three events, in the first two seconds
        let said: Vec<_> = (0..4).map(|_| room.message("alice", "x")).collect();
        let find = |seconds: u64, direction, hidden: Option<usize>| {
            room.read("alice", |reader, _| {
                let is_hidden = |event: &StoredEvent| hidden.is_some_and(|hidden| event.event_id == said[hidden]);
                let may_see = |_, event: &StoredEvent| Ok(!is_hidden(event));
                let found = nearest(reader.view(), START_MS + seconds * 1_000 + 500, direction, may_see).unwrap();
                found.map(|(_, event)| said.iter().position(|id| *id == event.event_id))
            })
        };
        let at = |number| Some(Some(number));
        assert_eq!(find(3, Direction::Forward, None), at(1));
        assert_eq!(find(3, Direction::Backward, None), at(0));
        assert_eq!(find(3, Direction::Forward, Some(1)), at(2));
        assert_eq!(find(6, Direction::Forward, None), None);
        assert_eq!(find(6, Direction::Backward, None), at(3));
        assert_eq!(find(0, Direction::Backward, None), Some(None), "the first event of the room");
        let exactly = |direction| {
            room.read("alice", |reader, _| {
                nearest(reader.view(), START_MS + 4_000, direction, |_, _| Ok(true)).unwrap().unwrap().1.event_id
            })
        };
        assert_eq!(exactly(Direction::Forward), exactly(Direction::Backward));
        let last = room.read("alice", |reader, _| {
            nearest(reader.view(), u64::MAX, Direction::Backward, |_, _| Ok(true)).unwrap().unwrap().1.event_id
        });
        assert_eq!(last, said[3]);
    }
}
