//! Accounts: who may log in here.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    OwnedUserId, ServerName, UserId,
    api::{client::uiaa::UserIdentifier, error::ErrorKind},
};

use super::{
    device::{self, Selection},
    directory,
    email::{self, Proven},
    keys, password,
    profile::{DISPLAY_NAME, Profiles},
    session,
    tables::{Account, Accounts},
};
use crate::{
    Server,
    error::{Error, Result},
    mail,
    store::{Json, Snapshot, Transaction},
};

/// Longest user id, `@` and server name included. Source: the specification's grammar of user ids.
const MAX_USER_ID_BYTES: usize = 255;

/// An account to be made.
pub struct NewAccount {
    pub user_id: OwnedUserId,
    pub password: String,
    pub is_admin: bool,
    /// See [`Account`].
    pub user_type: Option<String>,
    pub accepted_terms: BTreeMap<String, String>,
    /// An address that its owner proved.
    pub email: Option<Proven>,
    pub display_name: Option<String>,
}

impl NewAccount {
    pub fn new(user_id: OwnedUserId, password: String) -> Self {
        Self {
            user_id,
            password,
            is_admin: false,
            user_type: None,
            accepted_terms: BTreeMap::new(),
            email: None,
            display_name: None,
        }
    }

    /// Hashes the password, so that nothing slow is left to do.
    pub async fn prepare(self, server: &Server) -> Result<PreparedAccount> {
        password::check_acceptable(&server.config.password_policy, &self.password)?;
        let password_hash = server.passwords.place().await.hash(&server.random, self.password).await?;
        let account = Account {
            password_hash: Some(password_hash),
            is_admin: self.is_admin,
            user_type: self.user_type,
            accepted_terms: self.accepted_terms,
            ..Account::without_password(server.clock.now_ms())
        };
        let Self { user_id, email, display_name, .. } = self;
        Ok(PreparedAccount { user_id, account, email, display_name })
    }
}

/// An account that has only to be stored.
pub struct PreparedAccount {
    pub user_id: OwnedUserId,
    account: Account,
    email: Option<Proven>,
    display_name: Option<String>,
}

impl PreparedAccount {
    /// Of a user for whom an application service acts, or the server itself.
    pub fn without_password(server: &Server, user_id: OwnedUserId) -> Self {
        let account = Account::without_password(server.clock.now_ms());
        Self { user_id, account, email: None, display_name: None }
    }

    /// Of somebody for whom an identity provider vouches: he logs in there.
    pub fn by_provider(
        now_ms: u64,
        user_id: OwnedUserId,
        display_name: Option<String>,
        email: Option<Proven>,
        accepted_terms: BTreeMap<String, String>,
    ) -> Self {
        let account = Account { accepted_terms, ..Account::without_password(now_ms) };
        Self { user_id, account, email, display_name }
    }

    /// Of a guest, who is found by nobody.
    pub fn guest(server: &Server, user_id: OwnedUserId) -> Self {
        let mut guest = Self::without_password(server, user_id);
        guest.account.is_guest = true;
        guest
    }

    /// Writes the account in place of that of a guest, which keeps its profile. `M_THREEPID_IN_USE` as for a new one.
    pub fn replace_guest(&self, tx: &mut Transaction<'_>) -> Result<()> {
        account_of_guest(tx, &self.user_id)?;
        tx.put::<Accounts>(&&*self.user_id, &self.account);
        directory::make(tx, &self.user_id)?;
        match &self.email {
            Some(email) => email::put(tx, &self.user_id, email, self.account.created_at_ms),
            None => Ok(()),
        }
    }

    /// `M_USER_IN_USE` if somebody has the name, or had it; `M_THREEPID_IN_USE` if somebody has the address now.
    pub fn write(&self, tx: &mut Transaction<'_>) -> Result<()> {
        check_free(tx.before(), &self.user_id)?;
        tx.put::<Accounts>(&&*self.user_id, &self.account);
        if let Some(name) = &self.display_name {
            tx.put::<Profiles>(&(&self.user_id, DISPLAY_NAME), &Json::of(name));
        }
        if !self.account.is_guest {
            directory::add(tx, &self.user_id, self.display_name.as_deref())?;
        }
        match &self.email {
            Some(email) => email::put(tx, &self.user_id, email, self.account.created_at_ms),
            None => Ok(()),
        }
    }
}

/// `M_FORBIDDEN` unless it is that of a guest in good standing: who was locked must not come back by an upgrade.
fn account_of_guest(tx: &Transaction<'_>, user_id: &UserId) -> Result<()> {
    let account = get(tx.before(), user_id)?.filter(|account| account.is_guest && account.is_active());
    match account {
        Some(account) if !account.is_locked && !account.is_suspended => Ok(()),
        _ => Err(Error::forbidden("This is not the account of a guest who can have another")),
    }
}

/// Makes an account whose owner is not logged in yet: for administrators.
pub async fn create(server: &Arc<Server>, localpart: &str, password: String, is_admin: bool) -> Result<OwnedUserId> {
    let user_id = new_user_id(server.name(), localpart)?;
    let account = NewAccount { is_admin, ..NewAccount::new(user_id.clone(), password) }.prepare(server).await?;
    server.store.commit(move |tx| account.write(tx)).await?;
    Ok(user_id)
}

/// The id that a new user called `localpart` gets; capitals become small. `M_INVALID_USERNAME` if the grammar does not
/// allow it: <https://spec.matrix.org/v1.19/appendices/#user-identifiers>
pub fn new_user_id(server_name: &ServerName, localpart: &str) -> Result<OwnedUserId> {
    let invalid = |message: &'static str| Error::refused(ErrorKind::InvalidUsername, message);
    let localpart = localpart.to_ascii_lowercase();
    let is_allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '=' | '-' | '/' | '+');
    if localpart.is_empty() || !localpart.chars().all(is_allowed) {
        return Err(invalid("A username consists of a-z, 0-9 and ._=-/+"));
    }
    let user_id = UserId::parse_with_server_name(&localpart, server_name);
    let user_id = user_id.map_err(|_| invalid("This username is not allowed"))?;
    if user_id.as_str().len() > MAX_USER_ID_BYTES {
        return Err(invalid("This username is too long"));
    }
    Ok(user_id)
}

/// `M_USER_IN_USE` if there is or was such an account.
pub fn check_free(snapshot: &Snapshot<'_>, user_id: &UserId) -> Result<()> {
    if snapshot.contains::<Accounts>(&user_id)? {
        return Err(Error::refused(ErrorKind::UserInUse, "This username is taken"));
    }
    Ok(())
}

/// The account of `user_id`, if it is one of ours.
pub fn get(snapshot: &Snapshot<'_>, user_id: &UserId) -> Result<Option<Account>> {
    Ok(snapshot.get::<Accounts>(&user_id)?)
}

/// Whether `user_id` administers this server.
pub fn is_admin(snapshot: &Snapshot<'_>, user_id: &UserId) -> Result<bool> {
    Ok(get(snapshot, user_id)?.is_some_and(|account| account.is_admin && account.is_active()))
}

/// All accounts, those that were deactivated too, in the order of their ids.
pub fn list(snapshot: &Snapshot<'_>) -> Result<Vec<(OwnedUserId, Account)>> {
    let rows = snapshot.list::<Accounts>(&());
    rows.map(|row| row.and_then(|row| Ok((row.key()?.to_owned(), row.value))).map_err(Error::from)).collect()
}

/// A user as he is named by somebody who need not be he.
pub struct Named {
    pub user_id: OwnedUserId,
    /// Under which user wrong passwords count. For an e-mail address it is one who can't be, its own: a limit that held for
    /// address and name together would tell whose the address is.
    pub guesses_of: OwnedUserId,
}

impl From<OwnedUserId> for Named {
    fn from(user_id: OwnedUserId) -> Self {
        Self { guesses_of: user_id.clone(), user_id }
    }
}

/// The user whom a client names in a log-in or in user-interactive authentication: by his id, or by its localpart, in
/// capitals too. `None` if that can't be one of ours.
/// <https://spec.matrix.org/v1.19/client-server-api/#identifier-types>
pub fn named(server: &Server, identifier: &UserIdentifier) -> Result<Option<Named>> {
    match identifier {
        UserIdentifier::Matrix(id) => Ok(of_name(server.name(), &id.user).map(Named::from)),
        UserIdentifier::Email(id) => with_address(server, &id.address),
        // No number belongs to any account.
        UserIdentifier::Msisdn(_) | UserIdentifier::PhoneNumber(_) => Ok(None),
        other if other.as_third_party_id().is_some() => Ok(None),
        other => {
            let message = format!("Unknown type of identifier: {}", other.identifier_type());
            Err(Error::refused(ErrorKind::Unknown, message))
        }
    }
}

/// As [`named`], from the text alone.
pub fn of_name(server_name: &ServerName, name: &str) -> Option<OwnedUserId> {
    let localpart = match name.strip_prefix('@') {
        Some(id) => id.strip_suffix(server_name.as_str())?.strip_suffix(':')?,
        None => name,
    };
    UserId::parse_with_server_name(localpart.to_ascii_lowercase(), server_name).ok()
}

/// The user with an e-mail address; `None` if it is none at all. For an address of nobody it is a user who can't be: the
/// time that his wrong passwords take, and their limit, must not tell that he is not there.
pub fn with_address(server: &Server, text: &str) -> Result<Option<Named>> {
    let Some(address) = mail::address(text) else { return Ok(None) };
    // No name that somebody gets has an `@`.
    let nobody = UserId::parse(format!("@@{}:{}", blake3::hash(address.as_bytes()), server.name()));
    let Ok(guesses_of) = nobody else { return Ok(None) };
    let owner = email::named(&server.store.snapshot(), &address)?;
    Ok(Some(Named { user_id: owner.unwrap_or_else(|| guesses_of.clone()), guesses_of }))
}

/// Whether `password` is that of `user_id`. Error: that of [`verify_password`].
pub async fn check_password(server: &Arc<Server>, user_id: &UserId, password: String) -> Result<bool> {
    Ok(verify_password(server, &user_id.to_owned().into(), password).await?.is_some())
}

/// The hash that is stored of `password`; `None` if it is not that of the user. Takes as long for those who do not
/// exist. After too many wrong ones the answer is `M_LIMIT_EXCEEDED` for a while, whoever asks.
pub async fn verify_password(server: &Arc<Server>, named: &Named, password: String) -> Result<Option<String>> {
    // The place comes first: guesses that wait for theirs together would all be allowed.
    let place = server.passwords.place().await;
    server.limits.password_guess(&named.guesses_of)?;
    let stored = get(&server.store.snapshot(), &named.user_id)?.and_then(|account| account.password_hash);
    let is_right = place.verify(password, stored.clone()).await?;
    if !is_right {
        server.limits.wrong_password(&named.guesses_of);
    }
    Ok(stored.filter(|_| is_right))
}

/// Changes a password, and logs devices out. `M_NOT_FOUND` if there is no such account, `M_USER_DEACTIVATED` if it was
/// given up.
pub async fn set_password(
    server: Arc<Server>,
    user_id: OwnedUserId,
    password: String,
    logged_out: Selection,
) -> Result<()> {
    password::check_acceptable(&server.config.password_policy, &password)?;
    // A client that hangs up while others have their passwords hashed must not have used up what it proved.
    Server::detached(async move {
        let password_hash = server.passwords.place().await.hash(&server.random, password).await?;
        let ends_log_ins = !matches!(logged_out, Selection::None);
        if ends_log_ins {
            session::forget_begun(&server, &user_id);
        }
        let owner = user_id.clone();
        let write = move |tx: &mut Transaction<'_>| {
            if get(tx.before(), &owner)?.is_some_and(|account| !account.is_active()) {
                return Err(Error::refused(ErrorKind::UserDeactivated, "This account was deactivated"));
            }
            update(tx, &owner, |account| account.password_hash = Some(password_hash))?;
            device::delete(tx, &owner, &logged_out)
        };
        server.store.commit(write).await?;
        if ends_log_ins {
            session::forget_begun(&server, &user_id); // what was begun meanwhile, by the old password or an old device
        }
        keys::announce(&server, &user_id);
        Ok(())
    })
    .await
}

/// Changes a row of `Accounts`; `M_NOT_FOUND` if there is none.
pub fn update(tx: &mut Transaction<'_>, user_id: &UserId, change: impl FnOnce(&mut Account)) -> Result<()> {
    let mut account = tx.get::<Accounts>(&user_id)?.ok_or_else(|| Error::not_found("There is no such account"))?;
    change(&mut account);
    tx.put::<Accounts>(&user_id, &account);
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn new_names_follow_the_strict_grammar() {
        let id = |name: &str| new_user_id(server_name!("example.org"), name).map(String::from);
        assert_eq!(id("Alice").unwrap(), "@alice:example.org");
        assert_eq!(id("q3._=-/+").unwrap(), "@q3._=-/+:example.org");
        for name in ["", "a b", "é", "a:b", "@a", "a\n", "a'", "\u{17f}", "\u{212a}", &"a".repeat(255)] {
            assert!(id(name).is_err(), "{name:?}");
        }
        assert!(id(&"a".repeat(255 - "@:example.org".len())).is_ok());
    }

    #[test]
    fn a_user_is_named_by_id_or_localpart() {
        let name = server_name!("example.org:8448");
        for text in ["alice", "ALICE", "@alice:example.org:8448", "@Alice:example.org:8448"] {
            assert_eq!(of_name(name, text).unwrap(), "@alice:example.org:8448", "{text}");
        }
        for text in ["@alice:example.org", "@alice", "@:", "a:b"] {
            assert_eq!(of_name(name, text), None, "{text}");
        }
    }
}
