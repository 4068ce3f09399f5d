//! `/sync`: <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::time::Duration;

use chappe::{
    store::{Json, RoomNid, StreamPos, Transaction},
    user::tables::{AccountData, AccountDataChanges, AccountDatum, KeyChanges, ToDevice},
};
use serde_json::{Value, json};

use crate::support::{TestServer, User};

/// `GET /sync` with these query parameters.
async fn sync(user: &User, query: &[(&str, &str)]) -> Value {
    user.get(&path(query)).await.ok()
}

fn path(query: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = query.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
    format!("/v3/sync?{}", pairs.join("&"))
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn since(user: &User, since: &str) -> Value {
    sync(user, &[("since", since)]).await
}

fn next(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}

/// A token of now.
async fn now(user: &User) -> String {
    next(&sync(user, &[]).await)
}

async fn create(user: &User, body: Value) -> String {
    user.post("/v3/createRoom", body).await.ok()["room_id"].as_str().unwrap().to_owned()
}

async fn public(user: &User) -> String {
    create(user, json!({ "preset": "public_chat" })).await
}

async fn act(user: &User, room: &str, what: &str, body: Value) {
    user.post(&format!("/v3/rooms/{room}/{what}"), body).await.ok();
}

async fn say(user: &User, room: &str, text: &str) -> String {
    let path = format!("/v3/rooms/{room}/send/m.room.message/{}", encoded(text.get(..20).unwrap_or(text)));
    let answer = user.put(&path, json!({ "msgtype": "m.text", "body": text })).await.ok();
    answer["event_id"].as_str().unwrap().to_owned()
}

async fn set(user: &User, room: &str, event_type: &str, content: Value) {
    user.put(&format!("/v3/rooms/{room}/state/{event_type}/"), content).await.ok();
}

async fn topic(user: &User, room: &str, topic: &str) {
    set(user, room, "m.room.topic", json!({ "topic": topic })).await;
}

/// What a member of `content` is in each event of a list.
fn contents(events: &Value, key: &str) -> Vec<String> {
    let events = events["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().filter_map(|event| event["content"][key].as_str()).map(ToOwned::to_owned).collect()
}

fn bodies(room: &Value) -> Vec<String> {
    contents(&room["timeline"], "body")
}

fn types(events: &Value) -> Vec<&str> {
    events["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// The users whose member events are in a list, with their membership.
fn members(events: &Value) -> Vec<(&str, &str)> {
    let events = events["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let members = events.iter().filter(|event| event["type"] == "m.room.member");
    members
        .map(|event| (event["state_key"].as_str().unwrap(), event["content"]["membership"].as_str().unwrap()))
        .collect()
}

fn rooms<'a>(answer: &'a Value, section: &str) -> Vec<&'a str> {
    answer["rooms"][section].as_object().map(|rooms| rooms.keys().map(String::as_str).collect()).unwrap_or_default()
}

/// Writes what endpoints of other areas would write.
async fn write(server: &TestServer, work: impl FnOnce(&mut Transaction<'_>) + Send + 'static) {
    let store = &server.inside().store;
    let write = move |tx: &mut Transaction<'_>| {
        work(tx);
        Ok::<_, chappe::store::Error>(())
    };
    store.commit(write).await.unwrap();
}

fn user_id(user: &User) -> ruma::OwnedUserId {
    user.id.as_str().try_into().unwrap()
}

async fn put_account_data(user: &User, room: RoomNid, event_type: &'static str, content: Value) {
    let id = user_id(user);
    write(&user.server, move |tx| {
        let changed = tx.pos();
        if let Some(before) = tx.get::<AccountData>(&(&id, room, event_type)).unwrap() {
            tx.delete::<AccountDataChanges>(&(&id, before.changed, room, event_type));
        }
        tx.put::<AccountData>(&(&id, room, event_type), &AccountDatum { changed, content: content.to_string() });
        tx.put::<AccountDataChanges>(&(&id, changed, room, event_type), &());
    })
    .await;
    let server = user.server.inside();
    server.wakers.user(server, &user_id(user));
}

#[tokio::test]
async fn an_initial_sync_shows_the_end_of_each_room_and_the_state_before_it() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    topic(&alice, &room, "first").await;
    for i in 0..10 {
        say(&alice, &room, &i.to_string()).await;
    }
    topic(&alice, &room, "second").await;

    let answer = sync(&alice, &[]).await;
    assert_eq!(rooms(&answer, "join"), [&room]);
    let shown = &answer["rooms"]["join"][&room];
    assert_eq!(shown["timeline"]["limited"], true);
    assert_eq!(bodies(shown), ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(contents(&shown["timeline"], "topic"), ["second"]);
    assert_eq!(contents(&shown["state"], "topic"), ["first"], "the state is that of before the timeline");
    assert_eq!(members(&shown["state"]), [(&*alice.id, "join")]);
    assert_eq!(types(&shown["state"])[0], "m.room.create");
    assert_eq!(shown["summary"], json!({ "m.heroes": [], "m.joined_member_count": 1, "m.invited_member_count": 0 }));
    assert!(shown["timeline"]["events"][0].get("room_id").is_none());

    let before = shown["timeline"]["prev_batch"].as_str().unwrap();
    let older = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=1&from={before}")).await.ok();
    assert_eq!(older["chunk"][0]["content"]["body"], "0", "paging goes on where the timeline begins");
}

#[tokio::test]
async fn a_room_that_fits_has_all_its_state_in_the_timeline() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let answer = sync(&alice, &[]).await;
    let shown = &answer["rooms"]["join"][&room];
    assert_eq!(shown["timeline"]["limited"], false);
    assert_eq!(types(&shown["timeline"])[0], "m.room.create");
    assert!(shown["state"] == json!({ "events": [] }));
}

#[tokio::test]
async fn an_incremental_sync_shows_the_rooms_with_news_only() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (quiet, busy) = (public(&alice).await, public(&alice).await);
    let start = now(&alice).await;
    let said = say(&alice, &busy, "hello").await;

    let answer = since(&alice, &start).await;
    assert_eq!(rooms(&answer, "join"), [&busy]);
    let shown = &answer["rooms"]["join"][&busy];
    assert_eq!(shown["timeline"]["limited"], false);
    assert_eq!(shown["timeline"]["events"][0]["event_id"], json!(said));
    assert_eq!(shown["timeline"]["events"][0]["unsigned"]["transaction_id"], "hello");
    assert!(shown["state"] == json!({ "events": [] }) && shown.get("summary").is_none());
    assert_ne!(next(&answer), start);
    assert_eq!(since(&alice, &start).await["rooms"], answer["rooms"], "the same token gets the same again");

    let nothing = since(&alice, &next(&answer)).await;
    assert!(nothing.get("rooms").is_none(), "{nothing}");
    assert!(!rooms(&nothing, "join").contains(&&*quiet));
}

#[tokio::test]
async fn changes_that_do_not_concern_a_user_advance_his_token() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let start = now(&alice).await;
    public(&bob).await;
    let answer = since(&alice, &start).await;
    assert!(answer.get("rooms").is_none());
    assert_ne!(next(&answer), start);
}

#[tokio::test]
async fn a_gap_is_told_with_the_state_that_changed_in_it() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    let start = now(&alice).await;
    topic(&alice, &room, "in the gap").await;
    act(&bob, &room, "join", json!({})).await;
    set(&alice, &room, "m.room.name", json!({ "name": "in the gap" })).await;
    say(&alice, &room, "lost").await;
    say(&alice, &room, "1").await;
    set(&alice, &room, "m.room.name", json!({ "name": "shown" })).await;
    say(&alice, &room, "2").await;

    let filter = r#"{"room":{"timeline":{"limit":3}}}"#;
    let answer = sync(&alice, &[("since", &start), ("filter", filter)]).await;
    let shown = &answer["rooms"]["join"][&room];
    assert_eq!(shown["timeline"]["limited"], true);
    assert_eq!(bodies(shown), ["1", "2"]);
    assert_eq!(contents(&shown["state"], "topic"), ["in the gap"]);
    assert_eq!(contents(&shown["state"], "name"), ["in the gap"]);
    assert_eq!(contents(&shown["timeline"], "name"), ["shown"]);
    assert_eq!(members(&shown["state"]), [(&*bob.id, "join")]);
    assert_eq!(shown["summary"]["m.joined_member_count"], 2);

    let before = shown["timeline"]["prev_batch"].as_str().unwrap();
    let gap = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&from={before}&to={start}")).await.ok();
    let types: Vec<_> = gap["chunk"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["m.room.message", "m.room.name", "m.room.member", "m.room.topic"]);
}

#[tokio::test]
async fn the_state_after_a_timeline_is_told_under_its_own_name() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let start = now(&alice).await;
    topic(&alice, &room, "first").await;
    topic(&alice, &room, "second").await;

    for (asked, key) in
        [("use_state_after", "state_after"), ("org.matrix.msc4222.use_state_after", "org.matrix.msc4222.state_after")]
    {
        let answer = sync(&alice, &[("since", &start), (asked, "true")]).await;
        let shown = &answer["rooms"]["join"][&room];
        assert_eq!(contents(&shown["timeline"], "topic"), ["first", "second"]);
        assert_eq!(contents(&shown[key], "topic"), ["second"]);
        assert!(shown.get("state").is_none());
    }
    say(&alice, &room, "hello").await;
    let later = next(&since(&alice, &start).await);
    say(&alice, &room, "again").await;
    let answer = sync(&alice, &[("since", &later), ("use_state_after", "true")]).await;
    assert_eq!(answer["rooms"]["join"][&room]["state_after"], json!({ "events": [] }), "required even if empty");
    let whole = sync(&alice, &[("use_state_after", "true")]).await;
    assert!(types(&whole["rooms"]["join"][&room]["state_after"]).contains(&"m.room.create"));
}

#[tokio::test]
async fn a_state_change_that_the_filter_hides_is_told_as_state() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let start = now(&alice).await;
    say(&alice, &room, "before").await;
    topic(&alice, &room, "hidden").await;
    say(&alice, &room, "after").await;
    let filter = r#"{"room":{"timeline":{"types":["m.room.message"]}}}"#;
    let answer = sync(&alice, &[("since", &start), ("filter", filter)]).await;
    let shown = &answer["rooms"]["join"][&room];
    assert_eq!(bodies(shown), ["before", "after"]);
    assert_eq!(contents(&shown["state"], "topic"), ["hidden"]);
    assert_eq!(shown["timeline"]["limited"], false);
}

#[tokio::test]
async fn a_newly_joined_room_comes_whole() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    for i in 0..12 {
        say(&alice, &room, &i.to_string()).await;
    }
    let start = now(&bob).await;
    act(&bob, &room, "join", json!({})).await;
    let answer = since(&bob, &start).await;
    let shown = &answer["rooms"]["join"][&room];
    assert_eq!(bodies(shown).len(), 9);
    assert_eq!(shown["timeline"]["limited"], true);
    assert!(types(&shown["state"]).contains(&"m.room.create"));
    assert_eq!(shown["summary"]["m.heroes"], json!([alice.id]));

    act(&bob, &room, "leave", json!({})).await;
    act(&bob, &room, "join", json!({})).await;
    let again = since(&bob, &next(&answer)).await;
    assert_eq!(rooms(&again, "leave"), [""; 0]);
    assert!(types(&again["rooms"]["join"][&room]["state"]).contains(&"m.room.create"), "he left in between");
}

#[tokio::test]
async fn a_left_room_is_told_once_and_only_up_to_the_leave() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let start = now(&bob).await;
    say(&alice, &room, "seen").await;
    topic(&alice, &room, "seen").await;
    act(&bob, &room, "leave", json!({})).await;
    say(&alice, &room, "not seen").await;
    topic(&alice, &room, "not seen").await;

    let answer = since(&bob, &start).await;
    assert_eq!(rooms(&answer, "join"), [""; 0]);
    let shown = &answer["rooms"]["leave"][&room];
    assert_eq!(bodies(shown), ["seen"]);
    assert_eq!(members(&shown["timeline"]), [(&*bob.id, "leave")]);
    assert!(shown["state"] == json!({ "events": [] }), "{shown}");
    say(&alice, &room, "later").await;
    assert!(since(&bob, &next(&answer)).await.get("rooms").is_none());
    assert!(sync(&bob, &[]).await.get("rooms").is_none(), "left rooms come only if asked for");

    let filter = r#"{"room":{"include_leave":true,"timeline":{"limit":1}}}"#;
    let whole = sync(&bob, &[("filter", filter)]).await;
    let shown = &whole["rooms"]["leave"][&room];
    assert_eq!(members(&shown["timeline"]), [(&*bob.id, "leave")]);
    assert_eq!(contents(&shown["state"], "topic"), ["seen"], "the state is that of then");
    let filter = r#"{"room":{"include_leave":true,"timeline":{"limit":0}}}"#;
    let without = sync(&bob, &[("filter", filter)]).await;
    let shown = &without["rooms"]["leave"][&room];
    assert_eq!(shown["timeline"]["events"], json!([]));
    assert!(members(&shown["state"]).contains(&(&*bob.id, "leave")));
}

#[tokio::test]
async fn whoever_is_banned_sees_that() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let start = now(&bob).await;
    act(&alice, &room, "ban", json!({ "user_id": bob.id })).await;
    say(&alice, &room, "not seen").await;
    let answer = since(&bob, &start).await;
    assert_eq!(members(&answer["rooms"]["leave"][&room]["timeline"]), [(&*bob.id, "ban")]);
    act(&alice, &room, "unban", json!({ "user_id": bob.id })).await;
    say(&alice, &room, "not seen either").await;
    let unbanned = since(&bob, &next(&answer)).await;
    let shown = &unbanned["rooms"]["leave"][&room];
    assert_eq!(members(&shown["timeline"]), [(&*bob.id, "leave")]);
    assert_eq!(bodies(shown), [""; 0]);
}

#[tokio::test]
async fn whoever_leaves_and_is_then_banned_sees_both() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let start = now(&bob).await;
    act(&bob, &room, "leave", json!({})).await;
    say(&alice, &room, "not seen").await;
    act(&alice, &room, "ban", json!({ "user_id": bob.id })).await;
    let answer = since(&bob, &start).await;
    let shown = &answer["rooms"]["leave"][&room];
    assert_eq!(members(&shown["timeline"]), [(&*bob.id, "leave"), (&*bob.id, "ban")]);
    assert_eq!(bodies(shown), [""; 0]);
}

#[tokio::test]
async fn an_invite_comes_with_stripped_state_and_ends_as_a_left_room() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let start = now(&bob).await;
    let room = create(&alice, json!({ "name": "Tower", "invite": [bob.id], "preset": "private_chat" })).await;
    say(&alice, &room, "secret").await;
    let answer = since(&bob, &start).await;
    assert_eq!(rooms(&answer, "invite"), [&room]);
    let state = &answer["rooms"]["invite"][&room]["invite_state"];
    assert_eq!(contents(state, "name"), ["Tower"]);
    assert!(members(state).contains(&(&*bob.id, "invite")));
    assert!(state["events"].as_array().unwrap().iter().all(|event| event.get("event_id").is_none()));
    assert_eq!(rooms(&sync(&bob, &[]).await, "invite"), [&room], "an invite that waits is in an initial sync too");
    assert_eq!(rooms(&since(&bob, &next(&answer)).await, "invite"), [""; 0]);

    act(&alice, &room, "kick", json!({ "user_id": bob.id })).await;
    let retracted = since(&bob, &next(&answer)).await;
    let shown = &retracted["rooms"]["leave"][&room];
    assert_eq!(members(&shown["timeline"]), [(&*bob.id, "leave")]);
    assert_eq!(bodies(shown), [""; 0]);
    assert!(shown["state"] == json!({ "events": [] }));
}

#[tokio::test]
async fn the_invites_and_messages_of_ignored_users_are_not_shown() {
    let server = TestServer::new().await;
    let (alice, mallory) = (server.user("alice").await, server.user("mallory").await);
    let room = public(&alice).await;
    act(&mallory, &room, "join", json!({})).await;
    let ignored = json!({ "ignored_users": { mallory.id.clone(): {} } });
    put_account_data(&alice, RoomNid(0), "m.ignored_user_list", ignored).await;
    let start = now(&alice).await;
    create(&mallory, json!({ "invite": [alice.id] })).await;
    say(&mallory, &room, "spam").await;
    say(&alice, &room, "mine").await;
    act(&mallory, &room, "leave", json!({})).await;
    let answer = since(&alice, &start).await;
    assert_eq!(rooms(&answer, "invite"), [""; 0]);
    let shown = &answer["rooms"]["join"][&room];
    assert_eq!(bodies(shown), ["mine"]);
    assert_eq!(members(&shown["timeline"]), [(&*mallory.id, "leave")], "state is shown all the same");
}

#[tokio::test]
async fn a_knock_is_shown_until_it_is_answered() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let rules = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }]);
    let room = create(&alice, json!({ "initial_state": rules, "name": "Tower", "room_version": "11" })).await;
    let start = now(&bob).await;
    bob.post(&format!("/v3/knock/{room}"), json!({})).await.ok();
    let answer = since(&bob, &start).await;
    let state = &answer["rooms"]["knock"][&room]["knock_state"];
    assert_eq!(contents(state, "name"), ["Tower"]);
    assert!(members(state).contains(&(&*bob.id, "knock")));
    act(&alice, &room, "kick", json!({ "user_id": bob.id })).await;
    let denied = since(&bob, &next(&answer)).await;
    assert_eq!(members(&denied["rooms"]["leave"][&room]["timeline"]), [(&*bob.id, "leave")]);
}

#[tokio::test]
async fn a_forgotten_room_is_gone_until_it_is_joined_again() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let start = now(&bob).await;
    act(&bob, &room, "leave", json!({})).await;
    act(&bob, &room, "forget", json!({})).await;
    let filter = r#"{"room":{"include_leave":true}}"#;
    assert!(sync(&bob, &[("filter", filter)]).await.get("rooms").is_none());
    say(&alice, &room, "not for him").await;
    // His other devices hear that he left, and nothing more.
    let answer = since(&bob, &start).await;
    assert_eq!(members(&answer["rooms"]["leave"][&room]["timeline"]), [(&*bob.id, "leave")], "{answer}");
    assert_eq!(answer["rooms"]["leave"][&room]["timeline"]["events"].as_array().unwrap().len(), 1, "{answer}");
    let later = since(&bob, &next(&answer)).await;
    assert!(later.get("rooms").is_none(), "{later}");
    act(&bob, &room, "join", json!({})).await;
    let again = since(&bob, &next(&later)).await;
    let shown = &again["rooms"]["join"][&room];
    assert!(types(&shown["timeline"]).contains(&"m.room.create"));
}

#[tokio::test]
async fn full_state_shows_all_rooms_with_all_their_state() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (room, other) = (public(&alice).await, public(&alice).await);
    let start = now(&alice).await;
    say(&alice, &room, "new").await;
    let query = [("since", &*start), ("full_state", "true"), ("timeout", "600000")];
    let answer = sync(&alice, &query).await;
    let shown = &answer["rooms"]["join"];
    assert_eq!(bodies(&shown[&room]), ["new"]);
    assert_eq!(shown[&other]["timeline"]["events"], json!([]), "what was seen is not shown again");
    for room in [&room, &other] {
        assert!(types(&shown[room]["state"]).contains(&"m.room.create"));
    }
}

#[tokio::test]
async fn tokens_and_filters_that_are_none_are_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for (key, value) in [
        ("since", "s72594_4483_1934"),
        ("since", "x"),
        ("since", "t5"),
        ("filter", "{"),
        ("filter", r#"{"room":1}"#),
        ("filter", "unknown"),
        ("timeout", "-1"),
        ("timeout", "x"),
        ("full_state", "maybe"),
    ] {
        let answer = alice.get(&path(&[(key, value)])).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{key}={value}");
    }
    assert_eq!(server.get("/v3/sync").await.error(), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn a_token_of_a_lost_future_gets_everything() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let answer = since(&alice, "s999999999_0").await;
    assert_eq!(rooms(&answer, "join"), [&room]);
    assert!(since(&alice, &next(&answer)).await.get("rooms").is_none());
}

#[tokio::test]
async fn a_filter_that_is_kept_is_applied_by_its_id() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (room, other) = (public(&alice).await, public(&alice).await);
    let filter = json!({ "room": { "rooms": [room, "!unknown:x"], "timeline": { "limit": 2 } } });
    let kept = alice.post(&format!("/v3/user/{}/filter", alice.id), filter).await.ok();
    let id = kept["filter_id"].as_str().unwrap();
    let answer = sync(&alice, &[("filter", id)]).await;
    assert_eq!(rooms(&answer, "join"), [&room]);
    assert_eq!(answer["rooms"]["join"][&room]["timeline"]["events"].as_array().unwrap().len(), 2);
    let not = format!(r#"{{"room":{{"not_rooms":["{room}"]}}}}"#);
    assert_eq!(rooms(&sync(&alice, &[("filter", &not)]).await, "join"), [&other]);
}

#[tokio::test]
async fn filters_choose_events_fields_and_format() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let start = now(&alice).await;
    say(&alice, &room, "hello").await;
    topic(&alice, &room, "there").await;

    let shown = async |filter: &str| {
        let answer = sync(&alice, &[("since", &start), ("filter", filter)]).await;
        answer["rooms"]["join"][&room].clone()
    };
    let messages = shown(r#"{"room":{"timeline":{"types":["m.room.mess*"]},"state":{"types":[]}}}"#).await;
    assert_eq!(types(&messages["timeline"]), ["m.room.message"]);
    assert!(messages["state"] == json!({ "events": [] }));
    let others = shown(r#"{"room":{"timeline":{"not_types":["m.room.message"]}}}"#).await;
    assert_eq!(types(&others["timeline"]), ["m.room.topic"]);
    let nobody = shown(&format!(
        r#"{{"room":{{"timeline":{{"not_senders":["{0}"]}},"state":{{"not_senders":["{0}"]}}}}}}"#,
        alice.id
    ))
    .await;
    assert_eq!(nobody, Value::Null);
    let fields = shown(r#"{"event_fields":["content.body"]}"#).await;
    assert_eq!(fields["timeline"]["events"], json!([{ "content": { "body": "hello" } }, { "content": {} }]));
    let raw = shown(r#"{"event_format":"federation"}"#).await;
    let event = &raw["timeline"]["events"][0];
    assert!(event["prev_events"].is_array() && event["signatures"].is_object() && event["room_id"] == *room);
}

#[tokio::test]
async fn lazily_loaded_members_are_those_who_said_something() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = create(&alice, json!({ "preset": "public_chat", "name": "Tower" })).await;
    act(&bob, &room, "join", json!({})).await;
    act(&carol, &room, "join", json!({})).await;
    for i in 0..4 {
        say(&bob, &room, &i.to_string()).await;
    }
    let lazy = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":2}}}"#;
    let answer = sync(&alice, &[("filter", lazy)]).await;
    let shown = &answer["rooms"]["join"][&room];
    let mut found = members(&shown["state"]);
    found.sort_unstable();
    assert_eq!(found, [(&*alice.id, "join"), (&*bob.id, "join")], "the reader and the sender");
    assert!(types(&shown["state"]).contains(&"m.room.name"));

    say(&carol, &room, "hello").await;
    let later = sync(&alice, &[("since", &next(&answer)), ("filter", lazy)]).await;
    assert_eq!(members(&later["rooms"]["join"][&room]["state"]), [(&*carol.id, "join")]);

    act(&bob, &room, "leave", json!({})).await;
    for i in 0..4 {
        say(&carol, &room, &format!("again {i}")).await;
    }
    let gap = sync(&alice, &[("since", &next(&later)), ("filter", lazy)]).await;
    let shown = &gap["rooms"]["join"][&room];
    assert_eq!(shown["timeline"]["limited"], true);
    assert!(members(&shown["state"]).contains(&(&*bob.id, "leave")), "who left in the gap must be told");
    let all = sync(&alice, &[("filter", r#"{"room":{"timeline":{"limit":2}}}"#)]).await;
    assert_eq!(members(&all["rooms"]["join"][&room]["state"]).len(), 3);
}

#[tokio::test]
async fn who_speaks_again_is_not_told_again_to_who_loads_lazily() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = create(&alice, json!({ "preset": "public_chat", "name": "Tower" })).await;
    act(&bob, &room, "join", json!({})).await;
    act(&carol, &room, "join", json!({})).await;
    say(&bob, &room, "hello").await;
    let lazy = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}"#;
    let told = async |since: &str, filter: &str| {
        let answer = sync(&alice, &[("since", since), ("filter", filter)]).await;
        let members =
            members(&answer["rooms"]["join"][&room]["state"]).iter().map(|(id, _)| (*id).to_owned()).collect();
        (members, next(&answer))
    };
    let first = next(&sync(&alice, &[("filter", lazy)]).await);
    say(&bob, &room, "again").await;
    let (members_told, second): (Vec<String>, _) = told(&first, lazy).await;
    assert!(members_told.is_empty(), "the first answer told of him: {members_told:?}");

    say(&carol, &room, "hello").await;
    for _ in 0..2 {
        assert_eq!(told(&second, lazy).await.0, [&*carol.id], "this answer may have been lost before");
    }
    let (_, third) = told(&second, lazy).await;
    act(&bob, &room, "leave", json!({})).await;
    act(&bob, &room, "join", json!({})).await;
    say(&carol, &room, "welcome").await;
    let (members_told, fourth) = told(&third, lazy).await;
    assert_eq!(members_told, [&*bob.id], "his event is another one, in the gap");
    say(&bob, &room, "thanks").await;
    assert!(told(&fourth, lazy).await.0.is_empty());

    let redundant = lazy.replace("true}", r#"true,"include_redundant_members":true}"#);
    assert_eq!(told(&fourth, &redundant).await.0, [&*bob.id]);
    let other = lazy.replace(r#""limit":1"#, r#""limit":2"#);
    assert_eq!(told(&fourth, &other).await.0, [&*bob.id], "another part of the client has not been told");
    let anew = sync(&alice, &[("filter", lazy)]).await;
    assert!(members(&anew["rooms"]["join"][&room]["state"]).contains(&(&*bob.id, "join")), "the client lost all");
}

#[tokio::test]
async fn the_state_after_a_gap_in_what_may_be_seen_is_that_of_now() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    set(&alice, &room, "m.room.history_visibility", json!({ "history_visibility": "joined" })).await;
    let start = now(&bob).await;
    act(&alice, &room, "invite", json!({ "user_id": carol.id })).await;
    act(&bob, &room, "leave", json!({})).await;
    act(&carol, &room, "join", json!({})).await;
    say(&carol, &room, "not for bob").await;
    act(&bob, &room, "join", json!({})).await;
    let shown = &since(&bob, &start).await["rooms"]["join"][&room];
    let told = members(&shown["state"]).into_iter().chain(members(&shown["timeline"]));
    let last = told.rev().find(|(user, _)| *user == carol.id);
    assert_eq!(last, Some((&*carol.id, "join")), "who follows the timeline must not take her for invited: {shown}");
    assert!(!shown["timeline"].to_string().contains("not for bob"));
}

#[tokio::test]
async fn a_members_new_name_alone_is_no_news_of_the_summary() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let filter = r#"{"room":{"state":{"types":["x"]},"timeline":{"types":["x"]}},"presence":{"types":[]}}"#;
    let start = next(&sync(&alice, &[("filter", filter)]).await);
    bob.put(&format!("/v3/profile/{}/displayname", bob.id), json!({ "displayname": "Bobby" })).await.ok();
    let answer = sync(&alice, &[("since", &start), ("filter", filter)]).await;
    assert!(answer.get("rooms").is_none(), "{answer}");
}

#[tokio::test]
async fn a_nameless_room_is_called_after_its_first_members() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let mut others = Vec::new();
    for name in ["zoe", "bob", "carol", "dan", "eve", "frank"] {
        others.push(server.user(name).await);
        act(others.last().unwrap(), &room, "join", json!({})).await;
    }
    let start = now(&alice).await;
    let lazy = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":0}}}"#;
    let answer = sync(&alice, &[("filter", lazy)]).await;
    let shown = &answer["rooms"]["join"][&room];
    let expected: Vec<_> = others[..5].iter().map(|user| user.id.clone()).collect();
    assert_eq!(shown["summary"]["m.heroes"], json!(expected));
    assert_eq!(shown["summary"]["m.joined_member_count"], 7);
    assert_eq!(members(&shown["state"]).len(), 6, "the heroes and the reader");
    act(&others[0], &room, "leave", json!({})).await;
    set(&alice, &room, "m.room.name", json!({ "name": "Tower" })).await;
    let named = since(&alice, &start).await;
    let summary = &named["rooms"]["join"][&room]["summary"];
    assert_eq!(*summary, json!({ "m.joined_member_count": 6, "m.invited_member_count": 0 }));

    let expected: Vec<_> = others[1..].iter().map(|user| user.id.clone()).collect();
    set(&alice, &room, "m.room.name", json!({ "name": "" })).await;
    let nameless = sync(&alice, &[("since", &next(&named)), ("filter", lazy)]).await;
    let shown = &nameless["rooms"]["join"][&room];
    assert_eq!(shown["summary"]["m.heroes"], json!(expected), "it has lost its name");
    assert_eq!(members(&shown["state"]), [(&*others[5].id, "join")], "of the others the client was told");
    set(&alice, &room, "m.room.canonical_alias", json!({})).await;
    let without_alias = since(&alice, &next(&nameless)).await;
    assert_eq!(without_alias["rooms"]["join"][&room]["summary"]["m.heroes"], json!(expected));
}

#[tokio::test]
async fn account_data_is_told_when_it_changed() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let whole = sync(&alice, &[]).await;
    assert_eq!(types(&whole["account_data"]), ["m.push_rules"]);
    assert!(whole["account_data"]["events"][0]["content"]["global"]["override"].is_array());

    let start = next(&whole);
    put_account_data(&alice, RoomNid(0), "org.example.x", json!({ "n": "1" })).await;
    put_account_data(&alice, RoomNid(0), "org.example.x", json!({ "n": "2" })).await;
    put_account_data(&alice, RoomNid(1), "m.tag", json!({ "tags": {} })).await;
    let answer = since(&alice, &start).await;
    assert_eq!(answer["account_data"], json!({ "events": [{ "type": "org.example.x", "content": { "n": "2" } }] }));
    let shown = &answer["rooms"]["join"][&room];
    assert_eq!(shown["account_data"], json!({ "events": [{ "type": "m.tag", "content": { "tags": {} } }] }));
    assert_eq!(shown["timeline"]["events"], json!([]));
    assert!(since(&alice, &next(&answer)).await.get("account_data").is_none());
    let filter = r#"{"account_data":{"not_types":["*"]},"room":{"account_data":{"types":[]}}}"#;
    let filtered = sync(&alice, &[("since", &start), ("filter", filter)]).await;
    assert!(filtered.get("account_data").is_none() && filtered.get("rooms").is_none(), "{filtered}");
}

async fn message(user: &User, count: u32) {
    let (id, device) = (user_id(user), ruma::OwnedDeviceId::from(user.device_id.as_str()));
    write(&user.server, move |tx| {
        let pos = tx.pos();
        for n in 0..count {
            let event = json!({ "type": "x", "sender": "@bob:example.org", "content": { "n": format!("{pos}.{n}") } });
            tx.put::<ToDevice>(&(&id, &device, pos, n), &Json::of(&event));
        }
    })
    .await;
}

#[tokio::test]
async fn to_device_messages_come_in_order_until_they_are_acknowledged() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let start = now(&alice).await;
    for _ in 0..60 {
        message(&alice, 3).await;
    }
    let first = since(&alice, &start).await;
    let told = contents(&first["to_device"], "n");
    assert_eq!(told.len(), 102, "a hundred, and the rest of the change that the hundredth is of");
    assert_eq!(contents(&since(&alice, &start).await["to_device"], "n"), told, "not acknowledged, so told again");
    let second = since(&alice, &next(&first)).await;
    let rest = contents(&second["to_device"], "n");
    assert_eq!(rest.len(), 78);
    assert!(told.iter().all(|message| !rest.contains(message)));
    let third = since(&alice, &next(&second)).await;
    assert!(third.get("to_device").is_none());
    assert!(since(&alice, &start).await.get("to_device").is_none(), "what was acknowledged is gone");

    message(&alice, 1).await;
    assert_eq!(contents(&sync(&alice, &[]).await["to_device"], "n").len(), 1, "an initial sync shows what is left");
    assert_eq!(contents(&since(&alice, &next(&third)).await["to_device"], "n").len(), 1);
    let other = server.log_in("alice").await;
    assert!(sync(&other, &[]).await.get("to_device").is_none(), "messages are for one device");
}

async fn change_keys(user: &User) {
    let id = user_id(user);
    write(&user.server, move |tx| tx.put::<KeyChanges>(&(tx.pos(), &id), &())).await;
}

fn device_list(answer: &Value, key: &str) -> Vec<String> {
    let users = answer["device_lists"][key].as_array().map(Vec::as_slice).unwrap_or_default();
    users.iter().map(|user| user.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn device_lists_follow_those_who_share_a_room() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let (room, other) = (public(&alice).await, public(&alice).await);
    let start = now(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let met = since(&alice, &start).await;
    assert_eq!(device_list(&met, "changed"), [&*bob.id]);

    for user in [&alice, &bob, &carol] {
        change_keys(user).await;
    }
    let changed = since(&alice, &next(&met)).await;
    assert_eq!(device_list(&changed, "changed"), [&*alice.id, &*bob.id], "not of strangers");
    assert!(since(&alice, &next(&changed)).await.get("device_lists").is_none());
    assert!(sync(&alice, &[]).await.get("device_lists").is_none());

    act(&bob, &other, "join", json!({})).await;
    let start = now(&alice).await;
    act(&bob, &room, "leave", json!({})).await;
    let still = since(&alice, &start).await;
    assert_eq!(device_list(&still, "left"), [""; 0], "they share another room");
    act(&bob, &other, "leave", json!({})).await;
    let parted = since(&alice, &next(&still)).await;
    assert_eq!(device_list(&parted, "left"), [&*bob.id]);

    act(&bob, &room, "join", json!({})).await;
    let (a, b) = (now(&alice).await, now(&bob).await);
    act(&bob, &room, "leave", json!({})).await;
    assert_eq!(device_list(&since(&bob, &b).await, "left"), [&*alice.id], "for who leaves as well");
    assert_eq!(device_list(&since(&alice, &a).await, "left"), [&*bob.id]);

    act(&bob, &room, "join", json!({})).await;
    let start = now(&bob).await;
    act(&alice, &room, "kick", json!({ "user_id": bob.id })).await;
    act(&carol, &room, "join", json!({})).await;
    assert_eq!(device_list(&since(&bob, &start).await, "left"), [&*alice.id], "carol came when he was out");
}

#[tokio::test]
async fn who_waits_is_woken_by_news_and_by_nothing_else() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let start = now(&bob).await;
    let waiting = {
        let (bob, start) = (bob.clone(), start.clone());
        tokio::spawn(async move { sync(&bob, &[("since", &start), ("timeout", "600000")]).await })
    };
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let elsewhere = public(&alice).await;
    say(&alice, &elsewhere, "not for bob").await;
    assert!(!waiting.is_finished());
    say(&alice, &room, "hello").await;
    let answer = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
    assert_eq!(bodies(&answer["rooms"]["join"][&room]), ["hello"]);
}

#[tokio::test]
async fn an_invite_wakes_who_is_invited() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = create(&alice, json!({})).await;
    let start = now(&bob).await;
    let waiting = {
        let bob = bob.clone();
        tokio::spawn(async move { sync(&bob, &[("since", &start), ("timeout", "600000")]).await })
    };
    tokio::task::yield_now().await;
    act(&alice, &room, "invite", json!({ "user_id": bob.id })).await;
    let answer = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
    assert_eq!(rooms(&answer, "invite"), [&room]);
}

#[tokio::test]
async fn who_waits_in_vain_gets_an_empty_answer_in_time_and_at_once_when_the_server_stops() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let start = now(&alice).await;
    let asked = tokio::time::Instant::now();
    let answer = sync(&alice, &[("since", &start), ("timeout", "50")]).await;
    assert!(asked.elapsed() >= Duration::from_millis(50));
    assert!(answer.get("rooms").is_none());

    let waiting = {
        let alice = alice.clone();
        tokio::spawn(async move { sync(&alice, &[("since", &start), ("timeout", "600000")]).await })
    };
    tokio::task::yield_now().await;
    server.inside().shutdown.cancel();
    let answer = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
    assert!(answer["next_batch"].is_string());
}

#[tokio::test]
async fn who_hangs_up_is_forgotten() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let start = now(&alice).await;
    let long = path(&[("since", &start), ("timeout", "600000")]);
    let hung_up = tokio::time::timeout(Duration::from_millis(50), alice.get(&long)).await;
    assert!(hung_up.is_err());
    assert_eq!(server.inside().wakers.waiting(), 0);
}

#[tokio::test]
async fn a_large_answer_comes_in_pieces_that_make_one() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let text = "x".repeat(20_000);
    let mut created = Vec::new();
    for _ in 0..8 {
        let room = public(&alice).await;
        say(&alice, &room, &text).await;
        created.push(room);
    }
    created.sort();
    let answer = sync(&alice, &[]).await;
    assert_eq!(rooms(&answer, "join"), created);
    for room in &created {
        assert_eq!(bodies(&answer["rooms"]["join"][room]), [&*text]);
    }
    let whole = sync(&alice, &[("since", &next(&answer)), ("full_state", "true")]).await;
    assert_eq!(rooms(&whole, "join"), created);
}

#[tokio::test]
async fn much_state_comes_in_pieces_to_whoever_is_new_or_has_waited() {
    const ENTRIES: usize = 1_100; // more than are read at a time
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let entry = |n: usize| json!({ "type": "org.test.entry", "state_key": n.to_string(), "content": { "text": "x".repeat(200), "n": n } });
    let entries: Vec<_> = (0..ENTRIES).map(entry).collect();
    let room = create(&alice, json!({ "preset": "public_chat", "initial_state": entries })).await;
    let start = now(&bob).await;
    let waiting = waiting(&bob, &start).await;
    act(&bob, &room, "join", json!({})).await;
    let to_who_waits = answered(waiting).await.ok();
    let filter = json!({ "room": { "state": { "not_types": ["m.room.member"] } } }).to_string();
    for answer in [to_who_waits, sync(&bob, &[]).await, sync(&bob, &[("filter", &filter)]).await] {
        let room = &answer["rooms"]["join"][&room];
        let shown = [&room["state"], &room["timeline"]].map(|part| part["events"].as_array().unwrap().clone()).concat();
        let told = shown.iter().filter(|event| event["type"] == "org.test.entry");
        let mut numbers: Vec<_> = told.map(|event| event["content"]["n"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..ENTRIES as u64).collect::<Vec<_>>());
        assert_eq!(room["timeline"]["limited"], true);
    }
}

#[tokio::test]
async fn what_came_between_two_answers_is_told_at_once() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let mut last = now(&bob).await;
    let ask = async |last: &str| {
        let query = [("since", last), ("timeout", "600000"), ("filter", r#"{"presence":{"not_types":["*"]}}"#)];
        tokio::time::timeout(Duration::from_secs(30), sync(&bob, &query)).await.expect("it is there already")
    };
    for n in 0..3 {
        say(&alice, &room, &n.to_string()).await;
        let answer = ask(&last).await;
        assert_eq!(bodies(&answer["rooms"]["join"][&room]), [n.to_string()]);
        last = next(&answer);
        let typing = format!("/v3/rooms/{}/typing/{}", encoded(&room), encoded(&alice.id));
        alice.put(&typing, json!({ "typing": n % 2 == 0, "timeout": 30_000 })).await.ok();
        let answer = ask(&last).await;
        assert_eq!(types(&answer["rooms"]["join"][&room]["ephemeral"]), ["m.typing"]);
        last = next(&answer);
        for _ in 0..60 {
            message(&bob, 2).await; // more than one answer takes
        }
        server.inside().wakers.user(server.inside(), &user_id(&bob));
        let first = ask(&last).await;
        let second = ask(&next(&first)).await;
        let count = |answer: &Value| answer["to_device"]["events"].as_array().map_or(0, Vec::len);
        assert_eq!((count(&first), count(&second)), (100, 20));
        last = next(&second);
    }
}

#[tokio::test]
async fn the_position_in_a_token_is_durable() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    public(&alice).await;
    let token = now(&alice).await;
    let pos: u64 = token[1..].split('_').next().unwrap().parse().unwrap();
    assert!(server.inside().store.durable_pos() >= StreamPos(pos));
    assert!(pos > 0);
}

#[tokio::test]
async fn typing_is_told_when_it_begins_and_when_it_ends() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let start = now(&alice).await;
    let typing = format!("/v3/rooms/{room}/typing/{}", bob.id);
    bob.put(&typing, json!({ "typing": true, "timeout": 30_000 })).await.ok();
    let began = since(&alice, &start).await;
    let expected = json!({ "events": [{ "type": "m.typing", "content": { "user_ids": [bob.id] } }] });
    assert_eq!(began["rooms"]["join"][&room]["ephemeral"], expected);
    assert_eq!(sync(&alice, &[]).await["rooms"]["join"][&room]["ephemeral"], expected);
    assert!(since(&alice, &next(&began)).await.get("rooms").is_none());
    bob.put(&typing, json!({ "typing": false })).await.ok();
    let ended = since(&alice, &next(&began)).await;
    assert_eq!(ended["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"]["user_ids"], json!([]));
    let filter = r#"{"room":{"ephemeral":{"not_types":["m.typing"]}}}"#;
    assert!(sync(&alice, &[("since", &start), ("filter", filter)]).await.get("rooms").is_none());
}

#[tokio::test]
async fn receipts_are_told_and_private_ones_to_their_owner_only() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let event = say(&alice, &room, "hello").await;
    let (a, b) = (now(&alice).await, now(&bob).await);
    act(&bob, &room, &format!("receipt/m.read.private/{}", encoded(&event)), json!({})).await;
    assert!(since(&alice, &a).await.get("rooms").is_none());
    let own = since(&bob, &b).await;
    let shown = &own["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"][&event]["m.read.private"][&bob.id];
    assert!(shown["ts"].is_u64() && shown.get("thread_id").is_none());
    act(&bob, &room, &format!("receipt/m.read/{}", encoded(&event)), json!({ "thread_id": "main" })).await;
    let answer = since(&alice, &a).await;
    let ephemeral = &answer["rooms"]["join"][&room]["ephemeral"]["events"];
    assert_eq!(ephemeral[0]["type"], "m.receipt");
    assert_eq!(ephemeral[0]["content"][&event]["m.read"][&bob.id]["thread_id"], "main");
    assert_eq!(ephemeral.as_array().unwrap().len(), 1);
    let whole = sync(&alice, &[]).await;
    assert_eq!(whole["rooms"]["join"][&room]["ephemeral"]["events"], *ephemeral);
}

#[tokio::test]
async fn unread_messages_are_counted_by_thread_for_those_who_know_threads() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let start = now(&bob).await;
    let root = say(&alice, &room, "root").await;
    let content = json!({
        "msgtype": "m.text", "body": "in the thread",
        "m.relates_to": { "rel_type": "m.thread", "event_id": root },
    });
    let threaded = alice.put(&format!("/v3/rooms/{room}/send/m.room.message/t"), content).await.ok();
    let count = |n: u64| json!({ "notification_count": n, "highlight_count": 0 });

    let shown = since(&bob, &start).await["rooms"]["join"][&room].clone();
    assert_eq!(shown["unread_notifications"], count(2));
    assert!(shown.get("unread_thread_notifications").is_none());
    let filter = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;
    let answer = sync(&bob, &[("since", &start), ("filter", filter)]).await;
    let shown = &answer["rooms"]["join"][&room];
    assert_eq!(shown["unread_notifications"], count(1));
    assert_eq!(shown["unread_thread_notifications"], json!({ root.clone(): count(1) }));

    let read = threaded["event_id"].as_str().unwrap();
    act(&bob, &room, &format!("receipt/m.read/{}", encoded(read)), json!({ "thread_id": root })).await;
    let answer = sync(&bob, &[("since", &next(&answer)), ("filter", filter)]).await;
    let shown = &answer["rooms"]["join"][&room];
    assert_eq!(shown["unread_notifications"], count(1));
    assert!(shown.get("unread_thread_notifications").is_none());
}

/// The presence that an answer tells, by sender.
fn presence(answer: &Value) -> Vec<(String, String)> {
    let events = answer["presence"]["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    events.iter().map(|event| (text(&event["sender"]), text(&event["content"]["presence"]))).collect()
}

#[tokio::test]
async fn presence_is_told_to_those_who_share_a_room() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = public(&alice).await;
    let start = now(&alice).await;
    now(&bob).await;
    sync(&carol, &[("set_presence", "offline")]).await;
    let alone = since(&alice, &start).await;
    assert!(presence(&alone).is_empty(), "bob is a stranger");

    act(&bob, &room, "join", json!({})).await;
    act(&carol, &room, "join", json!({})).await;
    let met = since(&alice, &next(&alone)).await;
    assert_eq!(presence(&met), [(bob.id.clone(), "online".to_owned())]);
    assert!(presence(&since(&alice, &next(&met)).await).is_empty());

    let body = json!({ "presence": "unavailable", "status_msg": "at lunch" });
    bob.put(&format!("/v3/presence/{}/status", bob.id), body).await.ok();
    let answer = since(&alice, &next(&met)).await;
    assert_eq!(presence(&answer), [(bob.id.clone(), "unavailable".to_owned())]);
    assert_eq!(answer["presence"]["events"][0]["content"]["status_msg"], "at lunch");
    let filter = format!(r#"{{"presence":{{"not_senders":["{}"]}}}}"#, bob.id);
    assert!(presence(&sync(&alice, &[("since", &next(&met)), ("filter", &filter)]).await).is_empty());
    let refused = alice.get(&path(&[("set_presence", "asleep")])).await;
    assert_eq!(refused.error(), (400, "M_INVALID_PARAM"));
}

/// A request that waits for news, once it does.
async fn waiting(user: &User, since: &str) -> tokio::task::JoinHandle<crate::support::Answer> {
    let (who, path) = (user.clone(), path(&[("since", since), ("timeout", "600000")]));
    let before = user.server.inside().wakers.waiting();
    let waiting = tokio::spawn(async move { who.get(&path).await });
    user.server.until_waiting(before + 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await; // it has looked, and found nothing
    assert!(!waiting.is_finished());
    waiting
}

async fn answered(waiting: tokio::task::JoinHandle<crate::support::Answer>) -> crate::support::Answer {
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap()
}

#[tokio::test]
async fn who_waits_and_is_logged_out_is_told_nothing_more() {
    let server = TestServer::new().await;
    let (alice, phone) = (server.user("alice").await, server.log_in("alice").await);
    let bob = server.user("bob").await;
    let room = public(&alice).await;
    act(&bob, &room, "join", json!({})).await;
    let start = now(&phone).await;

    let of_phone = waiting(&phone, &start).await;
    phone.post("/v3/logout", json!({})).await.ok();
    assert_eq!(answered(of_phone).await.error(), (401, "M_UNKNOWN_TOKEN"));

    let tablet = server.log_in("alice").await;
    let of_tablet = waiting(&tablet, &start).await;
    let auth = json!({ "auth": crate::support::auth_of("alice") });
    alice.request(http::Method::DELETE, &format!("/v3/devices/{}", tablet.device_id), Some(auth.clone())).await.ok();
    assert_eq!(answered(of_tablet).await.error(), (401, "M_UNKNOWN_TOKEN"));

    let of_alice = waiting(&alice, &now(&alice).await).await;
    alice.post("/v3/account/deactivate", auth).await.ok();
    assert_eq!(answered(of_alice).await.error(), (401, "M_UNKNOWN_TOKEN"), "not even that the rooms were left");
    let left = bob.get(&format!("/v3/rooms/{room}/state/m.room.member/{}", alice.id)).await.ok();
    assert_eq!(left["membership"], "leave");
}

#[tokio::test]
async fn who_waits_and_whose_token_is_replaced_is_told_that_nothing_happened() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let start = now(&alice).await;
    let old = waiting(&alice, &start).await;
    let alice = server.log_in_on("alice", &alice.device_id).await;
    say(&alice, &room, "not for a stolen token").await;
    let answer = answered(old).await.ok();
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["next_batch"], "{answer}");
    assert_eq!(bodies(&since(&alice, &start).await["rooms"]["join"][&room]), ["not for a stolen token"]);
}

#[tokio::test]
async fn only_timelines_are_cut_short_by_the_limit_of_a_filter() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    for data in ["one", "two"] {
        alice.put(&format!("/v3/user/{}/account_data/{data}", alice.id), json!({ "n": 1 })).await.ok();
        alice.put(&format!("/v3/user/{}/rooms/{room}/account_data/{data}", alice.id), json!({ "n": 1 })).await.ok();
    }
    let limit = json!({ "limit": 1 });
    let parts = json!({ "state": limit, "timeline": limit, "account_data": limit, "ephemeral": limit });
    let filter = json!({ "account_data": limit, "presence": limit, "room": parts }).to_string();
    let answer = sync(&alice, &[("filter", &filter)]).await;
    let told = &answer["rooms"]["join"][&room];
    let count = |section: &Value| section["events"].as_array().unwrap().len();
    assert_eq!(count(&told["timeline"]), 1);
    assert!(count(&told["state"]) > 3, "without all of its state a room is shown wrongly: {told}");
    assert_eq!(count(&told["account_data"]), 2, "what is not told now never is");
    assert!(count(&answer["account_data"]) > 2, "{answer}");
}

#[tokio::test]
async fn what_a_query_may_say() {
    let alice = TestServer::new().await.user("alice").await;
    for wrong in ["timeout=x", "timeout=-1", "full_state=maybe", "set_presence=weird", "filter={", "since=x"] {
        assert_eq!(alice.get(&format!("/v3/sync?{wrong}")).await.error(), (400, "M_INVALID_PARAM"), "{wrong}");
    }
    alice.get("/v3/sync?timeout=&unknown=1").await.ok();
}
