//! Which events a user is told of, and how many of them he has not read.

pub mod defaults;
pub mod evaluate;
pub mod glob;
mod subject;
pub mod unread;
