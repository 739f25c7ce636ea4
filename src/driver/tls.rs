//! SIP over TLS: who we are, whom we believe, and the handshake on either side.
//!
//! The far side of a connection that we make must hold a certificate for its SIP domain (RFC 5922). The files are read
//! again on request; connections that are there keep what they began with.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Whether those who connect to us must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They are asked; one that is shown must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Files {
    /// Our certificate chain, our own first; PEM. Absent: nobody can connect to us, and we show none.
    pub certificate: Option<PathBuf>,
    /// Its key; PEM.
    pub key: Option<PathBuf>,
    /// Whom we believe; PEM. Absent: nobody.
    pub ca: Option<PathBuf>,
    /// What those who connect to us must show.
    pub client_auth: ClientAuth,
}

/// Why TLS cannot be spoken with these files.
#[derive(Debug)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

#[derive(Debug, Clone)]
struct Sides {
    server: Option<Arc<ServerConfig>>,
    client: Arc<ClientConfig>,
}

/// Both sides of TLS. Cheap to clone; a reload is seen by every clone.
#[derive(Debug, Clone)]
pub struct Tls {
    files: Arc<Files>,
    sides: Arc<RwLock<Sides>>,
    /// SIP domains by the address they resolved to; any other peer must hold a certificate for its address.
    domains: Arc<RwLock<HashMap<IpAddr, String>>>,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: Files) -> Result<Self, Unusable> {
        let sides = sides(&files)?;
        Ok(Self { files: Arc::new(files), sides: Arc::new(RwLock::new(sides)), domains: Arc::default() })
    }

    /// Reads the files again. On an error everything stays as it was.
    pub fn reload(&self) -> Result<(), Unusable> {
        let sides = sides(&self.files)?;
        *self.sides.write().unwrap_or_else(PoisonError::into_inner) = sides;
        Ok(())
    }

    /// This address stands for this domain from now on.
    pub fn name(&self, address: IpAddr, domain: &str) {
        let domain = domain.trim_matches(['[', ']']).to_owned();
        self.domains.write().unwrap_or_else(PoisonError::into_inner).insert(address, domain);
    }

    fn now(&self) -> Sides {
        self.sides.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The handshake with somebody who connected to us.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        let server = self.now().server.ok_or_else(|| io::Error::other("no certificate of our own"))?;
        TlsAcceptor::from(server).accept(stream).await
    }

    /// The handshake with somebody we connected to.
    pub async fn connect(&self, stream: TcpStream, to: IpAddr) -> io::Result<client::TlsStream<TcpStream>> {
        let domain = self.domains.read().unwrap_or_else(PoisonError::into_inner).get(&to).cloned();
        let name = match domain {
            Some(domain) => ServerName::try_from(domain).map_err(io::Error::other)?,
            None => ServerName::IpAddress(to.into()),
        };
        TlsConnector::from(self.now().client).connect(name, stream).await
    }
}

fn sides(files: &Files) -> Result<Sides, Unusable> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(files.ca.as_deref())?);
    let own = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => Some((chain(certificate)?, private_key(key)?)),
        _ => None,
    };
    let server = own
        .as_ref()
        .map(|(chain, key)| server(&provider, &roots, files.client_auth, chain.clone(), key.clone_key()))
        .transpose()?;
    Ok(Sides { server: server.map(Arc::new), client: Arc::new(client(&provider, roots, own)?) })
}

fn server(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    auth: ClientAuth,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Unusable> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional | ClientAuth::Required => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
            let verifier = if auth == ClientAuth::Optional { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(unusable)?)
        }
    };
    builder.with_single_cert(chain, key).map_err(unusable)
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, Unusable> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let inner = match roots.is_empty() {
        true => None,
        false => Some(WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().map_err(unusable)?),
    };
    let verifier = Arc::new(SipDomain { inner, provider: provider.clone() });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(unusable),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn unusable(error: impl fmt::Display) -> Unusable {
    Unusable(error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    std::fs::read(path).map_err(|error| Unusable(format!("cannot read {}: {error}", path.display())))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(Unusable(format!("{} holds no CERTIFICATE in PEM", path.display()))),
        Err(error) => Err(Unusable(format!("{}: {error}", path.display()))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Unusable> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| Unusable(format!("{} holds no PRIVATE KEY in PEM: {error}", path.display())))
}

fn roots(path: Option<&Path>) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    let Some(path) = path else { return Ok(roots) };
    for certificate in chain(path)? {
        roots.add(certificate).map_err(|error| Unusable(format!("{}: {error}", path.display())))?;
    }
    Ok(roots)
}

/// Accepts a certificate for the SIP domain that was asked for (RFC 5922 section 7): the `sip:` URIs among its names
/// decide where there are any, else its DNS names; a wildcard is no SIP domain.
#[derive(Debug)]
struct SipDomain {
    /// Trust, time and, for an address, the name. `None`: nobody is believed.
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SipDomain {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Err(CertificateError::UnknownIssuer.into()) };
        let wrong_name = |error: &rustls::Error| {
            matches!(
                error,
                rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
                )
            )
        };
        let judged = inner.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        let ServerName::DnsName(domain) = name else { return judged };
        match judged {
            // The names are looked at last: all else was in order.
            Err(error) if !wrong_name(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        match is_for(end_entity, domain.as_ref()) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_for(certificate: &CertificateDer<'_>, domain: &str) -> bool {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return false };
    let mut uris = certificate.valid_uri_names().filter_map(sip_domain).peekable();
    match uris.peek() {
        Some(_) => uris.any(|host| host.eq_ignore_ascii_case(domain)),
        None => certificate.valid_dns_names().any(|name| name.eq_ignore_ascii_case(domain)),
    }
}

/// The domain a `sip:` URI stands for; one with a user stands for that user only (RFC 5922 section 7.1).
fn sip_domain(uri: &str) -> Option<&str> {
    let (scheme, host) = uri.split_once(':')?;
    (scheme.eq_ignore_ascii_case("sip") && !host.contains('@')).then(|| host.split([';', '?']).next().unwrap_or(host))
}
