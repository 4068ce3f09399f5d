//! The certificate with which the encrypted listeners show who they are.

use std::{path::PathBuf, sync::Arc};

use parking_lot::RwLock;
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use crate::config;

/// What the files of `[global.tls]` hold, as rustls wants it.
pub struct Certificates {
    files: config::Tls,
    current: RwLock<Arc<ServerConfig>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(
        "{}, which `tls.certs` or `tls.key` names, cannot be read as PEM: let the server's user read it",
        path.display()
    )]
    File { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate: `tls.certs` must name a PEM file with the certificate chain", .0.display())]
    Empty(PathBuf),
    #[error("`tls.certs` and `tls.key` cannot be used together")]
    Unusable(#[from] rustls::Error),
}

impl Certificates {
    /// Reads the files.
    pub fn load(files: config::Tls) -> Result<Self, TlsError> {
        let current = RwLock::new(read(&files)?);
        Ok(Self { files, current })
    }

    /// Reads the files again, for new connections. On an error the old certificate stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        *self.current.write() = read(&self.files)?;
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read())
    }
}

fn read(files: &config::Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_file_iter(&files.certs)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::File { path: files.certs.clone(), source })?;
    if chain.is_empty() {
        return Err(TlsError::Empty(files.certs.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| TlsError::File { path: files.key.clone(), source })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
