//! `certificate_authorities_file`: who is trusted beside the certificate authorities of the system.

use std::{fmt::Display, path::Path};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::ConfigError;

/// The certificate authorities in the file, of which there is one at least.
pub fn read(path: &Path) -> Result<RootCertStore, ConfigError> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(path)? {
        authorities.add(certificate).map_err(|e| unreadable(path, &e))?;
    }
    Ok(authorities)
}

/// Their certificates, as the file has them.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|e| unreadable(path, &e))?;
    if certificates.is_empty() {
        return Err(wrong(format!("names {}, which holds no certificate", path.display())));
    }
    Ok(certificates)
}

fn unreadable(path: &Path, error: &dyn Display) -> ConfigError {
    wrong(format!("names {}, which cannot be read ({error})", path.display()))
}

fn wrong(problem: String) -> ConfigError {
    let way_out = "name a PEM file of certificates that the server's user may read, or leave it out";
    ConfigError::one("certificate_authorities_file", problem, way_out)
}
