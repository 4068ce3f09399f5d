//! Sessions: access and refresh tokens, from log-in to log-out.
//!
//! Tokens are stored as hashes only. A refresh gives a new pair of tokens; the old pair stays valid until the new one
//! is used, so that a client which never got the answer can ask again.
//! <https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens>

use std::{net::IpAddr, sync::Arc, time::Duration};

use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    api::error::{ErrorKind, UnknownTokenErrorData},
};
use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use super::{
    account::{self, Named},
    dehydrated, device, guests, keys,
    logins::Login,
    moderation,
    tables::{
        AccessToken, AccessTokens, Account, Accounts, Device, DeviceToken, DeviceTokens, Devices, LastSeen,
        RefreshToken, RefreshTokens, TokenKind,
    },
};
use crate::{
    Server,
    appservice::Appservice,
    error::{Error, Result},
    oauth::{
        client::{self, Client},
        scope::Scope,
        tables::{self as oauth, Owner},
    },
    push::pushers,
    store::{self, Snapshot, StreamPos, Transaction},
};

/// Letters of a token: 256 bits of chance.
const TOKEN_LENGTH: usize = 43;

/// Letters of what all refresh tokens of a session of OAuth begin with. They are kept to be told apart from made-up ones
/// after they were replaced.
const FAMILY_LENGTH: usize = 22;

/// A device's last use is written at most this often.
const SEEN_EVERY_MS: u64 = 60_000;

/// SHA-256 of a token.
pub type Hash = [u8; 32];

/// Who calls: a user by one of his devices.
#[derive(Clone, Debug)]
pub struct Caller {
    pub user_id: OwnedUserId,
    /// Empty for an application service that acts on no device; see [`Self::has_device`].
    pub device_id: OwnedDeviceId,
    /// The application service that acts for the user.
    pub appservice: Option<Arc<Appservice>>,
    /// See [`super::guests`].
    pub is_guest: bool,
    /// The access token that the request came with; `None` if it is that of an application service.
    pub token: Option<Hash>,
}

impl Caller {
    /// A user on one of his devices.
    pub fn on_device(user_id: OwnedUserId, device_id: OwnedDeviceId) -> Self {
        Self { user_id, device_id, appservice: None, is_guest: false, token: None }
    }

    /// Whether no rate limit holds, which is a matter of who asks: a user whom a service may act as has his own limits.
    pub fn is_unlimited(&self) -> bool {
        self.appservice.as_ref().is_some_and(|service| service.is_unlimited_as(&self.user_id))
    }

    pub fn has_device(&self) -> bool {
        !self.device_id.as_str().is_empty()
    }

    /// `M_GUEST_ACCESS_FORBIDDEN` for guests.
    pub fn check_not_guest(&self) -> Result<()> {
        if self.is_guest { Err(guests::forbidden()) } else { Ok(()) }
    }

    /// `M_MISSING_PARAM` for an application service that acts on no device, where one is needed.
    pub fn check_device(&self) -> Result<()> {
        match self.has_device() {
            true => Ok(()),
            false => Err(Error::missing_param("`device_id` is missing: this is done on a device")),
        }
    }
}

/// What a client asks for when it logs in or registers.
#[derive(Clone, Debug, Default)]
pub struct DeviceRequest {
    /// The device to log in; its earlier tokens end. A new one if `None`.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of the device, if it is new.
    pub display_name: Option<String>,
    /// The client knows how to refresh tokens, so its access tokens may expire.
    pub can_refresh: bool,
}

/// What a log-in gives to the client: the only time that the tokens themselves are seen.
#[derive(Clone)]
pub struct Session {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub tokens: Tokens,
}

#[derive(Clone)]
pub struct Tokens {
    pub access: String,
    pub refresh: Option<String>,
    /// Of the access token; it never ends if `None`.
    pub expires_in: Option<Duration>,
}

/// Tokens that have only to be stored.
struct NewTokens {
    tokens: Tokens,
    access_expires_at_ms: Option<u64>,
    refresh_expires_at_ms: Option<u64>,
}

impl NewTokens {
    /// Those of a session of OAuth belong to a `family`.
    fn make(server: &Server, can_refresh: bool, family: Option<&str>) -> Self {
        let lifetimes = &server.config.sessions;
        let end = |lifetime: Duration| server.clock.now_ms().saturating_add(millis(lifetime));
        let tokens = Tokens {
            access: server.random.text(TOKEN_LENGTH),
            refresh: can_refresh.then(|| match family {
                Some(family) => format!("{family}.{}", server.random.text(TOKEN_LENGTH)),
                None => server.random.text(TOKEN_LENGTH),
            }),
            expires_in: can_refresh.then_some(lifetimes.access_token_lifetime),
        };
        Self {
            access_expires_at_ms: tokens.expires_in.map(end),
            refresh_expires_at_ms: lifetimes.refresh_token_lifetime.map(end),
            tokens,
        }
    }

    fn write(&self, tx: &mut Transaction<'_>, user_id: &UserId, device_id: &DeviceId, replaces_others: bool) {
        let granted = tx.pos();
        let hash = hash_of(&self.tokens.access);
        let access = AccessToken {
            user_id: user_id.to_owned(),
            device_id: device_id.to_owned(),
            expires_at_ms: self.access_expires_at_ms,
            granted,
            replaces_others,
        };
        tx.put::<AccessTokens>(&hash, &access);
        tx.put::<DeviceTokens>(&(user_id, device_id, hash), &DeviceToken { kind: TokenKind::Access, granted });
        let Some(refresh) = &self.tokens.refresh else { return };
        let hash = hash_of(refresh);
        let expires_at_ms = self.refresh_expires_at_ms;
        let refresh = RefreshToken { user_id: access.user_id, device_id: access.device_id, expires_at_ms, granted };
        tx.put::<RefreshTokens>(&hash, &refresh);
        tx.put::<DeviceTokens>(&(user_id, device_id, hash), &DeviceToken { kind: TokenKind::Refresh, granted });
    }
}

/// A log-in that has only to be stored.
pub struct NewSession {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    display_name: Option<String>,
    tokens: NewTokens,
    oauth: Option<ByOAuth>,
}

/// What is kept beside the tokens of a session that was begun by OAuth.
struct ByOAuth {
    session: oauth::Session,
    client: Client,
}

impl NewSession {
    /// `M_INVALID_PARAM` if the client's device id or name is out of bounds.
    pub fn prepare(server: &Server, user_id: OwnedUserId, request: DeviceRequest) -> Result<Self> {
        request.device_id.as_deref().map_or(Ok(()), device::check_id)?;
        device::check_display_name(request.display_name.as_deref())?;
        let device_id = request.device_id.unwrap_or_else(|| server.random.text(10).to_uppercase().into());
        let tokens = NewTokens::make(server, request.can_refresh, None);
        Ok(Self { user_id, device_id, display_name: request.display_name, tokens, oauth: None })
    }

    /// One that a client begins by OAuth.
    pub fn by_oauth(
        server: &Server,
        user_id: OwnedUserId,
        scope: Scope,
        client_id: String,
        client: Client,
    ) -> Result<Self> {
        device::check_id(&scope.device_id)?;
        let family = server.random.text(FAMILY_LENGTH);
        let tokens = NewTokens::make(server, true, Some(&family));
        let session = oauth::Session {
            client_id,
            scope: scope.text,
            family: hash_of(&family),
            begun_at_ms: server.clock.now_ms(),
        };
        let display_name = Some(client.shown_name().to_owned());
        let oauth = Some(ByOAuth { session, client });
        Ok(Self { user_id, device_id: scope.device_id, display_name, tokens, oauth })
    }

    pub fn device_id(&self) -> &DeviceId {
        &self.device_id
    }

    /// `M_FORBIDDEN` for a new device that has the name of a cross-signing key.
    pub fn write(self, tx: &mut Transaction<'_>) -> Result<Session> {
        let Self { user_id, device_id, display_name, tokens, oauth } = self;
        if tx.get::<Devices>(&(&user_id, &device_id))?.is_some() {
            revoke(tx, &user_id, &device_id, |_| true)?;
            oauth::delete(tx, &user_id, &device_id)?;
            pushers::delete_device(tx, &user_id, &device_id)?;
            dehydrated::forget(tx, &user_id, &device_id)?;
        } else {
            if keys::is_signing_key(tx.before(), &user_id, &device_id)? {
                return Err(Error::forbidden("A cross-signing key has the name of this device"));
            }
            tx.put::<Devices>(&(&user_id, &device_id), &Device { display_name, last_seen: None });
        }
        tokens.write(tx, &user_id, &device_id, false);
        if let Some(ByOAuth { session, client }) = oauth {
            client::keep(tx, &session.client_id, &client, session.begun_at_ms);
            oauth::put(tx, &user_id, &device_id, &session);
        }
        Ok(Session { user_id, device_id, tokens: tokens.tokens })
    }
}

/// The user whose name and password a client gave, and the password's hash: see [`check_password_hash`]. `None` stands
/// for a name that can't be of one of ours. `M_FORBIDDEN` if there is no such user, or the password is wrong.
pub async fn user_by_password(
    server: &Arc<Server>,
    named: Option<Named>,
    password: String,
) -> Result<(OwnedUserId, String)> {
    let named = named.ok_or_else(wrong_password)?;
    if let Some(password_hash) = account::verify_password(server, &named, password).await? {
        return Ok((named.user_id, password_hash));
    }
    let account = account::get(&server.store.snapshot(), &named.user_id)?;
    let is_deactivated = account.is_some_and(|account| !account.is_active());
    Err(if is_deactivated { deactivated() } else { wrong_password() })
}

/// `M_FORBIDDEN` if this is not the hash of the user's password any more: to verify one takes long, and who changes it
/// meanwhile wants nobody to log in by the old one.
pub fn check_password_hash(snapshot: &Snapshot<'_>, user_id: &UserId, password_hash: &str) -> Result<()> {
    let stored = account::get(snapshot, user_id)?.and_then(|account| account.password_hash);
    if stored.as_deref() == Some(password_hash) { Ok(()) } else { Err(wrong_password()) }
}

/// Logs `user_id`, who proved who he is, in; `password_hash` is that of the password by which he did.
/// `M_USER_DEACTIVATED` if the account was given up, `M_FORBIDDEN` if it has another password by now.
pub async fn log_in(
    server: &Server,
    user_id: OwnedUserId,
    password_hash: Option<String>,
    request: DeviceRequest,
) -> Result<Session> {
    begin(server, NewSession::prepare(server, user_id, request)?, password_hash).await
}

/// As [`log_in`], for a session that was prepared.
pub async fn begin(server: &Server, session: NewSession, password_hash: Option<String>) -> Result<Session> {
    server
        .store
        .commit(move |tx| {
            check_in_use(tx.before(), &session.user_id)?;
            if let Some(password_hash) = &password_hash {
                check_password_hash(tx.before(), &session.user_id, password_hash)?;
            }
            session.write(tx)
        })
        .await
}

/// `M_USER_DEACTIVATED` or `M_USER_LOCKED` if the account can't be used now.
pub fn check_in_use(snapshot: &Snapshot<'_>, user_id: &UserId) -> Result<()> {
    let account = account::get(snapshot, user_id)?;
    match account.filter(Account::is_active) {
        Some(account) => moderation::check_unlocked(&account),
        None => Err(deactivated()),
    }
}

/// The user and device that `token` was given to, of an account in good standing. `M_UNKNOWN_TOKEN` if there is none,
/// or if the token expired; `M_USER_LOCKED` also if it expired: at the other error a client would renew it or log out.
/// `address` is kept as that of the device's last use.
pub async fn authenticate(server: &Server, token: &str, address: IpAddr) -> Result<Caller> {
    let hash = hash_of(token);
    let login = find(server, &hash)?;
    moderation::check_unlocked(&login.account)?;
    use_token(server, hash, login, address).await
}

/// As [`authenticate`], of an account that may be locked.
pub async fn authenticate_any(server: &Server, token: &str, address: IpAddr) -> Result<Caller> {
    let hash = hash_of(token);
    let login = find(server, &hash)?;
    use_token(server, hash, login, address).await
}

fn find(server: &Server, hash: &Hash) -> Result<Login> {
    server.logins.find(&server.store, hash)?.ok_or_else(|| unknown(false))
}

async fn use_token(server: &Server, hash: Hash, login: Login, address: IpAddr) -> Result<Caller> {
    let Login { token, device, account } = login;
    let now_ms = server.clock.now_ms();
    if token.expires_at_ms.is_some_and(|expires| expires <= now_ms) {
        return Err(unknown(true));
    }
    if token.replaces_others {
        replace_others(server, hash, &token).await;
    }
    if account.is_guest && !server.config.allow_guest_access {
        return Err(unknown(false));
    }
    let is_guest = account.is_guest;
    let on_device = Caller::on_device(token.user_id.clone(), token.device_id.clone());
    let caller = Caller { is_guest, token: Some(hash), ..on_device };
    if device.last_seen.is_none_or(|seen| seen.at_ms.saturating_add(SEEN_EVERY_MS) <= now_ms) {
        note_seen(server, &caller, LastSeen { at_ms: now_ms, address }).await;
    }
    Ok(caller)
}

/// Whose access token this is; `None` if it is nobody's, or has expired.
pub fn owner(server: &Server, token: &str) -> Result<Option<OwnedUserId>> {
    let found = server.logins.find(&server.store, &hash_of(token))?.map(|login| login.token);
    let now_ms = server.clock.now_ms();
    Ok(found.filter(|token| token.expires_at_ms.is_none_or(|end| end > now_ms)).map(|token| token.user_id.clone()))
}

/// `M_UNKNOWN_TOKEN` if the device was logged out, which `is_there` tells; an application service that acts on none
/// goes on.
pub fn check_device(device_id: &DeviceId, is_there: impl FnOnce() -> store::Result<bool>) -> Result<()> {
    let acts_on_none = device_id.as_str().is_empty();
    if acts_on_none || is_there()? { Ok(()) } else { Err(unknown(false)) }
}

/// As [`check_device`], by what is kept: before a change that is for the device alone.
pub fn check_device_in(snapshot: &Snapshot<'_>, user: &UserId, device_id: &DeviceId) -> Result<()> {
    check_device(device_id, || snapshot.contains::<Devices>(&(user, device_id)))
}

/// The first use of a refreshed token: the ones before it end. Should the disk refuse that, the next use tries again.
async fn replace_others(server: &Server, hash: Hash, token: &AccessToken) {
    let AccessToken { user_id, device_id, granted, .. } = token.clone();
    let done = server.store.commit(move |tx| {
        if let Some(token) = tx.get::<AccessTokens>(&hash)?.filter(|token| token.replaces_others) {
            revoke(tx, &user_id, &device_id, |other| other < granted)?;
            tx.put::<AccessTokens>(&hash, &AccessToken { replaces_others: false, ..token });
        }
        Ok::<_, Error>(())
    });
    if let Err(error) = done.await {
        warn!(?error, "a token that was replaced could not be revoked");
    }
}

/// Does not wait for the disk: the last minute may be lost.
async fn note_seen(server: &Server, caller: &Caller, seen: LastSeen) {
    let Caller { user_id, device_id, .. } = caller.clone();
    let written = server.store.write(move |tx| {
        // A device that was deleted meanwhile stays deleted.
        if let Some(device) = tx.get::<Devices>(&(&user_id, &device_id))? {
            tx.put::<Devices>(&(&user_id, &device_id), &Device { last_seen: Some(seen), ..device });
        }
        Ok::<_, Error>(())
    });
    if let Err(error) = written.await {
        debug!(?error, "the last use of a device could not be written"); // the health page tells why
    }
}

/// By which API a client renews its tokens: it must be that by which it got them.
pub enum Api {
    Legacy,
    OAuth { client_id: String },
}

impl Api {
    fn is_of(&self, session: Option<&oauth::Session>) -> bool {
        match (self, session) {
            (Self::Legacy, None) => true,
            (Self::OAuth { client_id }, Some(session)) => *client_id == session.client_id,
            _ => false,
        }
    }
}

/// New tokens for an old refresh token, which stays valid until one of the new ones is used, and whose they are.
pub async fn refresh(server: &Arc<Server>, token: &str, api: Api) -> Result<(Tokens, Owner)> {
    let hash = hash_of(token);
    let now_ms = server.clock.now_ms();
    let new = NewTokens::make(server, true, family_of(token));
    server
        .store
        .commit(move |tx| {
            let row = tx.get::<RefreshTokens>(&hash)?.ok_or_else(|| unknown(false))?;
            let account = tx.get::<Accounts>(&&*row.user_id)?.filter(Account::is_active);
            let account = account.ok_or_else(|| unknown(false))?;
            // A client of OAuth logs out if it is refused. Each use of its new tokens says that the account is locked.
            if matches!(api, Api::Legacy) {
                moderation::check_unlocked(&account)?;
            }
            if !api.is_of(tx.get::<oauth::Sessions>(&(&row.user_id, &row.device_id))?.as_ref()) {
                return Err(unknown(false));
            }
            if row.expires_at_ms.is_some_and(|expires| expires <= now_ms) {
                return Err(unknown(true));
            }
            // Older ones end because this one is used, newer ones because their answer obviously got lost.
            revoke(tx, &row.user_id, &row.device_id, |other| other != row.granted)?;
            new.write(tx, &row.user_id, &row.device_id, true);
            Ok((new.tokens, Owner { user_id: row.user_id, device_id: row.device_id }))
        })
        .await
}

/// Whose access or refresh token this is, be it expired; `None` if it is none.
pub fn owner_of(snapshot: &Snapshot<'_>, token: &str) -> Result<Option<Owner>> {
    let hash = hash_of(token);
    if let Some(AccessToken { user_id, device_id, .. }) = snapshot.get::<AccessTokens>(&hash)? {
        return Ok(Some(Owner { user_id, device_id }));
    }
    let refresh = snapshot.get::<RefreshTokens>(&hash)?;
    Ok(refresh.map(|RefreshToken { user_id, device_id, .. }| Owner { user_id, device_id }))
}

/// What all refresh tokens of the session of OAuth begin with of which this one says that it is.
pub fn family_of(refresh_token: &str) -> Option<&str> {
    refresh_token.split_once('.').map(|(family, _)| family)
}

/// Whether a device was logged in by OAuth.
pub fn is_by_oauth(snapshot: &Snapshot<'_>, user_id: &UserId, device_id: &DeviceId) -> Result<bool> {
    Ok(snapshot.contains::<oauth::Sessions>(&(user_id, device_id))?)
}

/// Ends those tokens of a device whose grants `which` names.
pub fn revoke(
    tx: &mut Transaction<'_>,
    user_id: &UserId,
    device_id: &DeviceId,
    which: impl Fn(StreamPos) -> bool,
) -> Result<()> {
    let rows: Vec<_> = tx.before().list::<DeviceTokens>(&(user_id, device_id)).collect::<Result<_, _>>()?;
    for row in rows.iter().filter(|row| which(row.value.granted)) {
        let (_, _, hash) = row.key()?;
        match row.value.kind {
            TokenKind::Access => tx.delete::<AccessTokens>(&hash),
            TokenKind::Refresh => tx.delete::<RefreshTokens>(&hash),
        }
        tx.delete::<DeviceTokens>(&(user_id, device_id, hash));
    }
    Ok(())
}

/// A token that logs another device of the same user in, once and soon.
pub fn make_login_token(server: &Server, user_id: OwnedUserId) -> String {
    let token = server.random.text(TOKEN_LENGTH);
    server.login_tokens.insert(server.clock.now_ms(), &token, user_id);
    token
}

/// The user whom `token` logs in; it is used up now. `M_FORBIDDEN` if it is none, or too old.
pub fn use_login_token(server: &Server, token: &str) -> Result<OwnedUserId> {
    let user_id = server.login_tokens.take(server.clock.now_ms(), token);
    user_id.ok_or_else(|| Error::forbidden("This login token is unknown or was used"))
}

/// Ends what `user_id` has begun and not brought to a session yet.
pub fn forget_begun(server: &Server, user_id: &UserId) {
    server.login_tokens.retain(|other| *other != user_id);
    server.oauth.forget_user(user_id);
}

fn wrong_password() -> Error {
    Error::forbidden("Wrong username or password")
}

fn deactivated() -> Error {
    Error::refused(ErrorKind::UserDeactivated, "This account has been deactivated")
}

/// `soft_logout`: the client keeps its data, and may refresh the token or log in again.
pub(super) fn unknown(soft_logout: bool) -> Error {
    let mut data = UnknownTokenErrorData::new();
    data.soft_logout = soft_logout;
    Error::refused(ErrorKind::UnknownToken(data), "Unrecognized access token")
}

pub fn hash_of(token: &str) -> Hash {
    Sha256::digest(token).into()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
