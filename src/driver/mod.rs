//! The loop between the core and the world: one task, one core. It decides nothing.

pub mod framer;
pub mod keepalive;
pub mod resolve;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod udp;

use std::future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::b2bua::B2bua;
use crate::b2bua::io::{
    Advice, ApiReply, ApiRequest, Change, Datagram, Input, Inquiry, MediaCommand, MediaEvent, OperatorCommand, Output,
};
use crate::b2bua::io::{Look, PublishedContext, Question as DnsQuestion, Transport};
use crate::call::record::CallRecord;
use crate::clock;
use stream::{Arrival, Streams};
use udp::Udp;

/// Something to look up in, or do to, the core between two inputs.
pub type Question = Box<dyn FnOnce(&mut B2bua, Instant) + Send>;

/// What reaches the core besides SIP.
#[derive(Debug)]
pub struct Arrivals {
    /// Answers of ASAPP's API.
    pub api: mpsc::UnboundedReceiver<ApiReply>,
    /// Answers of webhooks.
    pub advice: mpsc::UnboundedReceiver<Advice>,
    /// Answers of the DNS.
    pub looks: mpsc::UnboundedReceiver<Look>,
    /// Reports of the relay.
    pub media: mpsc::UnboundedReceiver<MediaEvent>,
    /// Wishes of operators.
    pub operators: mpsc::UnboundedReceiver<OperatorCommand>,
    /// Look-ups.
    pub questions: mpsc::Receiver<Question>,
}

/// The hands of the core. None of them may block.
pub trait Hands {
    /// Ask ASAPP; the answer comes back through [`Arrivals`].
    fn ask_asapp(&mut self, request: ApiRequest);
    /// Ask a webhook; the answer comes back through [`Arrivals`].
    fn consult(&mut self, inquiry: Inquiry);
    /// Ask the DNS; the answer comes back through [`Arrivals`].
    fn look(&mut self, question: DnsQuestion);
    /// Tell the relay.
    fn tell_media(&mut self, command: MediaCommand);
    /// Keep a context.
    fn publish(&mut self, context: PublishedContext);
    /// Write down what is remembered of a conversation.
    fn remember(&mut self, change: Change);
    /// Write a record.
    fn record(&mut self, record: Box<CallRecord>);
    /// Whether somebody looks at what passes.
    fn looks(&self) -> bool {
        false
    }
    /// A SIP message passed, in or out; for captures. Told only while somebody looks.
    fn seen(&mut self, _at: Instant, _from: SocketAddr, _to: SocketAddr, _bytes: &Bytes) {}
}

/// Datagrams taken from the socket before everything else gets its turn.
const BATCH: usize = 64;

/// Runs the core until it has closed.
pub async fn drive(
    mut core: B2bua,
    udp: Udp,
    mut streams: Streams,
    mut arrivals: Arrivals,
    hands: &mut (impl Hands + Send),
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut buffer = vec![0; udp::LONGEST];
    loop {
        if drain(&mut core, &udp, &mut streams, hands) {
            return;
        }
        let timeout = core.next_timeout();
        let timer = async move {
            match timeout {
                Some(at) => sleep_until(at.into()).await,
                None => future::pending().await,
            }
        };
        let input = tokio::select! {
            () = udp.receive(&mut buffer, &mut batch, BATCH) => None,
            arrival = streams.next() => heard(&mut streams, &udp, arrival, hands),
            () = timer => Some(Input::TimeReached),
            Some(reply) = arrivals.api.recv() => Some(Input::Asapp(reply)),
            Some(advice) = arrivals.advice.recv() => Some(Input::Advised(advice)),
            Some(look) = arrivals.looks.recv() => Some(Input::Looked(look)),
            Some(event) = arrivals.media.recv() => Some(Input::Media(event)),
            Some(command) = arrivals.operators.recv() => Some(Input::Operator(command)),
            Some(question) = arrivals.questions.recv() => {
                question(&mut core, clock::now());
                continue;
            }
        };
        if let Some(input) = input {
            core.handle_input(clock::now(), input);
        }
        for (peer, bytes) in batch.drain(..) {
            let datagram = Datagram { transport: Transport::Udp, peer, otherwise: None, bytes };
            watch(&datagram, Way::In, &udp, &streams, hands);
            core.handle_input(clock::now(), Input::Received(datagram));
            if drain(&mut core, &udp, &mut streams, hands) {
                return;
            }
        }
    }
}

/// Stands for a socket of our own whose address is not known.
fn nowhere(peer: SocketAddr) -> SocketAddr {
    let ip = if peer.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(ip, 0)
}

/// What a stream brought, as the core hears it.
fn heard(streams: &mut Streams, udp: &Udp, arrival: Arrival, hands: &mut impl Hands) -> Option<Input> {
    let input = streams.take(arrival);
    if let Some(Input::Received(datagram)) = &input {
        watch(datagram, Way::In, udp, streams, hands);
    }
    input
}

/// Which way a message passes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// Shows a message to whoever looks.
fn watch(datagram: &Datagram, way: Way, udp: &Udp, streams: &Streams, hands: &mut impl Hands) {
    if !hands.looks() {
        return;
    }
    let Datagram { transport, peer, bytes, .. } = datagram;
    let own = match transport {
        Transport::Udp => udp.address(*peer),
        Transport::Tcp | Transport::Tls => streams.address(*transport, *peer),
    };
    let own = own.unwrap_or_else(|| nowhere(*peer));
    let (from, to) = if way == Way::In { (*peer, own) } else { (own, *peer) };
    hands.seen(clock::now(), from, to, bytes);
}

/// Does what the core wants. True when it has closed.
fn drain(core: &mut B2bua, udp: &Udp, streams: &mut Streams, hands: &mut impl Hands) -> bool {
    let mut closed = false;
    while let Some(output) = core.poll_output() {
        match output {
            Output::Transmit(datagram) => {
                watch(&datagram, Way::Out, udp, streams, hands);
                match datagram.transport {
                    Transport::Udp if udp.send(&datagram.bytes, datagram.peer) => {}
                    Transport::Udp => streams.fail(Transport::Udp, datagram.peer),
                    Transport::Tcp | Transport::Tls => streams.send(datagram),
                }
            }
            Output::Asapp(request) => hands.ask_asapp(request),
            Output::Consult(inquiry) => hands.consult(*inquiry),
            Output::Look(question) => hands.look(question),
            Output::Named(address, domain) => streams.name(address, domain),
            Output::Media(command) => hands.tell_media(command),
            Output::Publish(context) => hands.publish(*context),
            Output::Remember(change) => hands.remember(change),
            Output::Record(record) => hands.record(record),
            Output::Closed => closed = true,
        }
    }
    streams.forget_broken();
    closed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes what it is shown.
    struct Onlooker {
        looks: bool,
        seen: Vec<(SocketAddr, SocketAddr)>,
    }

    impl Hands for Onlooker {
        fn ask_asapp(&mut self, _: ApiRequest) {}
        fn consult(&mut self, _: Inquiry) {}
        fn look(&mut self, _: DnsQuestion) {}
        fn tell_media(&mut self, _: MediaCommand) {}
        fn publish(&mut self, _: PublishedContext) {}
        fn record(&mut self, _: Box<CallRecord>) {}
        fn remember(&mut self, _: Change) {}

        fn looks(&self) -> bool {
            self.looks
        }

        fn seen(&mut self, _: Instant, from: SocketAddr, to: SocketAddr, _: &Bytes) {
            self.seen.push((from, to));
        }
    }

    #[tokio::test]
    async fn each_message_is_shown_with_the_address_it_passes_at_and_to_lookers_only() {
        let local = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (mut udp, mut streams) = (Udp::default(), Streams::new(stream::Limits::default()));
        udp.bind(local("127.0.0.1:0")).unwrap();
        udp.bind(local("[::1]:0")).unwrap();
        let listener = tcp::listen(local("127.0.0.1:0")).unwrap();
        let tcp = listener.local_addr().unwrap();
        streams.listen(Transport::Tcp, listener).unwrap();
        let [v4, v6] = udp.addresses()[..] else { panic!("two sockets") };
        let mut hands = Onlooker { looks: true, seen: Vec::new() };
        for (transport, peer, way, shown) in [
            (Transport::Udp, "192.0.2.9:5060", Way::Out, (v4, local("192.0.2.9:5060"))),
            (Transport::Udp, "[2001:db8::9]:5060", Way::In, (local("[2001:db8::9]:5060"), v6)),
            (Transport::Tcp, "192.0.2.9:5060", Way::Out, (tcp, local("192.0.2.9:5060"))),
            (Transport::Tls, "[2001:db8::9]:1", Way::In, (local("[2001:db8::9]:1"), local("[::]:0"))),
        ] {
            let datagram = Datagram { transport, peer: local(peer), otherwise: None, bytes: Bytes::new() };
            for looks in [true, false] {
                hands.looks = looks;
                watch(&datagram, way, &udp, &streams, &mut hands);
            }
            assert_eq!(std::mem::take(&mut hands.seen), [shown], "{transport:?} {peer}");
        }
    }
}
