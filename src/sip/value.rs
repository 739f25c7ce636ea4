//! Single values, read where they stand: nothing is copied, unknown parameters are kept.

use std::borrow::Cow;
use std::str::FromStr;

use super::message::Method;

/// Splits a header value at commas outside quotes and angle brackets (RFC 3261 section 7.3.1).
pub fn split_commas(value: &str) -> impl Iterator<Item = &str> {
    split_outside_quotes(value, b',')
}

fn split_outside_quotes(value: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped, mut angle) = (false, false, false);
        for (at, b) in text.bytes().enumerate() {
            match b {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'<' if !quoted => angle = true,
                b'>' if !quoted => angle = false,
                _ if b == separator && !quoted && !angle => {
                    rest = Some(&text[at + 1..]);
                    return Some(text[..at].trim());
                }
                _ => {}
            }
        }
        rest = None;
        Some(text.trim())
    })
    .filter(|item| !item.is_empty())
}

/// `;name=value;flag` in the order written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Params<'a>(pub &'a str);

impl<'a> Params<'a> {
    /// All parameters; a flag has no value. Quotes around a value are kept.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        split_outside_quotes(self.0, b';').map(|item| match item.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (item, None),
        })
    }

    /// The value of the first parameter of this name, compared without case; a flag gives the empty string.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.unwrap_or(""))
    }
}

/// A SIP, SIPS or other URI (RFC 3261 section 19.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uri<'a> {
    /// The whole URI as written.
    pub text: &'a str,
    /// The scheme as written, without its colon.
    pub scheme: &'a str,
    /// User part, escapes kept; a `tel:` number is a user.
    pub user: Option<&'a str>,
    /// Host; an IPv6 reference keeps its brackets. Empty for schemes without one.
    pub host: &'a str,
    /// Port, where written.
    pub port: Option<u16>,
    /// URI parameters.
    pub params: Params<'a>,
    /// What follows `?`, escapes kept.
    pub headers: Option<&'a str>,
}

impl<'a> Uri<'a> {
    /// Reads a URI; `None` when it is not one. Schemes other than sip, sips and tel are opaque.
    pub fn read(text: &'a str) -> Option<Self> {
        if text.is_empty() || text.bytes().any(|b| b <= b' ' || matches!(b, b'<' | b'>' | b'"' | 0x7f)) {
            return None;
        }
        let (scheme, rest) = text.split_once(':')?;
        let scheme_ok = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if !scheme_ok || !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let bare = Self { text, scheme, user: None, host: "", port: None, params: Params(""), headers: None };
        if scheme.eq_ignore_ascii_case("tel") {
            let (number, params) = rest.split_once(';').unwrap_or((rest, ""));
            return (!number.is_empty()).then_some(Self { user: Some(number), params: Params(params), ..bare });
        }
        if !bare.is_sip() {
            return Some(bare);
        }
        Self { ..bare }.read_sip(rest)
    }

    fn read_sip(self, rest: &'a str) -> Option<Self> {
        // A user part may hold `;` and `?`, so the `@` is looked for first (semiuri, RFC 4475 section 3.1.1.10).
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) if !user.is_empty() => (Some(user), rest),
            Some(_) => return None,
            None => (None, rest),
        };
        let (rest, headers) = match rest.split_once('?') {
            Some((rest, headers)) => (rest, Some(headers)),
            None => (rest, None),
        };
        let (host_port, params) = rest.split_once(';').unwrap_or((rest, ""));
        let (host, port) = host_and_port(host_port)?;
        Some(Self { user, host, port, params: Params(params), headers, ..self })
    }

    /// Whether the scheme is sip or sips.
    pub fn is_sip(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("sip") || self.scheme.eq_ignore_ascii_case("sips")
    }

    /// The user part without a password, unescaped.
    pub fn user_name(&self) -> Option<Cow<'a, str>> {
        let user = self.user?;
        Some(unescaped(user.split_once(':').map_or(user, |(name, _)| name)))
    }
}

/// `host[:port]`, IPv6 in brackets.
pub fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']')? + 1;
        text[1..end - 1].parse::<std::net::Ipv6Addr>().ok()?;
        (&text[..end], text[end..].strip_prefix(':').or((end == text.len()).then_some(""))?)
    } else {
        text.split_once(':').unwrap_or((text, ""))
    };
    let host = host.trim();
    let host_ok = host.starts_with('[') || host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if host.is_empty() || !host_ok {
        return None;
    }
    let port = match port.trim() {
        "" => None,
        digits => Some(number(digits)?),
    };
    Some((host, port))
}

/// Digits and nothing else: Rust's own reading would take a sign as well.
pub fn number<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// An IP address written as a SIP host.
pub fn literal_host(host: &str) -> Option<std::net::IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Every octet but the unreserved ones as `%HH` (RFC 3986 section 2.3): safe in every part of a URI.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => out.push(char::from(b)),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// Undoes `%HH`; an escape that is none stays as written, and so does text that would not be UTF-8.
pub fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let octets = text.as_bytes();
    let mut out = Vec::with_capacity(octets.len());
    let mut at = 0;
    while at < octets.len() {
        let pair = octets.get(at + 1..at + 3).filter(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        let octet = pair.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match (octets[at], octet) {
            (b'%', Some(octet)) => {
                out.push(octet);
                at += 3;
            }
            (octet, _) => {
                out.push(octet);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// User-to-User data (RFC 7433), hexadecimal or plain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserToUser {
    /// All of it, unescaped.
    pub text: String,
    /// Its `name=value` pairs, cut at `&` and `;` before their escapes were undone: an escaped separator is none.
    pub pairs: Vec<(String, String)>,
}

impl UserToUser {
    /// Reads a header value. Never fails: hexadecimal that is none is empty.
    pub fn read(value: &str) -> Self {
        let (data, encoding) = value.split_once(";encoding").unwrap_or((value, ""));
        let data = data.trim().trim_matches('"');
        let is_hexadecimal = encoding.trim_start_matches('=').starts_with("hex");
        let decoded = is_hexadecimal.then(|| hexadecimal(data).unwrap_or_default());
        let plain = decoded.as_deref().unwrap_or(data);
        let pairs = plain.split(['&', ';']).filter_map(|pair| pair.split_once('='));
        let part = |text: &str| unescaped(text.trim()).into_owned();
        Self {
            pairs: pairs.map(|(name, value)| (part(name), part(value))).collect(),
            text: decoded.unwrap_or_else(|| unescaped(data).into_owned()),
        }
    }
}

fn hexadecimal(data: &str) -> Option<String> {
    let octets: Option<Vec<u8>> = (0..data.len())
        .step_by(2)
        .map(|at| data.get(at..at + 2).filter(|pair| !pair.starts_with('+')))
        .map(|pair| u8::from_str_radix(pair?, 16).ok())
        .collect();
    String::from_utf8(octets?).ok()
}

/// `"Name" <uri>;params` or `uri;params` (RFC 3261 section 20.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name as written, quotes included.
    pub display: &'a str,
    /// The URI.
    pub uri: Uri<'a>,
    /// Header parameters.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Reads a name-addr or addr-spec; `None` when it is neither.
    pub fn read(value: &'a str) -> Option<Self> {
        let Some(open) = find_outside_quotes(value, b'<')? else {
            let (uri, params) = value.split_once(';').unwrap_or((value, ""));
            let uri = uri.trim();
            // Without brackets `?` and `,` would be ambiguous and are not allowed (RFC 3261 section 20).
            return (!uri.contains(['?', ','])).then_some(()).and_then(|()| Uri::read(uri)).map(|uri| Self {
                display: "",
                uri,
                params: Params(params),
            });
        };
        let close = open + value[open..].find('>')?;
        let after = value[close + 1..].trim_start();
        let params = match after.strip_prefix(';') {
            Some(params) => params,
            None if after.is_empty() => "",
            None => return None,
        };
        let display = value[..open].trim();
        if !display.starts_with('"') && display.contains(['"', ',', ';', '@', ':']) {
            return None;
        }
        Some(Self { display, uri: Uri::read(&value[open + 1..close])?, params: Params(params) })
    }

    /// The `tag` parameter.
    pub fn tag(&self) -> Option<&'a str> {
        self.params.get("tag").filter(|tag| !tag.is_empty())
    }
}

/// The first `wanted` outside quotes. The outer `None` means the quotes do not balance.
pub(super) fn find_outside_quotes(value: &str, wanted: u8) -> Option<Option<usize>> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, b) in value.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if b == wanted && !quoted => return Some(Some(at)),
            _ => {}
        }
    }
    (!quoted).then_some(None)
}

/// One Via value (RFC 3261 section 20.42).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, `TLS` … as written.
    pub transport: &'a str,
    /// Host part of sent-by.
    pub host: &'a str,
    /// Port part of sent-by.
    pub port: Option<u16>,
    /// Parameters: branch, received, rport …
    pub params: Params<'a>,
}

impl<'a> Via<'a> {
    /// Reads one Via value; `None` when it is none.
    pub fn read(value: &'a str) -> Option<Self> {
        let (protocol, rest) = value.split_once('/')?;
        let (version, rest) = rest.split_once('/')?;
        if !protocol.trim().eq_ignore_ascii_case("SIP") || version.trim() != "2.0" {
            return None;
        }
        let rest = rest.trim_start();
        let (transport, rest) = rest.split_once([' ', '\t'])?;
        let (sent_by, params) = rest.split_once(';').unwrap_or((rest, ""));
        let (host, port) = host_and_port(sent_by.trim())?;
        let transport_ok = !transport.is_empty() && transport.bytes().all(super::wire::is_token);
        transport_ok.then_some(Self { transport, host, port, params: Params(params) })
    }

    /// The branch parameter.
    pub fn branch(&self) -> Option<&'a str> {
        self.params.get("branch").filter(|branch| !branch.is_empty())
    }
}

/// `number method` (RFC 3261 section 20.16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CSeq {
    /// Below 2^31.
    pub number: u32,
    /// The method.
    pub method: Method,
}

impl CSeq {
    /// Reads a CSeq; `None` when it is none or out of range.
    pub fn read(value: &str) -> Option<Self> {
        let (number, method) = value.split_once([' ', '\t'])?;
        let number = self::number(number).filter(|&number: &u32| number < 1 << 31)?;
        Some(Self { number, method: Method::read(method.trim())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_of_every_kind() {
        let uri = Uri::read("sips:alice:secret@[2001:db8::1]:5061;transport=tls;lr?X=%41").unwrap();
        assert_eq!((uri.host, uri.port, uri.headers), ("[2001:db8::1]", Some(5061), Some("X=%41")));
        assert_eq!(uri.user_name().unwrap(), "alice");
        assert_eq!(uri.params.get("TRANSPORT"), Some("tls"));
        assert_eq!(uri.params.get("lr"), Some(""));
        let semi = Uri::read("sip:user;par=u%40example.net@example.com").unwrap();
        assert_eq!((semi.user, semi.host), (Some("user;par=u%40example.net"), "example.com"));
        assert_eq!(Uri::read("tel:+15551234567;phone-context=x").unwrap().user, Some("+15551234567"));
        assert!(Uri::read("soap.beep://192.0.2.103:3002").is_some());
        for bad in ["", "sip:", "sip:a b@c", "<sip:a@b>", "nothing", "sip:@b", "sip:a@b:port", "sip:[::1", "1x:y"] {
            assert_eq!(Uri::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn name_addrs_quoted_bare_and_broken() {
        let quoted = NameAddr::read(r#""J \"R\" <x>, Y" <sip:a@b;x=y>;tag=1;+sip.instance="<urn:x>""#).unwrap();
        assert_eq!((quoted.uri.user, quoted.tag()), (Some("a"), Some("1")));
        let bare = NameAddr::read("sip:a@b;tag=7").unwrap();
        assert_eq!((bare.uri.text, bare.tag()), ("sip:a@b", Some("7")));
        for bad in [r#""open <sip:a@b>"#, "<sip:a@b", "sip:a@b?x=y", "Bell, A <sip:a@b>", "<sip:a@b> x"] {
            assert_eq!(NameAddr::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn vias_and_commas() {
        let line = "SIP / 2.0 / UDP [::1]:5070 ;branch=z9hG4bK1;rport, SIP/2.0/tcp b.example.com;x=\"a,b\"";
        let vias: Vec<_> = split_commas(line).filter_map(Via::read).collect();
        assert_eq!(vias.len(), 2, "{vias:?}");
        assert_eq!((vias[0].host, vias[0].port, vias[0].branch()), ("[::1]", Some(5070), Some("z9hG4bK1")));
        assert_eq!(vias[1].transport, "tcp");
        assert_eq!(Via::read("SIP/2.0 UDP x"), None);
    }

    #[test]
    fn cseq_stays_below_two_to_the_31() {
        assert_eq!(CSeq::read("009 INVITE").unwrap().number, 9);
        assert_eq!(CSeq::read("2147483648 INVITE"), None);
        assert_eq!(CSeq::read("36893488147419103232 REGISTER"), None);
        assert_eq!(CSeq::read("1"), None);
        assert_eq!(CSeq::read("+1 INVITE"), None);
    }

    #[test]
    fn escapes_are_undone_only_where_they_are_escapes() {
        assert_eq!(unescaped("a%20b%zz%4"), "a b%zz%4");
        assert_eq!(unescaped("%C3%A9"), "é");
        assert_eq!(unescaped("%FF"), "%FF");
        assert_eq!(unescaped("%+5"), "%+5");
    }

    #[test]
    fn user_to_user_is_decoded_once() {
        let read = |value: &str| (UserToUser::read(value).text, UserToUser::read(value).pairs);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("a=x%26b&c=%2525"), ("a=x&b&c=%25".into(), vec![pair("a", "x&b"), pair("c", "%25")]));
        assert_eq!(read("613d62;encoding=hex"), ("a=b".into(), vec![pair("a", "b")]));
        assert_eq!(read("613d31+f;encoding=hex"), (String::new(), vec![]));
    }
}
