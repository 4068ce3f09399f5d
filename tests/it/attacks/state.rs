//! D4: state and authorization.

use http::Method;
use ruma::room_version_rules::RoomVersionRules;
use serde_json::{Value, json};

use super::Abroad;
use crate::support::{START_MS, Siege, hosted::id_of, siege::until_worked_on};

#[tokio::test]
async fn a_second_create_event_changes_nothing_nor_does_what_it_would_allow() {
    let abroad = Abroad::joined().await;
    let (room, evil) = (&abroad.room, &abroad.evil);
    let mallory = evil.user("mallory");
    let event = |event_type: &str, state_key: &str, content: Value, prev: &[String], auth: &[String]| {
        let mut event = room.build(&mallory, event_type, Some(state_key), content, prev);
        event["auth_events"] = json!(auth);
        event["depth"] = (prev.len() + 1).into();
        room.sign(&mut event);
        event
    };
    let create = event("m.room.create", "", json!({ "room_version": "11" }), &[], &[]);
    let created = id_of(&create);
    let join = json!({ "membership": "join" });
    let member = event("m.room.member", &mallory, join, std::slice::from_ref(&created), std::slice::from_ref(&created));
    let joined = id_of(&member);
    let levels = json!({ "users": { &mallory: 100, "@alice:evil.test": 0 } });
    let auth = [created.clone(), joined.clone()];
    let levels = event("m.room.power_levels", "", levels, std::slice::from_ref(&joined), &auth);
    let other_key = event("m.room.create", "second", json!({ "room_version": "11" }), &[], &[]);
    let without_key = {
        let mut event = create.clone();
        event.as_object_mut().unwrap().remove("state_key");
        room.sign(&mut event);
        event
    };
    let all = vec![create.clone(), member.clone(), levels.clone(), other_key.clone(), without_key.clone()];
    room.send(&abroad.home, all.clone()).await.ok();
    until_worked_on(&abroad.home).await;
    // And once more by way of the auth chain of an event that is wanted.
    let chain = all.clone();
    evil.on(Method::GET, "/_matrix/federation/v1/event_auth/", move |_| json!({ "auth_chain": chain }));
    let end = id_of(&room.state_event("m.room.member", &abroad.bob.id).unwrap());
    let topic = event("m.room.topic", "", json!({ "topic": "taken over" }), &[end], &[created, joined, id_of(&levels)]);
    room.send(&abroad.home, vec![topic.clone()]).await.ok();
    until_worked_on(&abroad.home).await;
    for event in all.iter().chain([&topic]) {
        assert_eq!(abroad.bob.event(&room.id, &id_of(event)).await.status, 404, "{event}");
    }
    let state = abroad.bob.get(&format!("/v3/rooms/{}/state", room.id)).await.ok();
    let senders: Vec<_> =
        state.as_array().unwrap().iter().filter(|event| event["sender"] == mallory.as_str()).collect();
    assert!(senders.is_empty(), "{senders:?}");
    let levels = abroad.bob.state(&room.id, "m.room.power_levels", "").await.ok();
    assert_eq!(levels["users"]["@alice:evil.test"], 100);
    let said = room.say("the room goes on");
    room.send(&abroad.home, vec![room.event(&said)]).await.ok();
    until_worked_on(&abroad.home).await;
    assert_eq!(abroad.bob.event(&room.id, &said).await.status, 200);
    abroad.check();
}

#[tokio::test]
async fn a_version_12_room_whose_create_event_is_another_is_not_joined() {
    let abroad = Abroad::new().await;
    let (evil, bob) = (abroad.evil.clone(), abroad.bob.id.clone());
    let rules = &RoomVersionRules::V12;
    let mallory = evil.user("mallory");
    let create = |content: Value| {
        let mut event = json!({
            "type": "m.room.create", "state_key": "", "sender": &mallory, "content": content, "depth": 1,
            "prev_events": [], "auth_events": [], "origin_server_ts": START_MS,
        });
        evil.sign_event(&mut event, rules);
        event
    };
    let id = |event: &Value| {
        let object = serde_json::from_value(event.clone()).unwrap();
        ruma::signatures::reference_hash(&object, rules).unwrap()
    };
    let right = create(json!({ "room_version": "12" }));
    let other = create(json!({ "room_version": "12", "n": 1 }));
    let bad_creators = create(json!({ "room_version": "12", "additional_creators": { "@bob:home.test": 1 } }));
    let no_users = create(json!({ "room_version": "12", "additional_creators": ["bob", 5] }));
    for (what, named, told) in [
        ("another create event", &right, &other),
        ("creators that are no list", &bad_creators, &bad_creators),
        ("creators that are no users", &no_users, &no_users),
    ] {
        let room_id = format!("!{}", id(named));
        let event = |event_type: &str, key: &str, content: Value, auth: &[String]| {
            let mut event = json!({
                "type": event_type, "state_key": key, "sender": &mallory, "content": content, "depth": 2,
                "prev_events": [format!("${}", id(told))], "auth_events": auth, "origin_server_ts": START_MS + 1,
                "room_id": &room_id,
            });
            evil.sign_event(&mut event, rules);
            event
        };
        let member = event("m.room.member", &mallory, json!({ "membership": "join" }), &[]);
        let auth = [format!("${}", id(&member))];
        let public = event("m.room.join_rules", "", json!({ "join_rule": "public" }), &auth);
        let state = json!([told, member, public]);
        let draft = json!({
            "type": "m.room.member", "room_id": &room_id, "sender": &bob, "state_key": &bob,
            "content": { "membership": "join" }, "depth": 3, "prev_events": [format!("${}", id(&public))],
            "auth_events": [format!("${}", id(&public))], "origin_server_ts": START_MS,
        });
        evil.on(
            Method::GET,
            "/_matrix/federation/v1/make_join/",
            move |_| json!({ "room_version": "12", "event": draft }),
        );
        evil.on(
            Method::PUT,
            "/_matrix/federation/v2/send_join/",
            move |asked| json!({ "state": state, "auth_chain": state, "event": asked.body }),
        );
        let uri = format!("/v3/join/{room_id}?via=evil.test");
        let answer = abroad.bob.post(&uri, json!({})).await;
        assert!(!answer.status.is_success(), "{what}");
        let rooms = abroad.bob.get("/v3/joined_rooms").await.ok();
        assert_eq!(rooms["joined_rooms"], json!([]), "{what}");
        abroad.check();
    }
}

#[tokio::test]
async fn auth_events_that_an_event_may_not_name_have_it_refused() {
    let siege = Siege::new().await;
    let elsewhere = siege.alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    siege.let_in(&siege.evil, &siege.mallory, &elsewhere).await;
    let of_elsewhere = siege.make("make_leave", &siege.evil, &siege.mallory, &elsewhere).await.ok();
    let of_elsewhere = of_elsewhere["event"]["auth_events"][0].clone();
    let topic = siege.alice.set(&siege.room, "m.room.topic", "", json!({ "topic": "x" })).await;
    let said = siege.alice.say(&siege.room, "said").await;
    let good = siege.message("good").await;
    let refused = siege.event("m.room.power_levels", Some(""), json!({ "users": { &siege.mallory: 100 } })).await;
    siege.send(vec![refused.clone()]).await;
    let more = |id: Value| siege.changed(&good, |event| event["auth_events"].as_array_mut().unwrap().push(id));
    let bad = [
        ("of another room", more(of_elsewhere)),
        ("of no use", more(topic.into())),
        ("no state", more(said.into())),
        ("refused", more(id_of(&refused).into())),
        ("named twice", more(good["auth_events"][0].clone())),
        ("unknown", more("$0123456789012345678901234567890123456789012".into())),
        ("none at all", siege.changed(&good, |event| event["auth_events"] = json!([]))),
    ];
    let after = |event: &Value| siege.changed(&good, |later| later["prev_events"] = json!([id_of(event)]));
    let following: Vec<Value> = bad[..4].iter().map(|(_, event)| after(event)).collect();
    siege
        .send(bad.iter().map(|(_, event)| event.clone()).chain([good.clone()]).chain(following.clone()).collect())
        .await;
    for (what, event) in &bad {
        assert!(!siege.is_seen(event).await, "{what}");
    }
    for event in following.iter().chain([&good]) {
        assert!(siege.is_seen(event).await, "{event}");
    }
    siege.check().await;
}

#[tokio::test]
async fn more_auth_or_previous_events_than_an_event_may_name_have_it_refused() {
    let siege = Siege::new().await;
    let good = siege.message("good").await;
    let ids = |count: usize| (0..count).map(|number| format!("${number:043}")).collect::<Vec<_>>();
    let auth = siege.changed(&good, |event| event["auth_events"] = json!(ids(11)));
    let prev = siege.changed(&good, |event| {
        let mut prev = ids(20);
        prev.push(event["prev_events"][0].as_str().unwrap().to_owned());
        event["prev_events"] = json!(prev);
    });
    siege.send(vec![auth.clone(), prev.clone(), good.clone()]).await;
    assert!(!siege.is_seen(&auth).await && !siege.is_seen(&prev).await && siege.is_seen(&good).await);
    for endpoint in ["get_missing_events", "event", "event_auth", "state_ids"] {
        let asked = siege.evil.asked(&format!("/_matrix/federation/v1/{endpoint}/"));
        assert!(asked.is_empty(), "nothing that they name is asked for: {asked:?}");
    }
    siege.check().await;
}

#[tokio::test]
async fn what_the_rules_refuse_never_becomes_state_and_what_stands_on_it_does_not_either() {
    let siege = Siege::new().await;
    let levels = siege.event("m.room.power_levels", Some(""), json!({ "users": { &siege.mallory: 100 } })).await;
    let ban = siege.event("m.room.member", Some(&siege.alice.id), json!({ "membership": "ban" })).await;
    siege.send(vec![levels.clone(), ban.clone()]).await;
    // Mallory goes on from there as if it had been allowed.
    let topic = siege.event("m.room.topic", Some(""), json!({ "topic": "taken over" })).await;
    let uri = format!("/v3/rooms/{}/state/m.room.power_levels/?format=event", siege.room);
    let in_force = siege.alice.get(&uri).await.ok()["event_id"].clone();
    let topic = siege.changed(&topic, |event| {
        event["prev_events"] = json!([id_of(&levels)]);
        let auth = event["auth_events"].as_array_mut().unwrap();
        *auth.iter_mut().find(|id| **id == in_force).unwrap() = id_of(&levels).into();
    });
    let message = siege.message("after what was refused").await;
    let message = siege.changed(&message, |event| event["prev_events"] = json!([id_of(&levels), id_of(&ban)]));
    siege.send(vec![topic.clone(), message.clone(), levels.clone()]).await;
    for refused in [&levels, &ban, &topic] {
        assert!(!siege.is_seen(refused).await, "{refused}");
    }
    assert!(siege.is_seen(&message).await, "an event may follow on one that was refused");
    let now = siege.alice.state(&siege.room, "m.room.power_levels", "").await.ok();
    assert_eq!(now["users"], json!({ &siege.alice.id: 100 }));
    assert_eq!(siege.alice.state(&siege.room, "m.room.topic", "").await.status, 404);
    siege.check().await;
}

#[tokio::test]
async fn what_a_banned_user_sends_as_if_he_were_not_is_not_shown_and_is_no_end_of_the_room() {
    let siege = Siege::new().await;
    let before = siege.message("from before the ban").await;
    siege.alice.act(&siege.room, "ban", json!({ "user_id": siege.mallory })).await.ok();
    let since = siege.alice.now().await;
    let ends = siege.ends();
    siege.send(vec![before.clone()]).await;
    assert!(!siege.is_seen(&before).await);
    assert_eq!(siege.ends(), ends);
    assert!(siege.alice.sync(&since).await["rooms"]["join"].get(&siege.room).is_none());
    // Somebody else's event that follows on it is none the worse for it.
    let carol = siege.network.peer("good.test");
    siege.let_in(&carol, "@carol:good.test", &siege.room).await;
    let mut after = siege.make("make_leave", &carol, "@carol:good.test", &siege.room).await.ok()["event"].clone();
    after["type"] = "m.room.message".into();
    after["content"] = json!({ "body": "after it" });
    after.as_object_mut().unwrap().remove("state_key");
    after["prev_events"].as_array_mut().unwrap().push(id_of(&before).into());
    carol.sign_event(&mut after, &RoomVersionRules::V11);
    siege.try_send(&carol, vec![after.clone()], Vec::new()).await.ok();
    siege.until_worked_on().await;
    assert!(siege.is_seen(&after).await);
    assert!(!siege.is_seen(&before).await);
    siege.check().await;
}

#[tokio::test]
async fn power_levels_that_are_no_integers_are_refused() {
    let abroad = Abroad::joined().await;
    let room = &abroad.room;
    let alice = "@alice:evil.test";
    let end = [id_of(&room.state_event("m.room.member", &abroad.bob.id).unwrap())];
    for content in [
        json!({ "users": { alice: "100" } }),
        json!({ "users": { alice: 100, "@mallory:evil.test": null } }),
        json!({ "users": { alice: 100, "mallory": 100 } }),
        json!({ "users": [alice] }),
        json!({ "users": { alice: 100 }, "ban": "50" }),
        json!({ "users": { alice: 100 }, "events": { "m.room.name": " 1 " } }),
        json!({ "users": { alice: 100 }, "notifications": { "room": [] } }),
        json!({ "users": { alice: 100 }, "users_default": { "a": 1 } }),
        json!({ "users": { alice: 100, "@mallory:evil.test": 101 } }),
        json!({ "users": { alice: 100 }, "state_default": 9_007_199_254_740_991_i64 }),
    ] {
        let event = room.build(alice, "m.room.power_levels", Some(""), content, &end);
        room.send(&abroad.home, vec![event.clone()]).await.ok();
        until_worked_on(&abroad.home).await;
        assert_eq!(abroad.bob.event(&room.id, &id_of(&event)).await.status, 404, "{}", event["content"]);
    }
    let negative = json!({ "users": { alice: 100 }, "users_default": -5, "invite": -9_007_199_254_740_991_i64 });
    let event = room.build(alice, "m.room.power_levels", Some(""), negative.clone(), &end);
    room.send(&abroad.home, vec![event]).await.ok();
    until_worked_on(&abroad.home).await;
    assert_eq!(abroad.bob.state(&room.id, "m.room.power_levels", "").await.ok(), negative);
    let said = abroad.bob.try_say(&room.id, "below zero").await;
    assert_eq!(said.error(), (403, "M_FORBIDDEN"));
    abroad.check();
}

#[tokio::test]
async fn forks_do_not_multiply_the_ends_of_a_room_and_never_leave_it_without_one() {
    let siege = Siege::new().await;
    let first = siege.message("fork").await;
    let fork = |number: usize| siege.changed(&first, |event| event["content"]["n"] = number.into());
    let forks: Vec<Value> = (0..45).map(fork).collect();
    siege.send(forks.clone()).await;
    // The dummy event that makes them one is written after the last of them was worked on.
    for _ in 0..500 {
        if siege.ends() <= 10 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!((1..=10).contains(&siege.ends()), "{}", siege.ends());
    for fork in &forks {
        assert!(siege.is_seen(fork).await);
    }
    // An event that claims to follow on all of them, itself refused, takes none of them away.
    let ban = siege.event("m.room.member", Some(&siege.alice.id), json!({ "membership": "ban" })).await;
    let ends = siege.ends();
    siege.send(vec![ban]).await;
    assert_eq!(siege.ends(), ends);
    // Nor does one without any.
    let rootless = siege.changed(&first, |event| event["prev_events"] = json!([]));
    siege.send(vec![rootless.clone()]).await;
    assert!(!siege.is_seen(&rootless).await);
    siege.check().await;
}

#[tokio::test]
async fn events_that_follow_on_each_other_in_a_circle_are_dropped() {
    let siege = Siege::new().await;
    let first = siege.message("of itself").await;
    // With hashes for ids nobody can close a circle, but an event can name itself by the wrong id, and two the same one.
    let unknown = "$0123456789012345678901234567890123456789012";
    let second = siege.changed(&first, |event| event["prev_events"] = json!([unknown, unknown, id_of(&first)]));
    let third = siege.changed(&first, |event| event["prev_events"] = json!([id_of(&second), id_of(&second)]));
    siege.send(vec![third.clone(), second.clone(), first.clone()]).await;
    assert!(siege.is_seen(&first).await && !siege.is_seen(&second).await && !siege.is_seen(&third).await);
    siege.check().await;
}

#[tokio::test]
async fn after_we_left_nothing_brings_us_back_into_a_room() {
    let abroad = Abroad::joined().await;
    let (room, bob) = (&abroad.room, &abroad.bob);
    bob.leave(&room.id).await;
    let join = room.state_event("m.room.member", &bob.id).unwrap();
    let member = |membership: &str, auth: &[String]| {
        let content = json!({ "membership": membership });
        let mut event = room.build("@alice:evil.test", "m.room.member", Some(&bob.id), content, &[id_of(&join)]);
        event["auth_events"].as_array_mut().unwrap().extend(auth.iter().map(|id| json!(id)));
        room.sign(&mut event);
        event
    };
    let topic = room.build("@alice:evil.test", "m.room.topic", Some(""), json!({ "topic": "x" }), &[id_of(&join)]);
    let all = vec![join.clone(), member("join", &[]), member("ban", &[]), member("leave", &[id_of(&join)]), topic];
    let answer = room.send(&abroad.home, all.clone()).await.ok();
    until_worked_on(&abroad.home).await;
    for event in &all {
        assert!(answer["pdus"][id_of(event)]["error"].is_string(), "{answer}");
    }
    assert_eq!(bob.get("/v3/joined_rooms").await.ok()["joined_rooms"], json!([]));
    let sync = bob.sync_with("").await;
    assert!(sync["rooms"]["join"].get(&room.id).is_none() && sync["rooms"]["invite"].get(&room.id).is_none());
    abroad.check();
}
