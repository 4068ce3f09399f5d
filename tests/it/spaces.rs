//! Spaces: <https://spec.matrix.org/v1.19/client-server-api/#spaces>

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::{TestNetwork, TestServer, User, query, room::path};

/// Where other servers are asked about spaces.
const HIERARCHY: &str = "/_matrix/federation/v1/hierarchy/";

async fn space(user: &User, preset: &str) -> String {
    user.create_room(json!({ "preset": preset, "creation_content": { "type": "m.space" } })).await
}

async fn link(user: &User, parent: &str, child: &str) {
    link_with(user, parent, child, json!({ "via": ["example.org"] })).await;
}

async fn link_with(user: &User, parent: &str, child: &str, content: Value) {
    user.set_state(parent, "m.space.child", child, content).await.ok();
    user.server.advance(Duration::from_millis(1)); // children are ordered by time
}

fn hierarchy(room: &str, parameters: &[(&str, &str)]) -> String {
    format!("/v1/rooms/{room}/hierarchy{}", query(parameters))
}

fn ids(answer: &Value) -> Vec<String> {
    answer["rooms"].as_array().unwrap().iter().map(|room| room["room_id"].as_str().unwrap().to_owned()).collect()
}

/// A space with a room, a space below it that has two rooms, and another room; all public.
async fn tree(alice: &User) -> [String; 6] {
    let root = space(alice, "public_chat").await;
    let first = alice.create_public_room("shared").await;
    let below = space(alice, "public_chat").await;
    let last = alice.create_public_room("shared").await;
    let (one, two) = (alice.create_public_room("shared").await, alice.create_public_room("shared").await);
    link_with(alice, &root, &first, json!({ "via": ["example.org"], "suggested": true })).await;
    link(alice, &root, &below).await;
    link(alice, &root, &last).await;
    link(alice, &below, &one).await;
    link(alice, &below, &two).await;
    [root, first, below, one, two, last]
}

#[tokio::test]
async fn a_space_is_walked_depth_first_in_pages() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let tree = tree(&alice).await;
    let whole = bob.get(&hierarchy(&tree[0], &[])).await.ok();
    assert_eq!(ids(&whole), tree);
    assert!(whole.get("next_batch").is_none());
    let links: Vec<_> = whole["rooms"][0]["children_state"].as_array().unwrap().iter().collect();
    assert_eq!(links[0]["state_key"], *tree[1]);
    assert_eq!(links[0]["content"], json!({ "via": ["example.org"], "suggested": true }));
    assert!(links[0]["origin_server_ts"].is_u64() && links[0]["sender"] == *alice.id && links.len() == 3);
    assert_eq!(whole["rooms"][2]["room_type"], "m.space");
    assert_eq!((&whole["rooms"][0]["room_version"], whole["rooms"][0].get("encryption")), (&json!("12"), None));
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    alice.set(&tree[1], "m.room.encryption", "", encryption).await;
    let again = bob.get(&hierarchy(&tree[0], &[])).await.ok();
    assert_eq!(again["rooms"][1]["encryption"], "m.megolm.v1.aes-sha2");

    let first = bob.get(&hierarchy(&tree[0], &[("limit", "4")])).await.ok();
    assert_eq!(ids(&first), tree[..4]);
    let token = first["next_batch"].as_str().unwrap();
    for _ in 0..2 {
        let rest = bob.get(&hierarchy(&tree[0], &[("from", token)])).await.ok();
        assert_eq!(ids(&rest), tree[4..], "a page whose answer got lost is there again");
    }
    let invalid = (400, "M_INVALID_PARAM");
    assert_eq!(bob.get(&hierarchy(&tree[0], &[("from", token), ("max_depth", "2")])).await.error(), invalid);
    assert_eq!(bob.get(&hierarchy(&tree[0], &[("from", token), ("suggested_only", "true")])).await.error(), invalid);
    assert_eq!(bob.get(&hierarchy(&tree[2], &[("from", token)])).await.error(), invalid);
    assert_eq!(alice.get(&hierarchy(&tree[0], &[("from", token)])).await.error(), invalid);
    assert_eq!(bob.get(&hierarchy(&tree[0], &[("from", "nothing")])).await.error(), invalid);
    assert_eq!(bob.get(&hierarchy(&tree[0], &[("limit", "0")])).await.error(), invalid);
    server.advance(Duration::from_secs(10 * 60));
    assert_eq!(bob.get(&hierarchy(&tree[0], &[("from", token)])).await.error(), invalid);
}

#[tokio::test]
async fn a_user_may_walk_some_spaces_at_once_and_pushes_out_no_walks_of_others() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let tree = tree(&alice).await;
    let begin = async |user: &User| {
        let first = user.get(&hierarchy(&tree[0], &[("limit", "1")])).await.ok();
        first["next_batch"].as_str().unwrap().to_owned()
    };
    let hers = begin(&alice).await;
    let mut his = Vec::new();
    for _ in 0..200 {
        his.push(begin(&bob).await);
    }
    for (user, token) in his[190..].iter().map(|token| (&bob, token)).chain([(&alice, &hers)]) {
        assert_eq!(ids(&user.get(&hierarchy(&tree[0], &[("from", token)])).await.ok()), tree[1..]);
    }
    let forgotten = bob.get(&hierarchy(&tree[0], &[("from", &his[189])])).await;
    assert_eq!(forgotten.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn a_walk_goes_as_deep_as_asked_and_only_to_suggested_rooms() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let tree = tree(&alice).await;
    let [root, first, below, .., last] = &tree;
    let at_depth = async |depth: &str| ids(&alice.get(&hierarchy(root, &[("max_depth", depth)])).await.ok());
    assert_eq!(at_depth("0").await, tree[..1]);
    assert_eq!(at_depth("1").await, [root.clone(), first.clone(), below.clone(), last.clone()]);
    assert_eq!(at_depth("9007199254740991").await, tree);
    let suggested = alice.get(&hierarchy(root, &[("suggested_only", "true")])).await.ok();
    assert_eq!(ids(&suggested), [root.clone(), first.clone()]);
    assert_eq!(suggested["rooms"][0]["children_state"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn circles_end_and_removed_links_are_none() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (root, below) = (space(&alice, "public_chat").await, space(&alice, "public_chat").await);
    let room = alice.create_public_room("shared").await;
    for (parent, child) in [(&root, &below), (&below, &root), (&below, &below), (&root, &room), (&below, &room)] {
        link(&alice, parent, child).await;
    }
    // What is no space has no children.
    link(&alice, &room, &alice.create_public_room("shared").await).await;
    let walked = ids(&alice.get(&hierarchy(&root, &[])).await.ok());
    assert_eq!(walked, [root.clone(), below.clone(), room.clone()]);
    link_with(&alice, &root, &below, json!({})).await;
    let walked = ids(&alice.get(&hierarchy(&root, &[])).await.ok());
    assert_eq!(walked, [root, room]);
}

#[tokio::test]
async fn nobody_learns_of_rooms_that_he_could_not_join() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let root = space(&alice, "public_chat").await;
    let closed = space(&alice, "private_chat").await;
    let hidden = alice.create_room(json!({})).await;
    let rules = |rule: &str| json!({ "join_rule": rule, "allow": [{ "type": "m.room_membership", "room_id": root }] });
    let with_rule = async |rule: &str| {
        let state = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rules(rule) }]);
        alice.create_room(json!({ "initial_state": state })).await
    };
    let (restricted, knocking) = (with_rule("restricted").await, with_rule("knock").await);
    link(&alice, &root, &closed).await;
    link(&alice, &closed, &hidden).await;
    link(&alice, &root, &restricted).await;
    link(&alice, &root, &knocking).await;
    link(&alice, &root, "!unknown:example.org").await;
    let seen = async || ids(&bob.get(&hierarchy(&root, &[])).await.ok());
    assert_eq!(seen().await, [root.clone(), knocking.clone()]);
    bob.join(&root).await;
    assert_eq!(seen().await, [root.clone(), restricted.clone(), knocking.clone()]);
    alice.try_invite(&closed, &bob).await.ok();
    assert_eq!(seen().await, [root.clone(), closed.clone(), restricted.clone(), knocking.clone()]);
    alice.act(&root, "ban", json!({ "user_id": bob.id })).await.ok();
    let forbidden = (403, "M_FORBIDDEN");
    assert_eq!(bob.get(&hierarchy(&root, &[])).await.error(), forbidden);
    assert_eq!(bob.get(&hierarchy(&hidden, &[])).await.error(), forbidden);
    assert_eq!(bob.get(&hierarchy("!unknown:example.org", &[])).await.error(), forbidden);
}

#[tokio::test]
async fn a_room_is_summarized_for_those_who_could_join_it() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let open = alice
        .create_room(json!({
            "preset": "public_chat", "name": "Cheese", "topic": "Everything", "room_alias_name": "cheese",
            "initial_state": [{ "type": "m.room.encryption", "state_key": "", "content": encryption }],
        }))
        .await;
    let summary = |room: &str| format!("/v1/room_summary/{}", path(room));
    let expected = json!({
        "room_id": open, "name": "Cheese", "topic": "Everything", "canonical_alias": "#cheese:example.org",
        "num_joined_members": 1, "world_readable": false, "guest_can_join": false,
        "encryption": "m.megolm.v1.aes-sha2", "room_version": "12",
    });
    let mut with_rule = expected.clone();
    let anonymous = server.get(&summary("#cheese:example.org")).await.ok();
    if anonymous.get("join_rule").is_some() {
        with_rule["join_rule"] = "public".into();
    }
    assert_eq!(anonymous, with_rule);
    let rich = json!({ "m.text": [
        { "mimetype": "text/html", "body": "<b>Nothing</b> else" },
        { "body": "Nothing else" },
    ] });
    alice.set(&open, "m.room.topic", "", json!({ "topic": "an older client sees this", "m.topic": rich })).await;
    assert_eq!(server.get(&summary(&open)).await.ok()["topic"], "Nothing else");
    alice.try_invite(&open, &bob).await.ok();
    assert_eq!(bob.get(&summary(&open)).await.ok()["membership"], "invite");
    assert_eq!(alice.get(&summary(&open)).await.ok()["membership"], "join");

    let closed = alice.create_room(json!({})).await;
    let not_found = (404, "M_NOT_FOUND");
    assert_eq!(bob.get(&summary(&closed)).await.error(), not_found);
    assert_eq!(server.get(&summary(&closed)).await.error(), not_found);
    assert_eq!(bob.get(&summary("#nothing:example.org")).await.error(), not_found);
    assert_eq!(alice.get(&summary(&closed)).await.ok()["join_rule"], "invite");
    let wrong = server.request(http::Method::GET, &summary(&open), Some("wrong"), None).await;
    assert_eq!(wrong.error(), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn another_server_is_told_of_all_children() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("here.test").await, network.peer("there.test"));
    let alice = server.user("alice").await;
    let root = space(&alice, "public_chat").await;
    for number in 0..60 {
        link(&alice, &root, &format!("!room{number}:example.org")).await;
    }
    let told = peer.get(&server, &format!("/v1/hierarchy/{}", path(&root))).await.ok();
    assert_eq!(told["room"]["children_state"].as_array().unwrap().len(), 60);
}

#[tokio::test]
async fn nobody_is_asked_about_children_that_are_said_to_be_inaccessible() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("here.test").await, network.peer("there.test"));
    let alice = server.user("alice").await;
    let child = |id: &str| {
        json!({
            "type": "m.space.child", "state_key": id, "sender": "@bob:there.test",
            "content": { "via": ["there.test"] }, "origin_server_ts": 1,
        })
    };
    let root = json!({
        "room_id": "!space:there.test", "room_type": "m.space", "join_rule": "public", "num_joined_members": 1,
        "guest_can_join": false, "world_readable": false,
        "children_state": [child("!open:there.test"), child("!closed:there.test")],
    });
    let answer = json!({ "room": root, "children": [], "inaccessible_children": ["!closed:there.test"] });
    peer.on(Method::GET, HIERARCHY, move |_| answer.clone());
    let page = alice.get(&hierarchy("!space:there.test", &[])).await.ok();
    assert_eq!(page["rooms"][0]["children_state"].as_array().unwrap().len(), 2);
    let asked: Vec<_> = peer.asked(HIERARCHY).into_iter().map(|asked| asked.uri).collect();
    assert!(asked.iter().any(|uri| uri.contains("open")), "{asked:?}");
    assert!(!asked.iter().any(|uri| uri.contains("closed")), "{asked:?}");
}

#[tokio::test]
async fn rooms_for_which_a_page_asks_nobody_any_more_are_on_the_next_one() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("here.test").await, network.peer("there.test"));
    let alice = server.user("alice").await;
    let root = space(&alice, "public_chat").await;
    let mut all = vec![root.clone()];
    for number in 0..30 {
        let room = format!("!room{number}:there.test");
        link_with(&alice, &root, &room, json!({ "via": ["there.test"] })).await;
        all.push(room);
    }
    peer.on(Method::GET, HIERARCHY, |asked| {
        let (_, name) = asked.uri.split_once("room").unwrap();
        let number = name.split([':', '%']).next().unwrap();
        let room = json!({
            "room_id": format!("!room{number}:there.test"), "join_rule": "public", "num_joined_members": 1,
            "guest_can_join": false, "world_readable": false, "children_state": [],
        });
        json!({ "room": room, "children": [], "inaccessible_children": [] })
    });
    let first = alice.get(&hierarchy(&root, &[])).await.ok();
    assert_eq!(ids(&first), all[..21]);
    let token = first["next_batch"].as_str().unwrap();
    let rest = alice.get(&hierarchy(&root, &[("from", token)])).await.ok();
    assert_eq!(ids(&rest), all[21..]);
    assert!(rest.get("next_batch").is_none());
    assert_eq!(ids(&alice.get(&hierarchy(&root, &[])).await.ok()), all, "nobody has to be asked again");
    assert_eq!(peer.asked(HIERARCHY).len(), 30);
}

#[tokio::test]
async fn a_room_that_was_told_is_asked_for_only_if_it_is_a_space_to_go_into() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("here.test").await, network.peer("there.test"));
    let alice = server.user("alice").await;
    let all = ["!space:there.test", "!room:there.test", "!below:there.test"];
    let summary = |id: &str, room_type: Value| {
        json!({
            "room_id": id, "room_type": room_type, "join_rule": "public", "num_joined_members": 1,
            "guest_can_join": false, "world_readable": false,
        })
    };
    let link = |id: &str, origin_server_ts: u64| {
        json!({
            "type": "m.space.child", "state_key": id, "sender": "@bob:there.test",
            "content": { "via": ["there.test"] }, "origin_server_ts": origin_server_ts,
        })
    };
    let mut root = summary(all[0], json!("m.space"));
    root["children_state"] = json!([link(all[1], 1), link(all[2], 2)]);
    let children = [summary(all[1], Value::Null), summary(all[2], json!("m.space"))];
    let answer = json!({ "room": root, "children": children, "inaccessible_children": [] });
    peer.on(Method::GET, HIERARCHY, move |_| answer.clone());
    assert_eq!(ids(&alice.get(&hierarchy(all[0], &[("max_depth", "1")])).await.ok()), all);
    assert_eq!(peer.asked(HIERARCHY).len(), 1);
    assert_eq!(ids(&alice.get(&hierarchy(all[0], &[])).await.ok()), all);
    let asked = peer.asked(HIERARCHY);
    assert!(asked.len() == 2 && asked[1].uri.contains("below"), "{asked:?}");
}
