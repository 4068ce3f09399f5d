//! Tells each service what concerns it: one transaction at a time, in order, again and again until it was answered.

use std::{sync::Arc, time::Duration};

use http::Method;
use tracing::{debug, error, info, warn};

use super::{
    Running, call,
    tables::{Cursor, Cursors, Invites, ToDeviceRows, Transaction, Transactions},
    transaction::News,
};
use crate::{
    Server,
    error::{Error, Result},
    log::{self, Log, LogReaders},
    store::{self, Group, Scan, StreamPos, Table},
    user::tables::KeyChanges,
};

/// How long is waited after the first failure; twice as long after each further one, up to the other, or until the
/// service calls us.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// How many entries of the log, and to-device messages, wait for a service. One that lacks more of either has been away for
/// weeks: it is not told of what it missed, so that nothing grows for ever. Source: our choice; some 50 MB.
const MAX_BEHIND: usize = 1_000_000;
const MAX_TO_DEVICE: usize = 100_000;

/// What the readers of the log that belong to services are called, before their ids.
const READER: &str = "appservice/";

/// Starts to tell all services, and forgets those that are not registered any more.
pub async fn run(server: Arc<Server>) {
    if let Err(error) = forget_removed(&server).await {
        error!(?error, "what was kept for application services that are gone can't be removed");
    }
    for service in server.appservices.iter().filter(|service| service.registration.url.is_some()) {
        tokio::spawn(serve(Arc::clone(&server), Arc::clone(service)));
    }
}

/// The name by which a service reads the log.
fn reader(service: &str) -> String {
    format!("{READER}{service}")
}

/// A reader that is gone would keep the log from being swept.
async fn forget_removed(server: &Server) -> Result<()> {
    let told = server.appservices.iter().filter(|service| service.registration.url.is_some());
    let kept: Vec<String> = told.map(|service| service.registration.id.clone()).collect();
    server
        .store
        .commit(move |tx| {
            let rows: Vec<_> = tx.before().list::<LogReaders>(&()).collect::<store::Result<_>>()?;
            for row in rows {
                let name = row.key()?;
                let Some(service) = name.strip_prefix(READER) else { continue };
                if !kept.iter().any(|kept| kept == service) {
                    tx.delete::<LogReaders>(&name);
                    tx.delete::<Transactions>(&service);
                    tx.delete_all::<ToDeviceRows>(&service);
                    tx.delete_all::<Invites>(&service);
                }
            }
            Ok(())
        })
        .await
}

/// Gives up on telling services what they missed if it is too much.
pub async fn give_up(server: &Arc<Server>) -> Result<()> {
    give_up_beyond(server, MAX_BEHIND, MAX_TO_DEVICE).await
}

/// As [`give_up`], with other limits.
pub async fn give_up_beyond(server: &Arc<Server>, max_behind: usize, max_to_device: usize) -> Result<()> {
    let told = server.appservices.iter().filter(|service| service.registration.url.is_some());
    let ids: Vec<String> = told.map(|service| service.registration.id.clone()).collect();
    for id in ids {
        let (asked, name) = (id.clone(), reader(&id));
        let look = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let Some(told) = snapshot.get::<LogReaders>(&&*name)? else { return Ok(false) };
            let mut missed = snapshot.scan::<Log>(Scan::from::<Log>(&told.next(), &()));
            let mut messages = snapshot.list::<ToDeviceRows>(&&*asked);
            let is_behind = missed.nth(max_behind).transpose()?.is_some();
            Ok(is_behind || messages.nth(max_to_device).transpose()?.is_some())
        };
        if !server.blocking(look).await? {
            continue;
        }
        error!(
            service = id,
            "the application service has been away for too long: it will not be told what happened up to now"
        );
        let name = reader(&id);
        let skip = move |tx: &mut store::Transaction<'_>| {
            let now = tx.before().pos()?;
            log::done(tx, &name, now);
            tx.delete_all::<ToDeviceRows>(&&*id);
            tx.delete_all::<Invites>(&&*id);
            Ok::<_, Error>(())
        };
        server.store.commit_when_full(skip).await?;
    }
    Ok(())
}

async fn told_up_to(server: &Arc<Server>, reader: &str) -> Result<StreamPos> {
    let reader = reader.to_owned();
    server.read(move |snapshot| Ok(snapshot.get::<LogReaders>(&&*reader)?.unwrap_or_default())).await
}

async fn serve(server: Arc<Server>, service: Arc<Running>) {
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            Err(error) = tell(&server, &service) => {
                error!(service = service.registration.id, ?error, "an application service can't be told; trying again");
            }
        }
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(LONGEST_PAUSE.min(FIRST_PAUSE * 10)) => {}
        }
    }
}

/// Works until something of ours fails.
async fn tell(server: &Arc<Server>, service: &Arc<Running>) -> Result<std::convert::Infallible> {
    let id = service.registration.id.clone();
    let reader = reader(&id);
    let mut after = begin(server, &id, &reader).await?;
    let mut looked_at = StreamPos::default();
    loop {
        let asked = id.clone();
        let unanswered = server.read(move |snapshot| Ok(snapshot.get::<Transactions>(&&*asked)?)).await?;
        if let Some(transaction) = unanswered {
            send(server, service, &transaction).await;
            // It may have been away so long that what it missed was given up.
            after = told_up_to(server, &reader).await?.max(after);
            let id = id.clone();
            let forget = move |tx: &mut store::Transaction<'_>| {
                tx.delete::<Transactions>(&&*id);
                Ok::<_, Error>(())
            };
            server.store.write(forget).await?;
        }
        let durable = server.store.durable_pos();
        if has_news(server, service, after, looked_at) {
            let asked = Arc::clone(service);
            let news = server.blocking(move |server| News::gather(server, &asked, after)).await?;
            after = news.events().unwrap_or(after);
            if !news.has_more() {
                looked_at = durable;
            }
            if !news.is_nothing() {
                let (id, reader) = (id.clone(), reader.clone());
                let must_last = news.has_body();
                let written = server.store.write(move |tx| news.write(tx, &id, &reader)).await?;
                if must_last {
                    written.durable().await?;
                }
                continue;
            }
        }
        tokio::select! {
            () = service.mailbox.has_news.notified() => {}
            waited = server.store.until_durable(durable.next()) => waited?,
        }
    }
}

/// How far the service was told. A new one begins with what comes from now on.
async fn begin(server: &Server, id: &str, reader: &str) -> Result<StreamPos> {
    let (id, reader) = (id.to_owned(), reader.to_owned());
    server
        .store
        .commit(move |tx| {
            let now = tx.before().pos()?;
            if tx.get::<Cursors>(&&*id)?.is_none() {
                tx.put::<Cursors>(&&*id, &Cursor { key_changes: now, ..Cursor::default() });
            }
            if let Some(known) = tx.get::<LogReaders>(&&*reader)? {
                return Ok(known);
            }
            log::done(tx, &reader, now);
            Ok::<_, Error>(now)
        })
        .await
}

/// Whether anything may have come: `after` in the log, or after `looked_at` elsewhere.
fn has_news(server: &Server, service: &Running, after: StreamPos, looked_at: StreamPos) -> bool {
    let registration = &service.registration;
    let recent = server.store.recent();
    recent.may_have_changed::<Log>(Group::of(Log::NAME), after)
        || recent.may_have_changed::<ToDeviceRows>(Group::of(&*registration.id), looked_at)
        || recent.may_have_changed::<Invites>(Group::of(&*registration.id), looked_at)
        || registration.wants_encryption && recent.may_have_changed::<KeyChanges>(Group::of(()), looked_at)
        || !service.mailbox.is_empty()
}

/// Returns when the service has answered that it has the transaction.
async fn send(server: &Server, service: &Running, transaction: &Transaction) {
    let mut pause = FIRST_PAUSE;
    loop {
        let number = transaction.number.to_string();
        let path = ["transactions", &number];
        let body = Some(transaction.body.clone());
        let client = &server.appservices.client;
        let answered = call::request(client, &service.registration, Method::PUT, &path, &[], body).await;
        let id = &service.registration.id;
        match answered {
            Ok(_) if pause > FIRST_PAUSE => return info!(service = id, "the application service answers again"),
            Ok(_) => return debug!(service = id, number, "the application service has a transaction"),
            Err(error) if pause == FIRST_PAUSE => {
                warn!(service = id, %error, "the application service can't be told; trying again and again")
            }
            Err(error) => debug!(service = id, %error, "the application service still can't be told"),
        }
        tokio::select! {
            () = service.is_alive.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
