//! Hashing of passwords: Argon2id, on threads of its own, a few at a time.

use std::sync::Arc;

use argon2::{
    Argon2, PasswordHasher, PasswordVerifier,
    password_hash::{self, phc::PasswordHash},
};
use ruma::api::error::ErrorKind;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

use crate::{
    config::PasswordPolicy,
    cores::cores,
    error::{Error, Result},
    random::Random,
};

/// Longer ones would only cost time. Source: our choice, as Synapse has it.
const MAX_BYTES: usize = 512;

/// Length of a generated password: nearly 120 bits of chance.
const GENERATED_LENGTH: usize = 20;

/// For whom no hash is stored: any will do, the answer is thrown away.
const NOBODYS_SALT: &[u8; 16] = b"a salt of nobody";

/// Limits how many passwords are hashed at a time: each takes 19 MiB and tens of milliseconds of a core.
pub struct Passwords {
    places: Arc<Semaphore>,
}

/// The right to hash one password.
pub struct Place(OwnedSemaphorePermit);

impl Default for Passwords {
    /// Half of the cores: log-ins may be slow, but everybody else's requests must not be.
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new((cores() / 2).max(1))) }
    }
}

impl Passwords {
    /// Waits for its turn.
    pub async fn place(&self) -> Place {
        let place = Arc::clone(&self.places).acquire_owned().await;
        Place(place.expect("the semaphore is never closed"))
    }
}

impl Place {
    /// The hash to store for `password`, as a PHC string.
    pub async fn hash(self, random: &Random, password: String) -> Result<String> {
        let salt = random.bytes::<16>();
        self.work(move || hash(&password, &salt).map_err(Error::internal)).await
    }

    /// Whether `password` is the one that was hashed. Without a hash it is not, and that takes as long.
    pub async fn verify(self, password: String, stored: Option<String>) -> Result<bool> {
        self.work(move || match stored {
            Some(stored) => match Argon2::default().verify_password(password.as_bytes(), stored.as_str()) {
                Ok(()) => Ok(true),
                Err(password_hash::Error::PasswordInvalid) => Ok(false),
                Err(other) => Err(Error::internal(format!("a stored password hash can't be used: {other}"))),
            },
            None => {
                hash(&password, NOBODYS_SALT).map_err(Error::internal)?;
                Ok(false)
            }
        })
        .await
    }

    /// The place is kept until the work is done, even if nobody waits for it any more.
    async fn work<R: Send + 'static>(self, work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
        spawn_blocking(move || {
            let _place = self.0;
            work()
        })
        .await?
    }
}

fn hash(password: &str, salt: &[u8]) -> password_hash::Result<String> {
    // The parameters are the crate's default, which is OWASP's: 19 MiB, 2 passes, 1 lane. See docs/security.md.
    let hash: PasswordHash = Argon2::default().hash_password_with_salt(password.as_bytes(), salt)?;
    Ok(hash.to_string())
}

/// Whether a user may have `password`. Errors: `M_WEAK_PASSWORD`, those of MSC2000, `M_INVALID_PARAM`.
pub fn check_acceptable(policy: &PasswordPolicy, password: &str) -> Result<()> {
    if password.is_empty() {
        return Err(Error::refused(ErrorKind::WeakPassword, "The password must not be empty"));
    }
    if password.len() > MAX_BYTES {
        return Err(Error::invalid_param(format!("The password must have at most {MAX_BYTES} bytes")));
    }
    if password.chars().count() < usize::from(policy.minimum_length) {
        let message = format!("The password must have at least {} characters", policy.minimum_length);
        return Err(Error::custom("M_PASSWORD_TOO_SHORT", message));
    }
    for (is_required, errcode, what, is_it) in [
        (policy.require_digit, "M_PASSWORD_NO_DIGIT", "a digit", char::is_numeric as fn(char) -> bool),
        (policy.require_symbol, "M_PASSWORD_NO_SYMBOL", "a symbol", |c| !c.is_alphanumeric()),
        (policy.require_lowercase, "M_PASSWORD_NO_LOWERCASE", "a small letter", char::is_lowercase),
        (policy.require_uppercase, "M_PASSWORD_NO_UPPERCASE", "a capital", char::is_uppercase),
    ] {
        if is_required && !password.chars().any(is_it) {
            return Err(Error::custom(errcode, format!("The password must contain {what}")));
        }
    }
    Ok(())
}

/// A password of chance that [`check_acceptable`] lets pass.
pub fn generate(policy: &PasswordPolicy, random: &Random) -> String {
    let length = GENERATED_LENGTH.max(policy.minimum_length.into());
    let symbol = if policy.require_symbol { "-" } else { "" };
    // This ends: a kind is seldom missing, and what the configuration may require of length is below `MAX_BYTES`.
    loop {
        let text = random.text(length) + symbol;
        if check_acceptable(policy, &text).is_ok() {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_same_password_matches() {
        let (passwords, random) = (Passwords::default(), Random::from_seed(1));
        let stored = passwords.place().await.hash(&random, "übers3kr1t".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        for (password, is_right) in [("übers3kr1t", true), ("ubers3kr1t", false), ("", false)] {
            let verified = passwords.place().await.verify(password.to_owned(), Some(stored.clone())).await.unwrap();
            assert_eq!(verified, is_right, "{password}");
        }
        assert!(!passwords.place().await.verify("übers3kr1t".to_owned(), None).await.unwrap());
    }

    #[tokio::test]
    async fn the_same_password_is_never_hashed_alike() {
        let (passwords, random) = (Passwords::default(), Random::from_seed(1));
        let first = passwords.place().await.hash(&random, "secret".to_owned()).await.unwrap();
        let second = passwords.place().await.hash(&random, "secret".to_owned()).await.unwrap();
        assert_ne!(first, second);
    }

    #[test]
    fn empty_and_endless_passwords_are_refused() {
        let is_acceptable = |password: &str| check_acceptable(&PasswordPolicy::default(), password).is_ok();
        assert!(is_acceptable("x") && is_acceptable(&"x".repeat(512)));
        assert!(!is_acceptable("") && !is_acceptable(&"x".repeat(513)));
    }

    #[test]
    fn a_generated_password_meets_the_policy() {
        let all = PasswordPolicy {
            minimum_length: 24,
            require_digit: true,
            require_symbol: true,
            require_lowercase: true,
            require_uppercase: true,
        };
        let digit = PasswordPolicy { require_digit: true, ..PasswordPolicy::default() };
        let random = Random::from_seed(1);
        for policy in [all, digit, PasswordPolicy::default()] {
            for _ in 0..200 {
                let password = generate(&policy, &random);
                assert!(password.len() >= GENERATED_LENGTH, "{password}");
                check_acceptable(&policy, &password).unwrap();
            }
        }
    }
}
