//! Sticky events between servers.

use std::sync::Arc;

use chappe::room::sticky;
use serde_json::json;

use super::{Pair, Scripted, until, until_seen, until_synced};
use crate::{
    sticky::{stick, stuck},
    support::hosted::id_of,
};

#[tokio::test]
async fn they_go_to_other_servers_as_all_events_do() {
    let Pair { alice, bob, room, .. } = &Pair::new().await;
    let before = bob.now().await;
    let event = stick(alice, room, 3_600_000, 1).await;
    until_seen(bob, room, &event).await;
    alice.say(room, "x").await;
    let filter = "filter=%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:0%7D%7D%7D";
    assert_eq!(stuck(&bob.sync_with(&format!("{filter}&since={before}")).await, room), [1]);
}

#[tokio::test]
async fn one_that_was_soft_failed_is_judged_again_when_members_change() {
    let Scripted { here, bob, room, .. } = Scripted::new().await;
    tokio::spawn(sticky::run(Arc::clone(here.inside())));
    let (alice, carol) = ("@alice:there", "@carol:there");
    let member = |sender: &str, membership: &str| {
        room.event(&room.add(sender, "m.room.member", Some(carol), json!({ "membership": membership })))
    };
    let joined = member(carol, "join");
    let join_id = id_of(&joined);
    room.send(&here, vec![joined]).await.ok();
    let mut event = room.build(carol, "org.sticky", None, json!({ "n": 7 }), std::slice::from_ref(&join_id));
    event["msc4354_sticky"] = json!({ "duration_ms": 3_600_000 });
    room.sign(&mut event);
    let id = id_of(&event);
    let plain = room.build(carol, "org.plain", None, json!({ "n": 8 }), &[join_id]);
    let kicked = member(alice, "leave");
    room.send(&here, vec![kicked]).await.ok();
    room.send(&here, vec![event, plain.clone()]).await.ok();
    until("both to be looked at", async || {
        let snapshot = here.inside().store.snapshot();
        let waits = snapshot.list::<sticky::StickyWaiting>(&()).count();
        (waits == 1).then_some(())
    })
    .await;
    let before = bob.now().await;
    assert_eq!(bob.event(&room.id, &id).await.error(), (404, "M_NOT_FOUND"), "she is out");

    let again = member(carol, "join");
    room.send(&here, vec![again]).await.ok();
    until_synced(&bob, &before, "the event", |answer| {
        let events = answer["rooms"]["join"][&room.id]["timeline"]["events"].as_array().cloned().unwrap_or_default();
        events.iter().any(|event| event["event_id"] == *id).then_some(())
    })
    .await;
    let plain = id_of(&plain);
    assert_eq!(bob.event(&room.id, &plain).await.error(), (404, "M_NOT_FOUND"), "others stay out");
    let report = chappe::check::check(&here.inside().store, here.inside().name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}
