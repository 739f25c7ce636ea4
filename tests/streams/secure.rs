//! SIP over TLS: who is believed (RFC 5922), who must show what, and certificates that change under way.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use switchback::driver::tls::{ClientAuth, Files, Tls};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::{Authority, Identity};
use crate::program::{Program, eventually, free};
use crate::reset::{line, reset, response};
use crate::slow::{invite, options};

const DOMAIN: &str = "carrier.example.com";

fn names(dns: &[&str], uris: &[&str]) -> Vec<SanType> {
    let dns = dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
    dns.chain(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()))).collect()
}

impl Authority {
    pub fn for_names(&self, dns: &[&str], uris: &[&str]) -> Identity {
        self.issue(|params| params.subject_alt_names = names(dns, uris))
    }
}

impl Identity {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.0.as_bytes()).map(Result::unwrap).collect()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.1.as_bytes()).unwrap()
    }

    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(self.chain(), self.key()).unwrap()))
    }
}

/// A client that believes this authority and shows this identity.
fn connector(authority: &str, shown: Option<&Identity>) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    TlsConnector::from(Arc::new(match shown {
        Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.key()).unwrap(),
        None => builder.with_no_client_auth(),
    }))
}

fn files(folder: &TempDir, authority: Option<&str>) -> Files {
    let ca = folder.path().join("ca.pem");
    if let Some(pem) = authority {
        std::fs::write(&ca, pem).unwrap();
    }
    Files { certificate: None, key: None, ca: authority.map(|_| ca), client_auth: ClientAuth::None }
}

/// Whether we speak to a trunk with this identity.
async fn believed(tls: &Tls, identity: &Identity) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    tls.name(Ipv4Addr::LOCALHOST.into(), DOMAIN);
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let acceptor = identity.acceptor();
    let far = tokio::spawn(async move { acceptor.accept(listener.accept().await.unwrap().0).await.is_ok() });
    let near = tls.connect(stream, Ipv4Addr::LOCALHOST.into()).await.map(drop).map_err(|error| error.to_string());
    let _ = far.await;
    near
}

#[tokio::test]
async fn a_trunk_is_believed_for_its_sip_domain_only() {
    let (ours, theirs, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let tls = Tls::load(files(&folder, Some(&ours.1))).unwrap();
    let uri = format!("sip:{DOMAIN}");
    let good = [
        ours.for_names(&[DOMAIN], &[]),
        ours.for_names(&["other.example", "CARRIER.example.com"], &[]),
        ours.for_names(&[], &[&uri]),
        ours.for_names(&["other.example"], &[&uri]),
        ours.for_names(&[DOMAIN], &["https://other.example"]),
    ];
    for (at, identity) in good.iter().enumerate() {
        assert_eq!(believed(&tls, identity).await, Ok(()), "good {at}");
    }
    let past = |params: &mut CertificateParams| {
        params.subject_alt_names = names(&[DOMAIN], &[]);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    };
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec![DOMAIN.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let bad = [
        ("another name", ours.for_names(&["other.example"], &[])),
        ("no name", ours.for_names(&[], &[])),
        ("a wildcard", ours.for_names(&["*.example.com"], &[])),
        ("the SIP URI of another domain beside our DNS name", ours.for_names(&[DOMAIN], &["sip:other.example"])),
        ("the SIP URI of a user", ours.for_names(&[], &[&format!("sip:anna@{DOMAIN}")])),
        ("expired", ours.issue(past)),
        ("self-signed", Identity(own, key.serialize_pem())),
        ("of another authority", theirs.for_names(&[DOMAIN], &[])),
    ];
    for (what, identity) in &bad {
        assert!(believed(&tls, identity).await.is_err(), "{what}");
    }
    let nobody = Tls::load(files(&folder, None)).unwrap();
    assert!(believed(&nobody, &good[0]).await.is_err(), "without an authority nobody is believed");
}

/// Whether somebody who shows this is let in.
async fn let_in(tls: &Tls, authority: &str, shown: Option<&Identity>) -> bool {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    tls.name(Ipv4Addr::LOCALHOST.into(), DOMAIN);
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let name = ServerName::try_from("us.example").unwrap();
    let connector = connector(authority, shown);
    let far = tokio::spawn(async move { connector.connect(name, stream).await.map(drop) });
    let near = tls.accept(listener.accept().await.unwrap().0).await.is_ok();
    let _ = far.await;
    near
}

#[tokio::test]
async fn clients_show_what_they_must() {
    let (ours, theirs, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    ours.for_names(&["us.example"], &[]).write(folder.path());
    let (known, unknown) = (ours.for_names(&["ivr.example"], &[]), theirs.for_names(&["ivr.example"], &[]));
    for (client_auth, without, with_unknown) in
        [(ClientAuth::None, true, true), (ClientAuth::Optional, true, false), (ClientAuth::Required, false, false)]
    {
        let files = Files {
            certificate: Some(folder.path().join("chain.pem")),
            key: Some(folder.path().join("key.pem")),
            client_auth,
            ..files(&folder, Some(&ours.1))
        };
        let tls = Tls::load(files).unwrap();
        assert!(let_in(&tls, &ours.1, Some(&known)).await, "{client_auth:?}");
        assert_eq!(let_in(&tls, &ours.1, None).await, without, "{client_auth:?}");
        assert_eq!(let_in(&tls, &ours.1, Some(&unknown)).await, with_unknown, "{client_auth:?}");
    }
}

#[tokio::test]
async fn certificates_are_read_again_and_bad_ones_change_nothing() {
    let (before, after, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    before.for_names(&["us.example"], &[]).write(folder.path());
    let files = Files {
        certificate: Some(folder.path().join("chain.pem")),
        key: Some(folder.path().join("key.pem")),
        ..files(&folder, None)
    };
    let tls = Tls::load(files).unwrap();
    assert!(let_in(&tls, &before.1, None).await);
    std::fs::write(folder.path().join("key.pem"), "nothing").unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("key.pem"));
    assert!(let_in(&tls, &before.1, None).await);
    after.for_names(&["us.example"], &[]).write(folder.path());
    tls.reload().unwrap();
    assert!(let_in(&tls, &after.1, None).await);
    assert!(!let_in(&tls, &before.1, None).await);
}

/// The program with a TLS listener, and a trunk over TLS; its certificates are in the folder.
async fn program(trunk: SocketAddr, authority: &Authority, folder: &TempDir, more: &str) -> (Program, SocketAddr) {
    authority.for_names(&["us.example"], &[]).write(folder.path());
    std::fs::write(folder.path().join("ca.pem"), &authority.1).unwrap();
    let (tls, at) = (free(), folder.path().display());
    let lines = format!(
        "sip.tls_listen = '{tls}'\nsip.tls_certificate = '{at}/chain.pem'\nsip.tls_key = '{at}/key.pem'\n\
         sip.tls_ca = '{at}/ca.pem'\ntrunk.main.transport = 'tls'\ntrunk.main.domain = '{DOMAIN}'\n{more}"
    );
    (Program::start(trunk, &lines).await, tls)
}

pub async fn secure(to: SocketAddr, authority: &str) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from("us.example").unwrap();
    connector(authority, None).connect(name, TcpStream::connect(to).await?).await
}

pub async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), wanted: &str) -> String {
    let mut all = String::new();
    let mut octets = vec![0; 8192];
    while !all.contains(wanted) {
        let read = tokio::time::timeout(Duration::from_secs(8), stream.read(&mut octets)).await;
        let read = read.unwrap_or_else(|_| panic!("no {wanted} in time: {all}")).unwrap();
        assert!(read > 0, "no {wanted}: {all}");
        all.push_str(&String::from_utf8_lossy(&octets[..read]));
    }
    all
}

#[tokio::test]
async fn a_call_goes_from_tls_to_tls() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let trunk = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (program, tls) = program(trunk.local_addr().unwrap(), &authority, &folder, "call.max_attempts = 1").await;
    let mut customer = secure(tls, &authority.1).await.unwrap();
    customer.write_all(invite(1).replace("/TCP", "/TLS").as_bytes()).await.unwrap();
    let acceptor = authority.for_names(&[DOMAIN], &[]).acceptor();
    let mut far = acceptor.accept(trunk.accept().await.unwrap().0).await.unwrap();
    let invite = read_until(&mut far, "m=audio").await;
    assert!(invite.contains(&format!("Via: SIP/2.0/TLS {tls};")), "{invite}");
    assert!(invite.contains(&format!("Contact: <sip:switchback@{tls};transport=tls>")), "{invite}");
    assert!(invite.lines().any(|line| line.starts_with("Via:") && line.ends_with(";rport;alias")), "{invite}");
    assert_eq!(far.get_ref().1.server_name(), Some(DOMAIN));
    // RFC 5923: requests of the trunk may come over the connection that we made.
    far.write_all(options(9).replace("/TCP", "/TLS").as_bytes()).await.unwrap();
    read_until(&mut far, "SIP/2.0 200 ").await;
    let copied = ["Via", "From", "To", "Call-ID", "CSeq"];
    let lines = invite.lines().filter(|line| copied.iter().any(|name| line.starts_with(&format!("{name}:"))));
    let head: String = lines.map(|line| format!("{line}\r\n")).collect();
    let busy = format!("SIP/2.0 486 Busy\r\n{head}Content-Length: 0\r\n\r\n");
    far.write_all(busy.as_bytes()).await.unwrap();
    read_until(&mut far, "ACK sip:").await;
    read_until(&mut customer, "SIP/2.0 480 ").await;
    drop(program);
}

#[tokio::test]
async fn o14_a_reset_over_tls_costs_a_fresh_number_and_a_new_handshake() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let trunk = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = trunk.local_addr().unwrap();
    let (_program, tls) = program(address, &authority, &folder, "").await;
    let mut customer = secure(tls, &authority.1).await.unwrap();
    customer.write_all(invite(5).replace("/TCP", "/TLS").as_bytes()).await.unwrap();
    let acceptor = authority.for_names(&[DOMAIN], &[]).acceptor();
    let mut first = acceptor.accept(trunk.accept().await.unwrap().0).await.unwrap();
    let before = read_until(&mut first, "m=audio").await;
    reset(first.get_ref().0);
    drop(first);
    let mut second = acceptor.accept(trunk.accept().await.unwrap().0).await.unwrap();
    let after = read_until(&mut second, "m=audio").await;
    assert_ne!(line(&before, "INVITE "), line(&after, "INVITE "), "no number is dialled twice");
    assert_ne!(line(&before, "Call-ID:"), line(&after, "Call-ID:"));
    let answer = response(&after, "200 OK", address).replace("transport=tcp", "transport=tls");
    second.write_all(answer.as_bytes()).await.unwrap();
    read_until(&mut second, "ACK sip:").await;
    read_until(&mut customer, "SIP/2.0 200 ").await;
}

#[tokio::test]
async fn h11_tls_is_heard_on_both_families() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.for_names(&["us.example"], &[]).write(folder.path());
    let v6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (v4, at) = (free(), folder.path().display());
    let lines = format!(
        "sip.tls_listen = ['{v4}', '{v6}']\nsip.tls_certificate = '{at}/chain.pem'\nsip.tls_key = '{at}/key.pem'\n"
    );
    let _program = Program::start(free(), &lines).await;
    for (call, here) in [v4, v6].into_iter().enumerate() {
        let mut peer = secure(here, &authority.1).await.unwrap();
        peer.write_all(options(call).as_bytes()).await.unwrap();
        read_until(&mut peer, "SIP/2.0 200 ").await;
    }
}

#[tokio::test]
async fn a_trunk_with_another_name_gets_no_invite() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let trunk = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (program, tls) = program(trunk.local_addr().unwrap(), &authority, &folder, "call.max_attempts = 1").await;
    let mut customer = secure(tls, &authority.1).await.unwrap();
    customer.write_all(invite(2).replace("/TCP", "/TLS").as_bytes()).await.unwrap();
    let acceptor = authority.for_names(&["other.example"], &[]).acceptor();
    assert!(acceptor.accept(trunk.accept().await.unwrap().0).await.is_err());
    read_until(&mut customer, "SIP/2.0 480 ").await;
    eventually("the log says why", async || program.log().contains("no connection")).await;
}

#[tokio::test]
async fn sighup_changes_the_certificate_and_nothing_else() {
    let (before, after, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let (program, tls) = program(free(), &before, &folder, "").await;
    let mut old = secure(tls, &before.1).await.unwrap();
    after.for_names(&["us.example"], &[]).write(folder.path());
    program.hang_up();
    eventually("the new certificate", async || secure(tls, &after.1).await.is_ok()).await;
    old.write_all(options(3).as_bytes()).await.unwrap();
    read_until(&mut old, "SIP/2.0 200 ").await;
}

#[tokio::test]
async fn s11_a_handshake_that_stalls_is_given_up() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let (program, tls) = program(free(), &authority, &folder, "sip.connect_timeout = '400ms'").await;
    let mut mute = TcpStream::connect(tls).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(4), mute.read(&mut [0; 8])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    let mut good = secure(tls, &authority.1).await.unwrap();
    good.write_all(options(4).as_bytes()).await.unwrap();
    read_until(&mut good, "SIP/2.0 200 ").await;
    drop(program);
}
