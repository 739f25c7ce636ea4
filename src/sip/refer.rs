//! What a REFER says, and what is said of it: Refer-To (RFC 3515), Replaces inside it (RFC 3891), the status that a
//! NOTIFY reports (RFC 3420) and the state of its subscription (RFC 6665).
//!
//! Headers inside a URI are written and read here and nowhere else. Every octet but the unreserved ones is written as
//! `%HH`, and only `%HH` is undone: `+` is a plus sign. No name that is not a token and no control character passes, in
//! either direction, so that a header inside a URI never becomes two outside it.

use std::fmt;
use std::time::Duration;

use super::message::Method;
use super::value::{NameAddr, Params, Uri, escaped, find_outside_quotes, number, unescaped};
use super::wire::is_token;

/// Headers inside one Refer-To; one with more is refused.
const MAX_HEADERS: usize = 64;
/// Lines of a sipfrag that may be empty before its status line.
const MAX_BLANK: usize = 4;

/// Whom to call, how, and with which headers: a Refer-To value, or the Contact of a 302.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferTo {
    uri: String,
    method: Method,
    headers: Vec<(String, String)>,
}

impl ReferTo {
    /// An INVITE to this URI, without headers; `None` when it is no URI.
    pub fn new(uri: &str) -> Option<Self> {
        Self::read(&format!("<{uri}>"))
    }

    /// Reads a Refer-To value; `None` when it is none, or when something in it would not stay in its place.
    pub fn read(value: &str) -> Option<Self> {
        let (plain, headers) = without_headers(value)?;
        let uri = NameAddr::read(&plain)?.uri;
        if !uri.is_sip() {
            let uri = NameAddr::read(value)?.uri.text.to_owned();
            return Some(Self { uri, method: Method::Invite, headers: Vec::new() });
        }
        let method = uri.params.get("method").map_or(Some(Method::Invite), Method::read)?;
        Some(Self { uri: without_method(&uri), method, headers: read_headers(headers)? })
    }

    /// The URI without `method` and without headers: a Request-URI, if its scheme is one that can be called.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The method asked for; INVITE where none is named.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Headers in order, `%HH` undone: names are tokens, values hold no control character. `body`, which would be no
    /// header, is left out.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The value of the first header of this name, compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The dialog that the new one takes the place of.
    pub fn replaces(&self) -> Option<Replaces> {
        Replaces::read(self.header("Replaces")?)
    }

    /// With one more header. A name that is no token leaves it out, and so does a URI that is neither SIP nor SIPS,
    /// which holds none; a control character becomes a blank.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if is_name(name) && Uri::read(&self.uri).is_some_and(|uri| uri.is_sip()) {
            let value = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            self.headers.push((name.to_owned(), value));
        }
        self
    }
}

impl fmt::Display for ReferTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}", self.uri)?;
        if self.method != Method::Invite {
            write!(f, ";method={}", self.method)?;
        }
        for (at, (name, value)) in self.headers.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { '?' } else { '&' }, header_in_uri(name, value))?;
        }
        f.write_str(">")
    }
}

/// One header as it stands inside a URI (RFC 3261 section 19.1.1).
fn header_in_uri(name: &str, value: &str) -> String {
    format!("{}={}", escaped(name), escaped(value))
}

/// The value without the headers of its URI, and these. An `@` that should have been escaped in a header does not move
/// the host: the first one ends the user.
fn without_headers(value: &str) -> Option<(String, &str)> {
    let Some(open) = find_outside_quotes(value, b'<')? else { return Some((value.to_owned(), "")) };
    let close = open + value[open..].find('>')?;
    let user_end = value[open..close].find('@').map_or(open, |at| open + at);
    match value[user_end..close].find('?') {
        Some(at) => {
            let at = user_end + at;
            Some((format!("{}{}", &value[..at], &value[close..]), &value[at + 1..close]))
        }
        None => Some((value.to_owned(), "")),
    }
}

fn without_method(uri: &Uri<'_>) -> String {
    let params = uri.params.0;
    let bare = uri.text.strip_suffix(params).and_then(|text| text.strip_suffix(';'));
    let Some(bare) = bare.filter(|_| uri.params.get("method").is_some()) else { return uri.text.to_owned() };
    let others = params.split(';').filter(|param| {
        let name = param.split('=').next().unwrap_or("");
        !name.is_empty() && !name.eq_ignore_ascii_case("method")
    });
    others.fold(bare.to_owned(), |text, param| format!("{text};{param}"))
}

fn read_headers(text: &str) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    for header in text.split('&').filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once('=').unwrap_or((header, ""));
        let (name, value) = (unescaped(name), unescaped(value));
        if name.eq_ignore_ascii_case("body") {
            continue;
        }
        if !is_name(&name) || value.chars().any(char::is_control) || headers.len() == MAX_HEADERS {
            return None;
        }
        headers.push((name.into_owned(), value.into_owned()));
    }
    Some(headers)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token)
}

/// A dialog that another is to take the place of (RFC 3891), named as its far side, who gets this, sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaces {
    /// Call-ID.
    pub call_id: String,
    /// The tag of whoever gets this.
    pub to_tag: String,
    /// The tag of its peer.
    pub from_tag: String,
    /// Whether only a dialog that is not confirmed yet may be replaced.
    pub early_only: bool,
}

impl Replaces {
    /// Reads a Replaces value; `None` when it is none.
    pub fn read(value: &str) -> Option<Self> {
        let (call_id, params) = value.split_once(';')?;
        let (call_id, params) = (call_id.trim(), Params(params));
        let tag = |name| params.get(name).filter(|tag| is_name(tag)).map(str::to_owned);
        let is_word = !call_id.is_empty() && call_id.bytes().all(|b| b.is_ascii_graphic());
        Some(Self {
            call_id: is_word.then(|| call_id.to_owned())?,
            to_tag: tag("to-tag")?,
            from_tag: tag("from-tag")?,
            early_only: params.get("early-only").is_some(),
        })
    }
}

impl fmt::Display for Replaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call_id, to_tag, from_tag, early_only } = self;
        write!(f, "{call_id};to-tag={to_tag};from-tag={from_tag}{}", if *early_only { ";early-only" } else { "" })
    }
}

/// The status that a message/sipfrag body begins with; `None` where it begins with none. Lenient in what does not
/// change its meaning: empty lines before it, the case of `SIP`, a missing reason.
pub fn fragment_status(body: &[u8]) -> Option<u16> {
    let line = body.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).take(MAX_BLANK + 1).find(|line| !line.is_empty())?;
    let (version, rest) = line.split_at_checked("SIP/2.0 ".len())?;
    let (status, phrase) = rest.split_at_checked(3)?;
    let status = number(std::str::from_utf8(status).ok()?).filter(|status| (100..700).contains(status));
    let begins_well = version.eq_ignore_ascii_case(b"SIP/2.0 ") && phrase.first().is_none_or(|b| *b == b' ');
    status.filter(|_| begins_well)
}

/// How a subscription stands, as a NOTIFY says (RFC 6665 section 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription {
    /// Notifications follow, for this long where it is said; also for a state we do not know.
    Active(Option<Duration>),
    /// It is not decided yet whether notifications follow.
    Pending(Option<Duration>),
    /// Nothing follows.
    Terminated,
}

impl Subscription {
    /// Reads a Subscription-State value. Never fails: without one, what a NOTIFY says must do.
    pub fn read(value: &str) -> Self {
        let (state, params) = value.split_once(';').unwrap_or((value, ""));
        let expires = Params(params).get("expires").and_then(number).map(|seconds: u32| seconds.into());
        match state.trim().to_ascii_lowercase().as_str() {
            "terminated" => Self::Terminated,
            "pending" => Self::Pending(expires.map(Duration::from_secs)),
            _ => Self::Active(expires.map(Duration::from_secs)),
        }
    }
}

/// The event that a NOTIFY or SUBSCRIBE is about (RFC 6665 section 8.2.1): `refer;id=93809824`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The package, as written.
    pub package: &'a str,
    /// Which of several subscriptions in one dialog.
    pub id: Option<&'a str>,
}

impl<'a> Event<'a> {
    /// Reads an Event value.
    pub fn read(value: &'a str) -> Self {
        let (package, params) = value.split_once(';').unwrap_or((value, ""));
        Self { package: package.trim(), id: Params(params).get("id").filter(|id| !id.is_empty()) }
    }

    /// Whether it is about a REFER.
    pub fn is_refer(&self) -> bool {
        self.package.eq_ignore_ascii_case("refer")
    }

    /// Its id as the number of the REFER that began it (RFC 3515 section 2.4.6).
    pub fn number(&self) -> Option<u32> {
        self.id.and_then(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AWKWARD: &str = "+ @ ; ? & % \" < > = é , %41 \\";

    #[test]
    fn a_header_with_every_awkward_character_comes_back_as_it_went() {
        let written = ReferTo::new("sip:+15550100@pbx.example.com;user=phone").unwrap().with("X-GA-tv-a", AWKWARD);
        let text = written.to_string();
        assert!(text.starts_with("<sip:+15550100@pbx.example.com;user=phone?X-GA-tv-a=%2B%20%40%20%3B"), "{text}");
        assert_eq!(ReferTo::read(&text), Some(written));
    }

    #[test]
    fn what_others_write_is_read() {
        let read = ReferTo::read(
            "\"Q, <1>\" <sips:queue@pbx;method=INVITE;user=phone?Replaces=a%40b%3Bto-tag%3D1%3Bfrom-tag%3D2&subject=a+b&body=x%0D%0Ay>;x=y",
        )
        .unwrap();
        assert_eq!((read.uri(), read.method()), ("sips:queue@pbx;user=phone", &Method::Invite));
        let replaces = Replaces { call_id: "a@b".into(), to_tag: "1".into(), from_tag: "2".into(), early_only: false };
        assert_eq!(read.replaces(), Some(replaces));
        assert_eq!((read.header("Subject"), read.headers().len()), (Some("a+b"), 2));
        assert_eq!(ReferTo::read("sip:a@b").unwrap().uri(), "sip:a@b");
        assert_eq!(ReferTo::read("<tel:+15550100>").unwrap().uri(), "tel:+15550100");
        let bye = ReferTo::read("<sip:a@b;method=BYE>").unwrap();
        assert_eq!((bye.method(), bye.to_string().as_str()), (&Method::Bye, "<sip:a@b;method=BYE>"));
        let sloppy = ReferTo::read("<sip:a@b?Replaces=1@c%3Bto-tag%3D1%3Bfrom-tag%3D2>").unwrap();
        assert_eq!((sloppy.uri(), sloppy.replaces().unwrap().call_id.as_str()), ("sip:a@b", "1@c"));
    }

    #[test]
    fn what_would_not_stay_in_its_place_is_refused() {
        for bad in [
            "",
            "<sip:a@b",
            "sip:a@b?X=y",
            "<sip:a@b>, <sip:c@d>",
            "<sip:a@b?X=1%0D%0AEvil%3A+2>",
            "<sip:a@b?X%0d%0aEvil=1>",
            "<sip:a@b?X%20Y=1>",
            "<sip:a@b?X=%00>",
            "<sip:a@b?=1>",
            "<sip:a@b;method=>",
            "<sip:a b@c>",
        ] {
            assert_eq!(ReferTo::read(bad), None, "{bad}");
        }
        let many = "X=1&".repeat(MAX_HEADERS + 1);
        assert_eq!(ReferTo::read(&format!("<sip:a@b?{many}>")), None);
    }

    #[test]
    fn only_sip_uris_hold_headers() {
        let tel = ReferTo::new("tel:+15550100").unwrap().with("X", "1");
        assert_eq!(tel.to_string(), "<tel:+15550100>");
    }

    #[test]
    fn replaces_is_read_as_it_is_written() {
        for text in ["a@b;to-tag=1;from-tag=2", "a;to-tag=1;from-tag=2;early-only"] {
            assert_eq!(Replaces::read(text).unwrap().to_string(), text);
        }
        for bad in ["", "a", ";to-tag=1;from-tag=2", "a;to-tag=1", "a;to-tag=;from-tag=2"] {
            assert_eq!(Replaces::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_status_of_a_fragment() {
        for (body, status) in [
            ("SIP/2.0 200 OK\r\n", Some(200)),
            ("SIP/2.0 180 Ringing\r\nTo: x\r\n\r\n", Some(180)),
            ("\r\n\r\nsip/2.0 486", Some(486)),
            ("SIP/2.0 603 \u{2202}", Some(603)),
            ("SIP/2.0 99 x", None),
            ("SIP/2.0 700 x", None),
            ("SIP/2.0 2000 OK", None),
            ("SIP/2.0 +20 OK", None),
            ("SIP/3.0 200 OK", None),
            ("INVITE sip:a@b SIP/2.0", None),
            ("\n\n\n\n\nSIP/2.0 200 OK", None),
            ("200 OK", None),
            ("", None),
        ] {
            assert_eq!(fragment_status(body.as_bytes()), status, "{body:?}");
        }
        assert_eq!(fragment_status(b"\xff\xfe SIP/2.0 200 OK"), None);
    }

    #[test]
    fn subscriptions_and_events() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (text, state) in [
            ("active;expires=60", Subscription::Active(seconds(60))),
            ("Active ; expires = 60", Subscription::Active(seconds(60))),
            ("pending", Subscription::Pending(None)),
            ("terminated;reason=noresource", Subscription::Terminated),
            ("TERMINATED", Subscription::Terminated),
            ("", Subscription::Active(None)),
            ("odd;expires=-1", Subscription::Active(None)),
        ] {
            assert_eq!(Subscription::read(text), state, "{text}");
        }
        let event = Event::read("Refer ;id=7");
        assert_eq!((event.is_refer(), event.number()), (true, Some(7)));
        assert!(!Event::read("presence").is_refer());
        assert_eq!(Event::read("refer;id=").number(), None);
    }

    proptest! {
        #[test]
        fn any_octets_make_one_header_and_come_back(name in "[A-Za-z0-9.!%*_+`'~-]{1,20}", value in any::<Vec<u8>>()) {
            let value = String::from_utf8_lossy(&value).into_owned();
            prop_assume!(!name.eq_ignore_ascii_case("body"));
            let written = ReferTo::new("sip:queue@pbx.example.com").unwrap().with(&name, &value).with("X-Last", "1");
            let text = written.to_string();
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
            prop_assert_eq!(text.matches(['<', '>', '?', '&', '"', ',']).count(), 4, "{}", text);
            let read = ReferTo::read(&text).unwrap();
            prop_assert_eq!(&read, &written);
            let clean: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            prop_assert_eq!(read.header(&name), Some(clean.as_str()));
            prop_assert_eq!(read.headers().len(), 2);
        }

        #[test]
        fn whatever_is_read_is_written_as_the_same(text in "(<?(sip|sips|tel|http):.{0,60}>?.{0,8})|.{0,80}") {
            if let Some(read) = ReferTo::read(&text) {
                for (name, value) in read.headers() {
                    prop_assert!(is_name(name) && !value.chars().any(char::is_control));
                }
                let again = ReferTo::read(&read.to_string()).unwrap();
                prop_assert_eq!(again, read);
            }
        }

        #[test]
        fn no_octets_upset_the_other_readers(octets in any::<Vec<u8>>(), text in ".*") {
            prop_assert!(fragment_status(&octets).is_none_or(|status| (100..700).contains(&status)));
            if let Some(read) = Replaces::read(&text) {
                prop_assert_eq!(Replaces::read(&read.to_string()), Some(read));
            }
            Subscription::read(&text);
            Event::read(&text).number();
        }
    }
}
