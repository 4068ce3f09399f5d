//! How far other servers are behind us.

use ruma::OwnedServerName;

use super::page::Page;
use crate::{
    Server,
    error::Result,
    federation::{
        backoff,
        queue::tables::{Destinations, Item, rows_from},
        tables::Backoffs,
    },
    room::tables::Events,
    store::{self, Snapshot, StreamPos},
};

/// How many servers are named: those that are furthest behind. A closed federation has hundreds, an open one thousands.
const NAMED: usize = 20;

/// How many rows of a queue are looked at for one that tells its time.
const LOOKED_AT: usize = 50;

/// A server that something waits for.
struct Behind {
    name: OwnedServerName,
    rows: u64,
    /// The place of the oldest row.
    since: StreamPos,
}

pub fn tell(server: &Server, page: &mut Page) -> Result<()> {
    let snapshot = server.store.snapshot();
    let mut behind = list(&snapshot)?;
    let help = "What waits to be sent, to all servers together";
    page.gauge("chappe_federation_queued_rows", help, behind.iter().map(|server| server.rows).sum::<u64>());
    page.gauge("chappe_federation_waiting_servers", "Servers that something waits for", behind.len() as u64);
    let mut failing = 0_u64;
    for row in snapshot.list::<Backoffs>(&()) {
        row?;
        failing += 1;
    }
    page.gauge("chappe_federation_failing_servers", "Servers that failed when last tried", failing);

    behind.sort_unstable_by_key(|server| server.since);
    behind.truncate(NAMED);
    let now_ms = server.clock.now_ms();
    let mut lags = Vec::with_capacity(behind.len());
    for of in &behind {
        let since_ms = since_ms(&snapshot, of)?.unwrap_or(now_ms);
        lags.push(([of.name.as_str()], now_ms.saturating_sub(since_ms) as f64 / 1_000.0));
    }
    let help = "For how long something has waited to be sent; of the 20 servers that are furthest behind";
    page.labeled_gauge("chappe_federation_lag_seconds", help, &["destination"], lags);
    let rows = behind.iter().map(|server| ([server.name.as_str()], server.rows));
    page.labeled_gauge("chappe_federation_lag_rows", "What waits for these", &["destination"], rows);
    Ok(())
}

fn list(snapshot: &Snapshot<'_>) -> store::Result<Vec<Behind>> {
    let mut behind = Vec::new();
    for row in snapshot.list::<Destinations>(&()) {
        let row = row?;
        let name = row.key()?;
        let Some(oldest) = rows_from(snapshot, name, row.value.first).next().transpose()? else { continue };
        let since = oldest.key()?.1;
        behind.push(Behind { name: name.to_owned(), rows: row.value.rows, since });
    }
    Ok(behind)
}

/// Since when something waits, in milliseconds since the Unix epoch: the time of the oldest event, else that of the
/// first failure. `None` if neither tells.
fn since_ms(snapshot: &Snapshot<'_>, of: &Behind) -> store::Result<Option<u64>> {
    for row in rows_from(snapshot, &of.name, of.since).take(LOOKED_AT) {
        if let Item::Event { room, event } = row?.value
            && let Some(event) = snapshot.get::<Events>(&(room, event))?
        {
            return Ok(Some(event.origin_server_ts));
        }
    }
    Ok(backoff::get(snapshot, &of.name)?.map(|backoff| backoff.since_ms))
}
