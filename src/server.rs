use std::{
    sync::{Arc, Once},
    time::Duration,
};

use anyhow::Context;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId, signatures::Ed25519KeyPair};
use tokio_util::sync::CancellationToken;

use crate::{
    appservice::{self, Appservices},
    clock::Clock,
    config::{Config, ConfigError},
    ephemeral::Order,
    error::{Error, Result},
    federation::{
        Federation,
        inbox::Inbox,
        keys::{
            KnownKeys,
            own::{self, OldKeys},
        },
        queue,
    },
    long_answers::LongAnswers,
    mail::Mail,
    media::{self, preview::Previews},
    memory::SharedMemory,
    metrics::Metrics,
    oauth::OAuth,
    outgoing,
    permits::Permits,
    push::{deliver::Deliveries, unread::Unread},
    quick::Quick,
    random::Random,
    rate_limit::RateLimits,
    rendezvous, restored,
    room::{
        Rooms,
        delayed::Delayed,
        founding, hierarchy,
        local_members::LocalMembers,
        partial, relationships,
        retention::Retention,
        search, sticky,
        typing::{self, Typing},
    },
    sso::Sso,
    store::{self, Snapshot, Store, Transaction},
    sync::{EmptyInboxes, ToldMembers, UserRoomLists, Wakers, sliding},
    tables,
    user::{
        directory,
        email::Proofs,
        expiring::Expiring,
        filter::Filters,
        keys,
        logins::Logins,
        password::Passwords,
        presence::Presence,
        registration::{self, Registered},
        shared_secret, uiaa,
    },
};

/// How many login tokens, and nonces of shared-secret registration, are kept at a time: the oldest make room.
const MAX_LOGIN_TOKENS: usize = 10_000;
const MAX_NONCES: usize = 1_000;
/// How long an OpenID token is good, and how many are kept. After a restart clients ask for new ones.
pub const OPENID_TOKEN_LIFETIME: Duration = Duration::from_secs(60 * 60);
const MAX_OPENID_TOKENS: usize = 10_000;

/// Everything that the server is made of, in the order in which it is built. Parts never hold each other; a function
/// takes the least of this that it needs.
pub struct Server {
    pub config: Config,
    pub clock: Clock,
    /// What an operator watches.
    pub metrics: Metrics,
    pub random: Random,
    pub store: Store,
    /// Signs our events.
    pub key: Ed25519KeyPair,
    /// Signed our events before.
    pub old_keys: OldKeys,
    /// What is known of other servers.
    pub federation: Federation,
    /// Everything that goes out.
    pub outgoing: outgoing::Client,
    /// The tasks that send to other servers.
    pub senders: queue::Senders,
    /// Users of other servers whose devices are being fetched again.
    pub resyncs: keys::remote::Resyncs,
    /// A lock per room, and what is known of rooms in memory.
    pub rooms: Rooms,
    /// Who waits for news.
    pub wakers: Wakers,
    pub local_members: LocalMembers,
    /// The filters that requests named.
    pub filters: Filters,
    /// The devices for which no message waits.
    pub empty_inboxes: EmptyInboxes,
    /// Who is logged in.
    pub logins: Logins,
    /// The keys of other servers that were looked up.
    pub verify_keys: KnownKeys,
    /// What devices have left of keys for others.
    pub left_keys: keys::LeftKeys,
    /// The rooms of those who sync.
    pub user_rooms: UserRoomLists,
    pub told_members: ToldMembers,
    /// When something last happened in the rooms of those who use sliding sync.
    pub activities: sliding::Activities,
    /// What filters of sliding sync ask of rooms.
    pub room_facts: sliding::KnownFacts,
    /// What clients of sliding sync were told.
    pub sliding_told: sliding::Remembered,
    /// The requests of sliding sync that are being answered.
    pub sliding_turns: sliding::Turns,
    /// The order of what is in `typing` and `presence`.
    pub ephemeral: Arc<Order>,
    pub typing: Typing,
    /// Who works on events that are to be sent later.
    pub delayed: Delayed,
    pub presence: Presence,
    /// What users have not read, as far as it was counted.
    pub unread: Unread,
    /// The pushers that have something to tell.
    pub pushes: Deliveries,
    /// Who may go on with an answer that takes long.
    pub long_answers: LongAnswers,
    /// Threads for short work.
    quick: Quick,
    /// For what requests bring with them.
    pub body_memory: SharedMemory,
    /// Who may search now.
    pub searches: Permits,
    /// Who may search the user directory now.
    pub user_searches: Permits,
    /// What web pages said about themselves of late.
    pub previews: Previews,
    pub limits: RateLimits,
    /// What other servers sent, and what is being fetched from them.
    pub inbox: Inbox,
    /// Rooms whose state is being completed.
    pub partial: partial::Waiting,
    /// The files of the content repository.
    pub media: media::Repository,
    pub appservices: Appservices,
    pub passwords: Passwords,
    /// Sends e-mail, if it is configured.
    pub mail: Option<Mail>,
    /// Proofs of e-mail addresses that have begun.
    pub emails: Proofs,
    /// User-interactive authentications that have begun.
    pub uiaa: uiaa::Sessions,
    /// Tokens by which one device logs another in, and whom as.
    pub login_tokens: Expiring<OwnedUserId>,
    /// Log-ins by OAuth that have begun.
    pub oauth: OAuth,
    /// The identity providers by which users may log in.
    pub sso: Sso,
    /// Tokens by which other services learn who a user is.
    pub openid_tokens: Expiring<OwnedUserId>,
    /// Registrations that were done just now.
    pub registered: Expiring<Registered>,
    /// The nonces of shared-secret registration that were given out.
    pub registration_nonces: Expiring<()>,
    /// Held while the room of somebody's server notices is looked for or made.
    pub notices: tokio::sync::Mutex<()>,
    /// Walks through spaces that clients may go on with.
    pub walks: hierarchy::Walks,
    /// Walks through trees of replies that clients may go on with.
    pub relationship_walks: relationships::page::Walks,
    /// Where devices meet while one logs the other in.
    pub rendezvous: rendezvous::Sessions,
    /// Rooms whose sticky events are to be judged again.
    pub sticky: sticky::Changed,
    /// What other servers said of spaces.
    pub remote_spaces: hierarchy::RemoteCache,
    /// Done when the log was told that a client knows more than this database, which says that a backup was put back.
    pub told_of_future: Once,
    /// Cancelled when the server is told to stop: whoever waits for news then answers at once.
    pub shutdown: CancellationToken,
}

impl Server {
    /// Opens the data directory that the configuration names, or makes a new one.
    pub fn open(config: Config, clock: Clock, random: Random) -> anyhow::Result<Arc<Self>> {
        let outgoing = outgoing::Client::new(&config);
        Self::open_with(config, clock, random, outgoing)
    }

    /// As [`Self::open`], with another way for what goes out.
    pub fn open_with(
        config: Config,
        clock: Clock,
        random: Random,
        outgoing: outgoing::Client,
    ) -> anyhow::Result<Arc<Self>> {
        let store = Store::open(&store::Options {
            path: config.database_path.clone(),
            server_name: config.server_name.to_string(),
            memory_bytes: config.memory_budget.as_usize() / 2, // the other half is for what requests work on
            free_space_floor: config.free_space_floor.bytes(),
            counts: config.metrics.is_on(),
            migrations: tables::MIGRATIONS,
            now_ms: clock.now_ms(),
            is_restored: false,
            on_restore: restored::begin_anew,
        });
        let store = store.context("cannot open `database_path`")?;
        let (key, old_keys) = own::open(&store, &random).context("the signing keys can't be read")?;
        let rooms = Rooms::open(&store)?.with_retention(Retention::new(&config.retention, &clock));
        let media = media::Repository::open(store.path()).context("the media can't be opened")?;
        let appservices = Appservices::open(&config)?;
        appservice::accounts::make_bots(&store, &appservices, clock.now_ms())
            .map_err(|error| anyhow::anyhow!("the application services' users can't be made: {error:?}"))?;
        let mail = config.mail.as_ref().map(|mail| Mail::new(mail, config.certificate_authorities_file.as_deref()));
        let mail = mail.transpose().map_err(|error| {
            ConfigError::one("mail", format!("cannot be used ({error:#})"), "correct it, or leave the section out")
        })?;
        let emails = Proofs::new(random.bytes());
        let limits = RateLimits::new(&config.rate_limits, &clock);
        let login_tokens = Expiring::new(config.sessions.login_token_lifetime, MAX_LOGIN_TOKENS);
        let oauth = OAuth::new(&random);
        let sso = Sso::new(&config);
        let ephemeral = Arc::new(Order::new(&clock));
        let kept_typing = typing::Kept::read(&store)?;
        let memory = config.memory_budget.bytes(); // docs/architecture.md says who has which part
        // What is parsed of a body takes several times as much. One of the largest must fit, however small the machine.
        let body_memory = (config.memory_budget.as_usize() / 8).max(config.max_request_size.as_usize());
        let body_memory = SharedMemory::new(body_memory);
        let server = Arc::new(Self {
            typing: Typing::new(&ephemeral, &clock, kept_typing),
            delayed: Delayed::default(),
            presence: Presence::new(config.allow_presence, &ephemeral, &clock),
            unread: Unread::new(memory / 32),
            pushes: Deliveries::default(),
            ephemeral,
            metrics: Metrics::new(&clock),
            config,
            clock,
            random,
            store,
            key,
            old_keys,
            federation: Federation::default(),
            outgoing,
            senders: queue::Senders::default(),
            resyncs: keys::remote::Resyncs::default(),
            rooms,
            wakers: Wakers::default(),
            local_members: LocalMembers::new(memory / 32),
            filters: Filters::new(memory / 128),
            empty_inboxes: EmptyInboxes::new(memory / 128),
            left_keys: keys::LeftKeys::new(memory / 128),
            logins: Logins::new(memory / 64),
            verify_keys: KnownKeys::new(memory / 256),
            user_rooms: UserRoomLists::new(memory / 16),
            told_members: ToldMembers::new(memory / 32),
            activities: sliding::Activities::default(),
            room_facts: sliding::KnownFacts::default(),
            sliding_told: sliding::Remembered::new(memory / 16),
            sliding_turns: sliding::Turns::default(),
            long_answers: LongAnswers::default(),
            quick: Quick::start().context("cannot start threads")?,
            body_memory,
            searches: search::permits(),
            user_searches: directory::permits(),
            previews: Previews::default(),
            limits,
            inbox: Inbox::default(),
            partial: partial::Waiting::default(),
            media,
            appservices,
            mail,
            emails,
            passwords: Passwords::default(),
            uiaa: uiaa::Sessions::default(),
            login_tokens,
            oauth,
            sso,
            openid_tokens: Expiring::new(OPENID_TOKEN_LIFETIME, MAX_OPENID_TOKENS),
            registered: Expiring::new(registration::ANSWERED_AGAIN, registration::MAX_ANSWERED_AGAIN),
            registration_nonces: Expiring::new(shared_secret::NONCE_LIFETIME, MAX_NONCES),
            notices: tokio::sync::Mutex::default(),
            walks: hierarchy::walks(),
            relationship_walks: relationships::page::walks(),
            rendezvous: rendezvous::Sessions::default(),
            sticky: sticky::Changed::default(),
            remote_spaces: hierarchy::RemoteCache::default(),
            told_of_future: Once::new(),
            shutdown: CancellationToken::new(),
        });
        founding::finish_all(&server);
        Ok(server)
    }

    pub fn name(&self) -> &ServerName {
        &self.config.server_name
    }

    pub fn owned_name(&self) -> OwnedServerName {
        self.config.server_name.clone()
    }

    /// Whether an account of this server could have that id.
    pub fn is_ours(&self, user: &UserId) -> bool {
        user.server_name() == self.config.server_name
    }

    /// Runs work that reads the disk or takes long on a thread made for it.
    pub async fn blocking<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let server = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&server)).await?
    }

    /// As [`Self::blocking`], for work that takes little and finds what it needs in memory, in most cases.
    pub async fn quick<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let server = Arc::clone(self);
        self.quick.run(move || work(&server)).await
    }

    /// As [`Self::blocking`], for work that reads one snapshot.
    pub async fn read<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Snapshot<'_>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        self.blocking(move |server| work(&server.store.snapshot())).await
    }

    /// Runs `work` to its end even if the client hangs up, which drops the handler's future.
    pub async fn detached<R: Send + 'static>(
        work: impl Future<Output = Result<R, Error>> + Send + 'static,
    ) -> Result<R> {
        tokio::spawn(work).await?
    }

    /// Commits a change that `user` is told of, and wakes him even if the client hangs up.
    pub async fn commit_and_wake(
        self: &Arc<Self>,
        user: &UserId,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (server, user) = (Arc::clone(self), user.to_owned());
        Self::detached(async move {
            server.store.commit(work).await?;
            server.wakers.user(&server, &user);
            Ok(())
        })
        .await
    }
}
