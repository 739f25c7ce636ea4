//! Header names that mean something to this program, read once when a message is indexed.

macro_rules! header_names {
    ($($variant:ident $text:literal $(= $compact:literal)?;)*) => {
        /// A header field that this program reads or writes by meaning; every other is reached by its text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum HeaderName {
            $(#[doc = $text] $variant,)*
        }

        impl HeaderName {
            /// The long form.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            fn of_compact(text: &str) -> Option<Self> {
                match text { $($(_ if text.eq_ignore_ascii_case($compact) => Some(Self::$variant),)?)* _ => None }
            }

            /// Every name this program knows.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
        }
    };
}

header_names! {
    Accept "Accept";
    Allow "Allow";
    AllowEvents "Allow-Events" = "u";
    Authorization "Authorization";
    CallId "Call-ID" = "i";
    Contact "Contact" = "m";
    ContentDisposition "Content-Disposition";
    ContentEncoding "Content-Encoding" = "e";
    ContentLength "Content-Length" = "l";
    ContentType "Content-Type" = "c";
    CSeq "CSeq";
    Date "Date";
    Diversion "Diversion";
    Event "Event" = "o";
    Expires "Expires";
    From "From" = "f";
    MaxForwards "Max-Forwards";
    MinExpires "Min-Expires";
    MinSe "Min-SE";
    ProxyAuthenticate "Proxy-Authenticate";
    ProxyAuthorization "Proxy-Authorization";
    ProxyRequire "Proxy-Require";
    RAck "RAck";
    Reason "Reason";
    RecordRoute "Record-Route";
    ReferTo "Refer-To" = "r";
    ReferredBy "Referred-By" = "b";
    Replaces "Replaces";
    Require "Require";
    RetryAfter "Retry-After";
    Route "Route";
    RSeq "RSeq";
    Server "Server";
    SessionExpires "Session-Expires" = "x";
    SubscriptionState "Subscription-State";
    Supported "Supported" = "k";
    To "To" = "t";
    Unsupported "Unsupported";
    UserAgent "User-Agent";
    Via "Via" = "v";
    Warning "Warning";
    WwwAuthenticate "WWW-Authenticate";
}

/// Longest name, octets.
const LONGEST: usize = 19;
/// Most names of one length.
const SAME_LENGTH: usize = 6;

/// The names by their length, so that a line's name is compared with a handful.
const BY_LENGTH: [[Option<HeaderName>; SAME_LENGTH]; LONGEST + 1] = by_length();

const fn by_length() -> [[Option<HeaderName>; SAME_LENGTH]; LONGEST + 1] {
    let mut table = [[None; SAME_LENGTH]; LONGEST + 1];
    let mut filled = [0; LONGEST + 1];
    let mut at = 0;
    while at < HeaderName::ALL.len() {
        let name = HeaderName::ALL[at];
        let length = name.as_str().len();
        table[length][filled[length]] = Some(name);
        filled[length] += 1;
        at += 1;
    }
    table
}

impl HeaderName {
    /// The name that a header line's text is, long or compact, compared without case (RFC 3261 section 7.3).
    pub fn read(text: &str) -> Option<Self> {
        match text.len() {
            1 => Self::of_compact(text),
            length => BY_LENGTH.get(length)?.iter().flatten().copied().find(|n| n.as_str().eq_ignore_ascii_case(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_in_any_case_and_in_its_compact_form() {
        for &name in HeaderName::ALL {
            assert_eq!(HeaderName::read(name.as_str()), Some(name));
            assert_eq!(HeaderName::read(&name.as_str().to_uppercase()), Some(name));
        }
        assert_eq!(HeaderName::read("i"), Some(HeaderName::CallId));
        assert_eq!(HeaderName::read("I"), Some(HeaderName::CallId));
        for other in ["", "a", "Call-IDs", "Subject", "X-A-Name-Longer-Than-Any"] {
            assert_eq!(HeaderName::read(other), None, "{other}");
        }
    }
}
