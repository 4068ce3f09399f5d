//! Removes what has had its time: each kind of row that ages has one line here.

use std::{sync::Arc, time::Duration};

use tracing::{debug, error};

use crate::{
    Server,
    error::{Error, Result},
    room::tables::{EventTransactions, Transactions},
};

const EVERY: Duration = Duration::from_secs(60 * 60);

/// For how long a client that repeats a request gets the event of the first time. Longer than phones stay off.
const TRANSACTIONS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many rows one transaction removes: others wait for it.
const BATCH: usize = 500;

/// Sweeps again and again, until the server ends.
pub async fn run(server: Arc<Server>) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match once(&server).await {
            Ok(removed) => debug!(removed, "swept old rows"),
            Err(error) => error!("old rows can't be removed: {error:?}"),
        }
    }
}

/// One sweep; how many rows it removed.
pub async fn once(server: &Arc<Server>) -> Result<usize> {
    transactions(server).await
}

async fn transactions(server: &Arc<Server>) -> Result<usize> {
    let now = server.clock.now_ms();
    let oldest = now.saturating_sub(u64::try_from(TRANSACTIONS_KEPT.as_millis()).unwrap_or(u64::MAX));
    let old = server
        .read(move |snapshot| {
            let mut old = Vec::new();
            for row in snapshot.list::<Transactions>(&()) {
                let row = row?;
                if row.value.at_ms < oldest {
                    old.push(row);
                }
            }
            Ok(old)
        })
        .await?;
    let removed = old.len();
    let mut old = old.into_iter().peekable();
    while old.peek().is_some() {
        let batch: Vec<_> = old.by_ref().take(BATCH).collect();
        server
            .store
            .commit(move |tx| {
                for row in batch {
                    let key = row.key()?;
                    tx.delete::<EventTransactions>(&(key.0, row.value.event));
                    tx.delete::<Transactions>(&key);
                }
                Ok::<_, Error>(())
            })
            .await?;
    }
    Ok(removed)
}
