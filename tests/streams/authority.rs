//! Certificates for tests.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A certificate authority of the test's own, and its certificate, PEM.
pub struct Authority(Issuer<'static, KeyPair>, pub String);

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Identity(pub String, pub String);

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // OpenSSL takes a certificate whose issuer has the holder's name for self-signed.
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    pub fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        change(&mut params);
        Identity(params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

impl Identity {
    /// Puts `chain.pem` and `key.pem` there.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("chain.pem"), &self.0).unwrap();
        std::fs::write(folder.join("key.pem"), &self.1).unwrap();
    }
}
