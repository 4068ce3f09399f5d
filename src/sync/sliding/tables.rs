//! What is kept of connections: enough to tell their clients what changed.

use ruma::{DeviceId, UserId};
use serde::{Deserialize, Serialize};

use super::required_state::RequiredState;
use crate::store::{Family, Record, RoomNid, StateKeyNid, StreamPos, Table, TableInfo, unknown_version};

pub const ALL: &[TableInfo] = &[TableInfo::of::<Connections>(), TableInfo::of::<SentRooms>()];

/// The connections of each device. They go with their device, and when they are not used for long.
pub struct Connections;
impl Table for Connections {
    const NAME: &'static str = "sliding_connections";
    const FAMILY: Family = Family::User;
    const ID: u8 = 170;
    /// The last is the client's name for the connection, empty if it has none.
    type Key<'a> = (&'a UserId, &'a DeviceId, &'a str);
    type Value = Connection;
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Connection {
    /// The newest last: that of the last answer, and the one that it was made from, since the answer may have got lost.
    pub positions: Vec<Position>,
    /// What rooms were told with, by the fingerprints that `SentRooms` has.
    pub required: Vec<(u64, RequiredState)>,
    /// About when it was last used, in milliseconds since the Unix epoch.
    pub used_ms: u64,
}

impl Record for Connection {
    const VERSION: u8 = 2;

    /// One without positions: its client begins anew, by which nothing is lost.
    fn upgrade(version: u8, _body: &[u8]) -> Result<Self, String> {
        match version {
            1 => Ok(Self::default()),
            _ => Err(unknown_version(version)),
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The change that wrote it.
    pub at: StreamPos,
    pub extensions: Extended,
}

/// The extensions that an answer told of, and of which rooms: a number that stands for what the client asked for, 0 for
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    pub account_data: u64,
    pub receipts: u64,
    pub typing: u64,
    pub thread_subscriptions: u64,
    pub profiles: u64,
}

/// The rooms that were told of on each connection.
pub struct SentRooms;
impl Table for SentRooms {
    const NAME: &'static str = "sliding_sent_rooms";
    const FAMILY: Family = Family::User;
    const ID: u8 = 171;
    type Key<'a> = (&'a UserId, &'a DeviceId, &'a str, RoomNid);
    type Value = SentRoom;
}

/// What was told at the positions of the connection, oldest first: each counts until the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentRoom(pub Vec<(StreamPos, Sent)>);

impl Record for SentRoom {
    const VERSION: u8 = 2;

    /// What extensions had told was kept of the connection only, and counts as told of each of its rooms. Which of them are
    /// direct chats was not kept.
    fn upgrade(version: u8, body: &[u8]) -> Result<Self, String> {
        /// As the first version wrote it.
        #[derive(Deserialize)]
        struct First {
            until: Option<StreamPos>,
            timeline_limit: u32,
            required: u64,
            members: Vec<StateKeyNid>,
        }
        if version != 1 {
            return Err(unknown_version(version));
        }
        let rows: Vec<(StreamPos, First)> = postcard::from_bytes(body).map_err(|error| error.to_string())?;
        let covered = Covered { account_data: true, receipts: true, profiles: true };
        let upgraded = rows.into_iter().map(|(at, First { until, timeline_limit, required, members })| {
            (at, Sent { until, timeline_limit, required, members, covered, is_direct: false })
        });
        Ok(Self(upgraded.collect()))
    }
}

impl SentRoom {
    pub fn at(&self, position: StreamPos) -> Option<&Sent> {
        self.0.iter().rev().find(|(at, _)| *at <= position).map(|(_, sent)| sent)
    }
}

/// What a client was told of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// All up to there, since the room had news later that were not wanted; `None` for all up to the moment of the
    /// answer.
    pub until: Option<StreamPos>,
    /// So many events of the timeline, if there are as many.
    pub timeline_limit: u32,
    /// The fingerprint of the required state.
    pub required: u64,
    /// Members who were told because they said something. Of the rest it is not known: they are told when they do.
    pub members: Vec<StateKeyNid>,
    pub covered: Covered,
    /// It was called a direct chat.
    pub is_direct: bool,
}

/// The extensions by which a client was told all that they have of a room, as far as it knows the room. The others were
/// not asked for, or about other rooms: if they come to be about this one, they begin from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    pub account_data: bool,
    pub receipts: bool,
    pub profiles: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Value;

    #[test]
    fn rooms_that_the_first_version_kept_can_be_read() {
        let (until, members) = (Some(StreamPos(3)), vec![StateKeyNid(9)]);
        let rows: &[_] = &[(StreamPos(5), (until, 20_u32, 7_u64, &members))];
        let first = postcard::to_stdvec(rows).unwrap();
        let covered = Covered { account_data: true, receipts: true, profiles: true };
        let expected = Sent { until, timeline_limit: 20, required: 7, members, covered, is_direct: false };
        assert_eq!(<SentRoom as Value>::read(1, &first).unwrap().0, [(StreamPos(5), expected)]);
        assert!(<SentRoom as Value>::read(3, &first).is_err());
    }
}
