//! One logged-in device of one person: a matrix-sdk client that syncs all the time and remembers what it received.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::BoxFuture;
use matrix_sdk::config::SyncSettings;
use matrix_sdk::deserialized_responses::EncryptionInfo;
use matrix_sdk::room::{MessagesOptions, Room};
use matrix_sdk::ruma::api::client::account::register::v3::Request as Registration;
use matrix_sdk::ruma::api::client::uiaa::{AuthData, Dummy, MatrixUserIdentifier, Password, UserIdentifier};
use matrix_sdk::ruma::events::reaction::ReactionEventContent;
use matrix_sdk::ruma::events::room::message::{FileMessageEventContent, MessageType, OriginalSyncRoomMessageEvent};
use matrix_sdk::ruma::events::{AnySyncMessageLikeEvent, AnySyncTimelineEvent, SyncMessageLikeEvent};
use matrix_sdk::ruma::serde::Raw;
use matrix_sdk::ruma::{EventId, OwnedEventId, RoomId, UserId};
use matrix_sdk::{Client, RoomState};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long anything may take to arrive: far more than it needs, so that only what never comes fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a client waits after an error.
pub const PAUSE: Duration = Duration::from_millis(100);

/// A device, which stops to sync when it is dropped.
pub struct Device {
    pub client: Client,
    password: String,
    received: watch::Receiver<Vec<Received>>,
    sync: JoinHandle<()>,
}

/// A message-like event as it came with `/sync`, decrypted where it was encrypted.
#[derive(Clone)]
struct Received {
    event: AnySyncMessageLikeEvent,
    /// Whether it was encrypted and could be decrypted.
    encrypted: bool,
}

impl Device {
    /// The first device of a new account. `homeserver` is the base URL of the server.
    pub async fn register(homeserver: &str, name: &str) -> Result<Self> {
        let client = register(homeserver, name).await?;
        let syncing = sync(client.clone());
        Ok(Self::start(client, password_of(name), syncing))
    }

    /// As [`Self::register`], but `sync` is how the client learns what is new.
    pub async fn register_with(
        homeserver: &str,
        name: &str,
        sync: impl AsyncFnOnce(&Client) -> Result<BoxFuture<'static, ()>>,
    ) -> Result<Self> {
        let client = register(homeserver, name).await?;
        let syncing = sync(&client).await?;
        Ok(Self::start(client, password_of(name), syncing))
    }

    /// One more device of the account of `name`.
    pub async fn log_in(homeserver: &str, name: &str) -> Result<Self> {
        let client = Client::builder().homeserver_url(homeserver).build().await?;
        client
            .matrix_auth()
            .login_username(name, &password_of(name))
            .initial_device_display_name("Another device")
            .await?;
        let syncing = sync(client.clone());
        Ok(Self::start(client, password_of(name), syncing))
    }

    fn start(client: Client, password: String, syncing: impl Future<Output = ()> + Send + 'static) -> Self {
        let (seen, received) = watch::channel(Vec::new());
        client.add_event_handler(async move |event: AnySyncMessageLikeEvent, encryption: Option<EncryptionInfo>| {
            seen.send_modify(|all| all.push(Received { event, encrypted: encryption.is_some() }));
        });
        let sync = tokio::spawn(syncing);
        Self { client, password, received, sync }
    }

    pub fn user_id(&self) -> &UserId {
        self.client.user_id().expect("a device is logged in")
    }

    /// The answer to a request for user-interactive authentication with the account's password.
    pub fn password_stage(&self, session: Option<String>) -> AuthData {
        let user = UserIdentifier::Matrix(MatrixUserIdentifier::new(self.user_id().localpart().to_owned()));
        let mut stage = Password::new(user, self.password.clone());
        stage.session = session;
        AuthData::Password(stage)
    }

    /// The room, once this device knows it in `state`.
    pub async fn room(&self, room_id: &RoomId, state: RoomState) -> Result<Room> {
        eventually("the room", async || Ok(self.client.get_room(room_id).filter(|room| room.state() == state))).await
    }

    /// The event, once it has come with `/sync`.
    async fn receive(&self, event_id: &EventId) -> Result<Received> {
        let mut received = self.received.clone();
        let is_it = |one: &Received| one.event.event_id() == event_id;
        let all = tokio::time::timeout(PATIENCE, received.wait_for(|all| all.iter().any(is_it)))
            .await
            .with_context(|| format!("{} did not receive {event_id}", self.user_id()))??;
        all.iter().find(|one| is_it(one)).cloned().context("received just now")
    }

    /// The message, once it has come with `/sync`: it has to be an encrypted one that can be decrypted.
    pub async fn receive_message(&self, event_id: &EventId) -> Result<OriginalSyncRoomMessageEvent> {
        match self.receive(event_id).await? {
            Received {
                event: AnySyncMessageLikeEvent::RoomMessage(SyncMessageLikeEvent::Original(message)),
                encrypted: true,
            } => Ok(message),
            Received { event, encrypted } => bail!("{event_id}: {:?}, encrypted: {encrypted}", event.event_type()),
        }
    }

    /// The reaction, once it has come with `/sync`. Clients send reactions in the clear, so that servers can count them.
    pub async fn receive_reaction(&self, event_id: &EventId) -> Result<ReactionEventContent> {
        match self.receive(event_id).await?.event {
            AnySyncMessageLikeEvent::Reaction(SyncMessageLikeEvent::Original(reaction)) => Ok(reaction.content),
            other => bail!("{event_id} is no reaction but {:?}", other.event_type()),
        }
    }

    /// The bytes of an encrypted file, downloaded and decrypted.
    pub async fn download(&self, file: &FileMessageEventContent) -> Result<Vec<u8>> {
        self.client.media().get_file(file, false).await?.context("a file without a source")
    }

    /// The messages of the room's history, newest first; an encrypted event that cannot be decrypted is an error.
    pub async fn history(&self, room: &Room) -> Result<Vec<OriginalSyncRoomMessageEvent>> {
        let (mut messages, mut from) = (Vec::new(), None);
        loop {
            let mut page = MessagesOptions::backward();
            page.from = from;
            let page = room.messages(page).await?;
            for event in page.chunk {
                if event.kind.is_utd() {
                    bail!("{:?} cannot be decrypted", event.event_id());
                }
                messages.extend(as_message(event.raw())?);
            }
            from = page.end;
            if from.is_none() {
                return Ok(messages);
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.sync.abort();
    }
}

/// The first log-in of a new account, with the keys for cross-signing.
async fn register(homeserver: &str, name: &str) -> Result<Client> {
    let client = Client::builder().homeserver_url(homeserver).build().await?;
    let mut request = Registration::new();
    request.username = Some(name.to_owned());
    request.password = Some(password_of(name));
    let refused = client.matrix_auth().register(request.clone()).await.err().context("the server asks for no stage")?;
    let mut dummy = Dummy::new();
    dummy.session = refused.as_uiaa_response().context("not a user-interactive answer")?.session.clone();
    request.auth = Some(AuthData::Dummy(dummy));
    client.matrix_auth().register(request).await?;
    // The first keys of an account need no further authentication.
    client.encryption().bootstrap_cross_signing(None).await?;
    Ok(client)
}

/// Syncs by `/sync`, for ever.
async fn sync(client: Client) {
    loop {
        // Ends at errors only, such as a server that is down for the moment.
        let _ended = client.sync(SyncSettings::default().timeout(Duration::from_secs(10))).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// What `attempt` finds, as soon as it finds something.
pub async fn eventually<T>(what: &str, attempt: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let found = async {
        loop {
            if let Some(found) = attempt().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.with_context(|| format!("{what} did not come"))?
}

/// The id of the event that `sending` sent.
pub async fn sent(
    sending: impl IntoFuture<Output = matrix_sdk::Result<matrix_sdk::room::futures::SendMessageLikeEventResult>>,
) -> Result<OwnedEventId> {
    Ok(sending.await?.response.event_id)
}

/// The event if it is a message that was not redacted.
fn as_message(event: &Raw<AnySyncTimelineEvent>) -> Result<Option<OriginalSyncRoomMessageEvent>> {
    Ok(match event.deserialize()? {
        AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(SyncMessageLikeEvent::Original(
            message,
        ))) => Some(message),
        _ => None,
    })
}

/// The file of a message that is one.
pub fn file_of(message: &OriginalSyncRoomMessageEvent) -> Result<&FileMessageEventContent> {
    match &message.content.msgtype {
        MessageType::File(file) => Ok(file),
        other => bail!("no file but {}", other.msgtype()),
    }
}

fn password_of(name: &str) -> String {
    format!("the password of {name}")
}
