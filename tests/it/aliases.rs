//! Room aliases.

use http::Method;
use serde_json::{Value, json};

use super::support::{Answer, TestServer, User, room::path};

const FORBIDDEN: (u16, &str) = (403, "M_FORBIDDEN");
const BAD_ALIAS: (u16, &str) = (400, "M_BAD_ALIAS");
const INVALID: (u16, &str) = (400, "M_INVALID_PARAM");
const NOT_FOUND: (u16, &str) = (404, "M_NOT_FOUND");

async fn two_in_a_room() -> (User, User, String) {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.try_join(&room).await.ok();
    (alice, bob, room)
}

fn at(alias: &str) -> String {
    format!("/v3/directory/room/{}", path(alias))
}

async fn add(user: &User, alias: &str, room: &str) -> Answer {
    user.put(&at(alias), json!({ "room_id": room })).await
}

async fn set_canonical(user: &User, room: &str, content: Value) -> Answer {
    user.set_state(room, "m.room.canonical_alias", "", content).await
}

#[tokio::test]
async fn members_make_aliases_that_everybody_can_resolve() {
    let (alice, bob, room) = two_in_a_room().await;
    add(&bob, "#one:example.org", &room).await.ok();
    add(&alice, "#老虎 👉:example.org", &room).await.ok();
    let found = alice.server.get(&at("#one:example.org")).await.ok();
    assert_eq!(found, json!({ "room_id": room, "servers": ["example.org"] }));
    assert_eq!(add(&alice, "#one:example.org", &room).await.error(), (409, "M_UNKNOWN"));
    let carol = alice.server.user("carol").await;
    assert_eq!(add(&carol, "#two:example.org", &room).await.error(), FORBIDDEN);
    assert_eq!(add(&carol, "#two:example.org", "!no:example.org").await.error(), FORBIDDEN);
    assert_eq!(carol.get(&at("#two:example.org")).await.error(), NOT_FOUND);
    let unreachable = (502, "M_UNKNOWN");
    assert_eq!(carol.get(&at("#two:elsewhere.org")).await.error(), unreachable);
}

#[tokio::test]
async fn what_can_be_no_alias_of_ours_is_refused() {
    let (alice, _, room) = two_in_a_room().await;
    let long = format!("#{}:example.org", "x".repeat(250));
    for wrong in ["#one:elsewhere.org", "one:example.org", "#one", "!one:example.org", &long] {
        assert_eq!(add(&alice, wrong, &room).await.error(), INVALID, "{wrong}");
    }
    assert_eq!(alice.put(&at("#one:example.org"), json!({})).await.error(), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn members_list_the_aliases_of_a_room() {
    let (alice, bob, room) = two_in_a_room().await;
    let list = format!("/v3/rooms/{room}/aliases");
    assert_eq!(bob.get(&list).await.ok(), json!({ "aliases": [] }));
    add(&alice, "#b:example.org", &room).await.ok();
    add(&alice, "#a:example.org", &room).await.ok();
    assert_eq!(bob.get(&list).await.ok(), json!({ "aliases": ["#a:example.org", "#b:example.org"] }));
    let carol = alice.server.user("carol").await;
    assert_eq!(carol.get(&list).await.error(), FORBIDDEN);
    assert_eq!(carol.get("/v3/rooms/!no:example.org/aliases").await.error(), FORBIDDEN);
    let readable = json!({ "history_visibility": "world_readable" });
    alice.set_state(&room, "m.room.history_visibility", "", readable).await.ok();
    carol.get(&list).await.ok();
}

#[tokio::test]
async fn aliases_are_removed_by_who_made_them_or_has_power_over_them() {
    let (alice, bob, room) = two_in_a_room().await;
    let remove = async |user: &User, alias: &str| user.request(Method::DELETE, &at(alias), None).await;
    add(&bob, "#of-bob:example.org", &room).await.ok();
    add(&bob, "#also-of-bob:example.org", &room).await.ok();
    add(&alice, "#of-alice:example.org", &room).await.ok();
    assert_eq!(remove(&bob, "#of-alice:example.org").await.error(), FORBIDDEN);
    remove(&bob, "#of-bob:example.org").await.ok();
    remove(&alice, "#also-of-bob:example.org").await.ok();
    assert_eq!(remove(&alice, "#also-of-bob:example.org").await.error(), NOT_FOUND);
    assert_eq!(alice.get(&format!("/v3/rooms/{room}/aliases")).await.ok()["aliases"], json!(["#of-alice:example.org"]));
    // It can be given away again.
    add(&alice, "#of-bob:example.org", &room).await.ok();
}

#[tokio::test]
async fn a_removed_alias_is_not_canonical_any_more() {
    let (alice, bob, room) = two_in_a_room().await;
    for alias in ["#a:example.org", "#b:example.org"] {
        add(&bob, alias, &room).await.ok();
    }
    let content = json!({ "alias": "#a:example.org", "alt_aliases": ["#a:example.org", "#b:example.org"], "x": 1 });
    set_canonical(&alice, &room, content.clone()).await.ok();
    // Whoever may not change that event can still remove his alias.
    bob.request(Method::DELETE, &at("#b:example.org"), None).await.ok();
    assert_eq!(alice.state(&room, "m.room.canonical_alias", "").await.ok(), content);
    alice.request(Method::DELETE, &at("#a:example.org"), None).await.ok();
    let left = json!({ "alt_aliases": ["#b:example.org"], "x": 1 });
    assert_eq!(alice.state(&room, "m.room.canonical_alias", "").await.ok(), left);
}

#[tokio::test]
async fn a_canonical_alias_is_an_alias_of_the_room() {
    let (alice, _, room) = two_in_a_room().await;
    let other = alice.create_room(json!({})).await;
    add(&alice, "#here:example.org", &room).await.ok();
    add(&alice, "#there:example.org", &other).await.ok();
    for (content, expected) in [
        (json!({ "alias": "#missing:example.org" }), BAD_ALIAS),
        (json!({ "alias": "#there:example.org" }), BAD_ALIAS),
        (json!({ "alias": "#here:elsewhere.org" }), BAD_ALIAS),
        (json!({ "alias": "%here:example.org" }), INVALID),
        (json!({ "alias": 1 }), INVALID),
        (json!({ "alias": "#here:example.org", "alt_aliases": ["#missing:example.org"] }), BAD_ALIAS),
        (json!({ "alias": "#here:example.org", "alt_aliases": ["%"] }), INVALID),
        (json!({ "alt_aliases": "#here:example.org" }), INVALID),
        (json!({ "alt_aliases": [1] }), INVALID),
    ] {
        assert_eq!(set_canonical(&alice, &room, content.clone()).await.error(), expected, "{content}");
    }
    for content in [
        json!({ "alias": "#here:example.org", "alt_aliases": ["#here:example.org"] }),
        json!({ "alias": "", "alt_aliases": null }),
        json!({ "alias": "#here:example.org" }),
    ] {
        set_canonical(&alice, &room, content).await.ok();
    }
    alice.request(Method::DELETE, &at("#there:example.org"), None).await.ok();
    set_canonical(&alice, &room, json!({ "alt_aliases": ["#here:example.org"] })).await.ok();
}

#[tokio::test]
async fn an_administrator_of_the_server_removes_any_alias_and_lists_any_room() {
    let (alice, _, room) = two_in_a_room().await;
    chappe::user::account::create(alice.server.inside(), "root", "password of root".to_owned(), true).await.unwrap();
    let root = alice.server.log_in("root").await;
    add(&alice, "#rude:example.org", &room).await.ok();
    root.request(Method::DELETE, &at("#rude:example.org"), None).await.ok();
    let listing = format!("/v3/directory/list/room/{room}");
    root.put(&listing, json!({ "visibility": "public" })).await.ok();
    assert_eq!(root.get(&listing).await.ok()["visibility"], "public");
}
