//! E-mail addresses: those of accounts, and proofs that whoever asks reads what is sent to one.
//!
//! A proof is a session that is bound to its purpose, its address and the secret of the client that began it. The link
//! in the letter confirms it; the client then uses it once.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information>

use std::{sync::Arc, time::Duration};

use ruma::{OwnedUserId, UserId, api::error::ErrorKind};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tracing::error;

use super::{account, expiring::Expiring};
use crate::{
    Server,
    appservice::custom,
    config::Language,
    error::{Error, Result},
    mail::{Letter, address, letter},
    push::pushers,
    store::{Family, Record, Snapshot, Table, Transaction},
};

/// How long a link is good.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How many proofs are under way: the oldest make room.
const CAPACITY: usize = 2_000;

/// How many wrong tokens end a proof, and how many letters it takes.
const MAX_WRONG: u32 = 10;
const MAX_LETTERS: u32 = 5;

/// How many addresses one account has.
const MAX_ADDRESSES: usize = 20;

/// Letters of a token: 256 bits of chance.
const TOKEN_LENGTH: usize = 43;

/// The path of the page where the link of a letter leads.
pub const CONFIRM_PATH: &str = "/_chappe/mail/confirm";

/// The addresses of accounts.
pub struct Emails;
impl Table for Emails {
    const NAME: &'static str = "emails";
    const FAMILY: Family = Family::User;
    const ID: u8 = 182;
    type Key<'a> = (&'a UserId, &'a str);
    type Value = Email;
}

/// Both in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Email {
    pub validated_at_ms: u64,
    pub added_at_ms: u64,
}

impl Record for Email {}

/// Whose each address is: one row for each of `Emails`.
pub struct EmailOwners;
impl Table for EmailOwners {
    const NAME: &'static str = "email_owners";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 181;
    type Key<'a> = &'a str;
    type Value = Owner;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub user_id: OwnedUserId,
}

impl Record for Owner {}

/// What an address is proved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Register,
    ResetPassword,
    /// To an account that there is; which one is said when the proof is used.
    Add,
}

/// The proofs that have begun.
pub struct Proofs {
    sessions: Expiring<Session>,
    /// Makes the ids of sessions, so that the same request again finds its session.
    key: [u8; 32],
}

#[derive(Clone)]
struct Session {
    purpose: Purpose,
    address: String,
    client_secret: String,
    /// The client's number of its last request: one that is no greater asks for no further letter.
    attempt: u64,
    letters: u32,
    token: String,
    wrong: u32,
    validated_at_ms: Option<u64>,
    /// False if it can never be confirmed: the answer shall not tell whether an account has the address.
    is_real: bool,
    next_link: Option<String>,
}

impl Session {
    fn has_secret(&self, client_secret: &str) -> bool {
        is_same(&self.client_secret, client_secret)
    }

    fn wants_letter(&self, wish: &Wish) -> bool {
        wish.send_attempt > self.attempt && self.letters < MAX_LETTERS
    }
}

/// Takes as long whatever is right of a guess.
fn is_same(secret: &str, guess: &str) -> bool {
    secret.as_bytes().ct_eq(guess.as_bytes()).into()
}

/// An address that was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    pub address: String,
    pub validated_at_ms: u64,
}

/// What a client asks for by `requestToken`.
pub struct Wish {
    pub purpose: Purpose,
    pub email: String,
    pub client_secret: String,
    pub send_attempt: u64,
    pub next_link: Option<String>,
    pub language: Language,
}

/// How a confirmation went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// Done, or done before: for what, and where the client wants its user to go on.
    Yes(Purpose, Option<String>),
    WrongToken,
    Ended,
}

impl Proofs {
    pub fn new(key: [u8; 32]) -> Self {
        Self { sessions: Expiring::new(LIFETIME, CAPACITY), key }
    }

    fn id(&self, wish: &Wish, address: &str) -> String {
        let purpose = match wish.purpose {
            Purpose::Register => "register",
            Purpose::ResetPassword => "reset",
            Purpose::Add => "add",
        };
        let mut hash = blake3::Hasher::new_keyed(&self.key);
        for part in [purpose, address, &wish.client_secret] {
            hash.update(part.as_bytes()).update(&[0]);
        }
        hash.finalize().to_hex().to_string()
    }

    /// What a proof is for. `None` if it has ended.
    pub fn purpose(&self, now_ms: u64, sid: &str, client_secret: &str) -> Option<Purpose> {
        let purpose = |session: &mut Session| session.has_secret(client_secret).then_some(session.purpose);
        self.sessions.with(now_ms, sid, purpose)?
    }

    /// Marks a proof as confirmed, by the token of the letter.
    pub fn confirm(&self, now_ms: u64, sid: &str, client_secret: &str, token: &str) -> Confirmed {
        let confirmed = self.sessions.with(now_ms, sid, |session| {
            if session.wrong >= MAX_WRONG || !session.has_secret(client_secret) {
                return Confirmed::Ended;
            }
            if !session.is_real || !is_same(&session.token, token) {
                session.wrong += 1;
                return Confirmed::WrongToken;
            }
            session.validated_at_ms.get_or_insert(now_ms);
            Confirmed::Yes(session.purpose, session.next_link.clone())
        });
        confirmed.unwrap_or(Confirmed::Ended)
    }

    /// Uses a proof up. `None` if there is none for this purpose that was confirmed.
    pub fn take(&self, now_ms: u64, sid: &str, client_secret: &str, purpose: Purpose) -> Option<Proven> {
        let proven = |session: &mut Session| {
            let is_its = session.purpose == purpose && session.has_secret(client_secret);
            let validated_at_ms = session.validated_at_ms.filter(|_| is_its)?;
            Some(Proven { address: session.address.clone(), validated_at_ms })
        };
        let proven = self.sessions.with(now_ms, sid, proven)??;
        self.sessions.take(now_ms, sid).map(|_| proven) // of two who use it, one does
    }
}

/// Sends a letter with a link to an address, and gives the id of the proof that the link confirms.
///
/// Whether an account has the address can't be told from the answer: whoever reads the mail is told, as the
/// specification recommends. Errors: `M_THREEPID_MEDIUM_NOT_SUPPORTED` on servers that send no mail, `M_INVALID_PARAM`,
/// `M_LIMIT_EXCEEDED`.
pub async fn request(server: &Arc<Server>, wish: Wish) -> Result<String> {
    let Some(mail) = &server.config.mail else { return Err(not_supported("E-mail addresses are not supported")) };
    let address = address(&wish.email).ok_or_else(|| Error::invalid_param("This is no e-mail address"))?;
    check_client_secret(&wish.client_secret)?;
    check_next_link(wish.next_link.as_deref())?;
    let owner = owner(&server.store.snapshot(), &address)?;
    let is_real = match wish.purpose {
        Purpose::Register | Purpose::Add => owner.is_none(),
        Purpose::ResetPassword => owner.is_some(),
    };
    let (sid, now_ms) = (server.emails.id(&wish, &address), server.clock.now_ms());
    if server.emails.sessions.with(now_ms, &sid, |session| session.wants_letter(&wish)) == Some(false) {
        return Ok(sid);
    }
    // Before the attempt is noted: what is refused now is asked for again with the same number.
    server.limits.letter(&address)?;
    let again = server.emails.sessions.with(now_ms, &sid, |session| {
        let is_new = session.wants_letter(&wish);
        session.attempt = session.attempt.max(wish.send_attempt);
        session.letters += u32::from(is_new);
        (is_new, session.token.clone(), session.is_real)
    });
    let (token, is_real) = match again {
        Some((false, ..)) => return Ok(sid),
        Some((true, token, is_real)) => (token, is_real),
        None => {
            let session = Session {
                purpose: wish.purpose,
                address: address.clone(),
                client_secret: wish.client_secret.clone(),
                attempt: wish.send_attempt,
                letters: 1,
                token: server.random.text(TOKEN_LENGTH),
                wrong: 0,
                validated_at_ms: None,
                is_real,
                next_link: wish.next_link.clone(),
            };
            let token = session.token.clone();
            server.emails.sessions.insert(now_ms, &sid, session);
            (token, is_real)
        }
    };
    let link = link(&mail.public_url, &sid, &wish.client_secret, &token, wish.language);
    if let Some(letter) = letter_of(server, &wish, is_real, &link) {
        post(server, address, letter);
    }
    Ok(sid)
}

fn letter_of(server: &Server, wish: &Wish, is_real: bool, link: &str) -> Option<Letter> {
    let (language, name) = (wish.language, server.name());
    match (wish.purpose, is_real) {
        (Purpose::Register, true) => Some(letter::register(language, name, link)),
        (Purpose::Add, true) => Some(letter::add(language, name, link)),
        (Purpose::Register | Purpose::Add, false) => Some(letter::registered_already(language, name)),
        (Purpose::ResetPassword, true) => Some(letter::reset(language, name, link)),
        // Whoever has no account here gets no letter from us because somebody mistyped an address.
        (Purpose::ResetPassword, false) => None,
    }
}

/// Sends a letter while the client has its answer already: the time that takes would tell whether there is an account.
fn post(server: &Arc<Server>, address: String, letter: Letter) {
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let Some(mail) = &server.mail else { return };
        if let Err(error) = mail.send(&address, letter).await {
            error!("a letter can't be sent: {error:#}");
        }
    });
}

fn link(public_url: &str, sid: &str, client_secret: &str, token: &str, language: Language) -> String {
    let language = match language {
        Language::English => "en",
        Language::French => "fr",
    };
    let public_url = public_url.trim_end_matches('/');
    // All of these are letters, digits and `.=_-`, which need no encoding.
    format!("{public_url}{CONFIRM_PATH}?sid={sid}&client_secret={client_secret}&token={token}&lang={language}")
}

/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registeremailrequesttoken>
fn check_client_secret(secret: &str) -> Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'=' | b'_' | b'-');
    match !secret.is_empty() && secret.len() <= 255 && secret.bytes().all(is_allowed) {
        true => Ok(()),
        false => Err(Error::invalid_param("`client_secret` consists of 1 to 255 of 0-9, a-z, A-Z and .=_-")),
    }
}

fn check_next_link(link: Option<&str>) -> Result<()> {
    let Some(link) = link else { return Ok(()) };
    let url = reqwest::Url::parse(link).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    match url.is_some() && link.len() <= 2_048 {
        true => Ok(()),
        false => Err(Error::invalid_param("`next_link` is no web address")),
    }
}

/// `M_THREEPID_MEDIUM_NOT_SUPPORTED`
pub fn not_supported(message: &'static str) -> Error {
    Error::refused(custom("M_THREEPID_MEDIUM_NOT_SUPPORTED"), message)
}

/// Whose account has an address, which need not be as it is kept.
pub fn named(snapshot: &Snapshot<'_>, text: &str) -> Result<Option<OwnedUserId>> {
    address(text).map_or(Ok(None), |address| owner(snapshot, &address))
}

fn owner(snapshot: &Snapshot<'_>, address: &str) -> Result<Option<OwnedUserId>> {
    Ok(snapshot.get::<EmailOwners>(&address)?.map(|owner| owner.user_id))
}

/// The addresses of a user.
pub fn list(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Vec<(String, Email)>> {
    let rows = snapshot.list::<Emails>(&user);
    rows.map(|row| row.and_then(|row| Ok((row.key()?.1.to_owned(), row.value))).map_err(Error::from)).collect()
}

/// Adds the address that a user proved to his account. Errors: `M_THREEPID_AUTH_FAILED`, `M_THREEPID_IN_USE`.
pub async fn add(server: &Server, user: OwnedUserId, sid: &str, client_secret: &str) -> Result<()> {
    let now_ms = server.clock.now_ms();
    let proven = server.emails.take(now_ms, sid, client_secret, Purpose::Add);
    let proven = proven.ok_or_else(|| Error::refused(ErrorKind::ThreepidAuthFailed, "The address is not confirmed"))?;
    server.store.commit(move |tx| put(tx, &user, &proven, now_ms)).await
}

/// Gives an address to an account, in a transaction. `M_THREEPID_IN_USE` if it has become another's.
pub fn put(tx: &mut Transaction<'_>, user: &UserId, proven: &Proven, now_ms: u64) -> Result<()> {
    if owner(tx.before(), &proven.address)?.is_some_and(|owner| owner != user) {
        return Err(Error::refused(ErrorKind::ThreepidInUse, "This address belongs to another account"));
    }
    if tx.before().list::<Emails>(&user).count() >= MAX_ADDRESSES {
        return Err(Error::invalid_param(format!("An account has at most {MAX_ADDRESSES} addresses")));
    }
    let email = Email { validated_at_ms: proven.validated_at_ms, added_at_ms: now_ms };
    tx.put::<Emails>(&(user, &proven.address), &email);
    tx.put::<EmailOwners>(&&*proven.address, &Owner { user_id: user.to_owned() });
    Ok(())
}

/// Removes an address from an account; it need not be there.
pub async fn remove(server: &Server, user: OwnedUserId, text: &str) -> Result<()> {
    let Some(address) = address(text) else { return Ok(()) };
    server
        .store
        .commit(move |tx| {
            if owner(tx.before(), &address)?.is_some_and(|owner| owner == user) {
                delete(tx, &user, &address)?;
            }
            Ok(())
        })
        .await
}

/// Removes all addresses of an account, in a transaction.
pub fn delete_user(tx: &mut Transaction<'_>, user: &UserId) -> Result<()> {
    list(tx.before(), user)?.iter().try_for_each(|(address, _)| delete(tx, user, address))
}

fn delete(tx: &mut Transaction<'_>, user: &UserId, address: &str) -> Result<()> {
    tx.delete::<Emails>(&(user, address));
    tx.delete::<EmailOwners>(&address);
    pushers::delete_email(tx, user, address)
}

/// The user whose password somebody may reset who proved `address`. `M_THREEPID_NOT_FOUND` if it is nobody's any more.
pub fn resettable(server: &Server, address: &str) -> Result<OwnedUserId> {
    let snapshot = server.store.snapshot();
    let user = owner(&snapshot, address)?;
    let is_open = |user: &OwnedUserId| {
        account::get(&snapshot, user).map(|account| account.is_some_and(|account| account.is_active()))
    };
    match user {
        Some(user) if is_open(&user)? => Ok(user),
        _ => Err(Error::refused(ErrorKind::ThreepidNotFound, "No account has this address")),
    }
}
