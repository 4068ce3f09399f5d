//! Simplified sliding sync: news of the rooms that a client wants to see, and of those only.
//!
//! A client asks again and again on a connection, each time for rooms by their place in lists and for single rooms. Which
//! rooms it was told of, and up to where, is kept (`connection.rs`), so that it is told what changed since. `pos` names a
//! position of that, and beside it the moment of the answer, as `next_batch` of `/sync` does; so an answer that tells no
//! new room writes nothing.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/4186-simplified-sliding-sync.md>, in the form
//! that clients use today: `org.matrix.simplified_msc3575`.

mod activity;
mod answer;
mod connection;
mod extensions;
mod filters;
mod lists;
mod pos;
mod request;
mod required_state;
mod room;
pub mod tables;
mod turns;
mod wait;

pub use self::{
    activity::Activities,
    connection::{Remembered, delete_device, sweep},
    filters::KnownFacts,
    pos::Pos,
    request::{Asked, Body},
    turns::Turns,
    wait::sync,
};
