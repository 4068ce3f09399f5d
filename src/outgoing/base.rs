//! What all of our HTTP clients have in common: whose certificates they trust, and that they go no other way and read
//! nothing but what was sent.

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tracing::warn;

use crate::config;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom clients trust.
pub struct Base(ClientConfig);

impl Base {
    /// `authorities`: the file of the configuration. Reading the certificates takes a while.
    pub fn load(authorities: Option<&Path>) -> anyhow::Result<Self> {
        trust(authorities).map(Self)
    }

    pub fn client(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .tls_backend_preconfigured(self.0.clone())
            .no_proxy()
            .no_gzip() // whatever other crates switch on in reqwest: limits are for what is read
            .no_brotli()
            .no_deflate()
            .no_zstd()
            .http1_only() // with HTTP/2 the `Host` that federation prescribes could not be sent
            .connect_timeout(CONNECT_TIMEOUT)
            .referer(false)
            .user_agent(concat!("Chappe/", env!("CARGO_PKG_VERSION")))
    }
}

/// Trusts the certificate authorities of the system and those in the file `authorities`.
fn trust(authorities: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        warn!(%error, "a certificate of the system can't be read");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = authorities {
        roots.extend(config::authorities::read(path)?.roots);
    }
    if roots.is_empty() {
        warn!(
            "this machine knows no certificate authorities, so no other server can be reached: install them (on Debian, the \
             package ca-certificates), or name those of your network in `certificate_authorities_file`; then restart"
        );
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}
