//! What waits, what is behind, and what media there are.

use super::page::Page;
use crate::{
    Server,
    error::Result,
    log,
    media::{
        remote::tables::RemoteUsage,
        tables::{MediaUsage, Usage},
    },
    store::{self, Snapshot},
};

/// So many entries of the log are counted at most.
const COUNTED_ENTRIES: usize = 10_000;

pub fn tell(server: &Server, page: &mut Page) -> Result<()> {
    let snapshot = server.store.snapshot();
    page.gauge("chappe_sync_waiting_requests", "Requests that wait for news", server.wakers.waiting() as u64);
    let help = "Large bodies of requests that are held in memory";
    page.gauge("chappe_http_body_bytes", help, server.body_memory.held_bytes());
    let staged = server.inbox.waiting() as u64;
    let help = "Events of other servers that were acknowledged and wait to become part of their rooms";
    page.gauge("chappe_federation_staged_events", help, staged);
    let help = "Accepted events that a reader of the log has not worked on yet; at most 10000 are counted";
    let behind = log::behind(server, &snapshot, COUNTED_ENTRIES)?;
    page.labeled_gauge(
        "chappe_log_reader_lag_events",
        help,
        &["reader"],
        behind.into_iter().map(|(reader, entries)| ([reader], entries)),
    );
    let of_users = of_users(&snapshot)?;
    let of_servers = snapshot.get::<RemoteUsage>(&())?.unwrap_or_default();
    let usages = [("users", of_users), ("servers", of_servers)];
    let help = "Media that are kept: of our users, and of other servers, which make room for others";
    page.labeled_gauge("chappe_media_bytes", help, &["of"], usages.map(|(of, usage)| ([of], usage.bytes)));
    page.labeled_gauge("chappe_media_files", "As many files", &["of"], usages.map(|(of, usage)| ([of], usage.files)));
    Ok(())
}

fn of_users(snapshot: &Snapshot<'_>) -> store::Result<Usage> {
    let mut all = Usage::default();
    for row in snapshot.list::<MediaUsage>(&()) {
        let Usage { files, bytes } = row?.value;
        all.files = all.files.saturating_add(files);
        all.bytes = all.bytes.saturating_add(bytes);
    }
    Ok(all)
}
