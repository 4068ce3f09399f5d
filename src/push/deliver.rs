//! Tells push gateways. Each pusher that has something to tell is a task of its own, so that a gateway which does not
//! answer holds up its own pushers, and others that do not answer at once. What is to be told is on disk until it was.

use std::{collections::HashMap, sync::Arc, thread, time::Duration};

use http::header;
use parking_lot::Mutex;
use reqwest::Url;
use ruma::{UserId, api::push_gateway::send_event_notification::v1::Notification, push::Action};
use serde::Deserialize;
use serde_json::json;
use tracing::{debug, warn};

use super::{
    gateway, letters,
    places::Places,
    pushers::{self, Kind, Pusher, PusherKey, Pushers, gateway_url},
    queue::{self, Badge, Badges, PushQueue, Waiting},
    reader, unread,
};
use crate::{
    Server,
    error::{Error, Result},
    log,
    outgoing::{self, Limits},
    room::{View, tables::Events},
    store::{Snapshot, StreamPos, Transaction},
};

/// How long is waited after the first failure; twice as long after each further one, up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// What a gateway's answer may cost. Source: our choice; it holds pushkeys of one pusher.
const LIMITS: Limits = Limits { time: Duration::from_secs(30), bytes: 64 << 10, redirects: false };

/// The pushers that have something to tell.
#[derive(Default)]
pub struct Deliveries {
    pub(super) known: reader::Known,
    /// Those that a task works for, and whether it must look again before it ends.
    running: Mutex<HashMap<PusherKey, bool>>,
    places: Places,
}

/// Makes a pusher tell what it has to. Call it when that is written.
pub fn wake(server: &Arc<Server>, key: PusherKey) {
    let mut running = server.pushes.running.lock();
    match running.get_mut(&key) {
        Some(look_again) => *look_again = true,
        None => {
            running.insert(key.clone(), false);
            tokio::spawn(run(Arc::clone(server), key));
        }
    }
}

/// As [`wake`], for all pushers of a user that tell numbers.
pub fn wake_user(server: &Arc<Server>, user: &UserId) {
    match pushers::list(&server.store.snapshot(), user) {
        Ok(pushers) => pushers.into_iter().for_each(|(key, _)| wake(server, key)),
        Err(error) => warn!(?error, "the pushers of a user can't be read"), // his next message wakes them
    }
}

/// Takes the task that works for a pusher off the list if it panics: nobody would ever begin another one. Any other end
/// is noted where it is decided, under the lock.
struct Running<'t> {
    deliveries: &'t Deliveries,
    key: &'t PusherKey,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.deliveries.running.lock().remove(self.key);
        }
    }
}

/// Tells what there is, one after the other, until there is nothing left.
async fn run(server: Arc<Server>, key: PusherKey) {
    let _running = Running { deliveries: &server.pushes, key: &key };
    let mut pause = FIRST_PAUSE;
    loop {
        let worked = tokio::select! {
            () = server.shutdown.cancelled() => return,
            worked = step(&server, &key) => worked,
        };
        match worked {
            Ok(Step::Told) => pause = FIRST_PAUSE,
            Ok(Step::Later(wait)) => {
                tokio::select! {
                    () = server.shutdown.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
            Ok(Step::Idle) => {
                let mut running = server.pushes.running.lock();
                match running.get_mut(&key) {
                    Some(look_again) if *look_again => *look_again = false,
                    _ => {
                        running.remove(&key);
                        return;
                    }
                }
            }
            Ok(Step::Failed(why)) => {
                debug!(user = %key.user, app_id = key.app_id, why, "a push gateway could not be told; trying again");
                fail(&server, &key, &mut pause).await;
            }
            Err(error) => {
                warn!(user = %key.user, ?error, "a pusher could not tell what it should; trying again");
                fail(&server, &key, &mut pause).await;
            }
        }
    }
}

/// Waits, twice as long as last time.
async fn fail(server: &Server, key: &PusherKey, pause: &mut Duration) {
    let (dropped, now_ms) = (key.clone(), server.clock.now_ms());
    let trimmed = server.store.write(move |tx| queue::trim(tx, &dropped, now_ms)).await;
    if let Err(error) = trimmed {
        warn!(?error, "what waits for a push gateway can't be trimmed");
    }
    tokio::select! {
        () = server.shutdown.cancelled() => {}
        () = tokio::time::sleep(*pause) => {}
    }
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

/// What came of trying to tell something.
pub(super) enum Step {
    Told,
    /// Not before this time is over.
    Later(Duration),
    Failed(String),
    /// There is nothing to tell.
    Idle,
}

/// Something to be told.
struct Task {
    pusher: Pusher,
    /// `None` if it is not worth telling any more.
    notification: Option<Notification>,
    event: Option<(StreamPos, crate::store::RoomNid)>,
    /// `None` if the app counts by itself.
    unread: Option<u64>,
    badge: Badge,
}

async fn step(server: &Arc<Server>, key: &PusherKey) -> Result<Step> {
    let pusher = server.store.snapshot().get::<Pushers>(&key.parts())?;
    if let Some(pusher) = pusher.filter(|pusher| pusher.kind == Kind::Email) {
        return letters::step(server, key, pusher).await;
    }
    let asked = key.clone();
    let next = server.blocking(move |server| next(server, &server.store.snapshot(), &asked)).await?;
    let Some(task) = next else { return Ok(Step::Idle) };
    if let Some(notification) = &task.notification {
        match post(server, &key.user, &task.pusher, notification).await? {
            Err(why) => return Ok(Step::Failed(why)),
            Ok(rejected) if rejected.contains(&key.pushkey) => {
                debug!(user = %key.user, app_id = key.app_id, "a push gateway does not know the pushkey any more");
                pushers::remove(server, key.clone()).await?;
                return Ok(Step::Told);
            }
            Ok(_) => {}
        }
    }
    let key = key.clone();
    // A crash before the fsync makes the gateway hear of the event twice; it tells them by their ids.
    server.store.write(move |tx| task.note_told(tx, &key)).await?;
    Ok(Step::Told)
}

impl Task {
    fn note_told(&self, tx: &mut Transaction<'_>, key: &PusherKey) -> Result<()> {
        if !tx.before().contains::<Pushers>(&key.parts())? {
            return Ok(());
        }
        if let Some((pos, room)) = self.event {
            let (user, app_id, pushkey) = key.parts();
            tx.delete::<PushQueue>(&(user, app_id, pushkey, pos, room));
        }
        let now = tx.get::<Badges>(&key.parts())?.unwrap_or_default();
        let told = if self.notification.is_some() { self.unread } else { now.told };
        // What was read while the gateway was told has still to be looked at.
        let due = now.due.filter(|due| Some(*due) != self.badge.due);
        tx.put::<Badges>(&key.parts(), &Badge { told, due });
        Ok(())
    }
}

/// The next thing to tell: the oldest event, or else the number of unread messages.
fn next(server: &Server, snapshot: &Snapshot<'_>, key: &PusherKey) -> Result<Option<Task>> {
    let Some(pusher) = snapshot.get::<Pushers>(&key.parts())? else { return Ok(None) };
    let badge = snapshot.get::<Badges>(&key.parts())?.unwrap_or_default();
    let may_tell = pushers::may_tell(snapshot, key, &pusher)?;
    let count = || (!pusher.is_badge_count_disabled).then(|| unread::total(server, snapshot, &key.user)).transpose();
    if let Some(waiting) = queue::first(snapshot, key)? {
        let unread = count()?;
        let event = Some((waiting.pos, waiting.room));
        let notification = match may_tell {
            true => of_event(server, snapshot, key, &pusher, &waiting, unread)?,
            false => None,
        };
        // The number that goes with an event is as new as one that goes alone.
        return Ok(Some(Task { pusher, notification, event, unread, badge }));
    }
    if badge.due.is_none() {
        return Ok(None);
    }
    let unread = count()?;
    let is_new = may_tell && pusher.kind == Kind::Http && badge.told != unread;
    let notification = match unread {
        Some(unread) if is_new => Some(gateway::of_count(key, &pusher, unread)?),
        _ => None,
    };
    Ok(Some(Task { pusher, notification, event: None, unread, badge }))
}

/// `None` if the event was read or removed meanwhile, or its reader left.
fn of_event(
    server: &Server,
    snapshot: &Snapshot<'_>,
    key: &PusherKey,
    pusher: &Pusher,
    waiting: &Waiting,
    unread: Option<u64>,
) -> Result<Option<Notification>> {
    // An invitation from elsewhere goes when it is declined.
    if !snapshot.contains::<Events>(&(waiting.room, waiting.push.event))? {
        return Ok(None);
    }
    let view = View::of(&server.rooms, snapshot, waiting.room)?;
    let event = view.event(waiting.push.event)?;
    let entry = log::Entry { pos: waiting.pos, room: waiting.room, event: waiting.push.event };
    let told = reader::tell(server, &view, &key.user, &entry, &event)?;
    if told.is_none_or(|told| told.has_read) {
        return Ok(None);
    }
    let actions: Vec<Action> = serde_json::from_str(&waiting.push.actions).map_err(Error::internal)?;
    gateway::of_event(&view, &event, key, pusher, &actions, unread).map(Some)
}

/// The pushkeys that the gateway rejects; the inner error says why it could not be told.
async fn post(
    server: &Arc<Server>,
    user: &UserId,
    pusher: &Pusher,
    notification: &Notification,
) -> Result<std::result::Result<Vec<String>, String>> {
    let data = pusher.data()?;
    let url = data.get("url").and_then(serde_json::Value::as_str).unwrap_or_default();
    let url = match gateway_url(server, url) {
        Ok(url) => url,
        Err(error) => return Ok(Err(format!("{error:?}"))), // the configuration was changed
    };
    let body = serde_json::to_vec(&json!({ "notification": gateway::to_json(pusher, notification)? }));
    let body = body.map_err(Error::internal)?;
    let gateway = url.origin().ascii_serialization();
    server.pushes.places.run(user, &gateway, call(server, url, body)).await
}

/// What a gateway answers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    rejected: Vec<String>,
}

async fn call(server: &Server, url: Url, body: Vec<u8>) -> std::result::Result<Vec<String>, String> {
    let request = http::Request::post(url.as_str()).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(body.into()).map_err(|error| error.to_string())?;
    let response = server.outgoing.send(request, LIMITS).await.map_err(|failure| failure.to_string())?;
    if !response.status().is_success() {
        return Err(format!("it answered {}", response.status()));
    }
    let answer = outgoing::read(response.into_body()).await.map_err(|failure| failure.to_string())?;
    // A gateway that answers something else has taken the notification all the same.
    Ok(serde_json::from_slice::<Answer>(&answer).unwrap_or_default().rejected)
}

#[cfg(test)]
mod tests {
    use std::panic;

    use ruma::user_id;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::{
        event::Draft,
        push::pushers::tests::{key, pusher},
        room::testing::{TestRoom, user},
        user::tables::{Account, Accounts},
    };

    #[test]
    fn a_pusher_whose_task_panics_is_worked_for_again() {
        let room = TestRoom::new();
        let deliveries = &room.server.pushes;
        let key = key();
        let end = |is_defect: bool| {
            deliveries.running.lock().insert(key.clone(), false);
            let task = || {
                let _running = Running { deliveries, key: &key };
                assert!(!is_defect, "as a defect would");
            };
            let ended = panic::catch_unwind(panic::AssertUnwindSafe(task));
            (ended.is_err(), deliveries.running.lock().contains_key(&key))
        };
        assert_eq!(end(true), (true, false));
        assert_eq!(end(false), (false, true), "it may be that of another task by now");
    }

    #[test]
    fn what_waits_while_an_account_is_locked_is_not_told() {
        let room = TestRoom::new();
        let bob = user_id!("@bob:b.test");
        room.receive_member(bob, "join");
        let content = to_raw_value(&json!({ "body": "hello" })).unwrap();
        let event_id = room.receive(bob, Draft::message("m.room.message".into(), content));
        let event = room.read("alice", |reader, _| reader.view().event_nid(&event_id).unwrap().unwrap());
        let (pos, nid) = (room.server.store.durable_pos(), room.nid);
        room.change(move |tx| {
            let key = key();
            let (user, app_id, pushkey) = key.parts();
            let push = queue::Push { event, actions: r#"["notify"]"#.to_owned(), at_ms: 0 };
            tx.put::<PushQueue>(&(user, app_id, pushkey, pos, nid), &push);
            tx.put::<Pushers>(&key.parts(), &pusher());
        });
        let is_told = |is_locked: bool| {
            let account = Account { is_locked, ..Account::without_password(0) };
            room.change(move |tx| tx.put::<Accounts>(&&*user("alice"), &account));
            next(&room.server, &room.server.store.snapshot(), &key()).unwrap().unwrap().notification.is_some()
        };
        assert_eq!([false, true, false].map(is_told), [true, false, true]);
    }

    #[test]
    fn an_app_that_counts_by_itself_is_told_no_number() {
        let room = TestRoom::new();
        let due = Some(room.server.store.durable_pos());
        let is_told = |is_badge_count_disabled: bool| {
            let pusher = Pusher { is_badge_count_disabled, ..pusher() };
            room.change(move |tx| {
                tx.put::<Pushers>(&key().parts(), &pusher);
                tx.put::<Badges>(&key().parts(), &Badge { told: None, due });
            });
            next(&room.server, &room.server.store.snapshot(), &key()).unwrap().unwrap().notification.is_some()
        };
        assert_eq!([false, true].map(is_told), [true, false]);
    }
}
