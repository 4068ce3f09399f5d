//! E-mail that the server sends, by a mail server that takes it.

pub mod letter;

use std::{path::Path, time::Duration};

use caseless::default_case_fold_str;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        SUBMISSION_PORT, SUBMISSIONS_PORT,
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};
use tracing::debug;

pub use self::letter::Letter;
use crate::config::{self, Encryption};

/// How long the mail server may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Sends letters.
pub struct Mail {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mail {
    /// `authorities`: the file of the configuration.
    pub fn new(config: &config::Mail, authorities: Option<&Path>) -> anyhow::Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default(); // whoever comes first sets it
        type Transport = AsyncSmtpTransport<Tokio1Executor>;
        let builder = Transport::builder_dangerous(&config.smtp_host);
        let trusted = || trust(&config.smtp_host, authorities);
        let mut builder = match config.encryption {
            Encryption::Tls => builder.port(SUBMISSIONS_PORT).tls(Tls::Wrapper(trusted()?)),
            Encryption::Starttls => builder.port(SUBMISSION_PORT).tls(Tls::Required(trusted()?)),
            Encryption::None => builder,
        };
        if let Some(port) = config.smtp_port {
            builder = builder.port(port);
        }
        if let (Some(username), Some(password)) = (&config.username, &config.password) {
            builder = builder.credentials(Credentials::new(username.clone(), password.expose().to_owned()));
        }
        Ok(Self { transport: builder.timeout(Some(TIMEOUT)).build(), from: config.from.parse()? })
    }

    /// Returns when the mail server has taken the letter.
    pub async fn send(&self, to: &str, letter: Letter) -> anyhow::Result<()> {
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.parse()?))
            .subject(letter.subject)
            .message_id(None)
            // Nobody's absence notice should come back.
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text)?;
        self.transport.send(message).await?;
        debug!("a letter was sent");
        Ok(())
    }
}

/// Trusts the certificate authorities of the system and those in the file `authorities` to say who `host` is.
fn trust(host: &str, authorities: Option<&Path>) -> anyhow::Result<TlsParameters> {
    let mut parameters = TlsParameters::builder(host.to_owned());
    if let Some(path) = authorities {
        for certificate in config::authorities::certificates(path)? {
            parameters = parameters.add_root_certificate(Certificate::from_der(certificate.to_vec())?);
        }
    }
    Ok(parameters.build()?)
}

/// `Auto-Submitted: auto-generated` (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl lettre::message::header::Header for AutoSubmitted {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// An address as it is kept and compared: case-folded. `None` if it is none.
/// <https://spec.matrix.org/v1.19/appendices/#e-mail>
pub fn address(text: &str) -> Option<String> {
    /// The longest that can be written in a letter's head.
    const MAX_BYTES: usize = 254;
    let address: lettre::Address = text.trim().parse().ok()?;
    let address = default_case_fold_str(address.as_ref());
    (address.len() <= MAX_BYTES).then_some(address)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_authorities_of_the_configuration_are_trusted() {
        let lines = "smtp_host = 'localhost'\nfrom = 'a@example.org'\npublic_url = 'https://example.org'";
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("authorities.pem");
        for encryption in ["tls", "starttls"] {
            let config: config::Mail = toml::from_str(&format!("{lines}\nencryption = '{encryption}'")).unwrap();
            fs::write(&path, "").unwrap();
            assert!(Mail::new(&config, Some(&path)).is_err(), "the file is read");
            let authority = rcgen::generate_simple_self_signed(["authority.example".to_owned()]).unwrap();
            fs::write(&path, authority.cert.pem()).unwrap();
            assert!(Mail::new(&config, Some(&path)).is_ok() && Mail::new(&config, None).is_ok());
        }
    }

    #[test]
    fn addresses_are_compared_without_case() {
        assert_eq!(address(" Alice@Example.ORG ").as_deref(), Some("alice@example.org"));
        for same in ["Strauß@Example.com", "STRAUSS@example.com", "strauẞ@example.com"] {
            assert_eq!(address(same).as_deref(), Some("strauss@example.com"), "{same}");
        }
        for wrong in ["", "alice", "alice@", "@example.org", "a b@example.org", "a@b@c", "a@x\r\nBcc: b@x"] {
            assert_eq!(address(wrong), None, "{wrong:?}");
        }
        assert_eq!(address(&format!("{}@example.org", "a".repeat(300))), None);
    }
}
