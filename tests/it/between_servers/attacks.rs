use serde_json::{Value, json};

use super::Scripted;
use crate::sliding::Connection;

async fn messages(scripted: &Scripted) -> Vec<Value> {
    let answer = scripted.bob.sync_with("").await;
    answer["to_device"]["events"].as_array().cloned().unwrap_or_default()
}

fn to_device(sender: &str, id: &str, messages: &Value) -> Value {
    let content = json!({ "sender": sender, "type": "my.type", "message_id": id, "messages": messages });
    json!({ "edu_type": "m.direct_to_device", "content": content })
}

#[tokio::test]
async fn a_to_device_message_is_delivered_once_and_only_to_devices_that_there_are() {
    let scripted = Scripted::new().await;
    let (alice, bob) = (scripted.peer.user("alice"), scripted.bob.id.clone());
    let device = scripted.bob.device_id.clone();
    let good = json!({ &bob: { &device: { "n": 1 } } });
    scripted.send(json!([to_device(&alice, "m1", &good)])).await;
    scripted.send(json!([to_device(&alice, "m1", &good)])).await;
    assert_eq!(messages(&scripted).await.len(), 1, "a repeated message id");
    let nobody = json!({ "@nobody:here": { "*": {} }, "@bob:there": { &device: {} }, &bob: { "NONE": {} } });
    scripted.send(json!([to_device(&alice, "m2", &nobody)])).await;
    assert!(messages(&scripted).await.len() <= 1);
}

#[tokio::test]
async fn a_server_speaks_for_its_own_users_only() {
    let scripted = Scripted::new().await;
    let (bob, device, room) = (scripted.bob.id.clone(), scripted.bob.device_id.clone(), scripted.room.id.clone());
    let since = scripted.bob.now().await;
    let receipt = json!({ "data": { "ts": 1 }, "event_ids": ["$x"] });
    scripted
        .send(json!([
            to_device("@carol:elsewhere", "m1", &json!({ &bob: { &device: {} } })),
            to_device(&bob, "m2", &json!({ &bob: { &device: {} } })),
            { "edu_type": "m.typing", "content": { "room_id": room, "user_id": bob, "typing": true } },
            { "edu_type": "m.receipt", "content": { &room: { "m.read": { &bob: receipt, "@carol:elsewhere": receipt } } } },
            { "edu_type": "m.presence", "content": { "push": [
                { "user_id": bob, "presence": "unavailable", "status_msg": "forged", "last_active_ago": 1 },
            ] } },
            { "edu_type": "m.device_list_update",
              "content": { "user_id": bob, "device_id": device, "stream_id": 1, "deleted": true } },
            { "edu_type": "m.signing_key_update", "content": { "user_id": bob } },
        ]))
        .await;
    let answer = scripted.bob.sync(&since).await;
    assert!(answer["to_device"]["events"].as_array().is_none_or(Vec::is_empty), "{answer}");
    assert!(answer["device_lists"]["changed"].as_array().is_none_or(Vec::is_empty), "{answer}");
    let ephemeral = &answer["rooms"]["join"][&room]["ephemeral"]["events"];
    assert!(ephemeral.as_array().is_none_or(Vec::is_empty), "{ephemeral}");
    assert!(!answer["presence"].to_string().contains("forged"), "{answer}");
}

#[tokio::test]
async fn who_is_not_in_the_room_neither_types_nor_reads_there() {
    let scripted = Scripted::new().await;
    let (room, carol) = (scripted.room.id.clone(), scripted.peer.user("carol"));
    let since = scripted.bob.now().await;
    let receipt = json!({ "data": { "ts": 1 }, "event_ids": ["$x"] });
    scripted
        .send(json!([
            { "edu_type": "m.typing", "content": { "room_id": room, "user_id": carol, "typing": true } },
            { "edu_type": "m.receipt", "content": { &room: { "m.read": { &carol: receipt } } } },
            { "edu_type": "m.presence", "content": { "push": [
                { "user_id": carol, "presence": "online", "last_active_ago": 1 },
            ] } },
        ]))
        .await;
    let answer = scripted.bob.sync(&since).await;
    assert!(!answer.to_string().contains(&carol), "{answer}");
}

#[tokio::test]
async fn a_receipt_for_what_is_no_event_id_spoils_no_other() {
    let scripted = Scripted::new().await;
    let (room, alice) = (scripted.room.id.clone(), scripted.peer.user("alice"));
    let mut sliding = Connection::new(
        &scripted.bob,
        json!({
            "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1 } },
            "extensions": { "receipts": { "enabled": true } },
        }),
    );
    sliding.next().await;
    let since = scripted.bob.now().await;
    let hello = scripted.bob.say(&room, "hello").await;
    scripted.bob.post(&format!("/v3/rooms/{room}/receipt/m.read/{hello}"), json!({})).await.ok();
    let of = |id: &str| {
        let receipt = json!({ "data": { "ts": 1 }, "event_ids": [id] });
        json!({ "edu_type": "m.receipt", "content": { &room: { "m.read": { &alice: receipt } } } })
    };
    let data = json!({ "ts": 1, "thread_id": format!("${}", "x".repeat(255)) });
    let threaded = json!({ &room: { "m.read": { &alice: { "data": data, "event_ids": ["threaded"] } } } });
    let threaded = json!({ "edu_type": "m.receipt", "content": threaded });
    scripted.send(json!([of("odd"), of(""), of(&"x".repeat(256)), threaded])).await;
    let answer = scripted.bob.sync(&since).await;
    let events = answer["rooms"]["join"][&room]["ephemeral"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 2, "{answer}");
    assert!(events[0]["content"][&hello]["m.read"][&scripted.bob.id].is_object(), "{answer}");
    assert_eq!(events[1]["content"], json!({ "odd": { "m.read": { &alice: { "ts": 1 } } } }));
    // Where there is a place for one event only, it is not told.
    let content = sliding.next().await["extensions"]["receipts"]["rooms"][&room]["content"].take();
    assert_eq!(content.as_object().unwrap().keys().collect::<Vec<_>>(), [&hello]);
}

#[tokio::test]
async fn private_receipts_of_other_servers_and_malformed_edus_are_passed_over() {
    let scripted = Scripted::new().await;
    let (room, alice) = (scripted.room.id.clone(), scripted.peer.user("alice"));
    let since = scripted.bob.now().await;
    let receipt = json!({ "data": { "ts": 1 }, "event_ids": ["$x"] });
    scripted
        .send(json!([
            { "edu_type": "m.receipt", "content": { &room: { "m.read.private": { &alice: receipt } } } },
            { "edu_type": "m.receipt", "content": { &room: { "m.read": { &alice: { "event_ids": "x" } } } } },
            { "edu_type": "m.receipt", "content": 1 },
            { "edu_type": "m.typing", "content": { "room_id": 1 } },
            { "edu_type": "m.device_list_update", "content": { "user_id": alice, "stream_id": -1 } },
            { "edu_type": "m.direct_to_device", "content": { "sender": alice } },
            { "edu_type": "org.example.unknown", "content": {} },
            // The last one is good: the others did not stop it.
            { "edu_type": "m.typing", "content": { "room_id": room, "user_id": alice, "typing": true } },
        ]))
        .await;
    let answer = scripted.bob.sync(&since).await;
    let ephemeral = &answer["rooms"]["join"][&room]["ephemeral"]["events"];
    assert_eq!(*ephemeral, json!([{ "type": "m.typing", "content": { "user_ids": [alice] } }]));
}
