//! Limits on how often one client may do what is costly or open to abuse; `[global.rate_limits]` says how often.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{self, Reference},
    middleware::StateInformationMiddleware,
    state::keyed::DashMapStateStore,
};
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};

use crate::{
    clock::Clock,
    config,
    error::{Error, Result},
    media::{Asker, AskerKey},
    user::session::Caller,
};

/// A limit forgets clients that are back at full allowance when it knows this many.
const CLEANED_AT: usize = 10_000;

/// All limits. A request over one gets `M_LIMIT_EXCEEDED` with the time to wait.
pub struct RateLimits {
    login_per_address: Option<Limit<IpAddr>>,
    login_per_account: Option<Guesses<OwnedUserId>>,
    shared_secret: Option<Guesses<IpAddr>>,
    registration: Option<Limit<IpAddr>>,
    letter: Option<Limit<String>>,
    message: Option<Limit<OwnedUserId>>,
    upload: Option<Limit<OwnedUserId>>,
    thumbnail: Option<Limit<AskerKey>>,
    /// By server or user id.
    key_claim: Option<Limit<String>>,
    join_per_server: Option<Limit<OwnedServerName>>,
    join_per_room: Option<Limit<OwnedRoomId>>,
    invite_per_server: Option<Limit<OwnedServerName>>,
    rendezvous: Option<Limit<IpAddr>>,
}

impl RateLimits {
    pub fn new(config: &config::RateLimits, clock: &Clock) -> Self {
        Self {
            login_per_address: config.login_per_address().map(|quota| Limit::new(quota, clock)),
            login_per_account: config.login_per_account().map(|quota| Guesses::new(quota, clock)),
            shared_secret: config.login_per_account().map(|quota| Guesses::new(quota, clock)),
            registration: config.registration().map(|quota| Limit::new(quota, clock)),
            letter: config.letter().map(|quota| Limit::new(quota, clock)),
            message: config.message().map(|quota| Limit::new(quota, clock)),
            upload: config.upload().map(|quota| Limit::new(quota, clock)),
            thumbnail: config.thumbnail().map(|quota| Limit::new(quota, clock)),
            key_claim: config.key_claim().map(|quota| Limit::new(quota, clock)),
            join_per_server: config.join_per_server().map(|quota| Limit::new(quota, clock)),
            join_per_room: config.join_per_room().map(|quota| Limit::new(quota, clock)),
            invite_per_server: config.invite_per_server().map(|quota| Limit::new(quota, clock)),
            rendezvous: config.rendezvous().map(|quota| Limit::new(quota, clock)),
        }
    }

    /// A log-in from this address.
    pub fn login(&self, address: IpAddr) -> Result<()> {
        self.login_per_address.as_ref().map_or(Ok(()), |limit| limit.check(&network_of(address)))
    }

    /// A registration from this address, or a question whether a name is free or a token good.
    pub fn registration(&self, address: IpAddr) -> Result<()> {
        self.registration.as_ref().map_or(Ok(()), |limit| limit.check(&network_of(address)))
    }

    /// A letter to this e-mail address that somebody asks for.
    pub fn letter(&self, address: &str) -> Result<()> {
        self.letter.as_ref().map_or(Ok(()), |limit| limit.check(&address.to_owned()))
    }

    /// An event that somebody wants to send.
    pub fn message(&self, caller: &Caller) -> Result<()> {
        of_caller(self.message.as_ref(), caller)
    }

    /// An event that this user, who has limits, wanted to be sent now.
    pub fn delayed_message(&self, user: &UserId) -> Result<()> {
        self.message.as_ref().map_or(Ok(()), |limit| limit.check(&user.to_owned()))
    }

    /// A file that somebody wants to upload or announce.
    pub fn upload(&self, caller: &Caller) -> Result<()> {
        of_caller(self.upload.as_ref(), caller)
    }

    /// A thumbnail that has to be made.
    pub fn thumbnail(&self, asker: Asker<'_>) -> Result<()> {
        let is_unlimited = matches!(asker, Asker::User(caller) if caller.is_unlimited());
        match &self.thumbnail {
            Some(limit) if !is_unlimited => limit.check(&asker.key()),
            _ => Ok(()),
        }
    }

    /// One-time keys, as many as `count`, that another server claims: all or none. For a room of very many devices a
    /// client may ask for more than is ever allowed, and could not do with less: that counts as all that is allowed.
    pub fn key_claim(&self, origin: &ServerName, count: usize) -> Result<()> {
        self.key_claim.as_ref().map_or(Ok(()), |limit| limit.check_many(&origin.to_string(), count))
    }

    /// As [`Self::key_claim`], of one of our users.
    pub fn key_claim_of(&self, caller: &Caller, count: usize) -> Result<()> {
        match &self.key_claim {
            Some(limit) if !caller.is_unlimited() => limit.check_many(&caller.user_id.to_string(), count),
            _ => Ok(()),
        }
    }

    /// A join or knock that another server prepares or sends. To be asked before anything that costs more than that.
    pub fn join_of_server(&self, origin: &ServerName) -> Result<()> {
        self.join_per_server.as_ref().map_or(Ok(()), |limit| limit.check(&origin.to_owned()))
    }

    /// The same, for a room that there is.
    pub fn join_to_room(&self, room_id: &RoomId) -> Result<()> {
        self.join_per_room.as_ref().map_or(Ok(()), |limit| limit.check(&room_id.to_owned()))
    }

    /// An invite of one of our users that another server makes.
    pub fn invite_of_server(&self, origin: &ServerName) -> Result<()> {
        self.invite_per_server.as_ref().map_or(Ok(()), |limit| limit.check(&origin.to_owned()))
    }

    /// A rendezvous that somebody begins from this address.
    pub fn rendezvous(&self, address: IpAddr) -> Result<()> {
        self.rendezvous.as_ref().map_or(Ok(()), |limit| limit.check(&network_of(address)))
    }

    /// Somebody is about to try a password of this user.
    pub fn password_guess(&self, user: &UserId) -> Result<()> {
        self.login_per_account.as_ref().map_or(Ok(()), |guesses| guesses.check(&user.to_owned()))
    }

    /// The password that was tried was wrong.
    pub fn wrong_password(&self, user: &UserId) {
        if let Some(guesses) = &self.login_per_account {
            guesses.count(&user.to_owned());
        }
    }

    /// Somebody at this address is about to try the shared secret of registration.
    pub fn shared_secret_guess(&self, address: IpAddr) -> Result<()> {
        self.shared_secret.as_ref().map_or(Ok(()), |guesses| guesses.check(&network_of(address)))
    }

    /// What was signed with it was wrong.
    pub fn wrong_shared_secret(&self, address: IpAddr) {
        if let Some(guesses) = &self.shared_secret {
            guesses.count(&network_of(address));
        }
    }
}

fn of_caller(limit: Option<&Limit<OwnedUserId>>, caller: &Caller) -> Result<()> {
    match limit {
        Some(limit) if !caller.is_unlimited() => limit.check(&caller.user_id),
        _ => Ok(()),
    }
}

/// Whom an address stands for: with IPv6 every customer has a whole /64 to send from.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Our clock, as governor reads it. The time of day may be set back, and until it were again what it had been nobody would
/// be given anything back: so what counts is the time since the start.
#[derive(Clone)]
struct Now {
    clock: Clock,
    start: Instant,
}

impl Now {
    fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), start: Instant::now() }
    }
}

impl clock::Clock for Now {
    type Instant = Duration;

    fn now(&self) -> Duration {
        match self.clock {
            Clock::System => self.start.elapsed(),
            Clock::Manual(_) => Duration::from_millis(self.clock.now_ms()),
        }
    }
}

/// One limit, for each key apart.
struct Limit<K: Clone + Eq + Hash> {
    limiter: RateLimiter<K, DashMapStateStore<K>, Now, StateInformationMiddleware>,
    burst: usize,
    clock: Now,
}

impl<K: Clone + Eq + Hash> Limit<K> {
    fn new(quota: Quota, clock: &Clock) -> Self {
        let clock = Now::new(clock);
        let burst = usize::try_from(quota.burst_size().get()).unwrap_or(usize::MAX);
        let limiter = RateLimiter::new(quota, DashMapStateStore::default(), clock.clone());
        Self { limiter, burst, clock }
    }

    fn check(&self, key: &K) -> Result<()> {
        self.count(key).map(drop).map_err(Error::limit_exceeded)
    }

    /// As [`Self::check`], for `count` at once. More than is ever allowed counts as all that is.
    fn check_many(&self, key: &K, count: usize) -> Result<()> {
        let Some(count) = NonZeroU32::new(count.min(self.burst).try_into().unwrap_or(u32::MAX)) else { return Ok(()) };
        if self.limiter.len() >= CLEANED_AT {
            self.limiter.retain_recent();
        }
        match self.limiter.check_key_n(key, count) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(not_until)) => Err(Error::limit_exceeded(not_until.wait_time_from(clock::Clock::now(&self.clock)))),
            Err(insufficient) => Err(Error::internal(insufficient)),
        }
    }

    /// How many are left now, or how long to wait.
    fn count(&self, key: &K) -> Result<u32, Duration> {
        if self.limiter.len() >= CLEANED_AT {
            self.limiter.retain_recent();
        }
        match self.limiter.check_key(key) {
            Ok(state) => Ok(state.remaining_burst_capacity()),
            Err(not_until) => Err(not_until.wait_time_from(clock::Clock::now(&self.clock))),
        }
    }
}

/// A limit on failures: what succeeds does not count. Once the last allowed failure was made, no attempt is allowed
/// until the next one is.
struct Guesses<K: Clone + Eq + Hash> {
    failures: Limit<K>,
    every: Duration,
    closed_until: Mutex<HashMap<K, Duration>>,
}

impl<K: Clone + Eq + Hash> Guesses<K> {
    fn new(quota: Quota, clock: &Clock) -> Self {
        Self { failures: Limit::new(quota, clock), every: quota.replenish_interval(), closed_until: Mutex::default() }
    }

    fn check(&self, key: &K) -> Result<()> {
        let now = clock::Clock::now(&self.failures.clock);
        let until = self.closed_until.lock().get(key).copied().unwrap_or_default();
        if until <= now { Ok(()) } else { Err(Error::limit_exceeded(until.duration_since(now).into())) }
    }

    fn count(&self, key: &K) {
        let wait = match self.failures.count(key) {
            Ok(0) => self.every,
            Ok(_) => return,
            Err(wait) => wait,
        };
        let now = clock::Clock::now(&self.failures.clock);
        let mut closed = self.closed_until.lock();
        closed.retain(|_, until| *until > now);
        closed.insert(key.clone(), now + wait);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ruma::{room_id, server_name, user_id};

    use super::*;
    use crate::appservice::Appservice;

    fn limits(toml: &str) -> (RateLimits, Clock) {
        let clock = Clock::manual(1_000_000);
        let config = toml::from_str(toml).unwrap();
        (RateLimits::new(&config, &clock), clock)
    }

    const TWO_EACH: &str = r#"
        enabled = true
        login_per_address = { burst = 2, every = "1 s" }
        login_per_account = { burst = 2, every = "1 min" }
        registration = { burst = 2, every = "10 s" }
        message = { burst = 2, every = "200 ms" }
        upload = { burst = 2, every = "1 s" }
        thumbnail = { burst = 2, every = "1 s" }
        letter = { burst = 2, every = "10 min" }
        key_claim = { burst = 2, every = "1 s" }
        join_per_server = { burst = 2, every = "1 s" }
        join_per_room = { burst = 3, every = "1 s" }
        invite_per_server = { burst = 2, every = "1 s" }
        rendezvous = { burst = 2, every = "1 s" }
    "#;

    fn caller(name: &str) -> Caller {
        Caller::on_device(UserId::parse(format!("@{name}:example.org")).unwrap(), "DEVICE".into())
    }

    fn wait_of(error: Error) -> Duration {
        let Error::Refused { kind: ruma::api::error::ErrorKind::LimitExceeded(data), .. } = error else {
            panic!("{error:?}");
        };
        match data.retry_after {
            Some(ruma::api::error::RetryAfter::Delay(wait)) => wait,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_over_the_limit_must_wait() {
        let (limits, clock) = limits(TWO_EACH);
        let office = "192.0.2.1".parse().unwrap();
        assert!(limits.login(office).is_ok() && limits.login(office).is_ok());
        assert_eq!(wait_of(limits.login(office).unwrap_err()), Duration::from_secs(1));
        assert!(limits.login("192.0.2.2".parse().unwrap()).is_ok());
        clock.advance(Duration::from_secs(1));
        assert!(limits.login(office).is_ok());
        assert!(limits.login(office).is_err());
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds() {
        let (limits, _) = limits(TWO_EACH);
        let alice = caller("alice");
        assert!(limits.message(&alice).is_ok() && limits.message(&alice).is_ok());
        assert_eq!(wait_of(limits.message(&alice).unwrap_err()), Duration::from_secs(1));
    }

    #[test]
    fn a_service_without_limits_frees_its_own_requests_only_and_its_sender_is_always_free() {
        let service = |rate_limited: bool| {
            let text = format!(
                "id: x\nurl: null\nas_token: a\nhs_token: h\nsender_localpart: bot\nrate_limited: {rate_limited}\n\
                 namespaces: {{ users: [{{ exclusive: false, regex: '@.*' }}] }}\n"
            );
            Some(Arc::new(Appservice::parse(&text, server_name!("example.org")).unwrap()))
        };
        let of = |rate_limited, name| Caller { appservice: service(rate_limited), ..caller(name) };
        for (caller, is_free) in
            [(caller("alice"), false), (of(true, "puppet"), false), (of(false, "alice"), true), (of(true, "bot"), true)]
        {
            let (limits, _) = limits(TWO_EACH);
            let times = |check: &dyn Fn() -> Result<()>| (0..3).filter(|_| check().is_ok()).count() == 3;
            assert_eq!(times(&|| limits.message(&caller)), is_free, "{caller:?}");
            assert_eq!(times(&|| limits.upload(&caller)), is_free, "{caller:?}");
            assert_eq!(times(&|| limits.thumbnail(Asker::User(&caller))), is_free, "{caller:?}");
            assert_eq!(times(&|| limits.key_claim_of(&caller, 1)), is_free, "{caller:?}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let (limits, _) = limits(TWO_EACH);
        for host in ["2001:db8::1", "2001:db8::2"] {
            assert!(limits.registration(host.parse().unwrap()).is_ok());
        }
        assert!(limits.registration("2001:db8::3".parse().unwrap()).is_err());
        assert!(limits.registration("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }

    #[test]
    fn one_server_does_not_use_up_what_others_have() {
        let (limits, _) = limits(TWO_EACH);
        let (bad, good) = (server_name!("bad.example"), server_name!("good.example"));
        let room = room_id!("!room:example.org");
        for _ in 0..2 {
            limits.join_of_server(bad).and_then(|()| limits.join_to_room(room)).unwrap();
            limits.invite_of_server(bad).unwrap();
        }
        assert_eq!(wait_of(limits.join_of_server(bad).unwrap_err()), Duration::from_secs(1));
        assert_eq!(wait_of(limits.invite_of_server(bad).unwrap_err()), Duration::from_secs(1));
        limits.join_of_server(good).and_then(|()| limits.join_to_room(room)).unwrap();
        limits.invite_of_server(good).unwrap();
        assert!(limits.join_to_room(room).is_err());
    }

    #[test]
    fn only_wrong_passwords_count() {
        let (limits, clock) = limits(TWO_EACH);
        let alice = user_id!("@alice:example.org");
        for _ in 0..100 {
            limits.password_guess(alice).unwrap();
        }
        limits.wrong_password(alice);
        limits.password_guess(alice).unwrap();
        limits.wrong_password(alice);
        assert_eq!(wait_of(limits.password_guess(alice).unwrap_err()), Duration::from_secs(60));
        limits.password_guess(user_id!("@bob:example.org")).unwrap();
        clock.advance(Duration::from_secs(60));
        limits.password_guess(alice).unwrap();
        limits.wrong_password(alice);
        assert!(limits.password_guess(alice).is_err());
    }

    #[test]
    fn keys_are_claimed_one_by_one_or_many_at_once() {
        let (limits, clock) = limits(TWO_EACH);
        let (server, alice) = (server_name!("example.org"), caller("alice"));
        limits.key_claim(server, 2).unwrap();
        assert_eq!(wait_of(limits.key_claim(server, 1).unwrap_err()), Duration::from_secs(1));
        clock.advance(Duration::from_secs(2));
        limits.key_claim(server, 1_000).unwrap();
        assert_eq!(wait_of(limits.key_claim(server, 1).unwrap_err()), Duration::from_secs(1));
        limits.key_claim_of(&alice, 1_000).unwrap();
        assert_eq!(wait_of(limits.key_claim_of(&alice, 1).unwrap_err()), Duration::from_secs(1));
        limits.key_claim_of(&caller("bob"), 0).unwrap();
    }

    #[test]
    fn the_time_of_day_does_not_matter() {
        let before = Instant::now();
        let clock = Now::new(&Clock::System);
        assert!(clock::Clock::now(&clock) <= before.elapsed());
    }

    #[test]
    fn limits_can_be_switched_off() {
        let (limits, _) = limits(&TWO_EACH.replace("enabled = true", "enabled = false"));
        for _ in 0..10 {
            limits.message(&caller("alice")).unwrap();
            limits.wrong_password(user_id!("@alice:example.org"));
        }
        limits.password_guess(user_id!("@alice:example.org")).unwrap();
    }
}
