//! The newest events of one room that an answer shows.

use ruma::api::client::filter::RoomEventFilter;

use super::{
    answer::Context,
    json::{self, Object},
    token::TimelineToken,
};
use crate::{
    error::Result,
    room::{
        event_filter::EventFilter,
        gaps,
        show::Reader,
        timeline::{self, Entry, Query},
        visibility::Standing,
    },
    store::{Direction, Group, RoomPos, StreamPos},
};

#[derive(Debug)]
pub struct Timeline {
    /// Oldest first.
    pub events: Vec<Entry>,
    /// There are older ones that the client has not seen, or they do not follow what it has seen.
    pub is_limited: bool,
    /// The place before all of them and after all that the client has seen, or has to ask for.
    pub start: RoomPos,
}

/// Which events of one room to look for: the newest after `after`, up to and with `until`.
pub struct Wanted<'w> {
    /// What the client has seen of the room.
    pub after: Option<StreamPos>,
    pub until: RoomPos,
    pub limit: usize,
    pub filter: &'w RoomEventFilter,
}

impl Timeline {
    /// The newest events after `after`, up to and with `until`, that the reader may see and asked for.
    pub fn read(
        context: &Context<'_>,
        reader: &Reader<'_, '_>,
        after: Option<StreamPos>,
        until: RoomPos,
    ) -> Result<Self> {
        // A room that was joined since may be one that the client knows from before, with a gap in between.
        let is_rejoined = after.is_none() && context.since.is_some();
        let (limit, filter) = (context.request.timeline_limit(), &context.request.filter.room.timeline);
        let timeline = Self::newest(context, reader, &Wanted { after, until, limit, filter })?;
        Ok(Self { is_limited: timeline.is_limited || is_rejoined, ..timeline })
    }

    /// The newest of the wanted events that the reader may see.
    pub fn newest(context: &Context<'_>, reader: &Reader<'_, '_>, wanted: &Wanted<'_>) -> Result<Self> {
        let until = wanted.until;
        let seen = wanted.after.map_or(RoomPos::MIN, RoomPos::from);
        // What is before a gap does not lead to what is after it. What is in it may be had from other servers.
        // One that is in what the client has not seen was made after what it has.
        let may_have_gap = wanted
            .after
            .is_none_or(|after| context.may_have_changed::<gaps::Gaps>(Group::of(reader.view().nid), after));
        let gap = if may_have_gap { gaps::newest(reader.view(), seen, until)? } else { None };
        let after = gap.map_or(seen, |gap| RoomPos(gap.0.saturating_sub(1)));
        let query = Query {
            after,
            until,
            direction: Direction::Backward,
            limit: wanted.limit,
            filter: EventFilter::new(wanted.filter, reader.view().room_id()),
            ignored: &context.ignored,
            shows_state: (reader.sight.standing == Standing::Joined).then(|| reader.view().current_state()),
        };
        let page = timeline::page(reader, &query)?;
        let mut events = page.entries;
        events.reverse();
        let before_first = || events.first().map_or(until, |first| RoomPos(first.pos.0.saturating_sub(1)));
        let start = page.next.unwrap_or_else(|| if after == RoomPos::MIN { before_first() } else { after });
        Ok(Self { events, is_limited: page.next.is_some() || gap.is_some(), start })
    }

    pub fn write_events(&self, context: &Context<'_>, reader: &Reader<'_, '_>, out: &mut Vec<u8>) -> Result<()> {
        json::list(out, &self.events, |out, entry| context.write_event(out, reader, entry.nid, &entry.event))
    }

    /// The place from which a client goes on towards older events.
    pub fn prev_batch(&self) -> String {
        TimelineToken(self.start).to_string()
    }

    pub fn write(&self, context: &Context<'_>, reader: &Reader<'_, '_>, out: &mut Vec<u8>) -> Result<()> {
        // A client that has seen all events before these puts together itself what relates to what.
        reader.set_bundling(self.is_limited);
        let mut object = Object::begin(out);
        self.write_events(context, reader, object.key("events"))?;
        object.member("limited", &self.is_limited);
        object.member("prev_batch", &self.prev_batch());
        object.end();
        Ok(())
    }
}
