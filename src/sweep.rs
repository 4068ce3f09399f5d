//! Removes what has had its time: each kind of row that ages has one line here.

use std::{sync::Arc, time::Duration};

use tracing::{debug, error, info};

use crate::{
    Server,
    error::{Error, Result},
    federation::{inbox, keys::strangers},
    log, media, oauth,
    room::{
        delayed, sticky,
        tables::{EventTransactions, Transactions},
    },
    store::{self, Row, Table},
    sync::sliding,
    user::{
        guests,
        keys::remote,
        tables::{ReceivedToDevice, ToDeviceTransactions},
    },
};

const EVERY: Duration = Duration::from_secs(60 * 60);

/// For how long a client that repeats a request gets the event of the first time. Longer than phones stay off.
const TRANSACTIONS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many rows one transaction removes: others wait for it.
const BATCH: usize = 500;

/// Sweeps again and again, until the server ends.
pub async fn run(server: Arc<Server>) {
    match media::remove_orphans(&server).await {
        Ok(0) => {}
        Ok(removed) => info!(removed, "removed files of uploads that a crash had interrupted"),
        Err(error) => error!("files of interrupted uploads can't be removed: {error:?}"),
    }
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
    log::sweep(server).await?;
    Ok(transactions(server).await?
        + sliding::sweep(server).await?
        + inbox::sweep(server).await?
        + strangers::forget(server).await?
        + delayed::sweep(server).await?
        + sticky::sweep(server).await?
        + old_rows::<ToDeviceTransactions>(server).await?
        + old_rows::<ReceivedToDevice>(server).await?
        + remote::sweep(server).await?
        + oauth::client::sweep(server).await?
        + guests::sweep(server).await?
        + media::pending::remove_expired(server).await?)
}

async fn transactions(server: &Arc<Server>) -> Result<usize> {
    let oldest = oldest_transaction_ms(server);
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

/// Removes what is older than transactions are kept, of a table whose rows hold when they were made.
async fn old_rows<T: Table<Value = u64>>(server: &Arc<Server>) -> Result<usize> {
    let oldest = oldest_transaction_ms(server);
    let is_old = move |row: &Row<T>| row.value < oldest;
    let old: Vec<_> = server
        .read(move |snapshot| {
            let rows = snapshot.list::<T>(&());
            Ok(rows.filter(|row| row.as_ref().map_or(true, is_old)).collect::<store::Result<_>>()?)
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
                    tx.delete::<T>(&row.key()?);
                }
                Ok::<_, Error>(())
            })
            .await?;
    }
    Ok(removed)
}

/// From when the oldest transaction is that is kept, in milliseconds since the Unix epoch.
fn oldest_transaction_ms(server: &Server) -> u64 {
    let kept_ms = u64::try_from(TRANSACTIONS_KEPT.as_millis()).unwrap_or(u64::MAX);
    server.clock.now_ms().saturating_sub(kept_ms)
}
