//! What two people do with each other, whichever servers they are on.

use anyhow::{Context, Result};
use matrix_sdk::RoomState;
use matrix_sdk::attachment::AttachmentConfig;
use matrix_sdk::encryption::verification::{
    SasVerification, Verification, VerificationRequest, VerificationRequestState,
};
use matrix_sdk::room::Room;
use matrix_sdk::ruma::api::client::room::create_room::v3::{Request as NewRoom, RoomPreset};
use matrix_sdk::ruma::events::InitialStateEvent;
use matrix_sdk::ruma::events::key::verification::mac::ToDeviceKeyVerificationMacEvent;
use matrix_sdk::ruma::events::room::encryption::RoomEncryptionEventContent;
use matrix_sdk::ruma::events::room::message::RoomMessageEventContent;
use matrix_sdk::ruma::{OwnedEventId, UserId};
use tokio::sync::watch;

use crate::device::{Device, PATIENCE, eventually, file_of, sent};

/// A direct room that Alice creates and Bob joins, as each of them sees it.
pub async fn encrypted_room(alice: &Device, bob: &Device) -> Result<(Room, Room)> {
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    let mut request = NewRoom::new();
    request.preset = Some(RoomPreset::TrustedPrivateChat);
    request.is_direct = true;
    request.invite = vec![bob.user_id().to_owned()];
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    let alices_room = alice.client.create_room(request).await?;
    let invitation = bob.room(alices_room.room_id(), RoomState::Invited).await?;
    invitation.join().await?;
    let bobs_room = bob.room(alices_room.room_id(), RoomState::Joined).await?;
    for (room, other) in [(&alices_room, bob), (&bobs_room, alice)] {
        eventually("the other member", async || {
            let member = room.get_member_no_sync(other.user_id()).await?;
            Ok(member.filter(|member| member.membership().as_str() == "join"))
        })
        .await?;
        assert!(room.latest_encryption_state().await?.is_encrypted());
    }
    Ok((alices_room, bobs_room))
}

/// Alice and Bob compare emoji, over to-device messages, and so trust each other's identities.
pub async fn verify_each_other(alice: &Device, bob: &Device) -> Result<()> {
    let encryption = alice.client.encryption();
    encryption.request_user_identity(bob.user_id()).await?.context("Bob has no identity")?;
    // A client ignores requests of devices that it does not know yet.
    bob.client.encryption().request_user_identity(alice.user_id()).await?.context("Alice has no identity")?;
    let bobs_device = bob.client.device_id().context("Bob is logged in")?;
    let device = encryption.get_device(bob.user_id(), bobs_device).await?.context("Bob has no device")?;
    let request = device.request_verification().await?;
    let asked: VerificationRequest = eventually("the request for verification", async || {
        Ok(bob.client.encryption().get_verification_request(alice.user_id(), request.flow_id()).await)
    })
    .await?;
    asked.accept().await?;
    eventually("Bob's consent", async || Ok(request.is_ready().then_some(()))).await?;

    let alices = request.start_sas().await?.context("the verification was cancelled")?;
    let bobs: SasVerification = eventually("the start of the verification", async || {
        Ok(match asked.state() {
            VerificationRequestState::Transitioned { verification: Verification::SasV1(sas) } => Some(sas),
            _ => None,
        })
    })
    .await?;
    bobs.accept().await?;
    let emoji = async |sas: &SasVerification| eventually("the emoji", async || Ok(sas.emoji())).await;
    assert_eq!(emoji(&alices).await?.map(|one| one.symbol), emoji(&bobs).await?.map(|one| one.symbol));
    let arrived = confirmation_at(bob);
    alices.confirm().await?;
    arrived.await?;
    bobs.confirm().await?;
    for (sas, device, other) in [(&alices, alice, bob), (&bobs, bob, alice)] {
        eventually("the end of the verification", async || Ok(sas.is_done().then_some(()))).await?;
        eventually("trust", async || Ok(trusts(device, other.user_id()).await?.then_some(()))).await?;
    }
    Ok(())
}

/// Ends when the other side's confirmation has come to `device`.
///
/// Only then may its user confirm, if the test is to end always: when both confirm at once, matrix-sdk sends its confirmation
/// and, from what the sync brought meanwhile, the end of the verification side by side; and it ignores an end that comes first.
fn confirmation_at(device: &Device) -> impl Future<Output = Result<()>> + use<> {
    let (seen, mut coming) = watch::channel(false);
    device.client.add_event_handler(async move |_: ToDeviceKeyVerificationMacEvent| {
        seen.send_replace(true);
    });
    async move {
        let arrived = tokio::time::timeout(PATIENCE, coming.wait_for(|arrived| *arrived)).await;
        arrived.context("the confirmation did not come")??;
        Ok(())
    }
}

/// Whether `device` holds the identity of `user` for verified.
pub async fn trusts(device: &Device, user: &UserId) -> Result<bool> {
    Ok(device.client.encryption().get_user_identity(user).await?.is_some_and(|identity| identity.is_verified()))
}

pub async fn say(room: &Room, text: &str) -> Result<OwnedEventId> {
    sent(room.send(RoomMessageEventContent::text_plain(text))).await
}

/// Sends an encrypted file, which Bob downloads and decrypts; the result is its bytes.
pub async fn send_file(room: &Room, bob: &Device) -> Result<Vec<u8>> {
    let plan: Vec<u8> = (0..100_000_u32).map(|i| (i % 253) as u8).collect();
    let sent = room
        .send_attachment("plan.bin", &mime::APPLICATION_OCTET_STREAM, plan.clone(), AttachmentConfig::new())
        .await?;
    let message = bob.receive_message(&sent.event_id).await?;
    assert!(bob.download(file_of(&message)?).await? == plan, "the file came back changed");
    Ok(plan)
}
