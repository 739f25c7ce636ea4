//! The two session descriptions a mock party needs, read and written with sdp-types.

use std::net::{IpAddr, SocketAddr};

use sdp_types::{Media, MediaType, Origin, Session, Time, TransportProto};

use super::message;

/// PCMU at 8 kHz in packets of 20 ms, and telephone events, received at `address`.
pub fn describe(address: SocketAddr) -> String {
    let audio = Media::builder(MediaType::Audio, address.port(), TransportProto::RtpAvp, "0 101")
        .attribute_with_value("rtpmap", "0 PCMU/8000")
        .attribute_with_value("rtpmap", "101 telephone-event/8000")
        .attribute_with_value("fmtp", "101 0-16")
        .attribute_with_value("ptime", "20")
        .attribute_from_str("sendrecv")
        .build();
    let session_id = u64::from_str_radix(&message::token(), 16).unwrap_or_default() >> 1;
    let origin = Origin::with_ip_addr(session_id, 1, address.ip());
    let session = Session::builder(origin, "-").connection(address.ip()).time(Time::new(0, 0)).media(audio).build();
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = session.write(&mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// Where the far side receives our audio: the address of its first audio line. `None` if it refused the line, named a
/// host, or cannot be read.
pub fn audio_address(sdp: &[u8]) -> Option<SocketAddr> {
    let session = Session::parse(sdp).ok()?;
    let media = session.medias.iter().find(|media| media.media == "audio" && media.port != 0)?;
    let connection = media.connections.first().or(session.connection.as_ref())?;
    let address: IpAddr = connection.connection_address.parse().ok()?;
    Some(SocketAddr::new(address, media.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_names_its_address() {
        let address: SocketAddr = "127.0.0.1:40000".parse().unwrap();
        let sdp = describe(address);
        assert!(sdp.ends_with("a=sendrecv\r\n"), "{sdp}");
        assert!(sdp.contains("\r\nm=audio 40000 RTP/AVP 0 101\r\n"), "{sdp}");
        assert_eq!(audio_address(sdp.as_bytes()), Some(address));
    }

    #[test]
    fn a_refused_audio_line_has_no_address() {
        let sdp = describe("127.0.0.1:40000".parse().unwrap()).replace("m=audio 40000", "m=audio 0");
        assert_eq!(audio_address(sdp.as_bytes()), None);
    }
}
