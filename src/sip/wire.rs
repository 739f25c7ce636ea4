//! From octets to positions: the start line, each header line and the body of one message (RFC 3261 section 7).
//!
//! Lenient where the field is: bare LF line ends, folded lines, blanks before the colon, leading empty lines.
//! Nothing is copied unless a line was folded or an octet was not UTF-8; both are mended in place, length kept.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

/// Most header lines of one message.
pub const MAX_HEADERS: usize = 200;
/// Longest head, octets: an answer that repeats what it must of it still fits a datagram.
pub const MAX_HEAD: usize = 32_768;
/// Longest message, octets.
pub const MAX_MESSAGE: usize = 65_535;

/// Why octets are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing that looks like a start line.
    NotSip,
    /// Longer than [`MAX_MESSAGE`], or its head than [`MAX_HEAD`].
    TooLarge,
    /// More header lines than [`MAX_HEADERS`].
    TooManyHeaders,
    /// A header line without a colon or with an impossible name.
    BadHeader,
    /// No empty line after the headers.
    Unterminated,
}

/// A position in the message. Messages are at most 64 KiB, so 32 bits are plenty.
pub type Span = Range<u32>;

/// One header line by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderLine {
    /// The name as written.
    pub name: Span,
    /// The value without surrounding blanks.
    pub value: Span,
}

/// A message by position, over its own octets.
#[derive(Debug, Clone)]
pub struct Index {
    /// The octets the spans point into; the head is valid UTF-8 without folds.
    pub bytes: Bytes,
    /// The start line, without its line end.
    pub start: Span,
    /// Header lines in order.
    pub headers: SmallVec<[HeaderLine; 20]>,
    /// Everything behind the empty line.
    pub body: Span,
    /// The first fault met; the index then holds what was found before it.
    pub fault: Option<Fault>,
}

impl Index {
    /// The text of a span of the head.
    pub fn text(&self, span: &Span) -> &str {
        std::str::from_utf8(&self.bytes[span.start as usize..span.end as usize]).unwrap_or_default()
    }
}

/// Cuts one message. Fails only where nothing can be answered; a message that begins well and then breaks is
/// returned with its `fault`, so that a 400 can be built from what was found.
pub fn index(bytes: Bytes) -> Result<Index, Fault> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Fault::TooLarge);
    }
    let begin = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).ok_or(Fault::NotSip)?;
    let (head_end, body_start) = head_bounds(&bytes, begin);
    if head_end - begin > MAX_HEAD {
        return Err(Fault::TooLarge);
    }
    let bytes = mended(bytes, begin, head_end);
    let mut index = Index {
        start: line(&bytes, begin, head_end).0,
        headers: SmallVec::new(),
        body: span(body_start.unwrap_or(bytes.len()), bytes.len()),
        fault: body_start.is_none().then_some(Fault::Unterminated),
        bytes,
    };
    if !index.text(&index.start).contains("SIP/") {
        return Err(Fault::NotSip);
    }
    let mut at = line(&index.bytes, begin, head_end).1;
    while at < head_end {
        let (text, next) = line(&index.bytes, at, head_end);
        at = next;
        if text.is_empty() {
            continue;
        }
        if index.headers.len() == MAX_HEADERS {
            return Err(Fault::TooManyHeaders);
        }
        match header(&index.bytes, &text) {
            Some(found) => index.headers.push(found),
            None => {
                index.fault = index.fault.or(Some(Fault::BadHeader));
            }
        }
    }
    Ok(index)
}

fn span(start: usize, end: usize) -> Span {
    start as u32..end as u32
}

/// Where the head ends (its last line end included), and where the body begins, if an empty line was found.
fn head_bounds(bytes: &[u8], begin: usize) -> (usize, Option<usize>) {
    let mut at = begin;
    while let Some(offset) = bytes[at..].iter().position(|&b| b == b'\n') {
        let next = at + offset + 1;
        match &bytes[next..] {
            [b'\r', b'\n', ..] => return (next, Some(next + 2)),
            [b'\n', ..] => return (next, Some(next + 1)),
            _ => at = next,
        }
    }
    (bytes.len(), None)
}

/// Unfolds lines and replaces octets that are not UTF-8, in a copy only where there are any.
fn mended(bytes: Bytes, begin: usize, head_end: usize) -> Bytes {
    let head = &bytes[begin..head_end];
    let folded = head.windows(2).any(|pair| pair[0] == b'\n' && matches!(pair[1], b' ' | b'\t'));
    let broken = std::str::from_utf8(head).is_err();
    let control = head.contains(&0);
    if !folded && !broken && !control {
        return bytes;
    }
    let mut copy = bytes.to_vec();
    for at in begin..head_end {
        let next_is_blank = matches!(copy.get(at + 1), Some(b' ' | b'\t')) && at + 1 < head_end;
        if copy[at] == b'\n' && next_is_blank {
            copy[at] = b' ';
            copy[at + 1] = b' ';
            if at > begin && copy[at - 1] == b'\r' {
                copy[at - 1] = b' ';
            }
        } else if copy[at] == 0 {
            copy[at] = b'?';
        }
    }
    while let Err(error) = std::str::from_utf8(&copy[begin..head_end]) {
        copy[begin + error.valid_up_to()] = b'?';
    }
    Bytes::from(copy)
}

/// The line that starts at `at`, without its end, and where the next one starts.
fn line(bytes: &[u8], at: usize, head_end: usize) -> (Span, usize) {
    let end = bytes[at..head_end].iter().position(|&b| b == b'\n').map_or(head_end, |offset| at + offset);
    let text_end = if end > at && bytes[end - 1] == b'\r' { end - 1 } else { end };
    (span(at, text_end), (end + 1).min(head_end))
}

fn header(bytes: &[u8], line: &Span) -> Option<HeaderLine> {
    let (start, end) = (line.start as usize, line.end as usize);
    let colon = start + bytes[start..end].iter().position(|&b| b == b':')?;
    let name_end = start + bytes[start..colon].iter().rposition(|b| !matches!(b, b' ' | b'\t'))? + 1;
    if !bytes[start..name_end].iter().all(|&b| is_token(b)) {
        return None;
    }
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let value = &bytes[colon + 1..end];
    let first = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let last = value.iter().rposition(|b| !blank(b)).map_or(first, |last| last + 1);
    Some(HeaderLine { name: span(start, name_end), value: span(colon + 1 + first, colon + 1 + last) })
}

/// Whether the octet may stand in a token (RFC 3261 section 25.1).
pub fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(index: &Index) -> Vec<(&str, &str)> {
        index.headers.iter().map(|h| (index.text(&h.name), index.text(&h.value))).collect()
    }

    #[test]
    fn folds_blanks_and_bare_line_feeds_are_read() {
        let index =
            index(Bytes::from_static(b"\r\nOPTIONS sip:a SIP/2.0\nSubject :  one\r\n\ttwo \r\nX-Empty:\r\n\r\nbody"))
                .unwrap();
        assert_eq!(index.text(&index.start), "OPTIONS sip:a SIP/2.0");
        assert_eq!(texts(&index), [("Subject", "one   two"), ("X-Empty", "")]);
        assert_eq!(index.text(&index.body), "body");
        assert_eq!(index.fault, None);
    }

    #[test]
    fn octets_outside_utf8_and_nul_become_question_marks() {
        let index = index(Bytes::from_static(b"OPTIONS sip:a SIP/2.0\r\nA: J\xe9r\0me\r\n\r\n\xff\0")).unwrap();
        assert_eq!(texts(&index), [("A", "J?r?me")]);
        assert_eq!(&index.bytes[index.body.start as usize..], b"\xff\0", "the body is not touched");
    }

    #[test]
    fn what_breaks_later_is_kept_up_to_there() {
        let broken = index(Bytes::from_static(b"OPTIONS sip:a SIP/2.0\r\nVia: x\r\nno colon here\r\n\r\n")).unwrap();
        assert_eq!(broken.fault, Some(Fault::BadHeader));
        assert_eq!(texts(&broken), [("Via", "x")]);
        assert_eq!(index(Bytes::from_static(b"\r\n\r\n")).unwrap_err(), Fault::NotSip);
        assert_eq!(index(Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n")).unwrap_err(), Fault::NotSip);
    }

    #[test]
    fn heads_beyond_the_limits_are_not_read() {
        let mut text = b"OPTIONS sip:a SIP/2.0\r\n".to_vec();
        for _ in 0..5_000 {
            text.extend_from_slice(b"A: b\r\n");
        }
        text.extend_from_slice(b"\r\n");
        assert_eq!(index(Bytes::from(text)).unwrap_err(), Fault::TooManyHeaders);
        let long = format!("OPTIONS sip:a SIP/2.0\r\nA: {}\r\n\r\n", "b".repeat(MAX_HEAD));
        assert_eq!(index(Bytes::from(long)).unwrap_err(), Fault::TooLarge);
    }
}
