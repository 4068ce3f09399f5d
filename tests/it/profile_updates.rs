//! Changes of profiles in `/sync`: <https://github.com/matrix-org/matrix-spec-proposals/pull/4429>

use std::time::Duration;

use chappe::check;
use serde_json::{Value, json};

use crate::support::{TestServer, User, query};

pub const STATUS: &str = "org.example.status";
const USERS: &str = "org.matrix.msc4429.users";

pub async fn say_of_oneself(user: &User, field: &str, value: Value) {
    user.put(&format!("/v3/profile/{}/{field}", user.id), json!({ field: value })).await.ok();
}

pub async fn take_back(user: &User, field: &str) {
    user.delete(&format!("/v3/profile/{}/{field}", user.id)).await.ok();
}

fn filter(fields: &[&str]) -> Value {
    json!({ "org.matrix.msc4429.profile_fields": { "ids": fields } })
}

/// What a user is told, and up to where.
async fn news(user: &User, filter: &str, since: Option<&str>) -> (Value, String) {
    let mut pairs = vec![("filter", filter)];
    pairs.extend(since.map(|since| ("since", since)));
    let answer = user.get(&format!("/v3/sync{}", query(&pairs))).await.ok();
    (answer[USERS].clone(), answer["next_batch"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn who_asks_for_fields_hears_of_them_and_of_no_others() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let features = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(features["unstable_features"]["org.matrix.msc4429"], true);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    for user in [&alice, &carol] {
        say_of_oneself(user, "m.tz", json!("Europe/Paris")).await;
        say_of_oneself(user, "displayname", json!("Somebody")).await;
    }
    let wanted = filter(&["m.tz", STATUS]).to_string();
    assert_eq!(news(&bob, "{}", None).await.0, Value::Null);
    assert_eq!(news(&bob, &filter(&[STATUS]).to_string(), None).await.0, Value::Null);
    let (first, since) = news(&bob, &wanted, None).await;
    assert_eq!(first, json!({ &alice.id: { "profile_updates": { "m.tz": "Europe/Paris" } } }));
    assert_eq!(news(&bob, &wanted, Some(&since)).await.0, Value::Null);

    say_of_oneself(&alice, STATUS, json!({ "text": "away" })).await;
    say_of_oneself(&alice, STATUS, json!({ "text": "back" })).await;
    say_of_oneself(&alice, "displayname", json!("Alice")).await;
    say_of_oneself(&carol, STATUS, json!({ "text": "elsewhere" })).await;
    take_back(&alice, "m.tz").await;
    take_back(&alice, "org.example.never").await;
    say_of_oneself(&bob, "m.tz", json!("Europe/Berlin")).await;
    let (second, next) = news(&bob, &wanted, Some(&since)).await;
    let expected = json!({
        &alice.id: { "profile_updates": { "m.tz": null, STATUS: { "text": "back" } } },
        &bob.id: { "profile_updates": { "m.tz": "Europe/Berlin" } },
    });
    assert_eq!(second, expected);
    assert_eq!(news(&bob, &wanted, Some(&since)).await.0, expected, "again, should the answer have got lost");
    assert_eq!(news(&bob, &wanted, Some(&next)).await.0, Value::Null);
    assert_eq!(news(&bob, "{}", Some(&since)).await.0, Value::Null);

    // Who comes to share a room is told whole.
    say_of_oneself(&carol, STATUS, json!({ "text": "coming" })).await;
    carol.join(&room).await;
    let (third, _) = news(&bob, &wanted, Some(&next)).await;
    let of_carol = json!({ "m.tz": "Europe/Paris", STATUS: { "text": "coming" } });
    assert_eq!(third, json!({ &carol.id: { "profile_updates": of_carol } }));
    let report = check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

#[tokio::test]
async fn a_kept_filter_keeps_the_fields_and_a_change_wakes_who_waits() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let filters = format!("/v3/user/{}/filter", bob.id);
    let id = bob.post(&filters, filter(&[STATUS])).await.ok()["filter_id"].as_str().unwrap().to_owned();
    let kept = bob.get(&format!("{filters}/{id}")).await.ok();
    assert_eq!(kept["org.matrix.msc4429.profile_fields"], json!({ "ids": [STATUS] }));
    let (_, since) = news(&bob, &id, None).await;
    let waiting = tokio::spawn({
        let (bob, path) = (bob.clone(), format!("/v3/sync?filter={id}&since={since}&timeout=60000"));
        async move { bob.get(&path).await.ok() }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    say_of_oneself(&alice, STATUS, json!("here")).await;
    let woken = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("bob is woken").unwrap();
    assert_eq!(woken[USERS][&alice.id]["profile_updates"], json!({ STATUS: "here" }));
}

#[tokio::test]
async fn removed_fields_are_remembered_but_not_any_number_of_them() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let names: Vec<String> = (0..102).map(|number| format!("org.example.n{number:03}")).collect();
    let wanted = filter(&names.iter().map(String::as_str).collect::<Vec<_>>()).to_string();
    let (_, since) = news(&alice, &wanted, None).await;
    for name in &names {
        say_of_oneself(&alice, name, json!(1)).await;
        take_back(&alice, name).await;
    }
    let (told, _) = news(&alice, &wanted, Some(&since)).await;
    let told = told[&alice.id]["profile_updates"].as_object().unwrap().clone();
    assert_eq!(told.len(), 100);
    assert!(!told.contains_key(&names[1]) && told[&names[2]].is_null() && told[&names[101]].is_null());
}
