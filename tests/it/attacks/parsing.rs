//! D3: parsing and canonical JSON.

use axum::body::Body;
use http::{Method, header};
use ruma::CanonicalJsonValue;
use serde_json::{Value, json};

use super::Abroad;
use crate::support::{HostedRoom, Siege, hosted::id_of, query, room::path};

/// Texts that take the place of `0` in an event, and that no canonical JSON has.
fn not_canonical() -> Vec<(&'static str, String)> {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    vec![
        ("more than 2^53", "9007199254740992".to_owned()),
        ("2^63", "9223372036854775808".to_owned()),
        ("2^64", "18446744073709551616".to_owned()),
        ("below -2^53", "-9007199254740992".to_owned()),
        ("fraction", "1.5".to_owned()),
        ("exponent", "1e300".to_owned()),
        ("negative zero", "-0".to_owned()),
        ("huge exponent", "1e999999".to_owned()),
        ("duplicate key", r#"{"a":1,"a":2}"#.to_owned()),
        ("lone surrogate", r#""\ud800""#.to_owned()),
        ("nesting", nested(100_000)),
    ]
}

fn raw(body: String) -> http::Response<Body> {
    http::Response::builder().header(header::CONTENT_TYPE, "application/json").body(Body::from(body)).unwrap()
}

/// `event` with `text` in place of the number 0 of its content.
fn with(event: &Value, text: &str) -> String {
    event.to_string().replacen("\"evil\":0", &format!("\"evil\":{text}"), 1)
}

/// A message of the hosted room's owner, not yet part of it, with a 0 in its content.
fn template(room: &HostedRoom, prev: &[String]) -> Value {
    room.build("@alice:evil.test", "m.room.message", None, json!({ "body": "bad", "evil": 0 }), prev)
}

#[tokio::test]
async fn what_is_not_canonical_json_costs_only_itself_in_history_and_missing_events() {
    for (what, text) in not_canonical() {
        let abroad = Abroad::joined().await;
        let room = abroad.room.clone();
        let good = room.say("good");
        let last = room.say("last");
        let bad = with(&template(&room, std::slice::from_ref(&good)), &text);
        let big_depth = room.event(&good).to_string().replacen("\"depth\":", "\"depth\":9223372036854775808,\"x\":", 1);
        // What no signature covers may be as odd as it likes.
        let odd =
            room.event(&good).to_string().replacen('{', r#"{"unsigned":{"age_ts":1e99,"n":18446744073709551616},"#, 1);
        let missing = format!(r#"{{"events":[{bad},{big_depth},7,null,{odd}]}}"#);
        abroad
            .evil
            .on_response(Method::POST, "/_matrix/federation/v1/get_missing_events/", move |_| raw(missing.clone()));
        room.send(&abroad.home, vec![room.event(&last)]).await.ok();
        crate::support::siege::until_worked_on(&abroad.home).await;
        assert_eq!(abroad.bob.event(&room.id, &last).await.status, 200, "{what}");
        assert_eq!(abroad.bob.event(&room.id, &good).await.status, 200, "{what}");

        let create = room.event(&id_of(&room.state_event("m.room.create", "").unwrap()));
        let history = format!(r#"{{"origin":"evil.test","origin_server_ts":1,"pdus":[{bad},{create},{big_depth}]}}"#);
        abroad.evil.on_response(Method::GET, "/_matrix/federation/v1/backfill/", move |_| raw(history.clone()));
        abroad.bob.history(&room.id).await;
        abroad.check();
    }
}

#[tokio::test]
async fn what_is_not_canonical_json_costs_only_itself_in_the_state_of_a_join() {
    for (what, text) in not_canonical() {
        let abroad = Abroad::new().await;
        let room = abroad.room.clone();
        let topic = room.build("@alice:evil.test", "m.room.topic", Some(""), json!({ "topic": "x", "evil": 0 }), &[]);
        let bad = with(&topic, &text);
        abroad.evil.on_response(Method::PUT, "/_matrix/federation/v2/send_join/", move |asked| {
            let state: Vec<String> = ["m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name"]
                .into_iter()
                .filter_map(|event_type| room.state_event(event_type, ""))
                .chain(room.state_event("m.room.member", "@alice:evil.test"))
                .map(|event| event.to_string())
                .collect();
            let state = state.join(",");
            raw(format!(r#"{{"state":[{bad},{state}],"auth_chain":[{state},{bad}],"event":{}}}"#, asked.body))
        });
        assert_eq!(abroad.try_join().await.status, 200, "{what}");
        assert_eq!(abroad.bob.state(&abroad.room.id, "m.room.name", "").await.status, 200, "{what}");
        assert_eq!(abroad.bob.state(&abroad.room.id, "m.room.topic", "").await.status, 404, "{what}");
        abroad.check();
    }
}

/// What a server can have signed of [`not_canonical`], and its signed form.
fn signable() -> Vec<(&'static str, String, String)> {
    let nested = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let all = not_canonical().into_iter().filter(|(what, _)| !["lone surrogate", "nesting"].contains(what));
    let all = all.chain([("nesting", nested)]).map(|(what, text)| match what {
        "duplicate key" => (what, text, r#"{"a":2}"#.to_owned()),
        _ => (what, text.clone(), text),
    });
    all.collect()
}

fn canonical(value: Value) -> String {
    let value: CanonicalJsonValue = value.try_into().unwrap();
    serde_json::to_string(&value).unwrap()
}

#[tokio::test]
async fn what_is_not_canonical_json_costs_only_itself_in_a_transaction() {
    let siege = Siege::new().await;
    for (number, (what, text, signed)) in signable().into_iter().enumerate() {
        let good = siege.message(&format!("good {number}")).await;
        let bad = siege.event("m.room.message", None, json!({ "body": "bad", "evil": 0 })).await;
        let types = number % 2 == 0;
        let edus = json!([
            { "edu_type": "m.presence", "content": { "push": [{ "user_id": siege.mallory, "evil": 0 }] } },
            { "edu_type": "m.typing", "content": { "room_id": siege.room, "user_id": siege.mallory, "typing": types } },
        ]);
        let transaction = canonical(json!({
            "origin": siege.evil.name(), "origin_server_ts": 1, "pdus": [bad, good], "edus": edus,
        }));
        let with = |text: &str| transaction.replace("\"evil\":0", &format!("\"evil\":{text}"));
        let uri = format!("/v1/send/odd{number}");
        let forged = siege.evil.put_text(&siege.home, &uri, with(&text), &with("1")).await;
        assert_eq!(forged.error(), (401, "M_UNAUTHORIZED"), "{what}");
        let answer = siege.evil.put_text(&siege.home, &uri, with(&text), &with(&signed)).await.ok();
        assert_eq!(answer["pdus"][id_of(&good)], json!({}), "{what}: {answer}");
        assert!(answer["pdus"][id_of(&bad)]["error"].is_string(), "{what}: {answer}");
        siege.until_worked_on().await;
        assert!(siege.is_seen(&good).await, "{what}");
        assert!(!siege.is_seen(&bad).await, "{what}");
        let told = siege.alice.sync_with("").await["rooms"]["join"][&siege.room]["ephemeral"].to_string();
        assert_eq!(told.contains(&siege.mallory), types, "{what}: {told}");
    }
    siege.check().await;
}

#[tokio::test]
async fn a_join_with_a_number_that_is_not_canonical_is_looked_at_and_refused_as_what_it_is() {
    let siege = Siege::before_the_walls(|_| {}).await;
    let mut join = siege.make("make_join", &siege.evil, &siege.mallory, &siege.room).await.ok()["event"].clone();
    join["content"]["evil"] = 0.into();
    siege.sign(&mut join);
    let uri = format!("/v2/send_join/{}/{}", path(&siege.room), path(&id_of(&join)));
    let body = canonical(join).replace("\"evil\":0", "\"evil\":1e-07");
    let answer = siege.evil.put_text(&siege.home, &uri, body.clone(), &body).await;
    assert_eq!(answer.error(), (400, "M_BAD_JSON"));
    siege.check().await;
}

#[tokio::test]
async fn events_and_ids_over_their_sizes_cost_only_themselves() {
    let siege = Siege::new().await;
    let long = "x".repeat(256);
    let message = siege.message("good").await;
    let event = |change: &dyn Fn(&mut Value)| siege.changed(&message, |event| change(event));
    let bad = [
        event(&|event| event["type"] = long.as_str().into()),
        event(&|event| event["state_key"] = long.as_str().into()),
        event(&|event| event["sender"] = format!("@{long}:evil.test").into()),
        event(&|event| event["room_id"] = format!("!{long}:evil.test").into()),
        event(&|event| event["depth"] = (-1).into()),
        event(&|event| event["origin_server_ts"] = "now".into()),
        event(&|event| event["prev_events"] = json!({})),
        event(&|event| event["prev_events"] = json!([1])),
        event(&|event| event["state_key"] = json!(1)),
    ];
    // What can't even be signed.
    let mut unsigned = [message.clone(), message.clone(), message.clone(), message.clone()];
    unsigned[0]["type"] = json!(null);
    unsigned[1]["content"] = json!([]);
    unsigned[2]["signatures"] = json!([]);
    unsigned[3]["content"]["body"] = "x".repeat(65_536).into();
    siege.send(bad.iter().chain(&unsigned).cloned().chain([message.clone()]).collect()).await;
    for event in &bad {
        assert!(!siege.is_seen(event).await, "{event}");
    }
    assert!(siege.is_seen(&message).await);
    siege.check().await;
}

/// Every field that readers look at, in types that they do not expect.
fn odd_state() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("m.room.name", "", json!({ "name": 5 })),
        ("m.room.topic", "", json!({ "topic": { "a": [] }, "m.topic": 1 })),
        ("m.room.avatar", "", json!({ "url": {}, "info": "x" })),
        ("m.room.canonical_alias", "", json!({ "alias": [], "alt_aliases": "x" })),
        ("m.room.history_visibility", "", json!({ "history_visibility": 7 })),
        ("m.room.guest_access", "", json!({ "guest_access": null })),
        ("m.room.encryption", "", json!({ "algorithm": [] })),
        ("m.room.server_acl", "", json!({ "allow": ["*", 1, {}], "deny": "x" })),
        ("m.room.tombstone", "", json!({ "replacement_room": 5, "body": {} })),
        ("m.room.pinned_events", "", json!({ "pinned": "x" })),
        ("m.room.retention", "", json!({ "max_lifetime": "x" })),
        ("m.space.child", "!x:evil.test", json!({ "via": "x", "order": 5, "suggested": "yes" })),
        ("m.space.parent", "!x:evil.test", json!({ "via": {}, "canonical": 1 })),
        ("m.room.third_party_invite", "t", json!({ "public_keys": 1 })),
        ("m.call.member", "y", json!({ "memberships": 1 })),
        ("im.vector.modular.widgets", "", json!({})),
    ]
}

#[tokio::test]
async fn state_of_unexpected_types_is_kept_and_no_reader_fails_on_it() {
    let abroad = Abroad::new().await;
    let (room, alice) = (&abroad.room, "@alice:evil.test");
    for (event_type, key, content) in odd_state() {
        room.add(alice, event_type, Some(key), content);
    }
    let profile = json!({ "membership": "join", "displayname": { "a": 1 }, "avatar_url": [], "is_direct": "x" });
    room.add(alice, "m.room.member", Some(alice), profile);
    abroad.try_join().await.ok();
    for (number, content) in [
        json!({}),
        json!({ "body": 1, "msgtype": [] }),
        json!({ "body": "x", "m.relates_to": "x", "m.mentions": [] }),
        json!({ "m.relates_to": { "rel_type": 1, "event_id": {}, "m.in_reply_to": 5 } }),
        json!({ "m.relates_to": { "rel_type": "m.replace", "event_id": "$x" }, "m.new_content": 5 }),
        json!({ "m.mentions": { "user_ids": "x", "room": "x" }, "body": { "a": 1 } }),
    ]
    .into_iter()
    .enumerate()
    {
        let event = room.add(alice, "m.room.message", None, content);
        room.send(&abroad.home, vec![room.event(&event)]).await.ok();
        crate::support::siege::until_worked_on(&abroad.home).await;
        assert_eq!(abroad.bob.event(&room.id, &event).await.status, 200, "{number}");
    }
    let odd_redaction = room.add(alice, "m.room.redaction", None, json!({ "redacts": { "a": 1 } }));
    room.send(&abroad.home, vec![room.event(&odd_redaction)]).await.ok();
    crate::support::siege::until_worked_on(&abroad.home).await;

    let id = path(&room.id);
    let bob = &abroad.bob;
    for uri in [
        "/v3/sync".to_owned(),
        "/v3/sync?full_state=true".to_owned(),
        format!("/v3/rooms/{id}/messages?dir=b&limit=100"),
        format!("/v3/rooms/{id}/state"),
        format!("/v3/rooms/{id}/members"),
        format!("/v3/rooms/{id}/joined_members"),
        format!("/v1/rooms/{id}/hierarchy"),
        format!("/v1/rooms/{id}/threads"),
        format!("/v3/rooms/{id}/initialSync"),
        format!("/v1/room_summary/{id}"),
        format!("/v3/rooms/{id}/context/{}", path(&odd_redaction)),
        format!("/v1/rooms/{id}/relations/{}", path(&odd_redaction)),
        "/v3/notifications".to_owned(),
        "/v3/publicRooms".to_owned(),
    ] {
        assert_eq!(bob.get(&uri).await.status, 200, "{uri}");
    }
    let search = json!({ "search_categories": { "room_events": { "search_term": "x" } } });
    assert_eq!(bob.post("/v3/search", search).await.status, 200);
    let required = json!([["*", "*"]]);
    let lists =
        json!({ "lists": { "all": { "ranges": [[0, 10]], "timeline_limit": 20, "required_state": required } } });
    let sliding = bob.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", lists).await;
    assert_eq!(sliding.status, 200, "{}", sliding.body);
    bob.post("/v3/user_directory/search", json!({ "search_term": "x" })).await.ok();
    bob.say(&room.id, "it lives").await;
    abroad.check();
}

#[tokio::test]
async fn users_whose_ids_are_outside_the_grammar_are_members_like_all_others() {
    let abroad = Abroad::new().await;
    for localpart in ["Mixed CASE", "Ünïcode", "a/b?c#d", "\u{7f}\u{202e}", "%2e%2e", "\"quoted\""] {
        let user = format!("@{localpart}:evil.test");
        abroad.room.add(&user, "m.room.member", Some(&user), json!({ "membership": "join" }));
    }
    abroad.try_join().await.ok();
    let user = "@Ünïcode:evil.test";
    let said = abroad.room.add(user, "m.room.message", None, json!({ "body": "hi", "msgtype": "m.text" }));
    abroad.room.send(&abroad.home, vec![abroad.room.event(&said)]).await.ok();
    crate::support::siege::until_worked_on(&abroad.home).await;
    let shown = abroad.bob.event(&abroad.room.id, &said).await.ok();
    assert_eq!(shown["sender"], user);
    let members = abroad.bob.get(&format!("/v3/rooms/{}/joined_members", abroad.room.id)).await.ok();
    assert_eq!(members["joined"].as_object().unwrap().len(), 8, "{members}");
    abroad.bob.sync_with(&query(&[("full_state", "true")])[1..]).await;
    abroad.check();
}

#[tokio::test]
async fn a_body_that_is_no_json_or_nested_without_end_is_refused_and_nothing_breaks() {
    let siege = Siege::new().await;
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    for body in [deep.as_str(), "{\"a\":", "\u{0}", "[]", "1", "\"\\ud800\""] {
        let mut request = siege.evil.request(siege.home.inside().name(), Method::PUT, "/v1/send/x", Some(json!({})));
        *request.body_mut() = Body::from(body.to_owned());
        let answer = siege.home.send(request).await;
        assert!(answer.status.is_client_error(), "{body:.20}: {}", answer.status);
    }
    siege.check().await;
}
