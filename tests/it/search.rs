//! Searching: <https://spec.matrix.org/v1.19/client-server-api/#server-side-search>

use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User, room::event_id};

async fn try_search(user: &User, criteria: Value, next_batch: Option<&str>) -> Answer {
    let query = next_batch.map_or_else(String::new, |token| format!("?next_batch={token}"));
    user.post(&format!("/v3/search{query}"), json!({ "search_categories": { "room_events": criteria } })).await
}

async fn search(user: &User, criteria: Value) -> Value {
    try_search(user, criteria, None).await.ok()["search_categories"]["room_events"].clone()
}

async fn next_page(user: &User, criteria: &Value, token: &Value) -> Value {
    let answer = try_search(user, criteria.clone(), Some(token.as_str().unwrap())).await.ok();
    answer["search_categories"]["room_events"].clone()
}

/// The bodies, names and topics that were found, in the order of the answer.
fn texts(found: &Value) -> Vec<&str> {
    let results = found["results"].as_array().unwrap();
    let texts = results.iter().map(|result| {
        let content = &result["result"]["content"];
        content["body"].as_str().or(content["name"].as_str()).or(content["topic"].as_str()).unwrap()
    });
    texts.collect()
}

fn recent(term: &str) -> Value {
    json!({ "search_term": term, "order_by": "recent" })
}

async fn alice_says(texts: &[&str]) -> (TestServer, User, String) {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_public_room("shared").await;
    for text in texts {
        alice.try_say(&room, text).await.ok();
    }
    (server, alice, room)
}

#[tokio::test]
async fn messages_are_found_by_all_of_the_words_whatever_case_and_accents() {
    let (_server, alice, _room) =
        alice_says(&["La réunion du préfet est reportée", "Les REUNIONS de l’agence", "préfecture", "hello, world"])
            .await;
    for (term, expected) in [
        ("reunion", vec!["Les REUNIONS de l’agence", "La réunion du préfet est reportée"]),
        ("Réunion préfet", vec!["La réunion du préfet est reportée"]),
        ("préf", vec!["préfecture", "La réunion du préfet est reportée"]),
        ("agence", vec!["Les REUNIONS de l’agence"]),
        ("WORLD hello", vec!["hello, world"]),
        ("hello agence", vec![]),
        ("ello", vec![]),
        ("", vec![]),
        ("!?", vec![]),
    ] {
        let found = search(&alice, recent(term)).await;
        assert_eq!((texts(&found), &found["count"]), (expected.clone(), &json!(expected.len())), "{term}");
    }
    let found = search(&alice, recent("hello Wörld")).await;
    assert_eq!(found["highlights"], json!(["hello", "world"]));
    let result = &found["results"][0]["result"];
    assert_eq!((&result["type"], &result["sender"]), (&json!("m.room.message"), &json!(alice.id)));
    assert!(result["room_id"].is_string() && result["event_id"].is_string() && result["unsigned"]["age"].is_u64());
}

#[tokio::test]
async fn names_and_topics_are_found_too_and_can_be_asked_for_alone() {
    let (_server, alice, room) = alice_says(&["the harbour"]).await;
    alice.set_state(&room, "m.room.name", "", json!({ "name": "Harbour watch" })).await.ok();
    let blocks = json!({ "m.text": [
        { "body": "a lighthouse" },
        { "mimetype": "text/html", "body": "<b>markup</b>" },
    ] });
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "All of the harbour", "m.topic": blocks })).await.ok();
    for (keys, expected) in [
        (json!(["content.body"]), vec!["the harbour"]),
        (json!(["content.name"]), vec!["Harbour watch"]),
        (json!(["content.topic", "content.name"]), vec!["All of the harbour", "Harbour watch"]),
    ] {
        let found = search(&alice, json!({ "search_term": "harbour", "keys": keys, "order_by": "recent" })).await;
        assert_eq!(texts(&found), expected);
    }
    assert_eq!(texts(&search(&alice, recent("lighthouse")).await), ["All of the harbour"]);
    assert_eq!(texts(&search(&alice, recent("markup")).await), Vec::<&str>::new());
    assert_eq!(texts(&search(&alice, recent("harbour")).await).len(), 3);
}

#[tokio::test]
async fn what_fits_best_comes_first_unless_the_newest_shall() {
    let texts_said = ["tower", "the tower stands by the sea and has many steps", "towers"];
    let (_server, alice, _room) = alice_says(&texts_said).await;
    let by_rank = search(&alice, json!({ "search_term": "tower" })).await;
    assert_eq!(texts(&by_rank), texts_said, "whole words before parts, short texts before long ones");
    let ranks: Vec<f64> = by_rank["results"].as_array().unwrap().iter().map(|r| r["rank"].as_f64().unwrap()).collect();
    assert!(ranks[0] > ranks[1] && ranks[1] > ranks[2] && ranks[2] > 0.0, "{ranks:?}");
    assert_eq!(texts(&search(&alice, recent("tower")).await), [texts_said[2], texts_said[1], texts_said[0]]);
}

#[tokio::test]
async fn pages_follow_each_other_until_an_empty_one() {
    let texts_said: Vec<String> = (0..7).map(|number| format!("number {number}")).collect();
    let (_server, alice, room) = alice_says(&texts_said.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for order in ["recent", "rank"] {
        let criteria = json!({ "search_term": "number", "order_by": order, "filter": { "limit": 3 } });
        let (mut found, mut pages) = (Vec::new(), 0);
        let mut page = search(&alice, criteria.clone()).await;
        loop {
            found.extend(texts(&page).into_iter().map(str::to_owned));
            pages += 1;
            assert_eq!(page["count"].as_u64(), Some(7 + u64::from(pages > 1)), "{order}");
            if pages == 1 {
                event_id(alice.try_say(&room, "number later").await); // moves nothing to another page
            }
            let Some(token) = page.get("next_batch") else { break };
            page = next_page(&alice, &criteria, token).await;
        }
        let mut expected = texts_said.clone();
        expected.reverse();
        assert_eq!((found, pages), (expected, 3), "{order}");
        let last = alice.history(&room).await.pop().unwrap();
        alice.redact(&room, last["event_id"].as_str().unwrap()).await.ok();
    }
}

#[tokio::test]
async fn only_what_the_user_may_see_is_found_and_counted() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = alice.create_public_room("joined").await;
    alice.try_say(&room, "secret before").await.ok();
    bob.join(&room).await;
    let gone = event_id(alice.try_say(&room, "secret, redacted").await);
    alice.try_say(&room, "secret together").await.ok();
    bob.try_leave(&room).await.ok();
    alice.try_say(&room, "secret after").await.ok();
    alice.redact(&room, &gone).await.ok();
    for (user, expected) in [
        (&alice, vec!["secret after", "secret together", "secret before"]),
        (&bob, vec!["secret together"]),
        (&carol, vec![]),
    ] {
        let found = search(user, recent("secret")).await;
        assert_eq!((texts(&found), &found["count"]), (expected.clone(), &json!(expected.len())));
    }
    bob.act(&room, "forget", json!({})).await.ok();
    assert_eq!(search(&bob, recent("secret")).await["count"], 0);
    let inside = server.inside();
    let report = chappe::check::check(&inside.store, inside.name()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test]
async fn a_filter_chooses_rooms_senders_and_types_and_ignored_users_are_left_out() {
    let (server, alice, room) = alice_says(&["word of alice"]).await;
    let bob = server.user("bob").await;
    bob.join(&room).await;
    bob.try_say(&room, "word of bob").await.ok();
    let other = alice.create_public_room("shared").await;
    alice.try_say(&other, "word elsewhere").await.ok();
    for (filter, expected) in [
        (json!({ "rooms": [room] }), vec!["word of bob", "word of alice"]),
        (json!({ "not_rooms": [room] }), vec!["word elsewhere"]),
        (json!({ "rooms": ["!x:example.org"] }), vec![]),
        (json!({ "senders": [bob.id] }), vec!["word of bob"]),
        (json!({ "types": ["m.room.name"] }), vec![]),
    ] {
        let criteria = json!({ "search_term": "word", "order_by": "recent", "filter": filter });
        assert_eq!(texts(&search(&alice, criteria).await), expected, "{filter}");
    }
    let path = format!("/v3/user/{}/account_data/m.ignored_user_list", alice.id);
    alice.put(&path, json!({ "ignored_users": { &bob.id: {} } })).await.ok();
    assert_eq!(texts(&search(&alice, recent("word")).await), ["word elsewhere", "word of alice"]);
}

#[tokio::test]
async fn results_come_with_context_state_and_groups_if_asked_for() {
    let (server, alice, room) = alice_says(&["1", "2", "needle", "3", "4"]).await;
    let bob = server.user("bob").await;
    bob.join(&room).await;
    let second = bob.create_public_room("shared").await;
    for n in 0..3 {
        bob.try_say(&second, &format!("needle {n}")).await.ok();
    }
    let context = json!({ "before_limit": 1, "after_limit": 2, "include_profile": true });
    let criteria = json!({ "search_term": "needle", "order_by": "recent", "event_context": context });
    let found = search(&alice, criteria).await;
    let context = &found["results"][0]["context"];
    let bodies = |events: &Value| -> Vec<String> {
        events.as_array().unwrap().iter().map(|e| e["content"]["body"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (bodies(&context["events_before"]), bodies(&context["events_after"])),
        (vec!["2".into()], vec!["3".into(), "4".into()])
    );
    assert_eq!(context["profile_info"][&alice.id], json!({}));
    let start = context["start"].as_str().unwrap();
    let page = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=1&from={start}")).await;
    assert_eq!(page.ok()["chunk"][0]["content"]["body"], "1");
    let plain = search(&bob, recent("needle")).await;
    assert_eq!((plain["results"][0].get("context"), plain.get("state"), plain.get("groups")), (None, None, None));

    let group_by = json!([{ "key": "room_id" }, { "key": "sender" }]);
    let criteria = json!({
        "search_term": "needle", "order_by": "recent", "include_state": true,
        "groupings": { "group_by": group_by }, "filter": { "limit": 2 },
    });
    let found = search(&bob, criteria.clone()).await;
    assert_eq!(texts(&found), ["needle 2", "needle 1"]);
    assert_eq!(found["state"].as_object().unwrap().keys().collect::<Vec<_>>(), [&second]);
    assert!(found["state"][&second].as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
    let group = &found["groups"]["room_id"][&second];
    assert_eq!(group["results"].as_array().unwrap().len(), 2);
    assert_eq!(found["groups"]["sender"][&bob.id]["order"], 0);
    let rest = next_page(&bob, &criteria, &group["next_batch"]).await;
    assert_eq!(texts(&rest), ["needle 0"], "of the group only");
    let rest = next_page(&bob, &criteria, &found["next_batch"]).await;
    assert_eq!(texts(&rest), ["needle 0", "needle"]);
}

#[tokio::test]
async fn contexts_have_a_size_together_and_who_gets_none_can_ask_for_it() {
    let large = "x".repeat(60_000);
    let needles: Vec<String> = (0..10).map(|number| format!("needle {number}")).collect();
    let texts_said: Vec<&str> =
        std::iter::repeat_n(large.as_str(), 20).chain(needles.iter().map(String::as_str)).collect();
    let (_server, alice, room) = alice_says(&texts_said).await;
    let mut criteria = recent("needle");
    criteria["event_context"] = json!({ "before_limit": 50, "after_limit": 0 });
    let found = search(&alice, criteria).await;
    let results = found["results"].as_array().unwrap();
    let sizes: Vec<usize> = results.iter().map(|r| r["context"]["events_before"].as_array().unwrap().len()).collect();
    assert!(sizes[..4].iter().all(|size| *size > 20) && sizes[4..] == [0; 6], "{sizes:?}");
    let start = results[9]["context"]["start"].as_str().unwrap();
    let page = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=1&from={start}")).await.ok();
    assert_eq!(page["chunk"][0]["content"]["body"], large);
}

#[tokio::test]
async fn a_room_is_searched_with_the_one_that_it_replaced() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let old = alice.create_room(json!({})).await;
    alice.try_say(&old, "upgrade before").await.ok();
    let predecessor = json!({ "predecessor": { "room_id": old } });
    let new = alice.create_room(json!({ "creation_content": predecessor })).await;
    alice.try_say(&new, "upgrade after").await.ok();
    let criteria = json!({ "search_term": "upgrade", "order_by": "recent", "filter": { "rooms": [new] } });
    assert_eq!(texts(&search(&alice, criteria).await), ["upgrade after", "upgrade before"]);
    let criteria = json!({ "search_term": "upgrade", "order_by": "recent", "filter": { "rooms": [old] } });
    assert_eq!(texts(&search(&alice, criteria).await), ["upgrade before"]);
}

#[tokio::test]
async fn encrypted_rooms_are_not_searched() {
    let (_server, alice, room) = alice_says(&["plain words"]).await;
    let content = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    alice.set_state(&room, "m.room.encryption", "", content).await.ok();
    assert_eq!(search(&alice, recent("words")).await["results"], json!([]));
}

#[tokio::test]
async fn wrong_searches_are_refused() {
    let (_server, alice, _room) = alice_says(&[]).await;
    let with = |key: &str, value: Value| {
        let mut criteria = json!({ "search_term": "x" });
        criteria[key] = value;
        criteria
    };
    for (criteria, errcode) in [
        (json!({}), "M_BAD_JSON"),
        (with("keys", json!(["content.x"])), "M_INVALID_PARAM"),
        (with("order_by", json!("luck")), "M_INVALID_PARAM"),
        (with("groupings", json!({ "group_by": [{ "key": "x" }] })), "M_INVALID_PARAM"),
        (with("filter", json!([])), "M_BAD_JSON"),
    ] {
        assert_eq!(try_search(&alice, criteria.clone(), None).await.error(), (400, errcode), "{criteria}");
    }
    for token in ["x", "AAAA", ""] {
        let refused = try_search(&alice, recent("x"), Some(token)).await;
        assert_eq!(refused.error(), (400, "M_INVALID_PARAM"), "{token}");
    }
    assert_eq!(
        alice.post("/v3/search", json!({ "search_categories": {} })).await.ok(),
        json!({ "search_categories": {} })
    );
    assert_eq!(alice.server.post("/v3/search", json!({})).await.error(), (401, "M_MISSING_TOKEN"));
}
