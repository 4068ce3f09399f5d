//! Two people talk end-to-end encrypted, with the library of Element X, through a server that is killed meanwhile.

use anyhow::{Context, Result};
use launched::Server;
use matrix_sdk::RoomState;
use matrix_sdk::room::Room;
use matrix_sdk::room::edit::EditedContent;
use matrix_sdk::ruma::api::error::ErrorKind;
use matrix_sdk::ruma::events::reaction::ReactionEventContent;
use matrix_sdk::ruma::events::relation::Annotation;
use matrix_sdk::ruma::events::room::message::{Relation, RoomMessageEventContent};
use matrix_sdk::ruma::{EventId, OwnedEventId, TransactionId};

use crate::conversation::{encrypted_room, say, send_file, trusts, verify_each_other};
use crate::device::{Device, eventually, file_of, sent};

#[tokio::test(flavor = "multi_thread")]
async fn two_people_talk_encrypted_through_a_crash_and_with_a_new_device() -> Result<()> {
    let mut server = Server::start(None)?;
    let alice = Device::register(&server.base_url(), "alice").await?;
    let bob = Device::register(&server.base_url(), "bob").await?;
    let (alices_room, bobs_room) = encrypted_room(&alice, &bob).await?;
    verify_each_other(&alice, &bob).await?;

    let greeting = say(&alices_room, "The line is open.").await?;
    assert_eq!(bob.receive_message(&greeting).await?.content.body(), "The line is open.");
    let answer = say(&bobs_room, "Signal received.").await?;
    assert_eq!(alice.receive_message(&answer).await?.content.body(), "Signal received.");
    edit(&alice, &alices_room, &greeting, &bob).await?;
    react(&bobs_room, &greeting, &alice).await?;
    let plan = send_file(&alices_room, &bob).await?;

    server.kill()?;
    let restarting = tokio::task::spawn_blocking(move || server.restart().map(|()| server));
    let in_the_dark = say_until_heard(&bobs_room, "Fog over the tower.").await?;
    let server = restarting.await??;
    assert_eq!(alice.receive_message(&in_the_dark).await?.content.body(), "Fog over the tower.");
    let after = say(&alices_room, "Clear again.").await?;
    assert_eq!(bob.receive_message(&after).await?.content.body(), "Clear again.");

    let recovery_key = alice.client.encryption().recovery().enable().wait_for_backups_to_upload().await?;
    let tablet = Device::log_in(&server.base_url(), "alice").await?;
    let tablets_room = tablet.room(alices_room.room_id(), RoomState::Joined).await?;
    tablet.client.encryption().recovery().recover(&recovery_key).await?;
    assert_is_trusted(&tablet, &bob).await?;
    read_the_history(&tablet, &tablets_room, &plan).await?;

    let welcome = say(&bobs_room, "Welcome to the new device.").await?;
    assert_eq!(tablet.receive_message(&welcome).await?.content.body(), "Welcome to the new device.");
    sign_out_of(&alice, &tablet).await
}

/// Sends again, under the same transaction id, until the server answers: what clients do while they are cut off.
async fn say_until_heard(room: &Room, text: &str) -> Result<OwnedEventId> {
    let transaction = TransactionId::new();
    eventually("an answer", async || {
        let sending = room.send(RoomMessageEventContent::text_plain(text)).with_transaction_id(transaction.clone());
        Ok(sending.await.ok().map(|sent| sent.response.event_id))
    })
    .await
}

/// Alice corrects a message, and Bob sees what it was and what it is.
async fn edit(alice: &Device, room: &Room, original: &EventId, bob: &Device) -> Result<()> {
    // The client fetches and decrypts the message that it edits: that works only for its author.
    let better = EditedContent::RoomMessage(RoomMessageEventContent::text_plain("The line to Lille is open.").into());
    let content = room.make_edit_event(original, better).await?;
    let edit = bob.receive_message(&sent(room.send(content)).await?).await?;
    assert_eq!(edit.sender, alice.user_id());
    let Some(Relation::Replacement(replacement)) = edit.content.relates_to else {
        anyhow::bail!("the edit came without its relation");
    };
    assert_eq!(replacement.event_id, original);
    assert_eq!(replacement.new_content.msgtype.body(), "The line to Lille is open.");
    Ok(())
}

/// Whoever is in `room` reacts to a message, and Alice sees it.
async fn react(room: &Room, message: &EventId, alice: &Device) -> Result<()> {
    let reaction = ReactionEventContent::new(Annotation::new(message.to_owned(), "👍".to_owned()));
    let seen = alice.receive_reaction(&sent(room.send(reaction)).await?).await?;
    assert_eq!((seen.relates_to.event_id.as_ref(), seen.relates_to.key.as_str()), (message, "👍"));
    Ok(())
}

/// The new device is signed by its owner's identity, and trusts whom the owner trusted before.
async fn assert_is_trusted(tablet: &Device, bob: &Device) -> Result<()> {
    let encryption = tablet.client.encryption();
    let own = encryption.get_own_device().await?.context("the device does not know itself")?;
    assert!(own.is_cross_signed_by_owner());
    encryption.request_user_identity(bob.user_id()).await?;
    assert!(trusts(tablet, bob.user_id()).await?, "the signature of Bob's identity is lost");
    Ok(())
}

/// Everything that was said before the device existed is there for it to read, once.
async fn read_the_history(tablet: &Device, room: &Room, plan: &[u8]) -> Result<()> {
    tablet.client.encryption().backups().download_room_keys_for_room(room.room_id()).await?;
    let mut history = tablet.history(room).await?;
    history.reverse();
    let bodies: Vec<&str> = history.iter().map(|message| message.content.body()).collect();
    let edit = "* The line to Lille is open.";
    assert_eq!(
        bodies,
        ["The line is open.", "Signal received.", edit, "plan.bin", "Fog over the tower.", "Clear again."]
    );
    assert!(tablet.download(file_of(&history[3])?).await? == plan, "the file came back changed");
    Ok(())
}

/// Alice ends the session of her other device, for which the server asks her password.
async fn sign_out_of(alice: &Device, tablet: &Device) -> Result<()> {
    let device = [tablet.client.device_id().context("the tablet is logged in")?.to_owned()];
    let asked = alice.client.delete_devices(&device, None).await.err().context("no password was asked for")?;
    let session = asked.as_uiaa_response().context("not a user-interactive answer")?.session.clone();
    alice.client.delete_devices(&device, Some(alice.password_stage(session))).await?;
    let refused = tablet.client.whoami().await.err().context("the deleted device is still logged in")?;
    assert!(matches!(refused.client_api_error_kind(), Some(ErrorKind::UnknownToken(_))), "{refused}");
    Ok(())
}
