//! Our relay in somebody else's description: offers and answers with our address, each side's numbering kept.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::crypto::Crypto;
use super::{Audio, Direction, Session, TELEPHONE_EVENT};

/// The protocols of our own offers.
const PLAIN: &str = "RTP/AVP";
const SECURED: &str = "RTP/SAVP";
/// RTCP on the port of the RTP (RFC 5761).
const MUX: &str = "a=rtcp-mux\r\n";

/// Our side of one leg's session: where we listen and the identity of our descriptions (RFC 3264 section 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The relay's RTP address for this leg; RTCP is on the next port. It never moves during a call.
    pub here: SocketAddr,
    session: u32,
    version: u32,
    last: String,
}

impl Anchor {
    /// An anchor with a session id of its own.
    pub fn new(here: SocketAddr, session: u32) -> Self {
        Self { here, session, version: 0, last: String::new() }
    }

    /// The far side's audio, offered from our address; with these keys, or as plain RTP without any. `mux` offers RTCP on
    /// the port of the RTP, and the next port still where that is not taken (RFC 5761 section 5.1.1).
    pub fn offer(&mut self, theirs: &Audio, keys: &[Crypto], mux: bool) -> String {
        let protocol = if keys.is_empty() { PLAIN } else { SECURED };
        self.describe(|anchor, out| {
            anchor.audio(out, (protocol, keys), &theirs.formats, theirs, theirs.direction);
            out.push_str(if mux { MUX } else { "" });
        })
    }

    /// The answer to `offer`: what the other leg accepted of it, from our address, with the key that is ours. `None` when
    /// nothing is left.
    pub fn answer(&mut self, offer: &Session, accepted: &Audio, keys: &[Crypto]) -> Option<String> {
        let agreed = agreed(offer, accepted);
        offer.audio.shares_speech_with(&agreed).then(|| {
            let direction = allowed(offer.audio.direction.reversed(), accepted.direction);
            self.describe(|anchor, out| {
                for (at, (media, protocol, their_formats)) in offer.lines.iter().enumerate() {
                    if at == offer.audio_line {
                        // As it was offered, feedback or none (RFC 3264 section 6, RFC 4585 section 4).
                        anchor.audio(out, (offer.protocol(), keys), &agreed.formats, &agreed, direction);
                        if offer.audio.is_muxed() {
                            out.push_str(MUX);
                        }
                    } else {
                        let _ = write!(out, "m={media} 0 {protocol} {their_formats}\r\n");
                    }
                }
            })
        })
    }

    /// What we said last; the empty string before the first description.
    pub fn last(&self) -> &str {
        &self.last
    }

    fn describe(&mut self, media: impl FnOnce(&Self, &mut String)) -> String {
        let mut body = String::with_capacity(320);
        media(self, &mut body);
        let family = if self.here.is_ipv4() { "IP4" } else { "IP6" };
        let head = |version| {
            let ip = self.here.ip();
            format!("v=0\r\no=- {} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n", self.session)
        };
        let same = self.version > 0 && self.last == head(self.version) + &body;
        if !same {
            self.last = head(self.version + 1) + &body;
            self.version += 1;
        }
        self.last.clone()
    }

    fn audio(
        &self,
        out: &mut String,
        (protocol, keys): (&str, &[Crypto]),
        formats: &[String],
        source: &Audio,
        direction: Direction,
    ) {
        let _ = write!(out, "m=audio {} {protocol} {}\r\n", self.here.port(), formats.join(" "));
        for key in keys {
            let _ = write!(out, "a=crypto:{}\r\n", key.write());
        }
        for (name, value) in &source.attributes {
            let number = value.split(' ').next().unwrap_or("");
            let per_format = name == "rtpmap" || name == "fmtp";
            if !per_format || formats.iter().any(|f| f == number) {
                let _ = write!(out, "a={name}:{value}\r\n");
            }
        }
        let _ = write!(out, "a={}\r\n", direction.as_str());
    }
}

/// What the other side accepted of the offer: same number, same encoding, in its order. Where that leaves no speech, the
/// other G.711 law counts as accepted as well: the relay turns it into the one that was. Telephone events are agreed on
/// wherever they are offered, under the number of the offer: the relay renumbers them for the other side, and those that
/// do not have them there are told by INFO.
pub fn agreed(offer: &Session, accepted: &Audio) -> Audio {
    let both = (!offer.audio.shares_speech_with(accepted)).then(|| accepted.with_both_laws());
    let accepted = both.as_ref().unwrap_or(accepted);
    let same = |f: &&String| offer.audio.formats.contains(f) && offer.audio.encoding(f) == accepted.encoding(f);
    let mut agreed = Audio { formats: accepted.formats.iter().filter(same).cloned().collect(), ..accepted.clone() };
    if let (Some(number), None) = (offer.audio.telephone_event(), agreed.telephone_event()) {
        let lines = [("rtpmap", format!("{number} {TELEPHONE_EVENT}")), ("fmtp", format!("{number} 0-15"))];
        agreed.attributes.retain(|(name, value)| !describes(name, value, &number.to_string()));
        agreed.attributes.extend(lines.map(|(name, value)| (name.to_owned(), value)));
        agreed.formats.push(number.to_string());
    }
    agreed
}

/// Whether an attribute is about this payload type.
fn describes(name: &str, value: &str, format: &str) -> bool {
    (name == "rtpmap" || name == "fmtp") && value.split(' ').next() == Some(format)
}

/// The most that both permit: `ours` is what the offer leaves us, `theirs` what the other leg wants.
fn allowed(ours: Direction, theirs: Direction) -> Direction {
    let sends = |d| matches!(d, Direction::SendRecv | Direction::SendOnly);
    let listens = |d| matches!(d, Direction::SendRecv | Direction::RecvOnly);
    match (sends(ours) && sends(theirs), listens(ours) && listens(theirs)) {
        (true, true) => Direction::SendRecv,
        (true, false) => Direction::SendOnly,
        (false, true) => Direction::RecvOnly,
        (false, false) => Direction::Inactive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\no=bad user 1 99999999999999999999999 IN IP4 x\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\n\
        m=video 4000 RTP/AVP 96\na=rtpmap:96 H264/90000\nm=audio  5000 RTP/AVP 8 0 18 101\na=rtpmap:101 telephone-event/8000\n\
        a=fmtp:101 0-15\na=candidate:1 1 UDP 1 10.0.0.1 1 typ host\na=rtcp:5009\na=ptime:20\n";
    const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nc=IN IP4 198.51.100.7\r\nt=0 0\r\n\
        m=audio 6000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";

    fn anchor() -> Anchor {
        Anchor::new("203.0.113.1:20000".parse().unwrap(), 7)
    }

    #[test]
    fn an_offer_keeps_its_formats_and_gets_our_address() {
        let offer = Session::read(OFFER.as_bytes()).unwrap();
        assert_eq!(offer.audio.rtp, Some("192.0.2.1:5000".parse().unwrap()));
        assert_eq!(offer.audio.rtcp, Some("192.0.2.1:5009".parse().unwrap()));
        assert_eq!(
            anchor().offer(&offer.audio, &[], false),
            "v=0\r\no=- 7 1 IN IP4 203.0.113.1\r\ns=-\r\nc=IN IP4 203.0.113.1\r\nt=0 0\r\n\
             m=audio 20000 RTP/AVP 8 0 18 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n\
             a=sendrecv\r\n"
        );
    }

    #[test]
    fn an_answer_keeps_the_order_of_lines_and_refuses_the_rest() {
        let (offer, answer) = (Session::read(OFFER.as_bytes()).unwrap(), Session::read(ANSWER.as_bytes()).unwrap());
        let mut anchor = anchor();
        let first = anchor.answer(&offer, &answer.audio, &[]).unwrap();
        assert!(first.contains("m=video 0 RTP/AVP 96\r\nm=audio 20000 RTP/AVP 0 101\r\n"), "{first}");
        assert_eq!(anchor.answer(&offer, &answer.audio, &[]).unwrap(), first, "unchanged: the version stays");
        let mut held = answer.audio.clone();
        held.direction = Direction::SendOnly;
        let second = anchor.answer(&offer, &held, &[]).unwrap();
        assert!(second.contains("o=- 7 2 ") && second.contains("a=sendonly"), "{second}");
    }

    #[test]
    fn m8_rtcp_mux_is_answered_where_it_is_offered_and_offered_where_it_is_wanted() {
        let plain = Session::read(OFFER.as_bytes()).unwrap();
        let muxed = Session::read(format!("{OFFER}a=rtcp-mux\n").as_bytes()).unwrap();
        assert_eq!((plain.audio.is_muxed(), muxed.audio.rtcp), (false, muxed.audio.rtp), "a=rtcp is for those without");
        let accepted = Session::read(ANSWER.as_bytes()).unwrap().audio;
        assert!(anchor().answer(&muxed, &accepted, &[]).unwrap().ends_with("a=sendrecv\r\na=rtcp-mux\r\n"));
        assert!(!anchor().answer(&plain, &accepted, &[]).unwrap().contains("rtcp-mux"));
        assert!(!anchor().offer(&muxed.audio, &[], false).contains("rtcp-mux"), "the other leg is another matter");
        let offered = anchor().offer(&plain.audio, &[], true);
        assert!(offered.ends_with("a=sendrecv\r\na=rtcp-mux\r\n"), "{offered}");
        let read = Session::read(offered.as_bytes()).unwrap().audio;
        assert!(read.is_muxed() && read.rtp == Some(anchor().here), "{read:?}");
    }

    #[test]
    fn h9_an_offer_with_feedback_is_answered_under_its_protocol() {
        let offer = Session::read(OFFER.replace("5000 RTP/AVP", "5000 RTP/AVPF").as_bytes()).unwrap();
        let accepted = Session::read(ANSWER.as_bytes()).unwrap().audio;
        let answer = anchor().answer(&offer, &accepted, &[]).unwrap();
        assert!(answer.contains("m=audio 20000 RTP/AVPF 0 101\r\n"), "{answer}");
        assert!(
            anchor().offer(&offer.audio, &[], false).contains("m=audio 20000 RTP/AVP "),
            "the other leg is another matter"
        );
    }

    #[test]
    fn o9_only_what_counts_at_8_khz_crosses_and_is_agreed_on() {
        let wide = |formats: &str| {
            let maps = "a=rtpmap:111 opus/48000/2\na=rtpmap:110 AMR-WB/16000\na=rtpmap:109 telephone-event/48000\n\
                a=rtpmap:97 AMR/8000/1\na=fmtp:111 useinbandfec=1\n";
            let offer = OFFER.replace("AVP 8 0 18 101", &format!("AVP {formats}"));
            Session::read(format!("{offer}{maps}").as_bytes())
        };
        let offer = wide("111 110 109 9 0 97 101").unwrap();
        assert_eq!(offer.audio.formats, ["9", "0", "97", "101"], "G.722 counts so as well (RFC 3551 section 4.5.2)");
        let ours = anchor().offer(&offer.audio, &[], false);
        assert!(ours.contains("RTP/AVP 9 0 97 101\r\n") && !ours.contains("opus") && !ours.contains(":111 "), "{ours}");
        let answer = anchor().answer(&offer, &offer.audio, &[]).unwrap();
        assert!(answer.contains("RTP/AVP 9 0 97 101\r\n") && !answer.contains("48000"), "{answer}");
        assert_eq!(wide("111 0 109").unwrap().audio.telephone_event(), None);
        for nothing in ["111", "111 110 101", "10 11 14"] {
            assert_eq!(wide(nothing), Err(super::super::Unusable::NoAudio), "{nothing}");
        }
        assert!(wide("111").is_err() && Session::read(ANSWER.replace("6000", "0").as_bytes()).is_ok(), "a refusal");
    }

    #[test]
    fn no_common_codec_is_no_answer() {
        let offer = Session::read(OFFER.as_bytes()).unwrap();
        let mut answer = Session::read(ANSWER.as_bytes()).unwrap().audio;
        answer.formats = vec!["101".to_owned()];
        assert_eq!(anchor().answer(&offer, &answer, &[]), None);
    }

    #[test]
    fn m5_telephone_events_keep_the_number_of_the_offer() {
        let offer = Session::read(OFFER.as_bytes()).unwrap();
        let accepted = |formats: &str, maps: &str| {
            let text = ANSWER.replace("0 101", formats).replace("a=rtpmap:101 telephone-event/8000", maps);
            Session::read(text.as_bytes()).unwrap().audio
        };
        let answer = |audio: &Audio| {
            let text = anchor().answer(&offer, audio, &[]).unwrap();
            text.split_once("m=audio 20000 RTP/AVP ").unwrap().1.to_owned()
        };
        let ours = "0 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=sendrecv\r\n";
        let other_number = accepted("96 0", "a=rtpmap:96 TELEPHONE-EVENT/8000\r\na=fmtp:96 0-16");
        assert_eq!((other_number.telephone_event(), answer(&other_number).as_str()), (Some(96), ours));
        let other_meaning = accepted("0 101", "a=rtpmap:101 speex/8000");
        assert_eq!((other_meaning.telephone_event(), answer(&other_meaning).as_str()), (None, ours));
        let other_clock = accepted("0 101", "a=rtpmap:101 telephone-event/48000");
        assert_eq!((other_clock.telephone_event(), answer(&other_clock).as_str()), (None, ours));
        let no_speech = Audio { formats: vec!["96".to_owned()], ..other_number.clone() };
        assert!(anchor().answer(&offer, &no_speech, &[]).is_none(), "no speech");
        let none_offered = Session::read(OFFER.replace("telephone-event", "x").as_bytes()).unwrap();
        assert_eq!(agreed(&none_offered, &other_number).formats, ["0"]);
    }

    #[test]
    fn hold_port_zero_and_what_is_no_description() {
        let held = Session::read(ANSWER.replace("198.51.100.7", "0.0.0.0").as_bytes()).unwrap();
        assert!(held.audio.is_held() && held.audio.rtp.is_none());
        let refused = Session::read(ANSWER.replace("6000", "0").as_bytes()).unwrap();
        assert_eq!(refused.audio.rtp, None);
        assert!(Session::read(b"hello").is_err());
        let odd = ANSWER.replace("AVP 0 101", "AVP 0\x131 101").replace("telephone-event", "tele\rphone-event");
        let odd = Session::read(odd.as_bytes()).unwrap();
        assert_eq!(
            (odd.audio.formats, odd.audio.attributes[0].1.as_str()),
            (vec!["0".into(), "1".into(), "101".into()], "101 tele phone-event/8000")
        );
        assert!(Session::read(ANSWER.replace("RTP/AVP", "RTP/SAVP").as_bytes()).is_err());
    }
}
