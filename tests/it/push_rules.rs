//! Push rules: <https://spec.matrix.org/v1.19/client-server-api/#push-rules>

use serde_json::{Value, json};

use crate::support::{TestServer, User};

fn rule(kind: &str, id: &str) -> String {
    format!("/v3/pushrules/global/{kind}/{id}")
}

/// Of the rules that the user made himself.
async fn ids(user: &User, kind: &str) -> Vec<String> {
    let rules = user.get("/v3/pushrules/").await.ok();
    let of_kind = rules["global"][kind].as_array().cloned().unwrap_or_default();
    let ids = of_kind.iter().map(|rule| rule["rule_id"].as_str().unwrap().to_owned());
    ids.filter(|id| !id.starts_with('.')).collect()
}

#[tokio::test]
async fn the_defaults_are_there_from_the_start() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let all = alice.get("/v3/pushrules/").await.ok();
    assert_eq!(all["global"], alice.get("/v3/pushrules/global/").await.ok());
    let of_kind = |kind: &str| -> Vec<&str> {
        let ids = all["global"][kind].as_array().unwrap().iter().map(|rule| rule["rule_id"].as_str().unwrap());
        ids.filter_map(|id| id.strip_prefix(".m.rule.")).collect()
    };
    let mentions_in_texts = ["contains_display_name", "roomnotif"]; // NOTSPEC, see `push::defaults`
    let overriding: Vec<_> = of_kind("override").into_iter().filter(|id| !mentions_in_texts.contains(id)).collect();
    assert_eq!(
        overriding,
        [
            "master",
            "suppress_notices",
            "invite_for_me",
            "member_event",
            "is_user_mention",
            "is_room_mention",
            "tombstone",
            "reaction",
            "room.server_acl",
            "suppress_edits",
        ]
    );
    assert_eq!(of_kind("underride"), ["call", "encrypted_room_one_to_one", "room_one_to_one", "message", "encrypted"]);
    assert!(!all.to_string().contains("dont_notify"), "no action is an empty list since v1.7: {all}");
    let events = &alice.sync_with("").await["account_data"]["events"];
    assert_eq!(events, &json!([{ "type": "m.push_rules", "content": all }]));
}

#[tokio::test]
async fn rules_of_every_kind_are_made_read_changed_and_removed() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let condition = json!([{ "kind": "event_match", "key": "type", "pattern": "org.x" }]);
    let cases = [
        ("override", "own", json!({ "actions": ["notify"], "conditions": condition })),
        ("underride", "own", json!({ "actions": ["notify"] })),
        (
            "content",
            "cake",
            json!({ "actions": ["notify", { "set_tweak": "sound", "value": "bing" }], "pattern": "cake*lie" }),
        ),
        ("room", "!room:example.org", json!({ "actions": ["dont_notify"] })),
        ("sender", "@spam:example.org", json!({ "actions": [] })),
    ];
    for (kind, id, body) in cases {
        let token = alice.now().await;
        let path = rule(kind, id);
        alice.put(&path, body.clone()).await.ok();
        let kept = alice.get(&path).await.ok();
        assert_eq!((&kept["enabled"], &kept["default"], &kept["rule_id"]), (&json!(true), &json!(false), &json!(id)));
        assert_eq!((&kept["actions"], &kept["pattern"]), (&body["actions"], &body["pattern"]));
        let news = alice.sync(&token).await["account_data"]["events"].clone();
        assert_eq!(news[0]["type"], "m.push_rules");
        assert!(news[0]["content"]["global"][kind].as_array().unwrap().contains(&kept));

        alice.put(&format!("{path}/enabled"), json!({ "enabled": false })).await.ok();
        alice.put(&format!("{path}/actions"), json!({ "actions": ["notify"] })).await.ok();
        assert_eq!(alice.get(&format!("{path}/enabled")).await.ok(), json!({ "enabled": false }));
        assert_eq!(alice.get(&format!("{path}/actions")).await.ok(), json!({ "actions": ["notify"] }));
        alice.delete(&path).await.ok();
        for gone in [&path, &format!("{path}/enabled"), &format!("{path}/actions")] {
            assert_eq!(alice.get(gone).await.error(), (404, "M_NOT_FOUND"));
        }
        assert_eq!(alice.delete(&path).await.error(), (404, "M_NOT_FOUND"));
        assert_eq!(alice.put(&format!("{path}/enabled"), json!({ "enabled": true })).await.status, 404);
        assert_eq!(alice.put(&format!("{path}/actions"), json!({ "actions": [] })).await.status, 404);
    }
}

#[tokio::test]
async fn defaults_can_be_switched_and_changed_but_not_removed_or_made() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (master, message) = (rule("override", ".m.rule.master"), rule("underride", ".m.rule.message"));
    alice.put(&format!("{master}/enabled"), json!({ "enabled": true })).await.ok();
    alice.put(&format!("{message}/actions"), json!({ "actions": [] })).await.ok();
    assert_eq!(alice.get(&master).await.ok()["enabled"], true);
    assert_eq!(alice.get(&message).await.ok()["actions"], json!([]));
    assert_eq!(alice.delete(&message).await.error(), (400, "M_INVALID_PARAM"));
    for id in [".m.rule.new", ".m.rule.message", "a%5Cb"] {
        assert_eq!(alice.put(&rule("underride", id), json!({ "actions": [] })).await.error(), (400, "M_INVALID_PARAM"));
    }
}

#[tokio::test]
async fn rules_stand_in_the_order_that_was_asked_for() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let put = async |id: &str, query: &str| {
        alice.put(&format!("{}{query}", rule("content", id)), json!({ "actions": [], "pattern": "x" })).await
    };
    put("a", "").await.ok();
    put("b", "").await.ok();
    put("c", "?after=b").await.ok();
    assert_eq!(ids(&alice, "content").await, ["b", "c", "a"]);
    // What made other servers panic.
    put("b", "?after=a").await.ok();
    put("a", "?after=b").await.ok();
    put("a", "?after=a").await.ok();
    assert_eq!(ids(&alice, "content").await, ["c", "b", "a"]);
    put("a", "?before=c&after=b").await.ok();
    assert_eq!(ids(&alice, "content").await, ["a", "c", "b"]);
    for query in ["?before=nothing", "?after=nothing", "?before=c&after=nothing"] {
        assert_eq!(put("d", query).await.error(), (400, "M_UNKNOWN"), "{query}");
    }
    let relative =
        alice.put(&format!("{}?after=.m.rule.master", rule("override", "d")), json!({ "actions": [] })).await;
    assert_eq!(relative.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(ids(&alice, "content").await, ["a", "c", "b"]);
}

#[tokio::test]
async fn malformed_rules_are_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let bodies = [
        json!([]),
        json!({}),
        json!({ "actions": "notify" }),
        json!({ "actions": [1] }),
        json!({ "actions": [], "conditions": {} }),
        json!({ "actions": [], "conditions": [{ "kind": "event_match", "key": "type" }] }),
        json!({ "actions": [], "conditions": [{ "kind": "room_member_count", "is": "many" }] }),
    ];
    for body in bodies {
        assert_eq!(alice.put(&rule("override", "x"), body.clone()).await.error(), (400, "M_BAD_JSON"), "{body}");
    }
    assert_eq!(alice.put(&rule("content", "x"), json!({ "actions": [] })).await.error(), (400, "M_BAD_JSON"));
    let nested = (0..110).fold(json!([]), |inner, _| json!([inner]));
    alice.put(&rule("override", "x"), json!({ "actions": [{ "a": 1 }] })).await.ok();
    let actions = json!({ "actions": [{ "a": nested }] });
    for path in [rule("override", "x"), format!("{}/actions", rule("override", "x"))] {
        assert_eq!(alice.put(&path, actions.clone()).await.error(), (400, "M_BAD_JSON"));
    }
    alice.get("/v3/pushrules/").await.ok();
    for (kind, id) in [("nothing", "x"), ("sender", "nobody"), ("room", "nowhere")] {
        let answer = alice.put(&rule(kind, id), json!({ "actions": [] })).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{kind}");
    }
    assert_eq!(alice.get(&rule("nothing", "x")).await.error(), (404, "M_NOT_FOUND"));
}

/// 10,000 rules of 1 KiB each made other servers stand still.
#[tokio::test]
async fn rules_have_limits() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let put = async |id: &str, pattern: String| {
        alice.put(&rule("content", id), json!({ "actions": [], "pattern": pattern })).await
    };
    assert_eq!(put("long", "x".repeat(257)).await.error(), (413, "M_TOO_LARGE"));
    assert_eq!(put(&"x".repeat(256), "x".to_owned()).await.error(), (400, "M_INVALID_PARAM"));
    for n in 0..100 {
        put(&format!("glob{n}"), "*".to_owned()).await.ok();
    }
    assert_eq!(put("glob100", "?".to_owned()).await.error(), (413, "M_TOO_LARGE"));
    let mut kept = 100;
    let refused = loop {
        let answer = put(&format!("{kept}"), "x".repeat(256)).await;
        if answer.status != 200 {
            break answer;
        }
        kept += 1;
        assert!(kept < 1_000);
    };
    assert_eq!(refused.error(), (413, "M_TOO_LARGE"));
    assert_eq!(ids(&alice, "content").await.len(), kept);
    let unknown: Value = json!({ "actions": ["x".repeat(200 << 10)] });
    assert_eq!(alice.put(&rule("sender", "@a:b"), unknown).await.error(), (413, "M_TOO_LARGE"));
}
