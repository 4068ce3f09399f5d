//! Two people talk as they do with Element X: over sliding sync, on a server that is restored from a backup meanwhile.

use std::fs;
use std::future::ready;
use std::path::Path;
use std::pin::pin;
use std::process::Command;

use anyhow::{Result, ensure};
use futures_util::StreamExt;
use launched::Server;
use matrix_sdk::ruma::api::client::receipt::create_receipt::v3::ReceiptType;
use matrix_sdk::ruma::api::client::room::create_room::v3::Request as NewRoom;
use matrix_sdk::ruma::api::error::ErrorKind;
use matrix_sdk::ruma::events::StateEventType;
use matrix_sdk::ruma::events::receipt::ReceiptThread;
use matrix_sdk::sliding_sync::VersionBuilder;
use matrix_sdk::{Client, Room, SlidingSync, SlidingSyncList, SlidingSyncMode};
use tokio::sync::watch;

use crate::conversation::{encrypted_room, say};
use crate::device::{Device, PAUSE, eventually};

const LIST: &str = "all_rooms";

/// Required state as a client asks for it that shows a list of rooms.
const REQUIRED_STATE: [(StateEventType, &str); 7] = [
    (StateEventType::RoomCreate, ""),
    (StateEventType::RoomEncryption, ""),
    (StateEventType::RoomJoinRules, ""),
    (StateEventType::RoomMember, "$LAZY"),
    (StateEventType::RoomMember, "$ME"),
    (StateEventType::RoomName, ""),
    (StateEventType::RoomPowerLevels, ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn two_people_talk_encrypted_over_sliding_sync_also_when_the_server_lost_their_positions() -> Result<()> {
    let mut server = Server::start(None)?;
    let (alice, bob) = (Sliding::register(&server, "alice").await?, Sliding::register(&server, "bob").await?);
    let (alices_room, bobs_room) = encrypted_room(&alice.device, &bob.device).await?;
    alice.lists(1).await?;
    let greeting = say(&alices_room, "The line is open.").await?;
    assert_eq!(bob.device.receive_message(&greeting).await?.content.body(), "The line is open.");
    let answer = say(&bobs_room, "Signal received.").await?;
    assert_eq!(alice.device.receive_message(&answer).await?.content.body(), "Signal received.");

    unread(&bobs_room, 0).await?; // whoever answers has read
    say(&alices_room, "Enemy at the Rhine.").await?;
    let last = say(&alices_room, "Send it on.").await?;
    unread(&bobs_room, 2).await?;
    bobs_room.send_single_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, last).await?;
    unread(&bobs_room, 0).await?;

    server.kill()?;
    let (database, backup) = (server.directory().join("db"), server.directory().join("backup"));
    copy(&database, &backup)?;
    server.restart()?;
    // The position that tells of this room is one that the backup does not know.
    alice.device.client.create_room(NewRoom::new()).await?;
    alice.lists(2).await?;
    ensure!(*alice.expired.borrow() == 0, "a position did not outlive a restart");
    server.kill()?;
    fs::remove_dir_all(&database)?;
    fs::rename(&backup, &database)?;
    server.restart()?;
    eventually("M_UNKNOWN_POS", async || Ok((*alice.expired.borrow() > 0).then_some(()))).await?;
    alice.lists(1).await?;
    let after = say(&bobs_room, "Clear again.").await?;
    assert_eq!(alice.device.receive_message(&after).await?.content.body(), "Clear again.");
    let answer = say(&alices_room, "So it is.").await?;
    assert_eq!(bob.device.receive_message(&answer).await?.content.body(), "So it is.");
    Ok(())
}

/// A device that syncs as Element X does.
struct Sliding {
    device: Device,
    sync: SlidingSync,
    /// How often the server did not know its position any more.
    expired: watch::Receiver<u32>,
}

impl Sliding {
    async fn register(server: &Server, name: &str) -> Result<Self> {
        let (count, expired) = watch::channel(0);
        let mut opened = None;
        let open = async |client: &Client| {
            let sync = open(client).await?;
            opened = Some(sync.clone());
            Ok(Box::pin(slide(sync, count)) as _)
        };
        let device = Device::register_with(&server.base_url(), name, open).await?;
        let sync = opened.expect("it was opened just now");
        Ok(Self { device, sync, expired })
    }

    /// Waits until the server counts so many rooms in the list.
    async fn lists(&self, rooms: u32) -> Result<()> {
        eventually("the list", async || {
            let count = |list: &SlidingSyncList| ready(list.maximum_number_of_rooms());
            let count = self.sync.on_list(LIST, count).await.flatten();
            Ok((count == Some(rooms)).then_some(()))
        })
        .await
    }
}

async fn open(client: &Client) -> Result<SlidingSync> {
    // As a client finds out whether the server has it.
    let version = VersionBuilder::DiscoverNative.build(Some(&client.supported_versions().await?))?;
    let list = SlidingSyncList::builder(LIST)
        .sync_mode(SlidingSyncMode::new_growing(20))
        .timeline_limit(20)
        .required_state(REQUIRED_STATE.map(|(event_type, key)| (event_type, key.to_owned())).to_vec());
    Ok(client.sliding_sync("test")?.version(version).add_list(list).with_all_extensions().build().await?)
}

/// Syncs for ever; counts what expired.
async fn slide(sync: SlidingSync, expired: watch::Sender<u32>) {
    loop {
        let mut answers = pin!(sync.sync());
        while let Some(answer) = answers.next().await {
            if answer.is_err_and(|error| matches!(error.client_api_error_kind(), Some(ErrorKind::UnknownPos))) {
                expired.send_modify(|count| *count += 1);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn unread(room: &Room, count: u64) -> Result<()> {
    let counted = async || Ok((room.unread_notification_counts().notification_count == count).then_some(()));
    eventually(&format!("the count of {count} unread messages"), counted).await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    ensure!(Command::new("cp").arg("-r").args([from, to]).status()?.success(), "the database can't be copied");
    Ok(())
}
