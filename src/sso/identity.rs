//! What a provider says of whoever logged in there, as far as we want to know it.

use serde_json::{Map, Value};

use crate::{config::IdentityProvider, mail};

/// Longest name of a person in the provider's words. Source: OpenID Connect Core, section 2.
const MAX_SUBJECT_BYTES: usize = 255;

/// As that of a profile.
const MAX_DISPLAY_NAME_CHARS: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The id of the provider in our configuration.
    pub provider: String,
    /// `sub`: never another person's.
    pub subject: String,
    /// What could be the name of his account.
    pub localpart: Option<String>,
    pub display_name: Option<String>,
    /// An address that is his, as the provider has made sure.
    pub email: Option<String>,
}

impl Identity {
    /// From claims that were verified. `None` if they name nobody.
    pub fn of(config: &IdentityProvider, claims: &Map<String, Value>) -> Option<Self> {
        let text = |key: &str| claims.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let subject = claims.get("sub").and_then(Value::as_str)?;
        if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES {
            return None;
        }
        let names: Vec<&str> = config.display_name_claim.iter().filter_map(|claim| text(claim)).collect();
        let display_name: String = names.join(" ").chars().take(MAX_DISPLAY_NAME_CHARS).collect();
        // It is said of `email`, whatever other addresses there are.
        let is_verified = config.email_claim == "email"
            && claims.get("email_verified").is_some_and(|it| *it == true || *it == "true");
        let email = text(&config.email_claim).filter(|_| is_verified || config.trust_emails);
        Some(Self {
            provider: config.id.clone(),
            subject: subject.to_owned(),
            localpart: text(&config.localpart_claim).and_then(localpart),
            display_name: Some(display_name).filter(|name| !name.is_empty()),
            email: email.and_then(mail::address),
        })
    }
}

/// The name of an account made of a text, as Tchap makes it of e-mail addresses. `None` if no letter or digit is left.
fn localpart(text: &str) -> Option<String> {
    let small = text.to_lowercase().replace('@', "-");
    let is_allowed = |c: &char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '=' | '-' | '/');
    let kept: String = small.chars().filter(is_allowed).collect();
    Some(kept).filter(|kept| kept.contains(|c: char| c.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(config: &str, claims: Value) -> Option<Identity> {
        let base = "id = 'a'\nname = 'A'\nissuer = 'https://id.example.org'\nclient_id = 'c'\n";
        let config = toml::from_str(&format!("{base}{config}")).unwrap();
        Identity::of(&config, claims.as_object().unwrap())
    }

    #[test]
    fn a_localpart_is_made_as_tchap_makes_it() {
        assert_eq!(localpart("john.doe@example.com").unwrap(), "john.doe-example.com");
        assert_eq!(localpart("user+tag@domain.com").unwrap(), "usertag-domain.com");
        assert_eq!(localpart("Zoé").unwrap(), "zo");
        assert_eq!((localpart("@:é"), localpart("é")), (None, None));
    }

    #[test]
    fn names_and_addresses_come_from_the_claims_that_are_named() {
        let claims = json!({
            "sub": "1", "preferred_username": "Alice", "name": "Alice A.", "given_name": "Alice", "usual_name": "Martin",
            "email": "Alice@Example.org", "email_verified": true, "mail": "other@example.org",
        });
        let given = identity("", claims.clone()).unwrap();
        assert_eq!((given.localpart.as_deref(), given.display_name.as_deref()), (Some("alice"), Some("Alice A.")));
        assert_eq!(given.email.as_deref(), Some("alice@example.org"));
        let config =
            "localpart_claim = 'mail'\ndisplay_name_claim = ['given_name', 'usual_name']\nemail_claim = 'mail'";
        let given = identity(config, claims).unwrap();
        assert_eq!(given.localpart.as_deref(), Some("other-example.org"));
        assert_eq!(given.display_name.as_deref(), Some("Alice Martin"));
        assert_eq!(given.email, None, "`email_verified` says nothing of it");
    }

    #[test]
    fn an_address_counts_only_if_it_was_verified() {
        let email = |config, claims| identity(config, claims).unwrap().email;
        for verified in [json!(false), json!("false"), json!(1), json!(null)] {
            assert_eq!(email("", json!({"sub": "1", "email": "a@example.org", "email_verified": verified})), None);
        }
        assert_eq!(email("", json!({"sub": "1", "email": "a@example.org"})), None);
        assert_eq!(email("", json!({"sub": "1", "email": "a b", "email_verified": true})), None);
        let trusted = email("trust_emails = true", json!({"sub": "1", "email": "a@example.org"}));
        assert_eq!(trusted.as_deref(), Some("a@example.org"));
    }

    #[test]
    fn without_a_subject_it_is_nobody() {
        for subject in [json!(""), json!(1), json!(null), json!("x".repeat(256))] {
            assert_eq!(identity("", json!({ "sub": subject })), None);
        }
        assert!(identity("", json!({ "sub": "x".repeat(255) })).is_some());
    }
}
