//! `/messages`, `/context` and `/initialSync`: a room's past in pages.

use std::time::Duration;

use chappe::{
    store::{self, RoomNid, Transaction},
    user::tables::{AccountData, AccountDatum},
};
use ruma::OwnedUserId;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{Answer, TestServer, User, query};

/// The bodies of the messages in a list of events; of other events their types.
fn bodies(events: &Value) -> Vec<&str> {
    let events = events.as_array().unwrap_or_else(|| panic!("no list: {events}"));
    events.iter().map(|event| event["content"]["body"].as_str().or(event["type"].as_str()).unwrap()).collect()
}

async fn messages(user: &User, room: &str, parameters: &[(&str, &str)]) -> Answer {
    user.get(&format!("/v3/rooms/{room}/messages{}", query(parameters))).await
}

const ONLY_MESSAGES: &str = r#"{"types":["m.room.message"]}"#;

async fn alices_room_of(texts: &[&str]) -> (TestServer, User, String) {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_public_room("shared").await;
    for text in texts {
        alice.say(&room, text).await;
    }
    (server, alice, room)
}

#[tokio::test]
async fn pages_follow_each_other_to_both_ends_of_the_room() {
    let (_server, alice, room) = alices_room_of(&["1", "2", "3", "4", "5"]).await;
    for (dir, expected) in [("b", [["5", "4"], ["3", "2"]]), ("f", [["1", "2"], ["3", "4"]])] {
        let mut from = None;
        for expected in expected {
            let mut parameters = vec![("dir", dir), ("limit", "2"), ("filter", ONLY_MESSAGES)];
            parameters.extend(from.as_deref().map(|from| ("from", from)));
            let page = messages(&alice, &room, &parameters).await.ok();
            assert_eq!(bodies(&page["chunk"]), expected);
            if let Some(from) = &from {
                assert_eq!(page["start"], *from);
            }
            from = Some(page["end"].as_str().expect("there is more").to_owned());
        }
        let parameters = [("dir", dir), ("limit", "2"), ("filter", ONLY_MESSAGES), ("from", from.as_deref().unwrap())];
        let last = messages(&alice, &room, &parameters).await.ok();
        assert_eq!(bodies(&last["chunk"]), [if dir == "b" { "1" } else { "5" }]);
        // Before the messages are events that the filter leaves out; after them something may come.
        let end = last["end"].as_str().expect("the timeline goes on");
        let beyond = messages(&alice, &room, &[("dir", dir), ("filter", ONLY_MESSAGES), ("from", end)]).await.ok();
        assert_eq!((&beyond["chunk"], beyond.get("end")), (&json!([]), None));
        if dir == "f" {
            alice.say(&room, "6").await;
            let later = messages(&alice, &room, &[("dir", dir), ("from", end)]).await.ok();
            assert_eq!(bodies(&later["chunk"]), ["6"]);
        }
    }
}

#[tokio::test]
async fn a_page_that_just_fits_says_that_it_is_the_last() {
    let (_server, alice, room) = alices_room_of(&["1", "2"]).await;
    let events = alice.history(&room).await.len().to_string();
    let page = messages(&alice, &room, &[("dir", "b"), ("limit", &events)]).await.ok();
    assert_eq!((page["chunk"].as_array().unwrap().len().to_string(), page.get("end")), (events, None));
}

#[tokio::test]
async fn events_come_whole_and_the_sender_sees_his_transaction_id() {
    let (server, alice, room) = alices_room_of(&[]).await;
    let path = format!("/v3/rooms/{room}/send/m.room.message/mine");
    let sent = alice.put(&path, json!({ "msgtype": "m.text", "body": "hi" })).await.ok();
    server.advance(std::time::Duration::from_secs(5));
    let laptop = server.log_in("alice").await;
    let newest = [("dir", "b"), ("limit", "1")];
    let event = messages(&alice, &room, &newest).await.ok()["chunk"][0].clone();
    let expected = json!({
        "type": "m.room.message", "room_id": room, "event_id": sent["event_id"], "sender": alice.id,
        "content": { "msgtype": "m.text", "body": "hi" }, "origin_server_ts": event["origin_server_ts"],
        "unsigned": { "age": 5_000, "membership": "join", "transaction_id": "mine" },
    });
    assert_eq!(event, expected);
    let by_laptop = messages(&laptop, &room, &newest).await.ok()["chunk"][0].clone();
    assert_eq!(by_laptop["unsigned"], json!({ "age": 5_000, "membership": "join" }));
}

#[tokio::test]
async fn a_page_stops_where_it_is_told_to() {
    let (_server, alice, room) = alices_room_of(&["1", "2"]).await;
    let middle = messages(&alice, &room, &[("dir", "b"), ("limit", "1")]).await.ok()["start"].clone();
    let middle = middle.as_str().unwrap();
    alice.say(&room, "3").await;
    alice.say(&room, "4").await;
    let newer = messages(&alice, &room, &[("dir", "b"), ("to", middle)]).await.ok();
    assert_eq!((bodies(&newer["chunk"]), newer.get("end")), (vec!["4", "3"], None));
    let newer = messages(&alice, &room, &[("dir", "f"), ("from", middle)]).await.ok();
    assert_eq!(bodies(&newer["chunk"]), ["3", "4"]);
    let older = messages(&alice, &room, &[("dir", "f"), ("to", middle), ("filter", ONLY_MESSAGES)]).await.ok();
    assert_eq!(bodies(&older["chunk"]), ["1", "2"]);
}

#[tokio::test]
async fn a_token_of_sync_is_a_place_in_the_room() {
    let (_server, alice, room) = alices_room_of(&["1"]).await;
    let synced = alice.get("/v3/sync").await.ok();
    let next_batch = synced["next_batch"].as_str().unwrap();
    alice.say(&room, "2").await;
    let newer = messages(&alice, &room, &[("dir", "f"), ("from", next_batch)]).await.ok();
    assert_eq!((bodies(&newer["chunk"]), &newer["start"]), (vec!["2"], &json!(next_batch)), "as it was given");
    let older = messages(&alice, &room, &[("dir", "b"), ("from", next_batch), ("limit", "1")]).await.ok();
    assert_eq!(bodies(&older["chunk"]), ["1"]);
    let prev_batch = synced["rooms"]["join"][&room]["timeline"]["prev_batch"].as_str().unwrap();
    let earlier = messages(&alice, &room, &[("dir", "b"), ("from", prev_batch)]).await.ok();
    let shown = bodies(&synced["rooms"]["join"][&room]["timeline"]["events"]).len();
    let all = messages(&alice, &room, &[("dir", "b"), ("limit", "1000"), ("to", "t0")]).await.ok();
    assert_eq!(
        bodies(&earlier["chunk"]).len() + shown + 1,
        bodies(&all["chunk"]).len(),
        "each event is on one of them"
    );
}

#[tokio::test]
async fn wrong_parameters_are_refused() {
    let (_server, alice, room) = alices_room_of(&["1"]).await;
    for parameters in [
        [("dir", "b"), ("from", "not ours")],
        [("dir", "b"), ("from", "")],
        [("dir", "b"), ("to", "s72594_4483_1934")],
        [("dir", "x"), ("limit", "1")],
        [("dir", "b"), ("limit", "-1")],
        [("dir", "b"), ("filter", "{")],
        [("dir", "b"), ("filter", r#"{"types":1}"#)],
    ] {
        let answer = messages(&alice, &room, &parameters).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{parameters:?}");
    }
    let without_dir = messages(&alice, &room, &[("limit", "1")]).await.ok();
    assert_eq!(bodies(&without_dir["chunk"]), ["m.room.create"], "forward");
    let huge = messages(&alice, &room, &[("dir", "b"), ("limit", "9007199254740991")]).await.ok();
    assert!(huge["chunk"].as_array().unwrap().len() > 1);
    // Places beyond both ends of the room are places.
    let future = messages(&alice, &room, &[("dir", "b"), ("from", "t9223372036854775807"), ("limit", "1")]).await.ok();
    assert_eq!(bodies(&future["chunk"]), ["1"]);
    let past = messages(&alice, &room, &[("dir", "b"), ("from", "t-9223372036854775808")]).await.ok();
    assert_eq!((bodies(&past["chunk"]).len(), past.get("end")), (0, None));
    let future = messages(&alice, &room, &[("dir", "f"), ("from", "s18446744073709551615_0")]).await.ok();
    assert_eq!((bodies(&future["chunk"]).len(), future.get("end")), (0, None));
}

#[tokio::test]
async fn members_that_are_loaded_lazily_are_those_who_speak() {
    let (server, alice, room) = alices_room_of(&[]).await;
    let (bob, carol) = (server.user("bob").await, server.user("carol").await);
    bob.join(&room).await;
    carol.join(&room).await;
    bob.say(&room, "1").await;
    bob.say(&room, "2").await;
    let lazy = [("dir", "b"), ("limit", "2"), ("filter", r#"{"lazy_load_members":true}"#)];
    let page = messages(&alice, &room, &lazy).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["2", "1"]);
    let state = page["state"].as_array().unwrap();
    assert_eq!((state.len(), &state[0]["state_key"], &state[0]["type"]), (1, &json!(bob.id), &json!("m.room.member")));
    assert_eq!(messages(&alice, &room, &[("dir", "b")]).await.ok().get("state"), None);
}

async fn ignore(user: &User, ignored: &User) {
    let user_id = OwnedUserId::try_from(user.id.as_str()).unwrap();
    let content = json!({ "ignored_users": { &ignored.id: {} } }).to_string();
    let put = move |tx: &mut Transaction<'_>| {
        let datum = AccountDatum { changed: tx.pos(), content };
        tx.put::<AccountData>(&(&user_id, RoomNid(0), "m.ignored_user_list"), &datum);
        Ok::<_, store::Error>(())
    };
    user.server.inside().store.commit(put).await.unwrap();
}

#[tokio::test]
async fn messages_of_those_whom_a_user_ignores_are_not_shown() {
    let (server, alice, room) = alices_room_of(&["1"]).await;
    let mallory = server.user("mallory").await;
    mallory.join(&room).await;
    mallory.say(&room, "spam").await;
    alice.say(&room, "2").await;
    ignore(&alice, &mallory).await;
    let page = messages(&alice, &room, &[("dir", "b"), ("limit", "3")]).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["2", "m.room.member", "1"]);
}

#[tokio::test]
async fn who_left_reads_up_to_his_leave_and_no_further() {
    let (server, alice, room) = alices_room_of(&["1"]).await;
    let bob = server.user("bob").await;
    bob.join(&room).await;
    alice.say(&room, "2").await;
    bob.leave(&room).await;
    alice.say(&room, "secret").await;
    let page = messages(&bob, &room, &[("dir", "b"), ("limit", "4")]).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["m.room.member", "2", "m.room.member", "1"]);
    let start = page["start"].as_str().unwrap();
    let newer = messages(&bob, &room, &[("dir", "f"), ("from", start)]).await.ok();
    assert_eq!((bodies(&newer["chunk"]).len(), newer.get("end")), (0, None));
}

#[tokio::test]
async fn an_event_is_shown_with_those_around_it_and_the_state_then() {
    let (_server, alice, room) = alices_room_of(&["1", "2"]).await;
    let middle = alice.say(&room, "3").await;
    alice.say(&room, "4").await;
    alice.set(&room, "m.room.name", "", json!({ "name": "later" })).await;
    let context = |limit: &'static str| {
        let path = format!("/v3/rooms/{room}/context/{middle}{}", query(&[("limit", limit)]));
        let alice = alice.clone();
        async move { alice.get(&path).await.ok() }
    };
    let around = context("2").await;
    assert_eq!(around["event"]["content"]["body"], "3");
    assert_eq!((bodies(&around["events_before"]), bodies(&around["events_after"])), (vec!["2"], vec!["4"]));
    let names = |around: &Value| bodies(&around["state"]).into_iter().filter(|name| *name == "m.room.name").count();
    assert_eq!((names(&around), names(&context("4").await)), (0, 1), "the state at the last event");
    assert!(bodies(&around["state"]).contains(&"m.room.create"));

    let alone = context("0").await;
    assert_eq!((&alone["events_before"], &alone["events_after"]), (&json!([]), &json!([])), "the lists are there");
    let (start, end) = (alone["start"].as_str().unwrap(), alone["end"].as_str().unwrap());
    let before = messages(&alice, &room, &[("dir", "b"), ("from", start), ("limit", "1")]).await.ok();
    let after = messages(&alice, &room, &[("dir", "f"), ("from", end), ("limit", "1")]).await.ok();
    assert_eq!((bodies(&before["chunk"]), bodies(&after["chunk"])), (vec!["2"], vec!["4"]));

    let lazy = query(&[("limit", "0"), ("filter", r#"{"lazy_load_members":true,"types":["m.room.member"]}"#)]);
    let lazy = alice.get(&format!("/v3/rooms/{room}/context/{middle}{lazy}")).await.ok();
    assert_eq!((lazy["state"].as_array().unwrap().len(), &lazy["state"][0]["state_key"]), (1, &json!(alice.id)));
    let stateless = query(&[("filter", r#"{"types":["m.room.message"]}"#)]);
    let stateless = alice.get(&format!("/v3/rooms/{room}/context/{middle}{stateless}")).await.ok();
    assert_eq!(stateless["state"], json!([]));
}

#[tokio::test]
async fn the_first_look_at_a_room_shows_its_end_and_its_state() {
    let texts: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (_server, alice, room) = alices_room_of(&texts).await;
    let look = alice.get(&format!("/v3/rooms/{room}/initialSync")).await.ok();
    assert_eq!((&look["membership"], &look["visibility"]), (&json!("join"), &json!("private")));
    assert_eq!(bodies(&look["messages"]["chunk"]), texts[10..]);
    let start = look["messages"]["start"].as_str().unwrap();
    let before = messages(&alice, &room, &[("dir", "b"), ("from", start), ("limit", "1")]).await.ok();
    assert_eq!(bodies(&before["chunk"]), ["9"]);
    assert!(bodies(&look["state"]).contains(&"m.room.power_levels"));
}

#[tokio::test]
async fn answers_with_a_whole_state_in_one_piece_are_made_a_few_at_a_time() {
    let (server, alice, room) = alices_room_of(&[]).await;
    let event = alice.say(&room, "1").await;
    let mut turns = Vec::new();
    while let Ok(turn) = timeout(Duration::from_millis(1), server.inside().long_answers.turn()).await {
        turns.push(turn.unwrap());
    }
    let paths = [format!("/v3/rooms/{room}/context/{event}"), format!("/v3/rooms/{room}/initialSync")];
    for path in &paths {
        assert!(timeout(Duration::from_millis(200), alice.get(path)).await.is_err(), "{path}");
    }
    drop(turns);
    for path in &paths {
        alice.get(path).await.ok();
    }
}
