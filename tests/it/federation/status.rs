//! How it goes with other servers, as an administrator sees it.

use std::time::Duration;

use chappe::federation::{backoff, queue, status};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{HostedRoom, Peer, START_MS, TestNetwork, TestServer, User, reply};

const DESTINATIONS: &str = "/_synapse/admin/v1/federation/destinations";
const SEND: &str = "/_matrix/federation/v1/send/";

struct Scene {
    network: TestNetwork,
    here: TestServer,
    boss: User,
    peer: Peer,
    room: HostedRoom,
}

impl Scene {
    async fn new() -> Self {
        let network = TestNetwork::new();
        let here = network.server("here").await;
        queue::start(here.inside());
        let boss = here.administrator("boss").await;
        let peer = network.peer("there");
        peer.on(Method::PUT, SEND, |_| json!({ "pdus": {} }));
        let room = HostedRoom::new(&peer);
        boss.post(&format!("/v3/join/{}?via=there", room.id), json!({})).await.ok();
        Self { network, here, boss, peer, room }
    }

    async fn status(&self) -> Value {
        self.boss.get(&format!("{DESTINATIONS}/there")).await.ok()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            let answer = self.boss.get(&format!("{DESTINATIONS}/there")).await;
            if answer.status == 200 && is_so(&answer.body) {
                return answer.body;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {}", self.status().await);
    }
}

#[tokio::test]
async fn what_was_delivered_and_how_a_server_fails_is_told_to_administrators() {
    let scene = Scene::new().await;
    scene.boss.say(&scene.room.id, "hello").await;
    // His devices are told there, too, when he has come, by a row of their own.
    let is_done = |status: &Value| status["last_successful_ts"] == START_MS && status["queue_length"] == 0;
    let delivered = scene.until("it was delivered", is_done).await;
    assert_eq!(delivered["failure_ts"], Value::Null);
    assert_eq!((&delivered["retry_last_ts"], &delivered["retry_interval"]), (&json!(0), &json!(0)));
    let pos = delivered["last_successful_stream_ordering"].as_u64().unwrap();

    scene.here.advance(Duration::from_secs(60));
    scene.network.cut_off("there");
    scene.boss.say(&scene.room.id, "can you hear me?").await;
    let failing = scene.until("it failed", |status| status["failure_ts"] != Value::Null).await;
    let now = START_MS + 60_000;
    assert_eq!((&failing["failure_ts"], &failing["retry_last_ts"]), (&json!(now), &json!(now)));
    assert_eq!((&failing["retry_interval"], &failing["retry_at_ts"]), (&json!(5_000), &json!(now + 5_000)));
    assert!(failing["queue_length"].as_u64().unwrap() >= 1);
    assert_eq!(failing["last_successful_ts"], START_MS);
    assert!(failing["last_failure"].as_str().unwrap().contains("nobody is at there"), "{failing}");

    scene.network.reconnect("there");
    let reset = format!("{DESTINATIONS}/there/reset_connection");
    scene.boss.post(&reset, json!({})).await.ok();
    let is_done = |status: &Value| status["last_successful_ts"] == now && status["queue_length"] == 0;
    let again = scene.until("it was delivered again", is_done).await;
    assert!(again["last_successful_stream_ordering"].as_u64().unwrap() > pos);
    assert_eq!(again["failure_ts"], Value::Null);
    let error = scene.boss.post(&reset, json!({})).await;
    assert_eq!(error.error(), (400, "M_UNKNOWN"), "there is nothing to reset any more");
}

#[tokio::test]
async fn a_server_that_answers_and_takes_nothing_fails_and_can_be_tried_at_once() {
    let scene = Scene::new().await;
    scene.peer.on_response(Method::PUT, SEND, |_| {
        let answer = json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "no", "retry_after_ms": 1_200_000 });
        reply(StatusCode::TOO_MANY_REQUESTS, &answer)
    });
    scene.boss.say(&scene.room.id, "hello").await;
    let failing = scene.until("it took nothing", |status| status["failure_ts"] != Value::Null).await;
    assert_eq!((&failing["failure_ts"], &failing["retry_last_ts"]), (&json!(START_MS), &json!(START_MS)));
    assert_eq!(failing["retry_interval"], 1_200_000);
    assert_eq!(failing["retry_at_ts"], START_MS + 1_200_000);
    assert!(failing["last_failure"].as_str().unwrap().contains("M_LIMIT_EXCEEDED"), "{failing}");
    let list = scene.boss.get(DESTINATIONS).await.ok();
    assert_eq!(list["destinations"][0]["failure_ts"], START_MS);

    scene.peer.on(Method::PUT, SEND, |_| json!({ "pdus": {} }));
    scene.boss.post(&format!("{DESTINATIONS}/there/reset_connection"), json!({})).await.ok();
    scene.until("it took it", |status| status["queue_length"] == 0 && status["failure_ts"] == Value::Null).await;
}

#[tokio::test]
async fn the_list_comes_in_pages_and_orders() {
    let scene = Scene::new().await;
    scene.boss.say(&scene.room.id, "hello").await;
    scene.until("it was delivered", |status| status["last_successful_ts"] == START_MS).await;
    scene.network.cut_off("there");
    backoff::failed(scene.here.inside(), scene.peer.name(), "away").await.unwrap();
    let more = move |tx: &mut chappe::store::Transaction<'_>| {
        use chappe::federation::tables::{Deliveries, Delivery};
        for name in ["a.test", "z.test"] {
            let name: &ruma::ServerName = name.try_into().unwrap();
            tx.put::<Deliveries>(&name, &Delivery { at_ms: 1, pos: chappe::store::StreamPos(1) });
        }
        Ok::<_, chappe::store::Error>(())
    };
    scene.here.inside().store.commit(more).await.unwrap();
    let names = async |query: &str| {
        let page = scene.boss.get(&format!("{DESTINATIONS}{query}")).await.ok();
        let names = page["destinations"].as_array().unwrap().iter().map(|one| one["destination"].clone());
        (Value::from_iter(names), page["total"].clone(), page["next_token"].clone())
    };
    let all = json!(["a.test", "there", "z.test"]);
    assert_eq!(names("").await, (all, json!(3), Value::Null));
    assert_eq!(names("?limit=2").await, (json!(["a.test", "there"]), json!(3), json!("2")));
    assert_eq!(names("?limit=2&from=2").await, (json!(["z.test"]), json!(3), Value::Null));
    assert_eq!(names("?dir=b&limit=1").await, (json!(["z.test"]), json!(3), json!("1")));
    assert_eq!(names("?destination=test").await, (json!(["a.test", "z.test"]), json!(2), Value::Null));
    let failing_last = json!(["a.test", "z.test", "there"]);
    for order in ["retry_last_ts", "retry_interval", "failure_ts", "last_successful_stream_ordering"] {
        assert_eq!(names(&format!("?order_by={order}")).await.0, failing_last, "{order}");
    }
    for bad in ["?order_by=size", "?dir=up", "?limit=-1", "?from=x"] {
        assert_eq!(scene.boss.get(&format!("{DESTINATIONS}{bad}")).await.status, 400, "{bad}");
    }
    let rooms = scene.boss.get(&format!("{DESTINATIONS}/there/rooms")).await.ok();
    assert_eq!((&rooms["total"], &rooms["rooms"][0]["room_id"]), (&json!(1), &json!(scene.room.id)));
    assert!(rooms["rooms"][0]["stream_ordering"].as_i64().unwrap() > 0);
}

#[tokio::test]
async fn nobody_else_sees_it_and_unknown_servers_are_not_found() {
    let scene = Scene::new().await;
    let bob = scene.here.user("bob").await;
    for path in ["", "/there", "/there/rooms"] {
        assert_eq!(bob.get(&format!("{DESTINATIONS}{path}")).await.error(), (403, "M_FORBIDDEN"));
        assert_eq!(scene.here.get(&format!("{DESTINATIONS}{path}")).await.error(), (401, "M_MISSING_TOKEN"));
    }
    let reset = format!("{DESTINATIONS}/there/reset_connection");
    assert_eq!(bob.post(&reset, json!({})).await.error(), (403, "M_FORBIDDEN"));
    for path in ["/nobody.test", "/nobody.test/rooms"] {
        assert_eq!(scene.boss.get(&format!("{DESTINATIONS}{path}")).await.error(), (404, "M_NOT_FOUND"));
    }
}

#[tokio::test]
async fn failures_of_servers_that_strangers_name_are_not_stored() {
    let network = TestNetwork::new();
    let here = network.server("here").await;
    for n in 0..20 {
        let unreachable = Peer::new(&format!("made-up-{n}.test"));
        assert_eq!(unreachable.get(&here, "/v1/query/profile?user_id=@a:here").await.status, 401);
    }
    assert!(status::list(&here.inside().store.snapshot()).unwrap().is_empty());
    let name = "made-up-0.test".try_into().unwrap();
    assert!(backoff::until(here.inside(), name).unwrap().is_some(), "it is left alone all the same");
}
