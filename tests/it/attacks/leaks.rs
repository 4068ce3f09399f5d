//! D5: leaks to other servers and to former members.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Siege, hosted::id_of, query, room::path};

/// All that a server can ask of one event of a room.
fn questions(room: &str, event: &str) -> Vec<String> {
    let (room, event) = (path(room), path(event));
    vec![
        format!("/v1/event/{event}"),
        format!("/v1/state/{room}?event_id={event}"),
        format!("/v1/state_ids/{room}?event_id={event}"),
        format!("/v1/event_auth/{room}/{event}"),
        format!("/v1/backfill/{room}?v={event}&limit=10"),
    ]
}

#[tokio::test]
async fn what_was_refused_is_served_to_nobody() {
    let siege = Siege::new().await;
    let refused = siege.event("m.room.power_levels", Some(""), json!({ "users": { &siege.mallory: 100 } })).await;
    siege.send(vec![refused.clone()]).await;
    let unknown = "$0123456789012345678901234567890123456789012";
    let of_refused = questions(&siege.room, &id_of(&refused));
    for (of_refused, of_unknown) in of_refused.iter().zip(questions(&siege.room, unknown)) {
        let answer = siege.evil.get(&siege.home, of_refused).await;
        let same = siege.evil.get(&siege.home, &of_unknown).await;
        assert_eq!((answer.status, answer.bytes), (same.status, same.bytes), "{of_refused}");
    }
    let said = siege.alice.say(&siege.room, "after").await;
    let backfill = siege.evil.get(&siege.home, &questions(&siege.room, &said)[4]).await.ok();
    assert!(backfill["pdus"].as_array().unwrap().iter().all(|event| id_of(event) != id_of(&refused)));
}

#[tokio::test]
async fn what_was_redacted_is_gone_for_other_servers_too() {
    let siege = Siege::new().await;
    let secret = siege.alice.say(&siege.room, "a secret by mistake").await;
    siege.alice.redact(&siege.room, &secret).await.ok();
    let said = siege.alice.say(&siege.room, "after").await;
    let body = json!({ "earliest_events": [], "latest_events": [said] });
    let missing = siege.evil.post(&siege.home, &format!("/v1/get_missing_events/{}", path(&siege.room)), body).await;
    let answers = [
        siege.evil.get(&siege.home, &questions(&siege.room, &secret)[0]).await.ok(),
        siege.evil.get(&siege.home, &questions(&siege.room, &said)[4]).await.ok(),
        missing.ok(),
    ];
    for answer in answers {
        assert!(!answer.to_string().contains("by mistake"), "{answer}");
    }
    let content = siege.alice.event(&siege.room, &secret).await.ok()["content"].clone();
    assert_eq!(content, json!({}));
    let search = json!({ "search_categories": { "room_events": { "search_term": "mistake" } } });
    let found = siege.alice.post("/v3/search", search).await.ok();
    assert_eq!(found["search_categories"]["room_events"]["count"], 0);
}

/// All keys of an event that other servers are to see.
const PDU_KEYS: [&str; 14] = [
    "auth_events",
    "content",
    "depth",
    "hashes",
    "origin",
    "origin_server_ts",
    "prev_events",
    "room_id",
    "sender",
    "signatures",
    "state_key",
    "type",
    "redacts",
    "unsigned",
];

#[tokio::test]
async fn transaction_ids_devices_and_private_receipts_stay_at_home() {
    let siege = Siege::new().await;
    siege.evil.on(Method::PUT, "/_matrix/federation/v1/send/", |_| json!({ "pdus": {} }));
    chappe::federation::queue::start(siege.home.inside());
    let uri = format!("/v3/rooms/{}/send/m.room.message/my-transaction", siege.room);
    let sent = siege.alice.put(&uri, json!({ "body": "hello", "msgtype": "m.text" })).await.ok();
    let said = sent["event_id"].as_str().unwrap();
    let receipt = format!("/v3/rooms/{}/receipt/m.read.private/{}", siege.room, path(said));
    siege.alice.post(&receipt, json!({})).await.ok();
    let last = siege.alice.say(&siege.room, "the last one").await;
    let pdus = async || -> Vec<Value> {
        let asked = siege.evil.asked("/_matrix/federation/v1/send/");
        asked.iter().flat_map(|asked| asked.body["pdus"].as_array().cloned().unwrap_or_default()).collect()
    };
    for _ in 0..500 {
        if pdus().await.iter().any(|event| id_of(event) == last) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(pdus().await.iter().any(|event| id_of(event) == last));
    let by_request = siege.evil.get(&siege.home, &questions(&siege.room, said)[0]).await.ok();
    for event in pdus().await.iter().chain(by_request["pdus"].as_array().unwrap()) {
        assert!(event.as_object().unwrap().keys().all(|key| PDU_KEYS.contains(&key.as_str())), "{event}");
    }
    let told = siege.evil.asked("").iter().map(|asked| asked.body.to_string()).collect::<String>();
    for secret in ["my-transaction", "m.read.private", siege.alice.token.as_str()] {
        assert!(!told.contains(secret) && !by_request.to_string().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_in_a_room_learns_no_event_of_a_time_there() {
    let siege = Siege::new().await;
    let stranger = siege.network.peer("stranger.test");
    let query = query(&[("ts", "9999999999999"), ("dir", "b")]);
    let of_room = stranger.get(&siege.home, &format!("/v1/timestamp_to_event/{}{query}", path(&siege.room))).await;
    let of_none = stranger.get(&siege.home, &format!("/v1/timestamp_to_event/!none:home.test{query}")).await;
    assert_eq!(of_none.error(), (403, "M_FORBIDDEN"));
    assert_eq!((of_room.status, of_room.bytes), (of_none.status, of_none.bytes));
    siege.evil.get(&siege.home, &format!("/v1/timestamp_to_event/{}{query}", path(&siege.room))).await.ok();
}

#[tokio::test]
async fn a_server_whose_last_user_left_gets_nothing_that_came_afterwards() {
    let siege = Siege::new().await;
    let before = siege.alice.say(&siege.room, "while mallory was there").await;
    let leave = siege.event("m.room.member", Some(&siege.mallory), json!({ "membership": "leave" })).await;
    siege.send(vec![leave]).await;
    let after = siege.alice.say(&siege.room, "after mallory left").await;
    for id in [&before, &after] {
        for question in questions(&siege.room, id) {
            let answer = siege.evil.get(&siege.home, &question).await;
            assert!(answer.status.is_client_error(), "{question}: {}", answer.body);
            assert!(!String::from_utf8_lossy(&answer.bytes).contains("after mallory"), "{question}");
        }
    }
    let hierarchy = siege.evil.get(&siege.home, "/v1/hierarchy/!none:home.test").await;
    assert_eq!(hierarchy.error(), (404, "M_NOT_FOUND"));
}

/// Other servers had rooms in which whoever wrote a command gave it to the server.
#[tokio::test]
async fn what_looks_like_a_command_for_administrators_is_a_message() {
    let siege = Siege::new().await;
    let boss = siege.home.administrator("boss").await;
    boss.join(&siege.room).await;
    for command in ["!admin users make-user-admin @mallory:evil.test", "@conduit:home.test: list-rooms", "!chappe help"]
    {
        let message = siege.message(command).await;
        siege.send(vec![message.clone()]).await;
        assert!(siege.is_seen(&message).await);
    }
    let messages = siege.alice.history(&siege.room).await;
    let answers = messages.iter().filter(|event| event["type"] == "m.room.message");
    assert_eq!(answers.filter(|event| event["sender"] != siege.mallory.as_str()).count(), 0, "nobody answers");
    siege.check().await;
}
