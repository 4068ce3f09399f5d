use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Scene, find, is_signed_by};
use crate::support::room::path;

type Change<'c> = Box<dyn Fn(&mut Value) + 'c>;

#[tokio::test]
async fn a_user_of_another_server_joins_a_room_of_any_version_and_his_server_is_told_its_state() {
    for version in ["1", "6", "10", "11", "12"] {
        let scene = Scene::new(version).await;
        let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
        assert_eq!(template["room_version"], version);
        let event = &template["event"];
        assert_eq!(event["type"], "m.room.member");
        assert_eq!(event["content"], json!({ "membership": "join" }));
        assert_eq!((&event["sender"], &event["state_key"]), (&scene.bob().into(), &scene.bob().into()));
        assert_eq!(event["room_id"], scene.room.as_str());
        for ours in ["signatures", "hashes", "event_id"] {
            assert!(event.get(ours).is_none(), "a template has no {ours}");
        }

        let (event, id) = scene.complete(&template, |_| {});
        let told = scene.send("v2/send_join", &scene.room, &id, &event).await.ok();
        assert_eq!(told["members_omitted"], false);
        assert_eq!(told["servers_in_room"], json!(["resident.test"]));
        assert!(find(&told["state"], "m.room.create", "").is_some());
        assert!(find(&told["state"], "m.room.member", &scene.alice.id).is_some());
        assert!(find(&told["state"], "m.room.member", &scene.bob()).is_none(), "the state is that before the join");
        assert!(find(&told["auth_chain"], "m.room.power_levels", "").is_some());
        assert_eq!(told["event"]["signatures"], event["signatures"]);
        assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("join"), "version {version}");
    }
}

#[tokio::test]
async fn a_join_that_is_sent_again_is_answered_again() {
    let scene = Scene::new("11").await;
    let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
    let (event, id) = scene.complete(&template, |_| {});
    let first = scene.send("v2/send_join", &scene.room, &id, &event).await.ok();
    let again = scene.send("v2/send_join", &scene.room, &id, &event).await.ok();
    assert_eq!(first, again);
    let old_form = scene.send("v1/send_join", &scene.room, &id, &event).await.ok();
    assert_eq!(old_form, json!([200, first]));
}

#[tokio::test]
async fn a_join_that_is_sent_again_after_a_ban_is_judged_again_and_comes_in_no_second_time() {
    let scene = Scene::new("11").await;
    let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
    let (event, id) = scene.complete(&template, |_| {});
    let send = async || scene.send("v2/send_join", &scene.room, &id, &event).await;
    send().await.ok();
    scene.alice.act(&scene.room, "ban", json!({ "user_id": scene.bob() })).await.ok();
    assert_eq!(send().await.error(), (403, "M_FORBIDDEN"));
    scene.alice.act(&scene.room, "unban", json!({ "user_id": scene.bob() })).await.ok();
    let events = scene.alice.history(&scene.room).await.len();
    send().await.ok();
    assert_eq!(scene.alice.history(&scene.room).await.len(), events);
    assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("leave"));
}

#[tokio::test]
async fn a_join_that_comes_several_times_at_once_is_answered_alike_each_time() {
    for version in ["1", "11"] {
        let scene = Scene::new(version).await;
        let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
        let (event, id) = scene.complete(&template, |_| {});
        // As many as are made for one server at a time.
        let at_once = (0..3).map(|_| scene.send("v2/send_join", &scene.room, &id, &event));
        let told: Vec<Value> = join_all(at_once).await.into_iter().map(|answer| answer.ok()).collect();
        assert!(told.iter().all(|other| *other == told[0]), "version {version}");
        assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("join"), "version {version}");
    }
}

#[tokio::test]
async fn a_server_that_wants_no_members_gets_only_those_whom_a_nameless_room_is_called_after() {
    let scene = Scene::new("11").await;
    let carol = scene.server.user("carol").await;
    carol.join(&scene.room).await;
    let join = async |user: String| {
        let template = scene.make("make_join", &scene.room, &user).await.ok();
        let (event, id) = scene.complete(&template, |_| {});
        scene.send("v2/send_join?omit_members=true", &scene.room, &id, &event).await.ok()
    };
    let told = join(scene.bob()).await;
    assert_eq!(told["members_omitted"], true);
    assert_eq!(told["servers_in_room"], json!(["resident.test"]));
    for hero in [&scene.alice.id, &carol.id] {
        assert!(find(&told["state"], "m.room.member", hero).is_some());
        assert!(find(&told["auth_chain"], "m.room.member", hero).is_none(), "no event is told twice");
    }
    assert!(find(&told["state"], "m.room.create", "").is_some());

    scene.alice.set(&scene.room, "m.room.name", "", json!({ "name": "Room" })).await;
    let told = join(scene.peer.user("dan")).await;
    assert_eq!(told["servers_in_room"], json!(["peer.test", "resident.test"]));
    assert!(told["state"].as_array().unwrap().iter().all(|event| event["type"] != "m.room.member"));
    assert!(find(&told["auth_chain"], "m.room.member", &scene.alice.id).is_some(), "who made the state");
}

#[tokio::test]
async fn a_server_that_does_not_know_the_rooms_version_learns_which_it_is() {
    let scene = Scene::new("11").await;
    let uri = format!("/v1/make_join/{}/{}", path(&scene.room), path(&scene.bob()));
    for query in ["", "?ver=1&ver=10&ver=org.example.x"] {
        let answer = scene.peer.get(&scene.server, &format!("{uri}{query}")).await;
        assert_eq!(answer.error(), (400, "M_INCOMPATIBLE_ROOM_VERSION"));
        assert_eq!(answer.body["room_version"], "11");
    }
}

#[tokio::test]
async fn no_template_is_made_for_whom_the_room_does_not_let_in() {
    let scene = Scene::new("11").await;
    let make = async |room: &str, user: &str| {
        let answer = scene.make("make_join", room, user).await;
        (answer.status.as_u16(), answer.body["errcode"].as_str().unwrap_or_default().to_owned())
    };
    let forbidden = (403, "M_FORBIDDEN".to_owned());
    assert_eq!(make("!unknown:resident.test", &scene.bob()).await, (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(make(&scene.room, "@bob:elsewhere.test").await, forbidden);
    assert_eq!(make(&scene.room, &scene.alice.id).await, forbidden);
    scene.alice.act(&scene.room, "ban", json!({ "user_id": scene.bob() })).await.ok();
    assert_eq!(make(&scene.room, &scene.bob()).await, forbidden);
    assert_eq!(make(&scene.room, &scene.peer.user("dan")).await.0, 200);
    let acl = json!({ "allow": ["*"], "deny": ["PEER.test"] });
    scene.alice.set(&scene.room, "m.room.server_acl", "", acl).await;
    assert_eq!(make(&scene.room, &scene.peer.user("dan")).await, forbidden);
    scene.alice.set(&scene.room, "m.room.server_acl", "", json!({ "allow": ["*"] })).await;
    scene.alice.set(&scene.room, "m.room.join_rules", "", json!({ "join_rule": "invite" })).await;
    assert_eq!(make(&scene.room, &scene.peer.user("dan")).await, forbidden);

    let closed =
        Scene::with("11", json!({ "preset": "public_chat", "creation_content": { "m.federate": false } })).await;
    assert_eq!(closed.make("make_join", &closed.room, &closed.bob()).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_template_from_before_an_acl_lets_nobody_in_whose_server_it_bars() {
    let scene = Scene::new("11").await;
    let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
    let (event, id) = scene.complete(&template, |_| {});
    let acl = json!({ "allow": ["*"], "deny": ["peer.test"] });
    scene.alice.set(&scene.room, "m.room.server_acl", "", acl).await;
    for endpoint in ["v1/send_join", "v2/send_join"] {
        let answer = scene.send(endpoint, &scene.room, &id, &event).await;
        assert_eq!(answer.error(), (403, "M_FORBIDDEN"), "{endpoint}");
        assert!(!answer.body.to_string().contains("ed25519"), "{}", answer.body);
    }
    assert_eq!(scene.membership(&scene.bob()).await, None);
}

#[tokio::test]
async fn a_room_that_we_left_is_no_longer_ours_to_let_anybody_into() {
    let scene = Scene::new("11").await;
    let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
    let (event, id) = scene.complete(&template, |_| {});
    scene.alice.leave(&scene.room).await;
    assert_eq!(scene.make("make_join", &scene.room, &scene.bob()).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(scene.send("v2/send_join", &scene.room, &id, &event).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn only_a_join_of_its_own_user_to_that_room_can_be_sent_as_a_join() {
    let scene = Scene::new("11").await;
    let other_room = scene.alice.create_public_room("shared").await;
    let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
    let carol = "@carol:elsewhere.test";
    let changes: [(&str, Change<'_>); 9] = [
        ("type", Box::new(|event| event["type"] = "m.room.power_levels".into())),
        (
            "message",
            Box::new(|event| {
                event["type"] = "m.room.message".into();
                event.as_object_mut().unwrap().remove("state_key");
            }),
        ),
        ("leave", Box::new(|event| event["content"]["membership"] = "leave".into())),
        ("ban", Box::new(|event| event["content"]["membership"] = "ban".into())),
        ("state key", Box::new(|event| event["state_key"] = carol.into())),
        (
            "sender",
            Box::new(|event| {
                event["sender"] = carol.into();
                event["state_key"] = carol.into();
            }),
        ),
        ("room", Box::new(|event| event["room_id"] = other_room.as_str().into())),
        ("previous event", Box::new(|event| event["prev_events"] = json!(["$unknown"]))),
        ("no previous event", Box::new(|event| event["prev_events"] = json!([]))),
    ];
    for (what, change) in changes {
        let (event, id) = scene.complete(&template, change);
        let answer = scene.send("v2/send_join", &scene.room, &id, &event).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{what}");
        assert!(!is_signed_by(&answer.body, "resident.test"));
    }
    let (event, id) = scene.complete(&template, |_| {});
    let send = async |room: &str, id: &str, event: &Value| {
        let answer = scene.send("v2/send_join", room, id, event).await;
        (answer.status.as_u16(), answer.errcode().to_owned())
    };
    let invalid = (400, "M_INVALID_PARAM".to_owned());
    assert_eq!(send(&other_room, &id, &event).await, invalid);
    assert_eq!(send(&scene.room, "$another", &event).await, invalid);
    let mut forged = event.clone();
    forged["origin_server_ts"] = 5.into();
    let forged_id = scene.id_of(&forged);
    assert_eq!(send(&scene.room, &forged_id, &forged).await, invalid, "a signature of something else");
    let mut unsigned = event.clone();
    unsigned["signatures"] = json!({});
    assert_eq!(send(&scene.room, &id, &unsigned).await, invalid);
    for (wrong, what) in [("v2/send_leave", "leave"), ("v1/send_knock", "knock")] {
        let answer = scene.send(wrong, &scene.room, &id, &event).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "a join is no {what}");
    }
    assert_eq!(scene.membership(&scene.bob()).await, None);
    scene.send("v2/send_join", &scene.room, &id, &event).await.ok();
}

#[tokio::test]
async fn a_join_that_the_room_does_not_allow_any_more_is_refused_and_not_kept() {
    let scene = Scene::new("11").await;
    let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
    let (event, id) = scene.complete(&template, |_| {});
    scene.alice.act(&scene.room, "ban", json!({ "user_id": scene.bob() })).await.ok();
    assert_eq!(scene.send("v2/send_join", &scene.room, &id, &event).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("ban"));
    scene.alice.act(&scene.room, "unban", json!({ "user_id": scene.bob() })).await.ok();
    scene.send("v2/send_join", &scene.room, &id, &event).await.ok();
    assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("join"));
}
