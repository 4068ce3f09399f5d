//! Where a room's timeline lacks what came before: events whose previous events we do not have.

use super::{View, outliers, timeline::beyond};
use crate::{
    event::StoredEvent,
    store::{EventNid, Family, Group, Result, RoomNid, RoomPos, Scan, Table},
};

/// The places of the timeline just before which events are missing.
pub struct Gaps;
impl Table for Gaps {
    const NAME: &'static str = "gaps";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 121;
    type Key<'a> = (RoomNid, RoomPos);
    type Value = ();

    fn group(&(room, _): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(room))
    }
}

/// How many places are left free before a live event whose previous events are missing: as many as may be missing in any
/// room, and so few that there are gaps enough for centuries of attacks. Source: our choice.
pub const PLACES: u64 = 1 << 20;

/// How many gaps of a room are looked at for the one in which an event belongs.
const MAX_LOOKED_AT: usize = 100;

/// A place before which events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Of the event whose previous events are missing.
    pub pos: RoomPos,
    /// Of the last event that we have before it.
    pub last_before: Option<RoomPos>,
}

impl Gap {
    /// The places that events in this gap can get: so many, ending just before `pos`. Without anything before it
    /// there is no end to them.
    pub fn free(&self) -> u64 {
        match self.last_before {
            Some(last) => u64::try_from(self.pos.0.saturating_sub(last.0) - 1).unwrap_or(0),
            None => u64::MAX,
        }
    }

    /// The place for the last of the events in this gap. Where nothing is before it, places are negative, so that those
    /// of live events stay free.
    pub fn last_place(&self) -> i64 {
        let before = self.pos.0.saturating_sub(1);
        if self.last_before.is_none() { before.min(-1) } else { before }
    }

    /// The first place after what is before the gap; far from its end, if nothing is.
    pub fn first_place(&self) -> i64 {
        self.last_before.map_or_else(|| self.middle(), |last| last.0.saturating_add(1))
    }

    /// A place far from both ends.
    pub fn middle(&self) -> i64 {
        let below = if self.last_before.is_none() { PLACES } else { self.free() / 2 };
        self.last_place().saturating_sub_unsigned(below)
    }
}

/// The highest gap at or before the place `until`, counting the one that the first event after `until` may have.
pub fn below(view: &View<'_>, until: RoomPos) -> Result<Option<Gap>> {
    let next = Scan::from::<super::tables::Timeline>(&(view.nid, beyond(until)), &view.nid);
    let next = view.snapshot.scan::<super::tables::Timeline>(next).next().transpose()?;
    let upper = match next {
        Some(row) => row.key()?.1,
        None => until,
    };
    let scan = Scan::before::<Gaps>(&(view.nid, beyond(upper)), &view.nid).backward();
    let Some(row) = view.snapshot.scan::<Gaps>(scan).next().transpose()? else { return Ok(None) };
    at(view, row.key()?.1).map(Some)
}

/// The gap just before the event at `pos`.
pub(super) fn at(view: &View<'_>, pos: RoomPos) -> Result<Gap> {
    let scan = Scan::before::<super::tables::Timeline>(&(view.nid, pos), &view.nid).backward();
    let last = view.snapshot.scan::<super::tables::Timeline>(scan).next().transpose()?;
    let last_before = last.map(|row| row.key().map(|key| key.1)).transpose()?;
    Ok(Gap { pos, last_before })
}

/// Whether a gap is just before the event at `pos`.
pub fn is_at(view: &View<'_>, pos: RoomPos) -> Result<bool> {
    view.snapshot.contains::<Gaps>(&(view.nid, pos))
}

/// The newest place after `after`, up to and with `until`, before which events are missing.
pub fn newest(view: &View<'_>, after: RoomPos, until: RoomPos) -> Result<Option<RoomPos>> {
    first(view, between(view, after, until).backward())
}

/// The lowest place after `after`, up to and with `until`, before which events are missing.
pub fn lowest(view: &View<'_>, after: RoomPos, until: RoomPos) -> Result<Option<RoomPos>> {
    first(view, between(view, after, until))
}

fn between(view: &View<'_>, after: RoomPos, until: RoomPos) -> Scan {
    Scan::range::<Gaps>(&(view.nid, beyond(after)), &(view.nid, beyond(until.max(after))))
}

fn first(view: &View<'_>, scan: Scan) -> Result<Option<RoomPos>> {
    view.snapshot.scan::<Gaps>(scan).next().transpose()?.map(|row| row.key().map(|key| key.1)).transpose()
}

/// The places before which events are missing.
pub fn newest_first(view: &View<'_>) -> impl Iterator<Item = Result<RoomPos>> {
    let rows = view.snapshot.scan::<Gaps>(Scan::prefix::<Gaps>(&view.nid).backward());
    rows.map(|row| row?.key().map(|key| key.1))
}

/// Some of the gaps, the newest first, each with the previous events that are missing there.
pub fn with_missing(view: &View<'_>) -> Result<Vec<(Gap, Vec<ruma::OwnedEventId>)>> {
    let mut found = Vec::new();
    for pos in newest_first(view).take(MAX_LOOKED_AT) {
        let pos = pos?;
        if let Some(missing) = missing_at(view, pos)? {
            found.push((at(view, pos)?, missing));
        }
    }
    Ok(found)
}

/// Whether a state event without a place is from before something that has one: it is part of the current state, or less
/// deep than an event at a gap.
pub fn is_behind(view: &View<'_>, nid: EventNid, event: &StoredEvent) -> crate::error::Result<bool> {
    let Some(state_key) = event.state_key.as_deref().filter(|_| event.flags.outlier) else { return Ok(false) };
    if outliers::is_out_of_band(view, nid, event)? {
        return Ok(false);
    }
    let key = view.state_key_nid(&event.event_type, state_key)?;
    let current = key.map(|key| view.tries().get(view.current_state(), key)).transpose()?.flatten();
    if current == Some(nid) {
        return Ok(true);
    }
    for pos in newest_first(view).take(MAX_LOOKED_AT) {
        let at_gap = view.snapshot.get::<super::tables::Timeline>(&(view.nid, pos?))?;
        if at_gap.map(|at_gap| view.event(at_gap)).transpose()?.is_some_and(|at_gap| event.depth < at_gap.depth) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A place for an event of that time that follows nothing we have: in the newest gap after whose beginning it was sent,
/// far from both ends. `None` if there is no room for it.
pub fn place_for(view: &View<'_>, ts_ms: u64) -> Result<Option<RoomPos>> {
    for pos in newest_first(view).take(MAX_LOOKED_AT) {
        let gap = at(view, pos?)?;
        let Some(last) = gap.last_before else { return Ok(Some(RoomPos(gap.middle()))) };
        let before = view.snapshot.get::<super::tables::Timeline>(&(view.nid, last))?;
        let is_later = before.map(|before| view.event(before)).transpose()?.is_none_or(|b| b.origin_server_ts <= ts_ms);
        if is_later && gap.free() > 0 {
            return Ok(Some(RoomPos(gap.middle())));
        }
    }
    Ok(None)
}

/// The previous events that are missing before the event at `pos`, if there is one.
pub fn missing_at(view: &View<'_>, pos: RoomPos) -> Result<Option<Vec<ruma::OwnedEventId>>> {
    let event = view.snapshot.get::<super::tables::Timeline>(&(view.nid, pos))?;
    event.map(|event| missing_before(view, event)).transpose()
}

/// The previous events of an event of the room that have no place in it.
pub fn missing_before(view: &View<'_>, event: EventNid) -> Result<Vec<ruma::OwnedEventId>> {
    let pdu = view.pdu(event)?;
    let mut missing = Vec::new();
    for id in &pdu.prev_events {
        if placed(view, id)?.is_none() {
            missing.push(id.clone());
        }
    }
    Ok(missing)
}

/// An event of the room that we have, with or without a place.
pub fn known(view: &View<'_>, id: &ruma::EventId) -> Result<Option<(EventNid, StoredEvent)>> {
    view.event_nid(id)?.map(|nid| Ok((nid, view.event(nid)?))).transpose()
}

/// An event of the room with a place in its graph.
pub fn placed(view: &View<'_>, id: &ruma::EventId) -> Result<Option<(EventNid, StoredEvent)>> {
    Ok(known(view, id)?.filter(|(_, event)| event.state_after.is_some()))
}
