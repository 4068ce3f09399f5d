//! What is new for a user: `/sync`, and who to wake for it.
//!
//! An answer covers the changes after the client's token, up to the newest that one snapshot shows; that is the next
//! token. Which rooms changed is found by comparing positions, and only those are built. An answer is bytes from the
//! start: what is stored as JSON is copied into it.

mod account_data;
mod answer;
mod changes;
mod company;
mod device_lists;
mod ephemeral;
pub mod event_stream;
mod first_answer;
mod invited;
mod joined;
mod json;
mod left;
mod plain_filter;
pub mod presence;
mod profiles;
mod request;
pub mod sliding;
mod state;
mod sticky;
mod stream;
pub mod summary;
mod timeline;
mod to_device;
pub mod token;
mod told_members;
mod user_rooms;
mod wait;
mod wake;

pub use self::{
    answer::Answer,
    device_lists::DeviceLists,
    first_answer::{Wanted as FirstWanted, first_answer},
    request::{Request, StateForm},
    stream::Reply,
    to_device::EmptyInboxes,
    told_members::ToldMembers,
    user_rooms::UserRoomLists,
    wait::sync,
    wake::Wakers,
};
