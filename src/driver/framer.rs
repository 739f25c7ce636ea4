//! Messages cut out of the octets of a stream (RFC 3261 section 18.3).

use bytes::{Buf as _, Bytes, BytesMut};

use super::keepalive::{PING, PONG};
use super::stream::Limits;

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// One whole message.
    Message(Bytes),
    /// A keep-alive that wants an answer (RFC 5626 section 3.5.1).
    Ping,
    /// A head that does not say how long its message is: it may be answered, and then nothing more can be read.
    Endless(Bytes),
    /// Too long to be read: not even an answer.
    TooLong,
}

/// Cuts messages out of octets.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    /// How much of a keep-alive has been seen before a message.
    line_ends: usize,
    /// How far the end of the head has been searched for.
    searched: usize,
    /// How long the message is that has begun, once its head says so.
    whole: Option<usize>,
    limits: Limits,
}

impl Framer {
    /// With nothing read yet.
    pub fn new(limits: Limits) -> Self {
        Self { buffer: BytesMut::new(), line_ends: 0, searched: 0, whole: None, limits }
    }

    /// Where octets are read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether the last that came is a single line end: a pong, if one is owed. It is then none of the next ping's.
    pub fn take_pong(&mut self) -> bool {
        let pong = self.buffer.is_empty() && self.line_ends == PONG.len();
        if pong {
            self.line_ends = 0;
        }
        pong
    }

    /// Whether a message has begun and is not whole.
    pub fn is_midway(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next frame, if it is whole. After [`Frame::Endless`] and [`Frame::TooLong`] nothing more is to be asked.
    pub fn next_frame(&mut self) -> Option<Frame> {
        if self.searched == 0 && self.whole.is_none() && self.skip_line_ends() {
            return Some(Frame::Ping);
        }
        if self.buffer.is_empty() {
            return None;
        }
        if self.whole.is_none() {
            match self.measure() {
                Ok(whole) => self.whole = whole,
                Err(last) => return Some(last),
            }
        }
        let whole = self.whole.filter(|whole| *whole <= self.buffer.len())?;
        (self.searched, self.whole) = (0, None);
        Some(Frame::Message(self.buffer.split_to(whole).freeze()))
    }

    /// How long the message is that has begun, once its head is whole; or the frame after which nothing can be read.
    fn measure(&mut self) -> Result<Option<usize>, Frame> {
        let Some(head) = head_end(&self.buffer, self.searched.saturating_sub(3)) else {
            self.searched = self.buffer.len();
            return if self.buffer.len() > self.limits.head { Err(Frame::TooLong) } else { Ok(None) };
        };
        if head > self.limits.head {
            return Err(Frame::TooLong);
        }
        let whole = content_length(&self.buffer[..head]).map(|body| head.saturating_add(body));
        match whole.filter(|whole| *whole <= self.limits.message) {
            None => Err(Frame::Endless(self.buffer.split_to(head).freeze())),
            whole => Ok(whole),
        }
    }

    /// Line ends before a message mean nothing, unless two of them make a keep-alive: then true.
    fn skip_line_ends(&mut self) -> bool {
        while let Some(octet) = self.buffer.first().copied() {
            match octet {
                _ if octet == PING[self.line_ends] => self.line_ends += 1,
                b'\r' => self.line_ends = 1,
                b'\n' => self.line_ends = 0,
                _ => {
                    self.line_ends = 0;
                    return false;
                }
            }
            self.buffer.advance(1);
            if self.line_ends == PING.len() {
                self.line_ends = 0;
                return true;
            }
        }
        false
    }
}

/// Where the body begins: behind the first empty line, which may end in a bare LF.
fn head_end(octets: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(offset) = octets[at..].iter().position(|octet| *octet == b'\n') {
        let next = at + offset + 1;
        match &octets[next..] {
            [b'\r', b'\n', ..] => return Some(next + 2),
            [b'\n', ..] => return Some(next + 1),
            _ => at = next,
        }
    }
    None
}

/// The one Content-Length of a head; `None` where there is none, several that differ, or no number.
fn content_length(head: &[u8]) -> Option<usize> {
    let unfolded = String::from_utf8_lossy(head).replace("\r\n", "\n").replace("\n ", " ").replace("\n\t", " ");
    let is_ours = |name: &str| name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("l");
    let mut lengths = unfolded.lines().skip(1).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        is_ours(name.trim_end()).then(|| value.trim().to_owned())
    });
    let length = lengths.next()?;
    let digits = !length.is_empty() && length.bytes().all(|octet| octet.is_ascii_digit());
    (digits && lengths.all(|other| other == length)).then(|| length.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames_of(pieces: &[&[u8]]) -> Vec<Frame> {
        let mut framer = Framer::new(Limits { head: 200, message: 400, ..Limits::default() });
        let mut found = Vec::new();
        for piece in pieces {
            framer.buffer().extend_from_slice(piece);
            while let Some(frame) = framer.next_frame() {
                let last = matches!(frame, Frame::Endless(_) | Frame::TooLong);
                found.push(frame);
                if last {
                    return found;
                }
            }
        }
        found
    }

    fn message(text: &'static str) -> Frame {
        Frame::Message(Bytes::from_static(text.as_bytes()))
    }

    const PLAIN: &str = "OPTIONS sip:a SIP/2.0\r\nVia: x\r\nContent-Length: 5\r\n\r\nhello";
    const COMPACT: &str = "BYE sip:a SIP/2.0\nl :\t0\n\n";
    const FOLDED: &str = "BYE sip:a SIP/2.0\r\nContent-Length:\r\n 2\r\n\r\n\r\n";

    #[test]
    fn messages_follow_each_other_with_keep_alives_between() {
        let stream = ["\r\n\r\n", PLAIN, "\r\n", COMPACT, "\r\n\r\n", FOLDED, "\r\n\r\n"].concat();
        let wanted = [Frame::Ping, message(PLAIN), message(COMPACT), Frame::Ping, message(FOLDED), Frame::Ping];
        assert_eq!(frames_of(&[stream.as_bytes()]), wanted);
    }

    #[test]
    fn a_pong_is_not_half_a_ping() {
        let mut framer = Framer::new(Limits::default());
        for _ in 0..3 {
            framer.buffer().extend_from_slice(PONG);
            assert_eq!(framer.next_frame(), None);
            assert!(framer.take_pong() && !framer.take_pong());
        }
        framer.buffer().extend_from_slice(&[PING, PONG].concat());
        assert_eq!((framer.next_frame(), framer.next_frame()), (Some(Frame::Ping), None));
        assert!(framer.take_pong());
        framer.buffer().extend_from_slice(b"\r\nBYE");
        assert_eq!((framer.next_frame(), framer.take_pong()), (None, false));
    }

    #[test]
    fn a_length_that_says_nothing_ends_the_stream_after_an_answer() {
        for length in
            ["", "Content-Length: x\r\n", "Content-Length: -1\r\n", "Content-Length: 5\r\nl: 6\r\n", "l: 999\r\n"]
        {
            let head = format!("INVITE sip:a SIP/2.0\r\n{length}\r\n");
            let stream = format!("{head}body");
            assert_eq!(frames_of(&[stream.as_bytes()]), [Frame::Endless(Bytes::from(head))], "{length}");
        }
    }

    #[test]
    fn a_head_without_end_is_given_up() {
        assert_eq!(frames_of(&[&[b'a'; 201]]), [Frame::TooLong]);
        let long = format!("INVITE sip:a SIP/2.0\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(300));
        assert_eq!(frames_of(&[long.as_bytes()]), [Frame::TooLong]);
        let (first, second) = long.split_at(150);
        assert_eq!(frames_of(&[first.as_bytes(), second.as_bytes()]), [Frame::TooLong]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(cuts in prop::collection::vec(0usize..400, 0..40), order in prop::collection::vec(0usize..6, 0..8)) {
            let parts = [PLAIN, COMPACT, FOLDED, "\r\n", "\r\n\r\n", "\n"];
            let stream: String = order.iter().map(|part| parts[*part]).collect();
            let octets = stream.as_bytes();
            let whole = frames_of(&[octets]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(octets.len())).chain([0, octets.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &octets[pair[0]..pair[1]]).collect();
            prop_assert_eq!(frames_of(&pieces), whole);
        }

        #[test]
        fn no_octets_are_too_wild(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = frames_of(&pieces);
        }
    }
}
