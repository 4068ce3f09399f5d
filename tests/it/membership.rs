//! Getting into rooms and out of them.

use serde_json::{Value, json};

use super::support::{TestServer, User};

const FORBIDDEN: (u16, &str) = (403, "M_FORBIDDEN");

async fn three() -> (User, User, User) {
    let server = TestServer::new().await;
    (server.user("alice").await, server.user("bob").await, server.user("carol").await)
}

async fn membership(seen_by: &User, room: &str, user: &User) -> Value {
    seen_by.state(room, "m.room.member", &user.id).await.ok()["membership"].clone()
}

fn target(user: &User) -> Value {
    json!({ "user_id": user.id, "reason": "why" })
}

#[tokio::test]
async fn anybody_joins_a_public_room_by_id_and_by_alias_once() {
    let (alice, bob, carol) = three().await;
    let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "pub" })).await;
    assert_eq!(bob.try_join("#pub:example.org").await.ok(), json!({ "room_id": room }));
    assert_eq!(carol.act(&room, "join", json!({ "reason": "curious" })).await.ok(), json!({ "room_id": room }));
    assert_eq!(alice.state(&room, "m.room.member", &carol.id).await.ok()["reason"], "curious");
    let events = alice.history(&room).await.len();
    carol.try_join(&room).await.ok();
    assert_eq!(alice.history(&room).await.len(), events, "joining again changes nothing");
    assert_eq!(carol.get("/v3/joined_rooms").await.ok()["joined_rooms"], json!([room]));
}

#[tokio::test]
async fn a_join_without_a_body_and_one_with_more_than_a_reason() {
    let (alice, bob, carol) = three().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for (user, path) in [(&bob, format!("/v3/join/{room}")), (&carol, format!("/v3/rooms/{room}/join"))] {
        user.request(http::Method::POST, &path, None).await.ok();
    }
    bob.try_leave(&room).await.ok();
    bob.post(
        &format!("/v3/join/{room}"),
        json!({ "foo": "bar", "membership": "ban", "join_authorised_via_users_server": "@x:y" }),
    )
    .await
    .ok();
    let content = alice.state(&room, "m.room.member", &bob.id).await.ok();
    assert_eq!(content, json!({ "membership": "join", "foo": "bar" }));
}

#[tokio::test]
async fn only_invited_users_join_a_private_room() {
    let (alice, bob, carol) = three().await;
    let room = alice.create_room(json!({})).await;
    assert_eq!(bob.try_join(&room).await.error(), FORBIDDEN);
    alice.act(&room, "invite", target(&bob)).await.ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).await.ok()["reason"], "why");
    let events = alice.history(&room).await.len();
    alice.try_invite(&room, &bob).await.ok(); // was invited already
    assert_eq!(alice.history(&room).await.len(), events);
    bob.try_join(&room).await.ok();
    assert_eq!(alice.try_invite(&room, &bob).await.error(), FORBIDDEN, "is in the room");
    assert_eq!(bob.try_invite(&room, &bob).await.error(), FORBIDDEN);
    assert_eq!(carol.try_invite(&room, &alice).await.error(), FORBIDDEN, "is not in the room");
}

#[tokio::test]
async fn members_invite_where_the_power_levels_say_nothing_of_it() {
    let (alice, bob, carol) = three().await;
    for version in ["1", "11"] {
        let room = alice.create_room(json!({ "room_version": version, "invite": [bob.id] })).await;
        bob.try_join(&room).await.ok();
        alice.set(&room, "m.room.power_levels", "", json!({ "users": { &alice.id: 100 } })).await;
        bob.try_invite(&room, &carol).await.ok();
        carol.try_leave(&room).await.ok();
        alice.set(&room, "m.room.power_levels", "", json!({ "users": { &alice.id: 100 }, "invite": 1 })).await;
        assert_eq!(bob.try_invite(&room, &carol).await.error(), FORBIDDEN, "version {version}");
    }
}

#[tokio::test]
async fn whoever_is_outside_does_not_learn_who_is_invited() {
    let (alice, bob, carol) = three().await;
    let room = alice.create_room(json!({ "invite": [bob.id] })).await;
    let invited = carol.try_invite(&room, &bob).await;
    let not_invited = carol.try_invite("!no:example.org", &bob).await;
    assert_eq!((invited.error(), not_invited.error()), (FORBIDDEN, FORBIDDEN));
    let out = json!({ "errcode": "M_FORBIDDEN", "error": "You are not in this room" });
    for action in ["kick", "unban"] {
        assert_eq!(carol.act(&room, action, target(&bob)).await.body, out, "{action}: is invited");
        assert_eq!(carol.act(&room, action, target(&carol)).await.body, out, "{action}: is not");
    }
}

#[tokio::test]
async fn unknown_rooms_and_aliases_cannot_be_joined() {
    let (alice, ..) = three().await;
    let not_found = (404, "M_NOT_FOUND");
    let unreachable = (502, "M_UNKNOWN");
    for (unknown, expected) in
        [("!no:example.org", not_found), ("#no:example.org", not_found), ("#no:elsewhere.org", unreachable)]
    {
        assert_eq!(alice.try_join(unknown).await.error(), expected, "{unknown}");
        let knock = alice.post(&format!("/v3/knock/{}", super::support::room::path(unknown)), json!({})).await;
        assert_eq!(knock.error(), expected, "{unknown}");
    }
    assert_eq!(alice.try_join("@user:example.org").await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(alice.try_leave("!no:example.org").await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn users_who_do_not_exist_are_invited_and_those_of_servers_that_are_not_there_are_not() {
    let (alice, ..) = three().await;
    let room = alice.create_room(json!({})).await;
    alice.act(&room, "invite", json!({ "user_id": "@nobody:example.org" })).await.ok();
    let elsewhere = alice.act(&room, "invite", json!({ "user_id": "@zoe:elsewhere.org" })).await;
    assert_eq!(elsewhere.error(), (502, "M_UNKNOWN"));
    let as_state = json!({ "membership": "invite" });
    let as_state = alice.set_state(&room, "m.room.member", "@zoe:elsewhere.org", as_state).await;
    assert_eq!(as_state.error(), (502, "M_UNKNOWN"));
    let by_mail = json!({ "id_server": "x.org", "id_access_token": "x", "medium": "email", "address": "a@b" });
    assert_eq!(alice.act(&room, "invite", by_mail).await.error(), (403, "M_SERVER_NOT_TRUSTED"));
    assert_eq!(alice.act(&room, "invite", json!({})).await.error(), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn leaving_ends_what_a_user_may_do() {
    let (alice, bob, _) = three().await;
    let room = alice.create_room(json!({ "invite": [bob.id] })).await;
    bob.try_join(&room).await.ok();
    bob.act(&room, "leave", json!({ "reason": "bye" })).await.ok();
    assert_eq!(
        alice.state(&room, "m.room.member", &bob.id).await.ok(),
        json!({ "membership": "leave", "reason": "bye" })
    );
    bob.try_leave(&room).await.ok(); // has left already
    assert_eq!(bob.try_say(&room, "still here?").await.error(), FORBIDDEN);
    assert_eq!(bob.try_join(&room).await.error(), FORBIDDEN);
    assert_eq!(bob.get("/v3/joined_rooms").await.ok()["joined_rooms"], json!([]));
}

#[tokio::test]
async fn an_invite_can_be_rejected_even_if_nobody_is_left_in_the_room() {
    let (alice, bob, carol) = three().await;
    let room = alice.create_room(json!({ "invite": [bob.id] })).await;
    alice.try_leave(&room).await.ok();
    bob.try_leave(&room).await.ok();
    assert_eq!(carol.try_leave(&room).await.error(), FORBIDDEN, "never was there");
}

#[tokio::test]
async fn kicking_needs_power_and_somebody_to_kick() {
    let (alice, bob, carol) = three().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    assert_eq!(alice.act(&room, "kick", target(&bob)).await.error(), FORBIDDEN, "never was there");
    bob.try_join(&room).await.ok();
    carol.try_join(&room).await.ok();
    assert_eq!(bob.act(&room, "kick", target(&carol)).await.error(), FORBIDDEN);
    assert_eq!(bob.act(&room, "kick", target(&alice)).await.error(), FORBIDDEN);
    alice.act(&room, "kick", target(&bob)).await.ok();
    assert_eq!(
        alice.state(&room, "m.room.member", &bob.id).await.ok(),
        json!({ "membership": "leave", "reason": "why" })
    );
    assert_eq!(alice.act(&room, "kick", target(&bob)).await.error(), FORBIDDEN, "is not there any more");
    assert_eq!(bob.try_say(&room, "hello?").await.error(), FORBIDDEN);
}

#[tokio::test]
async fn a_banned_user_stays_out_until_he_is_unbanned() {
    let (alice, bob, carol) = three().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.try_join(&room).await.ok();
    carol.try_join(&room).await.ok();
    assert_eq!(carol.act(&room, "ban", target(&bob)).await.error(), FORBIDDEN);
    alice.act(&room, "ban", target(&bob)).await.ok();
    assert_eq!(membership(&alice, &room, &bob).await, "ban");
    assert_eq!(bob.try_join(&room).await.error(), FORBIDDEN);
    assert_eq!(bob.try_leave(&room).await.error(), FORBIDDEN);
    assert_eq!(alice.try_invite(&room, &bob).await.error(), FORBIDDEN);
    assert_eq!(alice.act(&room, "kick", target(&bob)).await.error(), FORBIDDEN, "a kick must not unban");
    assert_eq!(carol.act(&room, "unban", target(&bob)).await.error(), FORBIDDEN);
    assert_eq!(alice.act(&room, "unban", target(&carol)).await.error(), FORBIDDEN, "is not banned: no kick");
    alice.act(&room, "unban", target(&bob)).await.ok();
    bob.try_join(&room).await.ok();
}

#[tokio::test]
async fn knocks_are_accepted_rejected_and_taken_back() {
    let (alice, bob, _) = three().await;
    let rule = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = alice.create_room(json!({ "initial_state": rule, "room_alias_name": "knock" })).await;
    let knock = async || bob.post("/v3/knock/%23knock:example.org", json!({ "reason": "please" })).await;
    assert_eq!(knock().await.ok(), json!({ "room_id": room }));
    let content = alice.state(&room, "m.room.member", &bob.id).await.ok();
    assert_eq!(content, json!({ "membership": "knock", "reason": "please" }));
    knock().await.ok(); // again
    assert_eq!(bob.try_join(&room).await.error(), FORBIDDEN);
    bob.try_leave(&room).await.ok();
    knock().await.ok();
    alice.act(&room, "kick", target(&bob)).await.ok();
    knock().await.ok();
    alice.try_invite(&room, &bob).await.ok();
    assert_eq!(knock().await.error(), FORBIDDEN, "is invited");
    bob.try_join(&room).await.ok();
    assert_eq!(knock().await.error(), FORBIDDEN, "is in the room");
    alice.act(&room, "ban", target(&bob)).await.ok();
    assert_eq!(knock().await.error(), FORBIDDEN, "is banned");
    let private = alice.create_room(json!({})).await;
    assert_eq!(bob.post(&format!("/v3/knock/{private}"), json!({})).await.error(), FORBIDDEN);
}

#[tokio::test]
async fn members_of_the_rooms_that_are_named_join_a_restricted_room() {
    let (alice, bob, carol) = three().await;
    for (version, rule) in [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")] {
        let space = alice.create_room(json!({ "preset": "public_chat" })).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
        let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": rule, "allow": allow } }]);
        let room = alice.create_room(json!({ "room_version": version, "initial_state": rules })).await;
        assert_eq!(bob.try_join(&room).await.error(), FORBIDDEN);
        bob.try_join(&space).await.ok();
        bob.try_join(&room).await.ok();
        let content = alice.state(&room, "m.room.member", &bob.id).await.ok();
        assert_eq!(content["join_authorised_via_users_server"], alice.id, "version {version}");
        bob.try_leave(&room).await.ok();
        bob.try_leave(&space).await.ok();
        assert_eq!(bob.try_join(&room).await.error(), FORBIDDEN);
        // An invite is enough, and then nobody vouches.
        alice.try_invite(&room, &carol).await.ok();
        carol.try_join(&room).await.ok();
        let content = alice.state(&room, "m.room.member", &carol.id).await.ok();
        assert_eq!(content.get("join_authorised_via_users_server"), None);
    }
}

#[tokio::test]
async fn nobody_joins_a_restricted_room_whose_rules_are_mangled_or_that_nobody_may_invite_to() {
    let (alice, bob, _) = three().await;
    let space = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.try_join(&space).await.ok();
    let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
    for mangled in [
        json!({ "join_rule": "restricted" }),
        json!({ "join_rule": "restricted", "allow": "x" }),
        json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership" }, { "room_id": space }] }),
        json!({ "join_rule": "x", "allow": allow }),
    ] {
        let rules = json!([{ "type": "m.room.join_rules", "content": mangled }]);
        let room = alice.create_room(json!({ "room_version": "11", "initial_state": rules })).await;
        assert_eq!(bob.try_join(&room).await.error(), FORBIDDEN, "{mangled}");
    }
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "restricted", "allow": allow } }]);
    let nobody =
        json!({ "room_version": "11", "initial_state": rules, "power_level_content_override": { "invite": 101 } });
    let room = alice.create_room(nobody).await;
    assert_eq!(bob.try_join(&room).await.error(), FORBIDDEN);
}

#[tokio::test]
async fn member_events_as_state_follow_the_same_rules() {
    let (alice, bob, carol) = three().await;
    let room = alice.create_room(json!({})).await;
    let set = async |by: &User, of: &User, membership: &str| {
        by.set_state(&room, "m.room.member", &of.id, json!({ "membership": membership })).await
    };
    assert_eq!(set(&bob, &bob, "join").await.error(), FORBIDDEN);
    set(&alice, &bob, "invite").await.ok();
    assert_eq!(set(&alice, &bob, "join").await.error(), FORBIDDEN, "nobody joins another");
    set(&bob, &bob, "join").await.ok();
    assert_eq!(set(&bob, &carol, "ban").await.error(), FORBIDDEN);
    set(&alice, &carol, "ban").await.ok();
    set(&alice, &bob, "leave").await.ok();
    assert_eq!(membership(&alice, &room, &bob).await, "leave");
    for invite in [json!(null), json!({ "signed": {} })] {
        let content = json!({ "membership": "invite", "third_party_invite": invite });
        alice.set_state(&room, "m.room.member", &bob.id, content).await.ok();
        let content = alice.state(&room, "m.room.member", &bob.id).await.ok();
        assert_eq!(content.get("third_party_invite"), None, "only servers say so");
        set(&alice, &bob, "leave").await.ok();
    }
    for (key, content) in [
        (alice.id.as_str(), json!({ "membership": 1 })),
        (&alice.id, json!({})),
        (&alice.id, json!({ "membership": "guest" })),
        ("nobody", json!({ "membership": "invite" })),
    ] {
        let answer = alice.set_state(&room, "m.room.member", key, content.clone()).await;
        assert_eq!(answer.error(), (400, "M_BAD_JSON"), "{key} {content}");
    }
}

#[tokio::test]
async fn rooms_are_forgotten_only_when_they_are_left() {
    let (alice, bob, carol) = three().await;
    let room = alice.create_room(json!({ "invite": [bob.id] })).await;
    let forget = async |user: &User| user.act(&room, "forget", json!({})).await;
    assert_eq!(forget(&alice).await.error(), (400, "M_UNKNOWN"));
    assert_eq!(forget(&bob).await.error(), (400, "M_UNKNOWN"), "an invite must be rejected first");
    assert_eq!(forget(&carol).await.error(), (404, "M_NOT_FOUND"));
    bob.try_leave(&room).await.ok();
    assert_eq!(forget(&bob).await.ok(), json!({}));
    forget(&bob).await.ok();
    assert_eq!(bob.get(&format!("/v3/rooms/{room}/messages?dir=b")).await.error(), FORBIDDEN);
    alice.try_invite(&room, &bob).await.ok();
    bob.try_join(&room).await.ok();
    bob.get(&format!("/v3/rooms/{room}/messages?dir=b")).await.ok();
}

#[tokio::test]
async fn joins_need_no_identity_server_and_trust_none() {
    let (alice, bob, _) = three().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let signed = json!({ "sender": alice.id, "mxid": bob.id, "token": "t", "signatures": {} });
    for path in [format!("/v3/rooms/{room}/join"), format!("/v3/join/{room}")] {
        let answer = bob.post(&path, json!({ "third_party_signed": signed })).await;
        assert_eq!(answer.error(), (403, "M_SERVER_NOT_TRUSTED"), "{path}");
    }
}

#[tokio::test]
async fn everybody_can_join_at_once() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let mut joins = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (server, room) = (server.clone(), room.clone());
        joins.spawn(async move {
            let user = server.user(&format!("user{n}")).await;
            user.try_join(&room).await.ok();
            user.try_say(&room, "hello").await.ok();
        });
    }
    while let Some(joined) = joins.join_next().await {
        joined.unwrap();
    }
    let members = alice.get(&format!("/v3/rooms/{room}/joined_members")).await.ok();
    assert_eq!(members["joined"].as_object().unwrap().len(), 21);
}

#[tokio::test]
async fn member_events_carry_the_profile() {
    let (alice, bob, _) = three().await;
    let (server, user) = (bob.server.inside(), ruma::UserId::parse(&bob.id).unwrap());
    let write = move |tx: &mut chappe::store::Transaction<'_>| {
        let name = chappe::store::Json::of(&"Bob");
        tx.put::<chappe::user::profile::Profiles>(&(&user, "displayname"), &name);
        Ok::<_, chappe::store::Error>(())
    };
    server.store.commit(write).await.unwrap();
    let room = alice.create_room(json!({ "invite": [bob.id] })).await;
    let content = async || alice.state(&room, "m.room.member", &bob.id).await.ok();
    assert_eq!(content().await, json!({ "membership": "invite", "displayname": "Bob" }));
    bob.try_join(&room).await.ok();
    assert_eq!(content().await, json!({ "membership": "join", "displayname": "Bob" }));
    let nick = json!({ "membership": "join", "displayname": "Bobby" });
    bob.set_state(&room, "m.room.member", &bob.id, nick.clone()).await.ok();
    assert_eq!(content().await, nick);
    bob.try_leave(&room).await.ok();
    assert_eq!(content().await, json!({ "membership": "leave" }));
}

#[tokio::test]
async fn whoever_blocks_invites_gets_none() {
    let (alice, bob, _) = three().await;
    let (server, user) = (bob.server.inside(), ruma::UserId::parse(&bob.id).unwrap());
    let write = move |tx: &mut chappe::store::Transaction<'_>| {
        let content = json!({ "default_action": "block" }).to_string();
        let datum = chappe::user::tables::AccountDatum { changed: tx.pos(), content };
        let key = (&*user, chappe::store::RoomNid(0), "m.invite_permission_config");
        tx.put::<chappe::user::tables::AccountData>(&key, &datum);
        Ok::<_, chappe::store::Error>(())
    };
    server.store.commit(write).await.unwrap();
    let blocked = (403, "M_INVITE_BLOCKED");
    let room = alice.create_room(json!({})).await;
    assert_eq!(alice.try_invite(&room, &bob).await.error(), blocked);
    let as_state = alice.set_state(&room, "m.room.member", &bob.id, json!({ "membership": "invite" })).await;
    assert_eq!(as_state.error(), blocked);
    assert_eq!(alice.post("/v3/createRoom", json!({ "invite": [bob.id] })).await.error(), blocked);
    let as_state = json!([{ "type": "m.room.member", "state_key": bob.id, "content": { "membership": "invite" } }]);
    assert_eq!(alice.post("/v3/createRoom", json!({ "initial_state": as_state })).await.error(), blocked);
}

#[tokio::test]
async fn who_is_told_of_a_rooms_news_follows_who_is_in_it() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let check = |expected: &[&User]| {
        let inside = server.inside();
        let snapshot = inside.store.snapshot();
        let room_id = ruma::RoomId::parse(&room).unwrap();
        let view = chappe::room::View::open(&inside.rooms, &snapshot, &room_id).unwrap().unwrap();
        let sorted = |mut users: Vec<String>| {
            users.sort();
            users
        };
        let known = inside
            .local_members
            .look(inside, view.nid, Vec::new, |members| members.iter().map(ToString::to_string).collect());
        let stored = view.local_members().unwrap().iter().map(ToString::to_string).collect();
        let expected = sorted(expected.iter().map(|user| user.id.clone()).collect());
        assert_eq!((sorted(known.unwrap()), sorted(stored)), (expected.clone(), expected));
    };
    check(&[&alice]);
    let (bob, carol) = (server.user("bob").await, server.user("carol").await);
    bob.try_join(&room).await.ok();
    carol.try_join(&room).await.ok();
    check(&[&alice, &bob, &carol]);
    bob.act(&room, "leave", json!({})).await.ok();
    check(&[&alice, &carol]);
    alice.act(&room, "ban", target(&carol)).await.ok();
    alice.act(&room, "invite", target(&bob)).await.ok();
    check(&[&alice]);
    bob.try_join(&room).await.ok();
    check(&[&alice, &bob]);
}
