//! D6: exhaustion by other servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Body;
use chappe::{
    background,
    error::{Error, RemoteError},
    federation,
};
use futures_util::stream;
use http::{Method, StatusCode, header};
use ruma::{api::federation::query::get_profile_information, room_version_rules::RoomVersionRules};
use serde_json::{Value, json};

use super::Abroad;
use crate::support::{
    Answer, Peer, START_MS, Siege, TestNetwork, TestServer,
    hosted::id_of,
    reply,
    room::path,
    siege::{MAX_EDUS, MAX_PDUS, until_worked_on},
};

const MISSING: &str = "/_matrix/federation/v1/get_missing_events/";

#[track_caller]
fn is_told_to_wait(answer: &Answer) {
    assert_eq!(answer.error(), (429, "M_LIMIT_EXCEEDED"));
    let seconds: u64 = answer.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!(seconds > 0);
}

#[tokio::test]
async fn a_transaction_has_at_most_what_the_specification_says() {
    let siege = Siege::new().await;
    let typing = json!({ "edu_type": "m.typing", "content": { "room_id": siege.room, "user_id": siege.mallory, "typing": true } });
    let message = siege.message("one too many").await;
    let edus = vec![typing.clone(); MAX_EDUS + 1];
    assert_eq!(siege.try_send(&siege.evil, Vec::new(), edus).await.status, 400);
    let pdus = vec![message.clone(); MAX_PDUS + 1];
    assert_eq!(siege.try_send(&siege.evil, pdus, Vec::new()).await.status, 400);
    assert!(!siege.is_seen(&message).await);
    siege.try_send(&siege.evil, vec![message.clone(); MAX_PDUS], vec![typing; MAX_EDUS]).await.ok();
    siege.until_worked_on().await;
    assert!(siege.is_seen(&message).await);
}

/// Events that wait because what is before them does not come, in more rooms than are worked on at a time.
#[tokio::test]
async fn one_server_cannot_fill_the_inbox_for_the_others() {
    let siege = Siege::new().await;
    let good = siege.network.peer("good.test");
    let carol = good.user("carol");
    let quiet = siege.alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    siege.let_in(&good, &carol, &quiet).await;
    siege.evil.on_response(Method::POST, MISSING, |_| {
        let never = stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        http::Response::builder().body(Body::from_stream(never)).unwrap()
    });
    let first = siege.message("flood").await;
    let unknown = "$0123456789012345678901234567890123456789012";
    let mut in_rooms = Vec::new();
    for _ in 0..12 {
        let room = siege.alice.create_room(json!({ "room_version": "11" })).await;
        in_rooms.push(siege.changed(&first, |event| {
            event["room_id"] = room.into();
            event["prev_events"] = json!([unknown]);
        }));
    }
    siege.try_send(&siege.evil, in_rooms, Vec::new()).await.ok();
    let mut sent = 0;
    let refused = loop {
        let flood = (0..MAX_PDUS).map(|number| {
            siege.changed(&first, |event| {
                event["prev_events"] = json!([unknown]);
                event["origin_server_ts"] = (START_MS + (sent + number) as u64).into();
            })
        });
        let answer = siege.try_send(&siege.evil, flood.collect(), Vec::new()).await;
        if !answer.status.is_success() {
            break answer;
        }
        sent += MAX_PDUS;
        assert!(sent < 10_000, "there is no end");
    };
    is_told_to_wait(&refused);
    let mut hello = siege.make("make_leave", &good, &carol, &quiet).await.ok()["event"].clone();
    hello["type"] = "m.room.message".into();
    hello["content"] = json!({ "body": "hello" });
    hello.as_object_mut().unwrap().remove("state_key");
    good.sign_event(&mut hello, &RoomVersionRules::V11);
    siege.try_send(&good, vec![hello.clone()], Vec::new()).await.ok();
    for _ in 0..500 {
        if siege.alice.event(&quiet, &id_of(&hello)).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("another server's event in another room did not come through");
}

#[tokio::test]
async fn joins_knocks_and_invites_of_one_server_are_limited_and_those_of_others_are_not() {
    let siege = Siege::before_the_walls(|config| config.rate_limits.enabled = true).await;
    let good = siege.network.peer("good.test");
    let knockable = siege.alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    siege.alice.set(&knockable, "m.room.join_rules", "", json!({ "join_rule": "knock" })).await;
    for what in ["make_join", "make_knock"] {
        let room = if what == "make_join" { &siege.room } else { &knockable };
        let refused = loop {
            let answer = siege.make(what, &siege.evil, &siege.mallory, room).await;
            if answer.status == 429 {
                break answer;
            }
            answer.ok();
        };
        is_told_to_wait(&refused);
        siege.make(what, &good, "@carol:good.test", room).await.ok();
        siege.home.advance(Duration::from_secs(200));
    }
    let invite = async |peer: &Peer, number: usize| {
        let mut event = json!({
            "type": "m.room.member", "room_id": format!("!{number}:{}", peer.name()), "sender": peer.user("x"),
            "state_key": siege.alice.id, "content": { "membership": "invite" }, "origin_server_ts": START_MS,
            "depth": 5, "prev_events": [], "auth_events": [],
        });
        peer.sign_event(&mut event, &RoomVersionRules::V11);
        let uri = format!("/v2/invite/{}/{}", path(event["room_id"].as_str().unwrap()), path(&id_of(&event)));
        peer.put(&siege.home, &uri, json!({ "room_version": "11", "event": event, "invite_room_state": [] })).await
    };
    let (mut number, mut taken) = (0, 0);
    let refused = loop {
        let answer = invite(&siege.evil, number).await;
        if answer.status == 429 {
            break answer;
        }
        if answer.status.is_success() {
            taken += 1;
        } else {
            assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
        }
        number += 1;
        assert!(number < 1_000, "there is no end");
    };
    is_told_to_wait(&refused);
    assert_eq!(taken, 100, "as many may wait");
    invite(&good, 0).await.ok();
    siege.home.advance(Duration::from_secs(200));
    invite(&siege.evil, 0).await.ok(); // the answer may have been lost
}

#[tokio::test]
async fn a_past_that_never_ends_is_not_walked() {
    let abroad = Abroad::joined().await;
    let room = &abroad.room;
    let (made, walker) = (Arc::new(AtomicUsize::new(0)), room.clone());
    let counter = Arc::clone(&made);
    let another = move || {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        let prev = [format!("${number:043}")];
        walker.build("@alice:evil.test", "m.room.message", None, json!({ "body": "x", "n": number }), &prev)
    };
    let last = another();
    let events = another.clone();
    abroad.evil.on(Method::POST, MISSING, move |_| json!({ "events": [events(), events()] }));
    abroad.evil.on(
        Method::GET,
        "/_matrix/federation/v1/event/",
        move |_| json!({ "origin": "evil.test", "origin_server_ts": 1, "pdus": [another()] }),
    );
    for endpoint in ["state_ids", "state", "event_auth"] {
        abroad.evil.refuse(Method::GET, &format!("/_matrix/federation/v1/{endpoint}/"), 404, "M_NOT_FOUND");
    }
    room.send(&abroad.home, vec![last.clone()]).await.ok();
    until_worked_on(&abroad.home).await;
    assert_eq!(abroad.bob.event(&room.id, &id_of(&last)).await.status, 404);
    let asked = abroad.evil.asked("/_matrix/federation/v1/").len();
    assert!(asked < 20, "{asked} requests for one event");
    abroad.check();
}

#[tokio::test]
async fn an_auth_chain_that_never_ends_is_not_walked() {
    let abroad = Abroad::joined().await;
    let room = abroad.room.clone();
    let mut auth = room.state_event("m.room.create", "").map(|event| id_of(&event)).unwrap();
    let end = id_of(&room.state_event("m.room.member", &abroad.bob.id).unwrap());
    let mut chain = Vec::new();
    for number in 0..400 {
        let member = json!({ "membership": "join", "n": number });
        let mut event = room.build(
            "@alice:evil.test",
            "m.room.member",
            Some("@alice:evil.test"),
            member,
            std::slice::from_ref(&end),
        );
        event["auth_events"].as_array_mut().unwrap().push(auth.into());
        room.sign(&mut event);
        auth = id_of(&event);
        chain.push((auth.clone(), event));
    }
    let wanted = chain.pop().unwrap();
    abroad.evil.refuse(Method::GET, "/_matrix/federation/v1/event_auth/", 404, "M_NOT_FOUND");
    abroad.evil.on_response(Method::GET, "/_matrix/federation/v1/event/", move |asked| {
        let found = chain.iter().find(|(id, _)| asked.uri.contains(&path(id)) || asked.uri.contains(id.as_str()));
        match found {
            Some((_, event)) => {
                reply(StatusCode::OK, &json!({ "origin": "evil.test", "origin_server_ts": 1, "pdus": [event] }))
            }
            None => reply(StatusCode::NOT_FOUND, &json!({ "errcode": "M_NOT_FOUND", "error": "no" })),
        }
    });
    room.send(&abroad.home, vec![wanted.1.clone()]).await.ok();
    until_worked_on(&abroad.home).await;
    let asked = abroad.evil.asked("/_matrix/federation/v1/event/").len();
    assert!((1..=100).contains(&asked), "{asked} requests for one event");
    assert_eq!(abroad.bob.event(&room.id, &wanted.0).await.status, 404);
    abroad.check();
}

#[tokio::test]
async fn of_missing_events_no_more_are_taken_than_were_asked_for() {
    let abroad = Abroad::joined().await;
    let room = &abroad.room;
    let missing: Vec<String> = (0..80).map(|number| room.say(&format!("missing {number}"))).collect();
    let last = room.say("last");
    abroad.evil.tell_missing(room.events(&missing));
    room.send(&abroad.home, vec![room.event(&last)]).await.ok();
    until_worked_on(&abroad.home).await;
    let asked = abroad.evil.asked(MISSING);
    let wanted: usize = asked.iter().map(|asked| asked.body["limit"].as_u64().unwrap() as usize).sum();
    let taken = known(&abroad, &missing).await;
    assert!((1..=wanted).contains(&taken), "{taken} of {wanted}");
    abroad.check();
}

#[tokio::test]
async fn of_the_past_no_more_is_taken_at_once_than_one_answer_may_have() {
    let abroad = Abroad::new().await;
    let room = &abroad.room;
    let before: Vec<String> = (0..250).map(|number| room.say(&format!("before {number}"))).collect();
    abroad.try_join().await.ok();
    abroad.bob.get(&format!("/v3/rooms/{}/messages?dir=b&limit=2", room.id)).await.ok();
    assert_eq!(abroad.evil.asked("/_matrix/federation/v1/backfill/").len(), 1);
    let taken = known(&abroad, &before).await;
    assert!((1..=200).contains(&taken), "{taken}");
    abroad.check();
}

/// How many of these events bob can see.
async fn known(abroad: &Abroad, events: &[String]) -> usize {
    let mut known = 0;
    for id in events {
        known += usize::from(abroad.bob.event(&abroad.room.id, id).await.status == StatusCode::OK);
    }
    known
}

#[tokio::test]
async fn a_state_of_more_events_than_a_room_has_is_none() {
    const STATE_IDS: &str = "/_matrix/federation/v1/state_ids/";
    let abroad = Abroad::joined().await;
    let room = &abroad.room;
    room.say("kept back");
    let (told, last) = (room.say("told"), room.say("last"));
    abroad.evil.tell_missing(room.events(std::slice::from_ref(&told)));
    let of_room = room.clone();
    abroad.evil.on(Method::GET, STATE_IDS, move |asked| {
        let mut state = of_room.state_ids(asked);
        state["pdu_ids"].as_array_mut().unwrap().resize(200_001, json!("$x"));
        state
    });
    abroad.evil.refuse(Method::GET, "/_matrix/federation/v1/event/", 404, "M_NOT_FOUND");
    room.send(&abroad.home, vec![room.event(&last)]).await.ok();
    until_worked_on(&abroad.home).await;
    assert_ne!(abroad.evil.asked(STATE_IDS).len(), 0);
    assert_eq!(abroad.evil.asked("/_matrix/federation/v1/event/").len(), 0);
    assert_eq!(known(&abroad, &[told.clone(), last.clone()]).await, 0);
    room.share_states(&abroad.evil);
    room.send(&abroad.home, vec![room.event(&last)]).await.ok();
    until_worked_on(&abroad.home).await;
    assert_eq!(known(&abroad, &[told, last]).await, 2, "it was the size of the state");
    abroad.check();
}

#[tokio::test]
async fn a_compressed_answer_is_not_unpacked() {
    let network = TestNetwork::new();
    let (home, evil) = (network.server("home.test").await, network.peer("evil.test"));
    // What a gzip of {} looks like; a bomb looks no different.
    let bomb: &[u8] = &[31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 171, 174, 5, 0, 67, 191, 166, 163, 2, 0, 0, 0];
    for encoding in ["gzip", "br", "zstd", "deflate", "GZIP", "identity, gzip"] {
        evil.on_response(Method::GET, "/_matrix/federation/v1/query/profile", move |_| {
            http::Response::builder().header(header::CONTENT_ENCODING, encoding).body(Body::from(bomb)).unwrap()
        });
        let ask = get_profile_information::v1::Request::new("@x:evil.test".try_into().unwrap());
        let failure = federation::request(home.inside(), "evil.test".try_into().unwrap(), ask).await.unwrap_err();
        assert!(matches!(&failure, Error::Remote { source: RemoteError::Malformed(_), .. }), "{encoding}: {failure:?}");
        home.advance(Duration::from_secs(60 * 60 * 24));
    }
    let asked = evil.asked("/_matrix/federation/v1/query/profile");
    assert!(asked.iter().all(|asked| asked.headers.get(header::ACCEPT_ENCODING).is_none()), "nobody asks for it");
}

#[tokio::test]
async fn an_acl_that_is_made_to_cost_time_costs_little_and_holds_for_everything() {
    let siege = Siege::new().await;
    let mut deny: Vec<String> = (0..800).map(|number| format!("{}{number}b", "*e*v*i*l".repeat(6))).collect();
    deny.push("EVIL.*".to_owned());
    let acl = json!({ "allow": ["*"], "deny": deny, "allow_ip_literals": false });
    let before = siege.message("from before").await;
    siege.alice.set(&siege.room, "m.room.server_acl", "", acl).await;
    let started = Instant::now();
    let since = siege.alice.now().await;
    let typing = json!({ "edu_type": "m.typing", "content": { "room_id": siege.room, "user_id": siege.mallory, "typing": true } });
    let receipt = json!({ "data": { "ts": 1 }, "event_ids": ["$x"] });
    let receipt =
        json!({ "edu_type": "m.receipt", "content": { &siege.room: { "m.read": { &siege.mallory: receipt } } } });
    for _ in 0..20 {
        let edus = vec![typing.clone(), receipt.clone()];
        let answer = siege.try_send(&siege.evil, vec![before.clone()], edus).await.ok();
        assert!(answer["pdus"][id_of(&before)]["error"].is_string(), "{answer}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(!siege.is_seen(&before).await);
    let news = siege.alice.sync(&since).await;
    assert!(news["rooms"]["join"][&siege.room]["ephemeral"]["events"].as_array().is_none_or(Vec::is_empty), "{news}");
    assert_eq!(siege.make("make_join", &siege.evil, &siege.mallory, &siege.room).await.error(), (403, "M_FORBIDDEN"));
    siege.check().await;
}

#[tokio::test]
async fn what_clock_a_server_has_does_not_matter() {
    let siege = Siege::new().await;
    let first = siege.message("from 1970").await;
    let first = siege.changed(&first, |event| event["origin_server_ts"] = 0.into());
    siege.send(vec![first.clone()]).await;
    let second = siege.message("from the end of time").await;
    let second = siege.changed(&second, |event| event["origin_server_ts"] = 9_007_199_254_740_991_u64.into());
    siege.send(vec![second.clone()]).await;
    let third = siege.message("from now").await;
    siege.send(vec![third.clone()]).await;
    // A key that is valid now says nothing of the year 287396: the specification has that event refused.
    assert!(!siege.is_seen(&second).await);
    let history = siege.alice.history(&siege.room).await;
    let said: Vec<_> = history.iter().filter_map(|event| event["content"]["body"].as_str()).collect();
    assert_eq!(said, ["from 1970", "from now"]);
    siege.check().await;
}

#[tokio::test]
async fn pages_go_on_beyond_events_that_were_refused() {
    let siege = Siege::new().await;
    let before = siege.alice.say(&siege.room, "before").await;
    for _ in 0..2 {
        let bad = siege.event("m.room.topic", Some(""), json!({ "topic": "no" })).await;
        let flood = (0..MAX_PDUS).map(|n| siege.changed(&bad, |event| event["content"]["n"] = n.into()));
        siege.send(flood.collect()).await;
    }
    let after = siege.alice.say(&siege.room, "after").await;
    let mut from = String::new();
    let mut seen = Vec::new();
    for _ in 0..20 {
        let page = siege.alice.get(&format!("/v3/rooms/{}/messages?dir=b&limit=1{from}", siege.room)).await.ok();
        seen.extend(page["chunk"].as_array().unwrap().iter().map(|event| event["event_id"].clone()));
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => break,
        }
    }
    assert!(seen.contains(&json!(before)) && seen.contains(&json!(after)), "{seen:?}");
    assert!(!from.is_empty());
    siege.check().await;
}

#[tokio::test]
async fn large_messages_to_devices_go_in_parts_that_every_server_takes() {
    let abroad = Abroad::joined().await;
    let send = "/_matrix/federation/v1/send/";
    // The first part is refused again and again, and holds up none of the others.
    abroad.evil.on_response(Method::PUT, send, |asked| {
        let is_first = asked.body["edus"].to_string().contains("DEVICE00");
        let status = if is_first { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::OK };
        reply(status, &json!({ "pdus": {}, "errcode": "M_TOO_LARGE", "error": "no" }))
    });
    federation::queue::start(abroad.home.inside());
    let content = json!({ "ciphertext": "x".repeat(15_000) });
    let devices: serde_json::Map<_, _> =
        (0..40).map(|number| (format!("DEVICE{number:02}"), content.clone())).collect();
    let messages = json!({ "messages": { "@alice:evil.test": devices } });
    abroad.bob.put("/v3/sendToDevice/m.room.encrypted/1", messages).await.ok();
    let delivered = || {
        let edus = abroad.evil.asked(send).into_iter().flat_map(|asked| asked.body["edus"].as_array().cloned());
        let edus = edus.flatten().filter(|edu| edu["edu_type"] == "m.direct_to_device");
        edus.map(|edu| edu["content"].clone()).collect::<Vec<Value>>()
    };
    for _ in 0..1_000 {
        let transaction = abroad.home.inside().random.text(12);
        let body = json!({ "origin": "evil.test", "origin_server_ts": 1, "pdus": [], "edus": [] });
        abroad.evil.put(&abroad.home, &format!("/v1/send/{transaction}"), body).await.ok(); // ends its pauses
        if !federation::queue::is_sending(abroad.home.inside(), "evil.test".try_into().unwrap()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let parts = delivered();
    assert!(parts.iter().all(|content| content.to_string().len() < 65_536));
    let last = parts.iter().any(|content| content["messages"]["@alice:evil.test"].get("DEVICE39").is_some());
    assert!(last && !federation::queue::is_sending(abroad.home.inside(), "evil.test".try_into().unwrap()));
}

const REGISTRATION: &str = "id: away\nurl: http://127.0.0.1:9\nas_token: a\nhs_token: h\nsender_localpart: away\n\
                            namespaces:\n  users: []\n  aliases: []\n  rooms:\n    - exclusive: false\n      regex: '.*'\n";

#[tokio::test]
async fn an_application_service_that_stays_away_does_not_make_the_log_grow_for_ever() {
    use chappe::{
        appservice::sender,
        log::{self, Log},
        store::Store,
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("away.yaml"), REGISTRATION).unwrap();
    let registrations = vec![folder.path().to_owned()];
    let server = TestServer::with(|config| config.appservice_registrations = registrations).await;
    background::start(server.inside());
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for number in 0..200 {
        alice.say(&room, &number.to_string()).await;
    }
    let entries = |store: &Store| store.snapshot().list::<Log>(&()).count();
    let inside = server.inside();
    // The others have read all there is.
    for _ in 0..500 {
        federation::queue::until_sent(inside, &[]).await.unwrap();
        log::sweep(inside).await.unwrap();
        if entries(&inside.store) <= 210 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let kept = entries(&inside.store);
    assert!(kept >= 100, "what it was not told is kept for it: {kept}");
    sender::give_up_beyond(inside, kept, 10).await.unwrap();
    log::sweep(inside).await.unwrap();
    assert_eq!(entries(&inside.store), kept, "it is not too much yet");
    sender::give_up_beyond(inside, kept / 4, 10).await.unwrap();
    for _ in 0..500 {
        log::sweep(inside).await.unwrap();
        if entries(&inside.store) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} entries are left", entries(&inside.store));
}
