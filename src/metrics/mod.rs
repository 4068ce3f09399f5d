//! What an operator watches, in the text format of Prometheus: what was counted since the start, and how it is now. Only
//! what would be lost otherwise is counted as it happens; everything else is looked up when somebody asks.

mod cache_use;
mod database;
mod federation;
mod page;
mod process;
mod requests;
mod work;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Server, clock::Clock, error::Result};

pub use self::{
    cache_use::CacheUse,
    requests::{Requests, UnderWay},
};
use self::{page::Page, process::Process};

/// How [`text`] is written.
pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// What is counted that belongs to no other part.
pub struct Metrics {
    pub requests: Requests,
    /// How often the state of a room fell back, see `room/state/reset.rs`.
    pub state_resets: AtomicU64,
    /// Milliseconds since the Unix epoch.
    started_ms: u64,
}

impl Metrics {
    pub fn new(clock: &Clock) -> Self {
        Self { requests: Requests::default(), state_resets: AtomicU64::default(), started_ms: clock.now_ms() }
    }
}

/// All figures as they are now. Reads some rows for each server that something waits for.
pub fn text(server: &Server) -> Result<String> {
    let mut page = Page::default();
    page.labeled_gauge("chappe_build_info", "This version", &["version"], [([env!("CARGO_PKG_VERSION")], 1)]);
    server.metrics.requests.tell(&mut page);
    work::tell(server, &mut page)?;
    let help = "State events that rooms of versions before 12 fell back behind, as in a state reset";
    page.counter("chappe_room_state_resets", help, server.metrics.state_resets.load(Ordering::Relaxed));
    federation::tell(server, &mut page)?;
    database::tell(server, &mut page)?;
    cache_use::tell(server, &mut page);
    Process::tell(server.metrics.started_ms, &mut page);
    Ok(page.text())
}
