use ruma::{
    UInt,
    directory::{PublicRoomsChunk, RoomNetwork},
    room::JoinRuleKind,
};
use serde::Serialize;

use crate::room::directory::{Network, Page};

/// A page of a directory of public rooms.
///
/// NOTSPEC: `join_rule` is there even if it is `public`, where ruma leaves it out. Synapse does so, and Complement asks
/// for it.
#[derive(Serialize)]
pub struct RoomList {
    chunk: Vec<Listed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    total_room_count_estimate: UInt,
}

#[derive(Serialize)]
struct Listed {
    #[serde(skip_serializing_if = "Option::is_none")]
    join_rule: Option<&'static str>,
    #[serde(flatten)]
    room: PublicRoomsChunk,
}

impl From<Page> for RoomList {
    fn from(page: Page) -> Self {
        let listed = |room: PublicRoomsChunk| Listed {
            join_rule: (room.join_rule == JoinRuleKind::Public).then_some("public"),
            room,
        };
        Self {
            chunk: page.rooms.into_iter().map(listed).collect(),
            next_batch: page.next_batch,
            prev_batch: page.prev_batch,
            total_room_count_estimate: UInt::new_saturating(page.total as u64),
        }
    }
}

/// Whose rooms somebody asks for.
pub fn network(asked: RoomNetwork) -> Network {
    match asked {
        RoomNetwork::All => Network::All,
        RoomNetwork::ThirdParty(network) => Network::Of(network),
        _ => Network::Own,
    }
}
