//! The tasks that send: one per destination, while there is something to send.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{
    OwnedServerName, ServerName,
    api::error::{Error as MatrixError, ErrorBody, ErrorKind, LimitExceededErrorData, RetryAfter},
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tracing::{debug, error, info, warn};

use super::{
    additions,
    tables::Destinations,
    transaction::{Ephemeral, Prepared},
};
use crate::{
    Server,
    error::{Error, RemoteError, Result},
    federation::{
        backoff, request,
        status::Failures,
        tables::{Deliveries, Delivery},
    },
    store,
};

/// How long a sender waits after our own disk or another part of us failed, and at least after a server that is there took
/// nothing.
const RETRY: Duration = Duration::from_secs(5);

/// The longest that a server may tell us to wait.
const LONGEST_LATER: Duration = Duration::from_secs(60 * 60);

/// How often a transaction of one row is refused before the row is thrown away, so that the others can go.
const REFUSALS: u32 = 3;

/// How many servers that did not take what they were told last, or were never told anything, are tried at a time: many may
/// not be there, or never answer. The others wait for none of them. Source: our choice.
const TRIED_AT_ONCE: usize = 256;

/// How often a server is tried in vain until it is given up, if it may be made up: for about a day. Source: our choice,
/// docs/security.md.
const GIVEN_UP_AFTER: u32 = 30;

/// The senders that run.
pub struct Senders {
    running: Mutex<HashMap<OwnedServerName, Arc<Destination>>>,
    /// For servers of which it is not known that they are there.
    places: Semaphore,
}

impl Default for Senders {
    fn default() -> Self {
        Self { running: Mutex::default(), places: Semaphore::new(TRIED_AT_ONCE) }
    }
}

/// What a sender is told from outside.
#[derive(Default)]
pub(super) struct Destination {
    /// There may be something new to send.
    has_news: AtomicBool,
    /// Ends a pause, but for what a server is left alone at least that takes nothing.
    awake: Notify,
    /// Ends any pause.
    wanted: Notify,
    /// How it goes with a server that is there and takes nothing.
    turned_away: Mutex<Option<Failures>>,
    ephemeral: Mutex<Ephemeral>,
}

/// Sees to it that what is in a server's queue is sent.
pub fn wake(server: &Arc<Server>, destination: OwnedServerName) {
    with_sender(server, destination, |_| ());
}

/// A server that failed us works again, since it has just sent us something: sends it at once what waits for it.
pub fn is_alive(server: &Server, destination: &ServerName) {
    if let Some(sender) = server.senders.running.lock().get(destination) {
        sender.awake.notify_one();
    }
}

/// Tries a server at once, whatever became of the tries before: somebody knows better.
pub fn retry(server: &Server, destination: &ServerName) {
    if let Some(sender) = server.senders.running.lock().get(destination) {
        *sender.turned_away.lock() = None;
        sender.awake.notify_one();
        sender.wanted.notify_waiters();
    }
}

/// How a server, for which something waits, is there and takes nothing; `None` if it was not so the last time.
pub fn turned_away(server: &Server, destination: &ServerName) -> Option<Failures> {
    server.senders.running.lock().get(destination)?.turned_away.lock().clone()
}

/// Whether something is being sent, or waits for a server to work again.
pub fn is_sending(server: &Server, destination: &ServerName) -> bool {
    server.senders.running.lock().contains_key(destination)
}

/// Adds what is sent only if the server can be reached now.
pub(super) fn add_ephemeral(
    server: &Arc<Server>,
    destinations: impl IntoIterator<Item = OwnedServerName>,
    add: impl Fn(&mut Ephemeral),
) {
    for destination in destinations {
        with_sender(server, destination, |sender| add(&mut sender.ephemeral.lock()));
    }
}

fn with_sender(server: &Arc<Server>, name: OwnedServerName, tell: impl FnOnce(&Destination)) {
    let mut senders = server.senders.running.lock();
    let (sender, is_new) = match senders.get(&name) {
        Some(running) => (Arc::clone(running), false),
        None => (Arc::default(), true),
    };
    tell(&sender);
    sender.has_news.store(true, Ordering::Release);
    if is_new {
        senders.insert(name.clone(), Arc::clone(&sender));
        tokio::spawn(run(Arc::clone(server), name, sender));
    }
}

/// Starts the senders of the queues that the last run of the server left.
pub async fn resume(server: Arc<Server>) {
    let read = |snapshot: &store::Snapshot<'_>| {
        let rows = snapshot.list::<Destinations>(&());
        Ok(rows.map(|row| row.and_then(|row| Ok(row.key()?.to_owned()))).collect::<store::Result<Vec<_>>>()?)
    };
    match server.read(read).await {
        Ok(destinations) => destinations.into_iter().for_each(|destination| wake(&server, destination)),
        Err(error) => error!("the queues to other servers can't be read: {error:?}"),
    }
}

/// Sends until there is nothing left.
async fn run(server: Arc<Server>, name: OwnedServerName, sender: Arc<Destination>) {
    let work = async {
        let mut sending = Sending { server: &server, name: &name, sender: &sender, refusals: 0, at_most: usize::MAX };
        loop {
            match sending.send_next().await {
                Ok(true) => {}
                Ok(false) => {
                    let mut senders = server.senders.running.lock();
                    if !sender.has_news.load(Ordering::Acquire) {
                        senders.remove(&name);
                        return;
                    }
                }
                Err(error) => {
                    sender.ephemeral.lock().close(); // what comes meanwhile would be old, and grow
                    if let Err(error) = sending.pause(error).await {
                        error!(destination = %name, "what waits for a server can't be sent: {error:?}");
                        tokio::time::sleep(RETRY).await;
                    }
                    sender.ephemeral.lock().clear();
                }
            }
        }
    };
    tokio::select! {
        () = server.shutdown.cancelled() => {}
        () = work => {}
    }
}

struct Sending<'s> {
    server: &'s Arc<Server>,
    name: &'s ServerName,
    sender: &'s Destination,
    /// How often the present transaction was refused.
    refusals: u32,
    /// Of how many rows a transaction is made.
    at_most: usize,
}

impl<'s> Sending<'s> {
    /// Sends one transaction; `false` if there is nothing to send.
    async fn send_next(&mut self) -> Result<bool> {
        self.sender.has_news.store(false, Ordering::Release);
        // Who runs us may have changed his mind since the rows were written: they wait until he does again.
        if !super::may_tell(self.server, self.name) {
            return Ok(false);
        }
        if let Some(until) = self.left_alone_until()? {
            return Err(Error::remote(self.name, RemoteError::BackingOff { until_ms: until }));
        }
        // Before the transaction is read, which would be in memory as long as it waits.
        let place = match self.is_there()? {
            true => None,
            false => self.take_place().await?,
        };
        let (name, at_most) = (self.name.to_owned(), self.at_most);
        // What is sent again under the same id may have been taken: the other server would not look at what is new in it.
        let is_repeated = at_most != usize::MAX;
        let ephemeral =
            if is_repeated { Ephemeral::default() } else { std::mem::take(&mut *self.sender.ephemeral.lock()) };
        let prepare = move |server: &Server| Prepared::read(server, &name, ephemeral, at_most);
        let Some(prepared) = self.server.blocking(prepare).await? else {
            self.at_most = usize::MAX;
            return Ok(is_repeated); // what was to be sent again is gone, and something else may wait
        };
        let Prepared { request: transaction, rows, left } = prepared;
        self.sender.ephemeral.lock().put_back(left);
        if !rows.is_empty() {
            self.at_most = rows.len(); // until they are taken: another transaction must not go before
        }
        let is_delivered = transaction.is_some();
        if let Some(transaction) = transaction {
            let answer = request(self.server, self.name, transaction).await;
            drop(place);
            match answer {
                Ok(answer) => self.report(&answer),
                Err(Error::Remote { source: RemoteError::Refused(refusal), .. }) if is_offended(&refusal) => {
                    return self.refused(&refusal, rows).await.map(|()| true);
                }
                // Nobody can sign it: it was not sent.
                Err(Error::Refused { message, .. }) => return self.refused(&message, rows).await.map(|()| true),
                Err(error) => return Err(error),
            }
        }
        *self.sender.turned_away.lock() = None;
        (self.refusals, self.at_most) = (0, usize::MAX);
        self.remove(rows, is_delivered).await?;
        Ok(true)
    }

    /// A place among those that are tried, unless the server turns out to be there meanwhile, or is to be tried now.
    async fn take_place(&self) -> Result<Option<SemaphorePermit<'s>>> {
        let server = self.server;
        let mut place = std::pin::pin!(server.senders.places.acquire());
        loop {
            tokio::select! {
                place = &mut place => return place.map(Some).map_err(Error::internal),
                () = self.sender.awake.notified() => if self.is_there()? { return Ok(None) },
                () = self.sender.wanted.notified() => return Ok(None),
            }
        }
    }

    /// Whether the server took what it was told last.
    fn is_there(&self) -> Result<bool> {
        let snapshot = self.server.store.snapshot();
        Ok(snapshot.contains::<Deliveries>(&self.name)? && backoff::get(&snapshot, self.name)?.is_none())
    }

    fn report(&self, answer: &ruma::api::federation::transactions::send_transaction_message::v1::Response) {
        for (event, outcome) in &answer.pdus {
            if let Err(reason) = outcome {
                debug!(destination = %self.name, %event, reason, "an event was not accepted by a server");
            }
        }
    }

    /// A transaction that a server refuses, or that nobody can sign, may be so because of one thing in it: the smaller ones
    /// go, and what is refused alone is thrown away.
    async fn refused(
        &mut self,
        refusal: &(impl fmt::Display + Sync),
        rows: Vec<(store::StreamPos, u32)>,
    ) -> Result<()> {
        warn!(destination = %self.name, rows = rows.len(), %refusal, "a transaction is refused");
        if rows.len() > 1 {
            self.at_most = rows.len() / 2;
            return Ok(());
        }
        self.refusals += 1;
        if self.refusals < REFUSALS && !rows.is_empty() {
            self.wait(RETRY).await;
            return Ok(());
        }
        if !rows.is_empty() {
            error!(destination = %self.name, row = ?rows, "thrown away: it is refused again and again");
        }
        self.refusals = 0;
        self.remove(rows, false).await
    }

    /// Removes rows from the queue: the server has them, or refused them for ever.
    async fn remove(&self, rows: Vec<(store::StreamPos, u32)>, is_delivered: bool) -> Result<()> {
        let Some(&(pos, _)) = rows.last() else { return Ok(()) };
        let (name, at_ms) = (self.name.to_owned(), self.server.clock.now_ms());
        // Not durable yet: if it is lost, the rows are sent once more, which does no harm.
        let remove = move |tx: &mut store::Transaction<'_>| {
            if is_delivered {
                tx.put::<Deliveries>(&&*name, &Delivery { at_ms, pos });
            }
            additions::remove(tx, &name, &rows)
        };
        self.server.store.write(remove).await?;
        Ok(())
    }

    fn left_alone_until(&self) -> Result<Option<u64>> {
        Ok(backoff::until(self.server, self.name)?)
    }

    /// Waits until the server may be tried again, or sends us something.
    async fn pause(&self, cause: Error) -> Result<()> {
        let Error::Remote { source, .. } = &cause else { return Err(cause) };
        if !matches!(source, RemoteError::BackingOff { .. }) {
            info!(destination = %self.name, "a server can't be told anything: {source}");
            if self.give_up().await? {
                return Ok(());
            }
        }
        // Not all senders at the same moment, after an outage of our own.
        let jitter = Duration::from_millis(u64::from(self.server.random.bytes::<1>()[0]) * 4);
        if let Some(until) = self.left_alone_until()? {
            let left = Duration::from_millis(until.saturating_sub(self.server.clock.now_ms()));
            self.wait(left + jitter).await;
            return Ok(());
        }
        match source {
            RemoteError::BackingOff { .. } => {} // that has just ended
            // It is there, and answers something else than it should, or never to the end: a website on the name of a
            // server that is gone, a proxy that is not set up, a server that wants to be left alone for a while. That it
            // sends us something means little.
            RemoteError::Unreachable(_) | RemoteError::Refused(_) | RemoteError::Malformed(_) => {
                let least = later(source).unwrap_or(RETRY).clamp(RETRY, LONGEST_LATER);
                let pause = self.turned_away(source, least);
                tokio::select! {
                    () = tokio::time::sleep(least) => self.wait(pause.saturating_sub(least) + jitter).await,
                    () = self.sender.wanted.notified() => {}
                }
            }
        }
        Ok(())
    }

    /// Notes that the server was there and took nothing. For how long it is left alone: `least`, or longer.
    fn turned_away(&self, cause: &RemoteError, least: Duration) -> Duration {
        let mut turned_away = self.sender.turned_away.lock();
        let tried_ms = self.server.clock.now_ms();
        let (since_ms, before) = turned_away.as_ref().map_or((tried_ms, 0), |known| (known.since_ms, known.count));
        let count = before.saturating_add(1);
        let pause = Duration::from_millis(backoff::pause_ms(count)).max(least);
        let retry_at_ms = tried_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let reason = backoff::shortened(&cause.to_string());
        *turned_away = Some(Failures { since_ms, tried_ms, retry_at_ms, count, reason });
        pause
    }

    /// Throws away what waits for a server that nobody may ever have run; whether it was given up.
    async fn give_up(&self) -> Result<bool> {
        let backoff = backoff::get(&self.server.store.snapshot(), self.name)?;
        let failures = backoff.map_or(0, |backoff| backoff.failures);
        let turned_away = self.sender.turned_away.lock().as_ref().map_or(0, |known| known.count);
        if failures.max(turned_away) < GIVEN_UP_AFTER {
            return Ok(false);
        }
        let name = self.name.to_owned();
        let is_given_up = self.server.store.write(move |tx| additions::give_up(tx, &name)).await?.value;
        if is_given_up {
            warn!(destination = %self.name, "thrown away: to-device messages for a server that never took anything");
        }
        Ok(is_given_up)
    }

    async fn wait(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.sender.awake.notified() => {}
        }
    }
}

/// How long a server that is told too much wants to be left alone.
fn later(answer: &RemoteError) -> Option<Duration> {
    let RemoteError::Refused(refusal) = answer else { return None };
    match refusal.error_kind() {
        Some(ErrorKind::LimitExceeded(LimitExceededErrorData {
            retry_after: Some(RetryAfter::Delay(time)), ..
        })) => Some(*time),
        _ => None,
    }
}

/// Whether a server refuses what it was told, and will again: not because it is told too much at the moment, does not let
/// us in, or is none, as somebody in front of it says who knows nothing of Matrix.
fn is_offended(refusal: &MatrixError) -> bool {
    use http::StatusCode;
    const OTHER_REASONS: [StatusCode; 5] = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::METHOD_NOT_ALLOWED,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    let status = refusal.status_code;
    let is_by_itself = matches!(refusal.body, ErrorBody::Standard(_)) || status == StatusCode::PAYLOAD_TOO_LARGE;
    status.is_client_error() && !OTHER_REASONS.contains(&status) && is_by_itself
}
