//! H10: a customer over TLS with SRTP, a trunk over UDP with RTP. What is heard is what was said, and no log knows a key.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use switchback::demo::party::{Call, CallEvent, Party};
use switchback::demo::sdp;
use switchback::demo::tap::Tap;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use webrtc_srtp::context::Context;
use webrtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use webrtc_srtp::protection_profile::ProtectionProfile;

use crate::authority::Authority;
use crate::program::{Program, eventually, free};
use crate::reset::line;
use crate::secure::{read_until, secure};

const SOON: Duration = Duration::from_secs(10);
const PACKET: Duration = Duration::from_millis(20);
/// The key of the customer's first offer and that of its second, and their octets: RFC 4568 section 9.2 and counting.
const KEYS: [&str; 2] = ["WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd"];

/// Packets said on each side: 20 s of speech, or 200 s.
fn length() -> u32 {
    if std::env::var_os("SWITCHBACK_LONG").is_some() { 10_000 } else { 1_000 }
}

/// Speech whose packets are all different; the sequence number wraps on the way.
fn speech(ssrc: u32) -> Vec<Vec<u8>> {
    let packet = |index: u32| {
        let mut packet = vec![0x80, 0];
        packet.extend(65_300_u16.wrapping_add(index as u16).to_be_bytes());
        packet.extend((index * 160).to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend((0..160_u32).map(|at| (index.wrapping_mul(31) ^ at.wrapping_mul(7) ^ ssrc) as u8));
        packet
    };
    (0..length()).map(packet).collect()
}

fn octets(base64: &str) -> Vec<u8> {
    const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let six = |sign| SIGNS.iter().position(|known| *known == sign).unwrap() as u32;
    let four = |signs: &[u8]| signs.iter().fold(0, |all, sign| all << 6 | six(*sign)).to_be_bytes()[1..].to_vec();
    base64.as_bytes().chunks_exact(4).flat_map(four).collect()
}

fn context(base64: &str) -> Context {
    let key = octets(base64);
    let windows = (srtp_replay_protection(64), srtcp_replay_protection(64));
    let profile = ProtectionProfile::Aes128CmHmacSha1_80;
    Context::new(&key[..16], &key[16..], profile, Some(windows.0), Some(windows.1)).unwrap()
}

/// The customer: a TLS connection, a media socket, and two keys to send with.
struct Customer {
    sip: TlsStream<TcpStream>,
    media: SocketAddr,
    to: String,
    target: String,
}

impl Customer {
    fn request(&self, method: &str, number: u32, body: &str) -> String {
        let content = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;branch=z9hG4bK{method}{number}\r\n\
             From: <sip:+15557654321@ivr.example>;tag=c\r\n{}\r\nCall-ID: srtp\r\nCSeq: {number} {method}\r\n\
             Max-Forwards: 70\r\nContact: <sip:ivr@127.0.0.1:9;transport=tls>\r\n{content}Content-Length: {}\r\n\r\n{body}",
            self.target,
            self.to,
            body.len()
        )
    }

    /// Offers this key; our key in the answer, and where our media is.
    async fn offer(&mut self, number: u32, key: &str) -> (String, SocketAddr) {
        let crypto = format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}|2^31\r\n");
        let body = sdp::describe(self.media).replace("RTP/AVP", "RTP/SAVP") + &crypto;
        let invite = self.request("INVITE", number, &body);
        self.sip.write_all(invite.as_bytes()).await.unwrap();
        let mut answer = read_until(&mut self.sip, "SIP/2.0 200 ").await;
        if !answer.contains("a=crypto:") {
            answer += &read_until(&mut self.sip, "a=sendrecv").await;
        }
        let answer = answer.split_once("SIP/2.0 200 ").unwrap().1;
        self.to = line(answer, "To:").to_owned();
        self.target = line(answer, "Contact:").trim_start_matches("Contact: <").trim_end_matches('>').to_owned();
        let ack = self.request("ACK", number, "");
        self.sip.write_all(ack.as_bytes()).await.unwrap();
        let said = line(answer, "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:").rsplit(':').next().unwrap().to_owned();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (said, sdp::audio_address(body.as_bytes()).unwrap())
    }
}

async fn answered(carrier: &mut Party, media: SocketAddr) -> (Call, SocketAddr) {
    let call = timeout(SOON, carrier.accept()).await.unwrap().unwrap();
    let body = call.invite().unwrap().body().to_vec();
    assert!(!String::from_utf8_lossy(&body).contains("crypto"), "no key crosses");
    assert!(call.respond(200, &sdp::describe(media)));
    (call, sdp::audio_address(&body).unwrap())
}

/// Everything heard until it is silent for a second.
fn hear(socket: std::sync::Arc<UdpSocket>) -> JoinHandle<Vec<Bytes>> {
    tokio::spawn(async move {
        let (mut heard, mut buffer) = (Vec::new(), [0; 2048]);
        while let Ok(received) = timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await {
            heard.push(Bytes::copy_from_slice(&buffer[..received.unwrap()]));
        }
        heard
    })
}

#[tokio::test]
async fn h10_srtp_over_tls_and_rtp_over_udp_and_a_log_without_keys() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.for_names(&["us.example"], &[]).write(folder.path());
    let (tls, trunk, at) = (free(), free(), folder.path().display());
    let lines = format!(
        "sip.tls_listen = '{tls}'\nsip.tls_certificate = '{at}/chain.pem'\nsip.tls_key = '{at}/key.pem'\n\
         log.level = 'trace'\nmedia.srtp = 'require'\ncall.verify_after = '0s'"
    );
    let mut carrier = Party::start(trunk, Tap::default()).await.unwrap();
    let program = Program::start(trunk, &lines).await;
    let [here, there] = [
        std::sync::Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()),
        std::sync::Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()),
    ];
    let mut customer = Customer {
        sip: secure(tls, &authority.1).await.unwrap(),
        media: here.local_addr().unwrap(),
        to: "To: <sip:7000@us.example>".to_owned(),
        target: "sip:7000@us.example".to_owned(),
    };
    let genagent_media = there.local_addr().unwrap();
    let ((first, towards_us), (mut genagent, from_trunk)) =
        tokio::join!(customer.offer(1, KEYS[0]), answered(&mut carrier, genagent_media));
    tokio::time::sleep(Duration::from_millis(100)).await;

    // Somebody speaks plain RTP to the secured port before the customer does, from the customer's own host.
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in speech(66).iter().take(20) {
        stranger.send_to(packet, towards_us).await.unwrap();
    }
    let (at_customer, at_genagent) = (hear(here.clone()), hear(there.clone()));
    let (said, answered) = (speech(7), speech(8));
    let trunk_side = {
        let (socket, packets) = (there.clone(), answered.clone());
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACKET);
            for packet in packets {
                pace.tick().await;
                socket.send_to(&packet, from_trunk).await.unwrap();
            }
        })
    };
    let mut sender = context(KEYS[0]);
    let (mut second, mut pace) = (String::new(), tokio::time::interval(PACKET));
    for (index, packet) in said.iter().enumerate() {
        pace.tick().await;
        if index == said.len() / 2 {
            // New keys in the middle of a sentence. This customer begins to count anew with his; we do not with ours.
            let (new, same_place) = customer.offer(2, KEYS[1]).await;
            assert_eq!(same_place, towards_us);
            (second, sender) = (new, context(KEYS[1]));
        }
        let sealed = sender.encrypt_rtp(packet).unwrap();
        here.send_to(&sealed, towards_us).await.unwrap();
        if index % 50 == 0 {
            here.send_to(&sealed, towards_us).await.unwrap(); // a replay
        }
    }
    trunk_side.await.unwrap();

    assert!(at_genagent.await.unwrap() == said, "decrypted and relayed, each packet once and in order");
    assert_ne!(first, second);
    let (mut before, mut after) = (context(&first), context(&second));
    let mut opened = Vec::new();
    for packet in at_customer.await.unwrap() {
        opened.push(after.decrypt_rtp(&packet).or_else(|_| before.decrypt_rtp(&packet)).unwrap());
    }
    // Our numbers begin where they do not turn before anybody hears them; all else is as it was said.
    let number = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
    let lower = number(&answered[0]) & 0x8000;
    let answered = answered.into_iter().map(|mut packet| {
        let lowered = number(&packet).wrapping_sub(lower);
        packet[2..4].copy_from_slice(&lowered.to_be_bytes());
        packet
    });
    assert!(opened.into_iter().eq(answered), "encrypted with the keys of each half, none lost between them");

    let bye = customer.request("BYE", 3, "");
    customer.sip.write_all(bye.as_bytes()).await.unwrap();
    read_until(&mut customer.sip, "SIP/2.0 200 ").await;
    while !matches!(timeout(SOON, genagent.next()).await.unwrap(), CallEvent::HungUp(_)) {}
    eventually("the record is written", async || program.outcomes() == ["customer_hung_up"]).await;
    let record: serde_json::Value = serde_json::from_str(program.records().trim()).unwrap();
    let media = &record["customer_media"];
    let invalid = media["invalid_packets"].as_u64().unwrap();
    assert!(invalid >= 20 + u64::from(length()) / 50, "the stranger and the replays: {media}");
    assert_eq!((&media["received_packets"], &media["foreign_packets"]), (&length().into(), &0.into()), "{media}");

    let log = program.log();
    assert!(log.contains("TRACE"), "the log says everything it can");
    for key in [KEYS[0], KEYS[1], &first, &second] {
        let hex: String = octets(key).iter().map(|octet| format!("{octet:02x}")).collect();
        let list = format!("{:?}", &octets(key)[..4]);
        for shape in [&key[..8], &hex[..12], list.trim_matches(['[', ']'])] {
            assert!(!log.contains(shape) && !program.records().contains(shape), "{shape} is in the log");
        }
    }
    assert!(!log.contains("inline:"), "no session description is in the log");
}
