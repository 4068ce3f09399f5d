//! People on two servers talk end-to-end encrypted, with the library of Element X.

use std::{env, process};

use anyhow::{Context, Result};
use matrix_sdk::RoomState;

use crate::conversation::{encrypted_room, say, send_file, trusts, verify_each_other};
use crate::device::{Device, eventually};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the servers that tests/peers/run starts"]
async fn two_people_on_two_servers_talk_encrypted_and_verify_each_other() -> Result<()> {
    let homeservers = env::var("HOMESERVERS").context("HOMESERVERS holds the base URLs of two servers")?;
    let (first, second) = homeservers.split_once(' ').context("HOMESERVERS holds two URLs")?;
    // The servers have met others of the same names.
    let run = process::id();
    let alice = Device::register(first, &format!("alice{run}")).await?;
    let bob = Device::register(second, &format!("bob{run}")).await?;
    assert_ne!(alice.user_id().server_name(), bob.user_id().server_name());
    let (alices_room, bobs_room) = encrypted_room(&alice, &bob).await?;

    for (room, other) in [(&alices_room, &bob), (&bobs_room, &alice), (&alices_room, &bob)] {
        let text = format!("to {}", other.user_id());
        assert_eq!(other.receive_message(&say(room, &text).await?).await?.content.body(), text);
    }
    // Over to-device messages both ways; the signatures that come of it are told the other server.
    verify_each_other(&alice, &bob).await?;
    send_file(&alices_room, &bob).await?;
    send_file(&bobs_room, &alice).await?;

    // Whoever logs in again is a device that the other server has to hear of before the next message.
    let tablet = Device::log_in(second, bob.user_id().localpart()).await?;
    let room = tablet.room(alices_room.room_id(), RoomState::Joined).await?;
    let id = tablet.client.device_id().context("the tablet is logged in")?;
    let encryption = alice.client.encryption();
    eventually("the new device", async || Ok(encryption.get_device(bob.user_id(), id).await?)).await?;
    let welcome = say(&alices_room, "welcome").await?;
    assert_eq!(tablet.receive_message(&welcome).await?.content.body(), "welcome");
    let answer = say(&room, "from the tablet").await?;
    assert_eq!(alice.receive_message(&answer).await?.content.body(), "from the tablet");
    assert!(trusts(&alice, bob.user_id()).await?);
    Ok(())
}
