//! D1: being made to sign.

use http::Method;
use serde_json::{Value, json};

use super::Abroad;
use crate::support::{Peer, Siege, TestNetwork, TestServer, hosted::id_of, query, room::path};

type Change = fn(&mut Value);

/// Drafts that are not what was asked for.
const OTHER_DRAFTS: [(&str, Change); 5] = [
    ("type", |draft| draft["type"] = "m.room.power_levels".into()),
    ("sender", |draft| draft["sender"] = "@admin:home.test".into()),
    ("state key", |draft| draft["state_key"] = "@admin:home.test".into()),
    ("room", |draft| draft["room_id"] = "!other:evil.test".into()),
    ("membership", |draft| draft["content"]["membership"] = "ban".into()),
];

#[tokio::test]
async fn a_draft_of_anything_but_the_knock_is_not_signed() {
    for (what, change) in OTHER_DRAFTS {
        let abroad = Abroad::new().await;
        let mut draft = abroad.room.draft(&abroad.bob.id, "knock");
        change(&mut draft);
        abroad.evil.on(
            Method::GET,
            "/_matrix/federation/v1/make_knock/",
            move |_| json!({ "room_version": "11", "event": draft }),
        );
        let via = query(&[("via", "evil.test")]);
        let answer = abroad.bob.post(&format!("/v3/knock/{}{via}", abroad.room.id), json!({})).await;
        assert!(!answer.status.is_success(), "{what}");
        assert_eq!(abroad.network.count("evil.test", "/_matrix/federation/v1/send_knock/"), 0, "{what}");
    }
}

/// An invite of bob to the hostile server's room, as that server sends it.
async fn invite(abroad: &Abroad) {
    let (room, bob) = (&abroad.room, &abroad.bob.id);
    let invite = room.add("@alice:evil.test", "m.room.member", Some(bob), json!({ "membership": "invite" }));
    let body = json!({ "room_version": "11", "event": room.event(&invite), "invite_room_state": [] });
    abroad.evil.put(&abroad.home, &format!("/v2/invite/{}/{}", path(&room.id), path(&invite)), body).await.ok();
}

#[tokio::test]
async fn a_draft_of_anything_but_the_leave_is_not_signed() {
    for (what, change) in OTHER_DRAFTS {
        let abroad = Abroad::new().await;
        invite(&abroad).await;
        let mut draft = abroad.room.draft(&abroad.bob.id, "leave");
        change(&mut draft);
        abroad.evil.on(
            Method::GET,
            "/_matrix/federation/v1/make_leave/",
            move |_| json!({ "room_version": "11", "event": draft }),
        );
        abroad.bob.act(&abroad.room.id, "leave", json!({})).await;
        assert_eq!(abroad.network.count("evil.test", "/_matrix/federation/v2/send_leave/"), 0, "{what}");
    }
    // The same without a change is signed: it was the drafts that were wrong.
    let abroad = Abroad::new().await;
    invite(&abroad).await;
    let draft = abroad.room.draft(&abroad.bob.id, "leave");
    abroad.evil.on(
        Method::GET,
        "/_matrix/federation/v1/make_leave/",
        move |_| json!({ "room_version": "11", "event": draft }),
    );
    abroad.evil.on(Method::PUT, "/_matrix/federation/v2/send_leave/", |_| json!({}));
    abroad.bob.act(&abroad.room.id, "leave", json!({})).await.ok();
    let sent = abroad.evil.asked("/_matrix/federation/v2/send_leave/").remove(0).body;
    assert_eq!((&sent["type"], &sent["state_key"]), (&json!("m.room.member"), &json!(abroad.bob.id)));
    assert_eq!(sent["content"]["membership"], "leave");
}

#[tokio::test]
async fn another_event_than_our_invite_in_the_answer_to_it_changes_nothing() {
    let changes: [(&str, Change); 3] = [
        ("membership", |event| event["content"]["membership"] = "join".into()),
        ("levels", |event| {
            event["type"] = "m.room.power_levels".into();
            event["state_key"] = "".into();
            event["content"] = json!({ "users": { "@mallory:evil.test": 100 } });
        }),
        ("user", |event| event["state_key"] = "@other:evil.test".into()),
    ];
    for (what, change) in changes {
        let siege = Siege::before_the_walls(|_| {}).await;
        let evil = siege.evil.clone();
        siege.evil.on(Method::PUT, "/_matrix/federation/v2/invite/", move |asked| {
            let mut event = asked.body["event"].clone();
            change(&mut event);
            evil.sign_event(&mut event, &ruma::room_version_rules::RoomVersionRules::V11);
            json!({ "event": event })
        });
        siege.alice.act(&siege.room, "invite", json!({ "user_id": siege.mallory })).await;
        let member = siege.alice.state(&siege.room, "m.room.member", &siege.mallory).await;
        assert!(member.status == 404 || member.body["membership"] == "invite", "{what}: {}", member.body);
        let levels = siege.alice.state(&siege.room, "m.room.power_levels", "").await.ok();
        assert!(levels["users"].get(&siege.mallory).is_none(), "{what}");
        assert_eq!(siege.alice.state(&siege.room, "m.room.member", "@other:evil.test").await.status, 404, "{what}");
        siege.check().await;
    }
}

/// What an identity server, or anybody, tells of an address.
async fn bind(home: &TestServer, user: &str, invites: Value) -> crate::support::Answer {
    let body = json!({ "medium": "email", "address": "bob@example.org", "mxid": user, "invites": invites });
    home.request(Method::PUT, "/_matrix/federation/v1/3pid/onbind", None, Some(body)).await
}

fn pending(user: &str, sender: &str, room: &str) -> Value {
    let signed = json!({ "mxid": user, "token": "t", "signatures": { "id.test": { "ed25519:0": "AAAA" } } });
    json!({
        "medium": "email", "address": "bob@example.org", "mxid": user, "sender": sender, "room_id": room, "signed": signed,
    })
}

const EXCHANGE: &str = "/_matrix/federation/v1/exchange_third_party_invite/";

async fn until_asked(peer: &Peer, count: usize) -> Vec<crate::support::Asked> {
    for _ in 0..500 {
        let asked = peer.asked(EXCHANGE);
        if asked.len() >= count {
            return asked;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it was not asked");
}

#[tokio::test]
async fn who_invited_an_address_is_asked_to_invite_its_user_and_nobody_learns_what_comes_of_it() {
    let network = TestNetwork::new();
    let home = network.server("home.test").await;
    let bob = home.user("bob").await;
    let inviting = network.peer("inviting.test");
    inviting.on(Method::PUT, EXCHANGE, |_| json!({}));
    let room = "!room:inviting.test";
    let invites = json!([
        pending("@other:home.test", "@a:inviting.test", room), // signed for somebody else
        pending(&bob.id, "@a:gone.test", room),
        pending(&bob.id, "@a:inviting.test", room),
    ]);
    assert_eq!(bind(&home, &bob.id, invites).await.ok(), json!({}));
    let asked = until_asked(&inviting, 1).await;
    let event = &asked[0].body;
    assert_eq!(asked.len(), 1);
    assert_eq!((&event["type"], &event["state_key"]), (&json!("m.room.member"), &json!(bob.id)));
    assert_eq!((&event["sender"], &event["room_id"]), (&json!("@a:inviting.test"), &json!(room)));
    assert_eq!(event["content"]["third_party_invite"]["signed"]["token"], "t");
    assert!(
        event.get("signatures").is_none() && event.get("hashes").is_none(),
        "it is no event yet, and nothing signed"
    );
    // A user who does not exist is answered as one who does, and does nothing.
    let nobody = "@nobody:home.test";
    assert_eq!(bind(&home, nobody, json!([pending(nobody, "@a:inviting.test", room)])).await.ok(), json!({}));
    assert_eq!(bind(&home, "@bob:inviting.test", json!([])).await.error(), (403, "M_FORBIDDEN"));
    let many: Vec<_> = (0..21).map(|_| pending(&bob.id, "@a:inviting.test", room)).collect();
    assert_eq!(bind(&home, &bob.id, json!(many)).await.errcode(), "M_TOO_LARGE");
    assert_eq!(bind(&home, &bob.id, json!([{ "sender": 1 }])).await.error(), (400, "M_BAD_JSON"));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(inviting.asked(EXCHANGE).len(), 1);
}

#[tokio::test]
async fn nobody_gets_into_a_room_of_ours_by_saying_that_an_address_is_somebodys() {
    let siege = Siege::before_the_walls(|_| {}).await;
    let dave = siege.home.user("dave").await;
    let content = json!({ "display_name": "b...", "key_validity_url": "https://id.test/", "public_key": "AAAA" });
    siege.alice.set(&siege.room, "m.room.join_rules", "", json!({ "join_rule": "invite" })).await;
    siege.alice.set(&siege.room, "m.room.third_party_invite", "t", content).await;
    let invite = pending(&dave.id, &siege.alice.id, &siege.room);
    assert_eq!(bind(&siege.home, &dave.id, json!([invite])).await.ok(), json!({}));
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(siege.alice.state(&siege.room, "m.room.member", &dave.id).await.status, 404, "a forged signature");
    siege.check().await;
}

#[tokio::test]
async fn a_join_that_the_other_server_signs_in_another_form_is_not_ours() {
    let abroad = Abroad::new().await;
    let (room, evil) = (abroad.room.clone(), abroad.evil.clone());
    abroad.evil.on(Method::PUT, "/_matrix/federation/v2/send_join/", move |asked| {
        let mut other = asked.body.clone();
        other["content"]["displayname"] = "Mallory".into();
        evil.sign_event(&mut other, &ruma::room_version_rules::RoomVersionRules::V11);
        let ids: Vec<String> = ["m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name"]
            .iter()
            .map(|event_type| id_of(&room.state_event(event_type, "").unwrap()))
            .chain([id_of(&room.state_event("m.room.member", "@alice:evil.test").unwrap())])
            .collect();
        json!({ "state": room.events(&ids), "auth_chain": room.events(&ids), "event": other })
    });
    abroad.try_join().await.ok();
    let member = abroad.bob.state(&abroad.room.id, "m.room.member", &abroad.bob.id).await.ok();
    assert_ne!(member["displayname"], "Mallory");
    abroad.check();
}
