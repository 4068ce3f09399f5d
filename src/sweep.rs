//! Removes what has had its time: each kind of row that ages has one line here.

use std::{sync::Arc, time::Duration};

use tracing::{debug, error, info};

use crate::{
    Server, appservice,
    error::Result,
    federation::{inbox, keys::strangers},
    log, media, oauth,
    room::{
        delayed, founding,
        retention::purge,
        sticky,
        tables::{EventTransactions, Transactions},
    },
    store::{self, Row, Snapshot, Table, Transaction},
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

/// One sweep; how many rows it removed. What fails keeps nothing else from being swept.
pub async fn once(server: &Arc<Server>) -> Result<usize> {
    let swept = [
        appservice::sender::give_up(server).await.map(|()| 0),
        log::sweep(server).await.map(|()| 0),
        transactions(server).await,
        sliding::sweep(server).await,
        inbox::sweep(server).await,
        strangers::forget(server).await,
        delayed::sweep(server).await,
        sticky::sweep(server).await,
        purge::sweep(server).await,
        founding::sweep(server).await,
        old_rows::<ToDeviceTransactions>(server).await,
        old_rows::<ReceivedToDevice>(server).await,
        remote::sweep(server).await,
        oauth::client::sweep(server).await,
        guests::sweep(server).await,
        media::pending::remove_expired(server).await,
    ];
    swept.into_iter().sum()
}

/// Removes the rows of a table that are old, with what belongs to them, a few in each transaction.
pub async fn rows<T: Table>(
    server: &Arc<Server>,
    is_old: impl Fn(&T::Value) -> bool + Send + 'static,
    remove: impl Fn(&mut Transaction<'_>, &Row<T>) -> store::Result<()> + Clone + Send + 'static,
) -> Result<usize> {
    let read = move |snapshot: &Snapshot<'_>| {
        let is_wanted = |row: &store::Result<Row<T>>| row.as_ref().map_or(true, |row| is_old(&row.value));
        Ok(snapshot.list::<T>(&()).filter(is_wanted).collect::<store::Result<Vec<_>>>()?)
    };
    let mut old = server.read(read).await?;
    let removed = old.len();
    while !old.is_empty() {
        let batch = old.split_off(old.len().saturating_sub(BATCH));
        let remove = remove.clone();
        server.store.commit_when_full(move |tx| batch.iter().try_for_each(|row| remove(tx, row))).await?;
    }
    Ok(removed)
}

async fn transactions(server: &Arc<Server>) -> Result<usize> {
    let oldest = oldest_transaction_ms(server);
    rows::<Transactions>(
        server,
        move |sent| sent.at_ms < oldest,
        |tx, row| {
            let key = row.key()?;
            tx.delete::<EventTransactions>(&(key.0, row.value.event));
            tx.delete::<Transactions>(&key);
            Ok(())
        },
    )
    .await
}

/// Removes what is older than transactions are kept, of a table whose rows hold when they were made.
async fn old_rows<T: Table<Value = u64>>(server: &Arc<Server>) -> Result<usize> {
    let oldest = oldest_transaction_ms(server);
    rows::<T>(
        server,
        move |made_ms| *made_ms < oldest,
        |tx, row| {
            tx.delete::<T>(&row.key()?);
            Ok(())
        },
    )
    .await
}

/// From when the oldest transaction is that is kept, in milliseconds since the Unix epoch.
fn oldest_transaction_ms(server: &Server) -> u64 {
    let kept_ms = u64::try_from(TRANSACTIONS_KEPT.as_millis()).unwrap_or(u64::MAX);
    server.clock.now_ms().saturating_sub(kept_ms)
}
