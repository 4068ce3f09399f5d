//! Which events a user is told of, by what, and how many of them he has not read.

pub mod defaults;
pub mod deliver;
pub mod evaluate;
mod gateway;
pub mod glob;
mod letters;
mod names;
pub mod notifications;
mod places;
pub mod pushers;
pub mod queue;
pub mod reader;
mod subject;
pub mod unread;

use crate::store::TableInfo;

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<pushers::Pushers>(),
    TableInfo::of::<pushers::PushersByKey>(),
    TableInfo::of::<queue::PushQueue>(),
    TableInfo::of::<queue::Badges>(),
];
