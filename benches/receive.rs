//! What it costs to receive messages from another server, by the size of the room: `cargo bench --bench receive`.
//!
//! Two servers in one process, without a network between them: one founds a room of `ROOM_SIZES` (100,10000,100000) members, a user
//! of the other joins, and `MESSAGES` (2000) come in, each in a transaction of its own, as from a room where somebody says something
//! now and then. The CPU time is that of both: the sender signs each transaction, the receiver does all the rest.

#[path = "../tests/it/support/routed.rs"]
mod routed;
mod support;

use std::{
    collections::HashMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use bytes::Bytes;
use chappe::{
    Server,
    federation::{self, joining, resident::history},
    http as endpoints,
    outgoing::{Body, Client, Failure, Transport},
    room::{View, partial},
    store::RoomNid,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, RoomId, RoomVersionId,
    api::federation::transactions::send_transaction_message, server_name, user_id,
};
use rustix::param::clock_ticks_per_second;
use serde_json::value::RawValue;
use support::{Bench, message, numbers, user};

/// The servers by their names.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<HashMap<String, Router>>>);

impl Transport for Wire {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, Failure>> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let router = self.0.lock().get(&host).cloned();
        Box::pin(async move {
            let router = router.ok_or_else(|| Failure::Unreachable(format!("nobody is at {host}")))?;
            Ok(routed::answer(router, request).await)
        })
    }
}

fn main() {
    let wire = Wire::default();
    let [founder, guest] = ["bench", "there"].map(|name| {
        let bench = Bench::open(name, |_| Client::with_transport(Arc::new(wire.clone())));
        wire.0.lock().insert(name.to_owned(), endpoints::router(Arc::clone(&bench.server)));
        bench
    });
    let [count] = numbers("MESSAGES", "2000")[..] else { panic!("MESSAGES is one number") };
    for size in numbers("ROOM_SIZES", "100,10000,100000") {
        let start = Instant::now();
        let mut room = founder.room(RoomVersionId::V11);
        room.grow(size);
        let joined = Instant::now();
        let nid = founder.runtime.block_on(enter(&guest.server, &room.room_id));
        eprintln!("{size} members: made in {:.1?}, joined in {:.1?}", joined - start, joined.elapsed());
        let messages: Vec<_> = (0..count)
            .map(|_| {
                let event_id = room.send(&user(0), message());
                founder.runtime.block_on(as_sent(&founder.server, &room.room_id, event_id))
            })
            .collect();
        let (start, used) = (Instant::now(), cpu());
        founder.runtime.block_on(receive(&founder.server, &guest.server, nid, messages));
        let each = |time: Duration| time / u32::try_from(count).expect("they are not that many");
        println!(
            "{size} members: {:.2?} of CPU per message, {:.2?} of time",
            each(cpu() - used),
            each(start.elapsed())
        );
    }
}

/// What this process has used so far.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux tells it");
    let (_, after_name) = stat.rsplit_once(") ").expect("it has a name");
    let ticks = after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("it is a number"));
    Duration::from_millis(ticks.sum::<u64>() * 1_000 / clock_ticks_per_second())
}

/// A user of the server joins, and all members become known.
async fn enter(server: &Arc<Server>, room_id: &RoomId) -> RoomNid {
    let via = [server_name!("bench").to_owned()];
    joining::join(server, user_id!("@guest:there"), room_id, &via, Default::default()).await.expect("it lets him in");
    let nid = {
        let snapshot = server.store.snapshot();
        View::open(&server.rooms, &snapshot, room_id).expect("it reads").expect("it is here").nid
    };
    while partial::is_partial(&server.store.snapshot(), nid).expect("it reads") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nid
}

/// An event as other servers get it.
async fn as_sent(server: &Arc<Server>, room_id: &RoomId, event_id: OwnedEventId) -> (OwnedEventId, Box<RawValue>) {
    let question = history::Question {
        origin: OwnedServerName::try_from("there").expect("it is a name"),
        room_id: room_id.to_owned(),
        from: vec![event_id.clone()],
        limit: 1,
    };
    let mut events = history::backfill(server, question).await.expect("it may be read");
    (event_id, events.remove(0))
}

/// Sends the events one after the other, and waits until the last is in the room.
async fn receive(from: &Arc<Server>, to: &Arc<Server>, room: RoomNid, events: Vec<(OwnedEventId, Box<RawValue>)>) {
    let last = events.last().expect("there are some").0.clone();
    for (event_id, event) in events {
        let mut transaction = send_transaction_message::v1::Request::new(
            event_id.as_str()[1..].into(),
            from.owned_name(),
            MilliSecondsSinceUnixEpoch(1_u32.into()), // nobody looks at it
        );
        transaction.pdus = vec![event];
        federation::request(from, to.name(), transaction).await.expect("it is taken");
    }
    let has_come = || {
        let snapshot = to.store.snapshot();
        let view = View::of(&to.rooms, &snapshot, room).expect("it reads");
        view.event_nid(&last).expect("it reads").is_some()
    };
    while !has_come() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
