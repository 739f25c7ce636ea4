//! The way back by REFER: H3, T2, T6 to T13, R16 and R18.

use std::time::Duration;

use switchback::b2bua::io::{FailureClass, Sound};
use switchback::b2bua::settings::{Network, Peer, Settings};
use switchback::call::intake::ConversationSource;
use switchback::call::rules::{Entry, Matcher};
use switchback::call::verdict::{EndedBy, Outcome, Phase};
use switchback::sip::digest::Credentials;

use crate::asapp::NUMBER;
use crate::engine::{CARRIER, IVR, QUEUE, address, ms, secs};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, rules, tried};
use crate::peer::Line;
use crate::relay::Hears;
use crate::replaces::takes_over;
use crate::text::Sip;
use crate::world::World;

const LADDER: &[&str] = &["refer:queue", "dial:queue"];

/// A world in which customers are handed back by REFER to a target of these URIs, and else by an INVITE.
fn world(uris: &[&str], more: impl FnOnce(&mut Settings)) -> World {
    World::set(|settings| {
        rules(settings, [(Matcher::default(), LADDER)]);
        let row = settings.call.targets.get_mut("queue").expect("the queue");
        row.uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
        more(settings);
    })
}

fn plain() -> World {
    world(&["sip:queue@pbx.example"], |_| {})
}

/// Brings a call to where the customer's side is asked to call the queue.
fn asked(w: &World) -> (Line, Sip) {
    let (mut customer, mut genagent) = talk(w);
    asks_for_a_person(w, &mut genagent);
    let refer = customer.expect("REFER");
    (customer, refer)
}

/// The same, and it says that it will.
fn accepted(w: &World) -> (Line, Sip) {
    let (customer, refer) = asked(w);
    customer.reply(&refer, 202);
    (customer, refer)
}

/// Says what became of a REFER.
pub fn notify(customer: &mut Line, refer: &Sip, state: &str, body: &str) -> Sip {
    let notify = notification(customer, &format!("refer;id={}", refer.cseq()), state, body);
    customer.send(&notify);
    notify
}

fn notification(customer: &mut Line, event: &str, state: &str, body: &str) -> Sip {
    let contact = format!("<sip:ivr@{}>", customer.rtp.ip());
    let notify = customer.request("NOTIFY").with("Contact", contact).with("Event", event);
    let notify = notify.with("Subscription-State", state).with("Content-Type", "message/sipfrag;version=2.0");
    Sip { body: body.to_owned(), ..notify }
}

/// The customer waits, and does not sit in silence.
fn waits(w: &World, customer: &Line) {
    assert_eq!(w.hears(customer), Hears::Sound(Sound::Waiting), "{}", w.ladder());
}

/// The queue is called within half a second of now, and takes the customer.
fn next_rung_takes_over(w: &World, customer: &mut Line) {
    let failed = w.now();
    let mut queue = w.queue.expect_invite();
    assert!(w.now() - failed <= ms(500), "{:?}", w.now() - failed);
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(customer, &queue), "{}", w.ladder());
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
}

/// The IVR has sent the caller's SBC to us and is gone; GenerativeAgent solves it, and the SBC is sent on to the queue.
#[test]
fn t2_a_call_that_an_ivr_redirects_to_us_brings_its_context_and_goes_on_to_the_queue() {
    let supervised = Matcher { entry: Some(Entry::Supervised), ..Matcher::default() };
    let w = World::set(|settings| {
        rules(settings, [(supervised, &["bye"]), (Matcher::default(), LADDER)]);
    });
    let mut customer = w
        .ivr
        .call()
        .header("Referred-By", "<sip:ivr@pbx.example>;cid=\"2@ivr\"")
        .header("Diversion", "<sip:+15550100007@pbx.example>;reason=deflection")
        .header("User-to-User", "conversation=conv-9&lang=es")
        .header("X-GA-taskName", "Billing")
        .header("X-GA-iv-plan", "gold")
        .invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let body = post.body();
    assert_eq!((body.conversation.0.as_str(), body.task.as_deref()), ("conv-9", Some("Billing")));
    assert_eq!(body.variables, [("plan", "gold"), ("lang", "es")].map(|(n, v)| (n.to_owned(), v.to_owned())));
    post.answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("SYSTEM", &[("solved", "yes")]);
    let refer = customer.expect("REFER");
    assert!(refer.header("Refer-To").contains("X-GA-transfer=SYSTEM&X-GA-tv-solved=yes"), "{refer:?}");
    customer.reply(&refer, 202);
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::System, EndedBy::Genagent, Phase::Talking));
    assert_eq!(w.record().conversation_source, ConversationSource::Uui);
    w.golden("t2");
}

#[test]
fn h3_t7_a_transfer_that_arrives_ends_with_our_bye() {
    let w = plain();
    let (mut customer, refer) = accepted(&w);
    assert!(refer.header("Refer-To").starts_with("<sip:queue@pbx.example?X-Switchback-Outcome=agent&"), "{refer:?}");
    assert!(refer.header("Refer-To").contains("&X-GA-transfer=AGENT&X-GA-tv-priority=high"), "{refer:?}");
    assert!(refer.has("Contact") && refer.has("Referred-By"), "{refer:?}");
    assert!(!refer.has("X-GA-transfer") && !refer.has("X-Switchback-Context"), "inside Refer-To and nowhere else");
    for status in ["100 Trying", "180 Ringing"] {
        notify(&mut customer, &refer, "active;expires=60", &format!("SIP/2.0 {status}\r\n"));
        customer.expect("200 NOTIFY");
        w.run_for(secs(2));
        waits(&w, &customer);
    }
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    assert_eq!(tried(&w), ["refer:queue transferred"]);
    assert_eq!(w.record().hand_back.map(|back| (back.values_sent, back.ended_by)), Some((1, None)));
    assert!(
        w.counters().hand_back.buckets.iter().sum::<u64>() == 1 && w.counters().hand_back.sum < 1.0,
        "from their BYE to our REFER"
    );
    w.golden("t7");
}

#[test]
fn t7_both_say_goodbye_at_once() {
    let w = plain();
    let (mut customer, refer) = accepted(&w);
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    customer.bye();
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    customer.expect("200 BYE");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    assert_eq!(tried(&w), ["refer:queue transferred"]);
}

#[test]
fn t6_a_peer_that_knows_no_refer_is_asked_once() {
    for status in [405, 501, 481] {
        let w = world(&["sip:queue@pbx.example", "tel:+15550100"], |_| {});
        let (mut customer, refer) = asked(&w);
        waits(&w, &customer);
        customer.reply(&refer, status);
        next_rung_takes_over(&w, &mut customer);
        assert_eq!(tried(&w), [format!("refer:queue rejected {status}"), "dial:queue answered".to_owned()]);
    }
}

#[test]
fn t6_a_peer_that_declines() {
    let w = plain();
    let (mut customer, refer) = asked(&w);
    customer.reply(&refer, 603);
    next_rung_takes_over(&w, &mut customer);
    assert_eq!(tried(&w), ["refer:queue rejected 603", "dial:queue answered"]);
    w.golden("t6");
}

#[test]
fn t6_a_peer_that_does_not_answer_the_refer() {
    let w = plain();
    let (mut customer, _) = asked(&w);
    w.run_for(ms(4_900));
    waits(&w, &customer);
    w.run_for(ms(80));
    next_rung_takes_over(&w, &mut customer);
    assert_eq!(tried(&w), ["refer:queue not accepted in time", "dial:queue answered"]);
}

#[test]
fn t8_the_queue_is_busy() {
    let w = plain();
    let (mut customer, refer) = accepted(&w);
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 486 Busy Here\r\n");
    customer.expect("200 NOTIFY");
    next_rung_takes_over(&w, &mut customer);
    assert_eq!(tried(&w), ["refer:queue refused 486", "dial:queue answered"]);
}

#[test]
fn t8_where_nothing_is_left_the_cause_is_the_queues() {
    let w = world(&["sip:queue@pbx.example"], |settings| rules(settings, [(Matcher::default(), &["refer:queue"])]));
    let (mut customer, refer) = accepted(&w);
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 486 Busy Here\r\n");
    customer.expect("200 NOTIFY");
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.all("Reason")[0], "Q.850;cause=17");
    assert_eq!(tried(&w), ["refer:queue refused 486", "bye done"]);
}

#[test]
fn t9_accepted_and_hung_up_without_a_word_is_handed_back() {
    for said in [None, Some("SIP/2.0 180 Ringing\r\n")] {
        let w = plain();
        let (mut customer, refer) = accepted(&w);
        w.run_for(ms(300));
        if let Some(said) = said {
            notify(&mut customer, &refer, "active;expires=60", said);
            customer.expect("200 NOTIFY");
        }
        customer.bye();
        customer.expect("200 BYE");
        assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
        assert_eq!(tried(&w), ["refer:queue accepted, unconfirmed"]);
        notify(&mut customer, &refer, "terminated", "SIP/2.0 200 OK\r\n");
        customer.expect("200 NOTIFY");
    }
}

#[test]
fn t10_nobody_says_what_becomes_of_it() {
    let w = plain();
    let (mut customer, refer) = accepted(&w);
    w.run_for(ms(19_800));
    waits(&w, &customer);
    w.run_for(ms(180));
    let mut queue = w.queue.expect_invite();
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 486 Busy Here\r\n");
    customer.expect("200 NOTIFY");
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&customer, &queue), "what comes late changes nothing\n{}", w.ladder());
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue no outcome in time", "dial:queue answered"]);
    notify(&mut customer, &refer, "terminated", "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
}

#[test]
fn t10_a_late_word_of_the_first_refer_does_not_speak_for_the_second() {
    let w = World::set(|settings| {
        let again = settings.call.targets["queue"].clone();
        settings.call.targets.insert("other".to_owned(), again);
        rules(settings, [(Matcher::default(), &["refer:queue", "refer:other"])]);
    });
    let (mut customer, first) = accepted(&w);
    let second = customer.expect("REFER");
    customer.reply(&second, 202);
    notify(&mut customer, &first, "terminated;reason=noresource", "SIP/2.0 486 Busy Here\r\n");
    customer.expect("200 NOTIFY");
    waits(&w, &customer);
    let nameless = notification(&mut customer, "refer", "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    customer.send(&nameless);
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue no outcome in time", "refer:other transferred"]);
}

/// Two REFERs in a row, to a peer that names no id, and ends no subscription with what it says last.
fn nameless(w: &World, customer: &mut Line, body: &str) {
    let notify = notification(customer, "refer", "active;expires=60", body);
    customer.send(&notify);
    customer.expect("200 NOTIFY");
    w.run_for(ms(5));
}

#[test]
fn t8_a_nameless_notification_after_a_known_outcome_is_about_the_last_refer() {
    for late in [false, true] {
        let w = world(&["sip:queue@pbx.example", "sip:next@pbx.example"], |settings| {
            settings.call.targets.get_mut("queue").expect("the queue").ring_limit = secs(20);
            let again = settings.call.targets["queue"].clone();
            settings.call.targets.insert("other".to_owned(), again);
            rules(settings, [(Matcher::default(), &["refer:queue", "refer:other"])]);
        });
        let (mut customer, _) = accepted(&w);
        if !late {
            nameless(&w, &mut customer, "SIP/2.0 486 Busy Here\r\n");
        }
        let again = customer.expect("REFER");
        customer.reply(&again, 202);
        if late {
            nameless(&w, &mut customer, "SIP/2.0 486 Busy Here\r\n");
            waits(&w, &customer);
        }
        nameless(&w, &mut customer, "SIP/2.0 200 OK\r\n");
        customer.expect_and_ok("BYE");
        let [first, second] = if late {
            ["refer:queue no outcome in time", "refer:other transferred"]
        } else {
            ["refer:queue refused 486", "refer:queue transferred"]
        };
        assert_eq!(tried(&w), [first, second]);
    }
}

#[test]
fn t10_a_nameless_notification_is_not_about_a_refer_that_nobody_accepted() {
    let w = world(&["sip:queue@pbx.example"], |settings| {
        let again = settings.call.targets["queue"].clone();
        settings.call.targets.insert("other".to_owned(), again);
        rules(settings, [(Matcher::default(), &["refer:queue", "refer:other"])]);
    });
    let (mut customer, _) = asked(&w);
    let second = customer.expect("REFER");
    customer.reply(&second, 202);
    nameless(&w, &mut customer, "SIP/2.0 100 Trying\r\n");
    nameless(&w, &mut customer, "SIP/2.0 200 OK\r\n");
    customer.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue not accepted in time", "refer:other transferred"]);
}

#[test]
fn t10_a_subscription_that_runs_out() {
    let w = plain();
    let (mut customer, refer) = accepted(&w);
    notify(&mut customer, &refer, "active;expires=3", "SIP/2.0 100 Trying\r\n");
    customer.expect("200 NOTIFY");
    w.run_for(ms(2_980));
    next_rung_takes_over(&w, &mut customer);
    assert_eq!(tried(&w), ["refer:queue no outcome", "dial:queue answered"]);
}

#[test]
fn t11_a_challenge_that_cannot_be_met() {
    for (status, header) in [(401, "WWW-Authenticate"), (407, "Proxy-Authenticate")] {
        let w = plain();
        let (mut customer, refer) = asked(&w);
        let challenge = "Digest realm=\"pbx\", nonce=\"n\", qop=\"auth\"";
        customer.send(&customer.response(&refer, status).with(header, challenge));
        next_rung_takes_over(&w, &mut customer);
        assert_eq!(tried(&w), ["refer:queue unauthorized", "dial:queue answered"]);
    }
}

#[test]
fn t11_a_challenge_is_met_once() {
    for (status, asks, shows) in
        [(401, "WWW-Authenticate", "Authorization"), (407, "Proxy-Authenticate", "Proxy-Authorization")]
    {
        let w = world(&["sip:queue@pbx.example"], |settings| settings.peers = vec![peer(IVR)]);
        let (mut customer, refer) = asked(&w);
        assert!(!refer.has("Authorization") && !refer.has("Proxy-Authorization"));
        let challenge = "Digest realm=\"pbx\", nonce=\"n\", qop=\"auth\"";
        customer.send(&customer.response(&refer, status).with(asks, challenge));
        let again = customer.expect("REFER");
        assert!(again.header(shows).contains("username=\"switchback\""), "{again:?}");
        assert_eq!((again.header("Refer-To"), again.cseq()), (refer.header("Refer-To"), refer.cseq() + 1));
        assert!(again.octets().len() < 1_300, "{} octets", again.octets().len());
        customer.reply(&again, 202);
        notify(&mut customer, &again, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
        customer.expect("200 NOTIFY");
        customer.expect_and_ok("BYE");
        assert_eq!(tried(&w), ["refer:queue transferred"]);
    }
}

#[test]
fn t11_a_refused_answer_is_not_repeated_and_a_stranger_is_told_nothing() {
    for (known, asked_again) in [(IVR, 1), ("198.51.100.99:5060", 0)] {
        let w = world(&["sip:queue@pbx.example"], |settings| settings.peers = vec![peer(known)]);
        let (mut customer, mut refer) = asked(&w);
        for round in 0..=asked_again {
            let challenge = format!("Digest realm=\"pbx\", nonce=\"n{round}\", qop=\"auth\"");
            customer.send(&customer.response(&refer, 401).with("WWW-Authenticate", challenge));
            if round < asked_again {
                refer = customer.expect("REFER");
            }
        }
        next_rung_takes_over(&w, &mut customer);
        assert_eq!(tried(&w), ["refer:queue unauthorized", "dial:queue answered"]);
    }
}

/// The carrier brings customers, too, and asks as it does where we call: it is shown what is for it, by its own servers.
#[test]
fn t11_a_trunk_that_brings_customers_is_shown_its_own_credentials() {
    for (from, shown) in [(CARRIER, true), (IVR, false)] {
        let w = world(&["sip:queue@pbx.example"], |settings| {
            settings.access.push(Network { address: address(CARRIER).ip(), prefix: 32 });
            settings.trunks[0].credentials = peer(IVR).credentials;
        });
        let mut customer = if shown { w.carrier.invite() } else { w.ivr.invite() };
        customer.expect("180");
        w.api.expect_create().answer_number(NUMBER, secs(60));
        let mut genagent = w.carrier.expect_invite();
        genagent.answer();
        genagent.expect("ACK");
        customer.expect("200");
        customer.ack();
        asks_for_a_person(&w, &mut genagent);
        let refer = customer.expect("REFER");
        customer.send(&customer.response(&refer, 407).with("Proxy-Authenticate", CHALLENGE));
        if !shown {
            next_rung_takes_over(&w, &mut customer);
            assert_eq!(tried(&w)[0], "refer:queue unauthorized", "{from}");
            continue;
        }
        let again = customer.expect("REFER");
        assert!(again.header("Proxy-Authorization").contains("username=\"switchback\""), "{again:?}");
        customer.reply(&again, 202);
        notify(&mut customer, &again, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
        customer.expect("200 NOTIFY");
        customer.expect_and_ok("BYE");
    }
}

#[test]
fn t11_a_goodbye_that_is_challenged_is_said_again() {
    let w = World::set(|settings| settings.peers = vec![peer(IVR)]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    let bye = customer.expect("BYE");
    customer.send(&customer.response(&bye, 401).with("WWW-Authenticate", CHALLENGE));
    let again = customer.expect_and_ok("BYE");
    assert!(again.header("Authorization").contains("username=\"switchback\""), "{again:?}");
    assert_eq!(again.header("X-GA-transfer"), "AGENT");
    assert_eq!(w.verdict().0, Outcome::Agent);
}

#[test]
fn t11_a_queue_that_asks_who_we_are_is_told_if_it_is_a_peer() {
    for (known, told) in [(QUEUE, true), (IVR, false)] {
        let w = World::set(|settings| {
            settings.peers = vec![peer(known)];
            rules(settings, [(Matcher::default(), &["dial:queue", "bye"])]);
            settings.call.targets.get_mut("queue").expect("the queue").uris.truncate(1);
        });
        let (mut customer, mut genagent) = talk(&w);
        asks_for_a_person(&w, &mut genagent);
        let mut queue = w.queue.expect_invite();
        queue.send(&queue.response(&queue.invite, 407).with("Proxy-Authenticate", CHALLENGE));
        queue.expect("ACK");
        if told {
            queue.expect_invite_again();
            assert!(queue.invite.header("Proxy-Authorization").contains("username=\"switchback\""));
            queue.answer();
            queue.expect("ACK");
            queue.bye();
            queue.expect("200 BYE");
        }
        customer.expect_and_ok("BYE");
        assert_eq!(tried(&w)[0], if told { "dial:queue answered" } else { "dial:queue refused 407" });
    }
}

const CHALLENGE: &str = "Digest realm=\"pbx\", nonce=\"n\", qop=\"auth\"";

/// Whoever calls from there is shown who we are.
pub fn peer(at: &str) -> Peer {
    let (username, password) = ("switchback".to_owned(), "word".to_owned());
    let credentials = Credentials { username, password, realm: None };
    Peer {
        from: vec![Network { address: address(at).ip(), prefix: 32 }],
        accept_refer: false,
        refer_hosts: Vec::new(),
        credentials: Some(credentials),
    }
}

#[test]
fn t11b_a_peer_that_rejects_one_form_works_with_the_other() {
    let forms = ["tel:+15550100", "sip:+15550100@pbx.example;user=phone", "sip:queue@pbx.example"];
    let w = world(&forms, |_| {});
    let (mut customer, refer) = asked(&w);
    assert_eq!(refer.header("Refer-To"), "<tel:+15550100>", "a tel URI holds no headers");
    customer.reply(&refer, 416);
    let refer = customer.expect("REFER");
    assert!(refer.header("Refer-To").starts_with("<sip:+15550100@pbx.example;user=phone?X-Sw"), "{refer:?}");
    customer.reply(&refer, 202);
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue rejected 416", "refer:queue transferred"]);
    assert_eq!(w.record().hand_back.map(|back| back.values_sent), Some(1));
}

#[test]
fn t12_every_awkward_character_stays_in_its_place() {
    let awkward = "+ @ ; ? & % \" < > = é , \r\nEvil: 1";
    let w = plain();
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[("plan", awkward)]);
    let refer = customer.expect("REFER");
    let inside = refer.header("Refer-To").split_once('?').expect("headers").1.trim_end_matches('>');
    let sent = inside.split('&').filter_map(|header| header.split_once('=')).find(|(name, _)| *name == "X-GA-tv-plan");
    // As the header of an INVITE or a BYE: percent-encoded; inside the URI each percent sign once more.
    let once = "%2B%20%40%20%3B%20%3F%20%26%20%25%20%22%20%3C%20%3E%20%3D%20%C3%A9%20%2C%20%0D%0AEvil%3A%201";
    assert_eq!(sent.map(|(_, value)| value.to_owned()), Some(once.replace('%', "%25")));
    customer.reply(&refer, 202);
    customer.bye();
    customer.expect("200 BYE");
}

#[test]
fn t12_what_does_not_fit_into_the_uri_is_left_out_whole() {
    let w = plain();
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    let long = "%".repeat(80);
    w.api.expect_fetch().answer_completed("AGENT", &[("long", &long), ("short", "1")]);
    let refer = customer.expect("REFER");
    assert!(refer.octets().len() < 1_300, "{} octets", refer.octets().len());
    assert!(refer.header("Refer-To").ends_with("&X-GA-tv-short=1>"), "{refer:?}");
    customer.reply(&refer, 202);
    customer.bye();
    customer.expect("200 BYE");
    assert_eq!(w.record().hand_back.map(|back| (back.values_sent, back.values_left_out)), Some((1, 1)));
}

#[test]
fn t13_a_subscription_that_ends_without_a_usable_status() {
    for body in ["", "nonsense", "SIP/2.0 7000 x\r\n", "INVITE sip:a@b SIP/2.0\r\n", "SIP/2.0 180 Ringing\r\n"] {
        let w = plain();
        let (mut customer, refer) = accepted(&w);
        notify(&mut customer, &refer, "terminated;reason=noresource", body);
        customer.expect("200 NOTIFY");
        next_rung_takes_over(&w, &mut customer);
        assert_eq!(tried(&w), ["refer:queue no outcome", "dial:queue answered"], "{body:?}");
    }
}

#[test]
fn t13_what_says_nothing_is_waited_out() {
    let w = plain();
    let (mut customer, refer) = accepted(&w);
    notify(&mut customer, &refer, "active", "nonsense");
    customer.expect("200 NOTIFY");
    w.run_for(secs(5));
    waits(&w, &customer);
    notify(&mut customer, &refer, "active", "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue transferred"]);
}

#[test]
fn notifications_of_other_things_are_none_of_ours() {
    let w = plain();
    let (mut customer, refer) = accepted(&w);
    for (event, status) in [("presence", "489 NOTIFY"), ("refer;id=99", "481 NOTIFY")] {
        let foreign = notification(&mut customer, event, "terminated", "SIP/2.0 200 OK\r\n");
        customer.send(&foreign);
        let answer = customer.expect(status);
        assert_eq!(answer.has("Allow-Events"), event == "presence");
    }
    waits(&w, &customer);
    notify(&mut customer, &refer, "terminated", "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
}

#[test]
fn a_notification_before_any_refer_is_none_of_ours() {
    let w = plain();
    let (mut customer, mut genagent) = talk(&w);
    let stray = notification(&mut customer, "refer", "terminated", "SIP/2.0 200 OK\r\n");
    customer.send(&stray);
    customer.expect("481 NOTIFY");
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn r16_the_customer_hangs_up_in_the_instant_of_the_refer() {
    for status in [None, Some(481), Some(200)] {
        let w = plain();
        let (mut customer, refer) = asked(&w);
        customer.bye();
        customer.expect("200 BYE");
        if let Some(status) = status {
            customer.reply(&refer, status);
        }
        assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::HandingBack));
        assert_eq!(tried(&w), ["refer:queue call ended"]);
        assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), Some(EndedBy::Customer));
    }
}

#[test]
fn r16_the_customer_leaves_after_a_refusal() {
    let w = plain();
    let (mut customer, refer) = asked(&w);
    customer.reply(&refer, 603);
    let mut queue = w.queue.expect_invite();
    queue.respond(180);
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("CANCEL");
    queue.respond(487);
    queue.expect("ACK");
    assert_eq!(tried(&w), ["refer:queue rejected 603", "dial:queue customer hung up"]);
}

#[test]
fn r18_notifications_overtake_the_202() {
    let w = plain();
    let (mut customer, refer) = asked(&w);
    notify(&mut customer, &refer, "active;expires=60", "SIP/2.0 100 Trying\r\n");
    customer.expect("200 NOTIFY");
    w.run_for(secs(6));
    waits(&w, &customer);
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    customer.reply(&refer, 202);
    assert_eq!(tried(&w), ["refer:queue transferred"]);
}

#[test]
fn r18_a_notification_that_was_overtaken_changes_nothing() {
    let w = plain();
    let (mut customer, refer) = accepted(&w);
    let event = format!("refer;id={}", refer.cseq());
    let first = notification(&mut customer, &event, "active;expires=60", "SIP/2.0 100 Trying\r\n");
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 486 Busy Here\r\n");
    customer.expect("200 NOTIFY");
    customer.send(&first);
    customer.expect("500 NOTIFY");
    next_rung_takes_over(&w, &mut customer);
}

#[test]
fn whoever_takes_the_customers_place_is_asked_again() {
    let w = plain();
    let (mut customer, refer) = accepted(&w);
    let mut desk = takes_over(&w, &customer);
    desk.expect("200");
    desk.ack();
    customer.expect_and_ok("BYE");
    let again = desk.expect("REFER");
    assert_eq!(again.header("Refer-To"), refer.header("Refer-To"));
    desk.reply(&again, 202);
    notify(&mut customer, &refer, "terminated", "SIP/2.0 486 Busy Here\r\n");
    customer.expect("200 NOTIFY");
    notify(&mut desk, &again, "terminated", "SIP/2.0 200 OK\r\n");
    desk.expect("200 NOTIFY");
    desk.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue changed hands", "refer:queue transferred"]);
}

#[test]
fn the_ladders_deadline_ends_a_transfer_too() {
    let w = world(&["sip:queue@pbx.example"], |settings| settings.call.ladder_limit = secs(10));
    let (mut customer, _) = accepted(&w);
    w.run_for(secs(10));
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.all("Reason")[0], "Q.850;cause=19");
    assert_eq!(tried(&w), ["refer:queue no time left", "bye done"]);
}

#[test]
fn before_the_answer_nobody_is_asked_to_transfer() {
    let w = World::set(|settings| rules(settings, [(Matcher::default(), &["refer:queue", "refuse:486"])]));
    let mut customer = w.ivr.invite();
    w.api.expect_create().fail(switchback::b2bua::io::FailureClass::Refused);
    customer.expect("180");
    customer.expect_refusal(486);
    assert_eq!(tried(&w), ["refuse:486 done"]);
    w.run_for(Duration::ZERO);
}

#[test]
fn r18_a_refer_waits_for_the_ack_of_our_200() {
    for hangs_up in [false, true] {
        let w = plain();
        let (mut customer, mut genagent) = talk(&w);
        let sdp = customer.sdp();
        customer.reinvite(sdp);
        customer.expect("200");
        asks_for_a_person(&w, &mut genagent);
        customer.expect_nothing_for(ms(200));
        if hangs_up {
            customer.bye();
            customer.expect("200 BYE");
            assert_eq!(tried(&w), ["refer:queue call ended"]);
            continue;
        }
        customer.ack();
        let refer = customer.expect("REFER");
        customer.reply(&refer, 202);
        notify(&mut customer, &refer, "terminated", "SIP/2.0 200 OK\r\n");
        customer.expect("200 NOTIFY");
        customer.expect_and_ok("BYE");
        assert_eq!(tried(&w), ["refer:queue transferred"]);
    }
}

/// Brings a call to where our 200 to a re-INVITE waits for its ACK and the REFER for that.
fn held(w: &World) -> Line {
    let (mut customer, mut genagent) = talk(w);
    let sdp = customer.sdp();
    customer.reinvite(sdp);
    customer.expect("200");
    asks_for_a_person(w, &mut genagent);
    customer
}

#[test]
fn r18_a_refer_that_waited_too_long_for_an_ack_does_not_leave_behind_the_next_rung() {
    let w = plain();
    let mut customer = held(&w);
    w.run_for(ms(4_980));
    let mut queue = w.queue.expect_invite();
    queue.answer();
    queue.expect("ACK");
    customer.ack();
    customer.expect_nothing_for(secs(10));
    assert!(w.talking(&customer, &queue), "{}", w.ladder());
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue not accepted in time", "dial:queue answered"]);
}

#[test]
fn r18_a_refer_that_waits_for_an_ack_does_not_outlive_the_ladder() {
    let w = world(&["sip:queue@pbx.example"], |settings| {
        settings.call.ladder_limit = secs(3);
        rules(settings, [(Matcher::default(), &["refer:queue", "bye"])]);
    });
    let mut customer = held(&w);
    w.run_for(secs(4));
    customer.ack();
    customer.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue no time left", "bye done"]);
}

#[test]
fn t6_a_refer_that_was_given_up_is_not_repeated_and_what_it_brings_is_answered() {
    let w = plain();
    let (mut customer, refer) = asked(&w);
    w.run_for(ms(4_980));
    let mut queue = w.queue.expect_invite();
    let said = w.count(&w.ivr, "REFER");
    queue.answer();
    queue.expect("ACK");
    customer.expect_nothing_for(secs(20));
    assert_eq!(w.count(&w.ivr, "REFER"), said, "{}", w.ladder());
    customer.reply(&refer, 202);
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 486 Busy Here\r\n");
    customer.expect("200 NOTIFY");
    assert!(w.talking(&customer, &queue), "{}", w.ladder());
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue not accepted in time", "dial:queue answered"]);
}

/// Brings a call to where nobody has said what became of the REFER, and the queue rings.
fn given_up(w: &World) -> (Line, Sip, Line) {
    let (customer, refer) = accepted(w);
    w.run_for(ms(19_980));
    let queue = w.queue.expect_invite();
    queue.respond(180);
    w.run_for(secs(1));
    (customer, refer, queue)
}

/// The queue's telephone rings no longer.
fn is_cancelled(queue: &mut Line) {
    let cancel = queue.expect("CANCEL");
    queue.reply(&cancel, 200);
    queue.respond(487);
    queue.expect("ACK");
}

#[test]
fn t10_a_late_success_ends_the_dial_that_took_its_place() {
    let w = plain();
    let (mut customer, refer, mut queue) = given_up(&w);
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    is_cancelled(&mut queue);
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    assert_eq!(tried(&w), ["refer:queue transferred", "dial:queue overtaken"]);
}

#[test]
fn t9_who_accepted_and_leaves_while_the_queue_rings_has_transferred() {
    let w = plain();
    let (mut customer, _, mut queue) = given_up(&w);
    customer.bye();
    customer.expect("200 BYE");
    is_cancelled(&mut queue);
    assert_eq!(tried(&w), ["refer:queue accepted, unconfirmed", "dial:queue overtaken"]);
    assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), None, "he is with somebody");
}

#[test]
fn t10_a_late_success_that_crosses_the_queues_answer_bridges_nobody() {
    let w = plain();
    let (mut customer, refer, mut queue) = given_up(&w);
    notify(&mut customer, &refer, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    w.run_for(ms(1));
    queue.answer();
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    queue.expect_and_ok("CANCEL");
    queue.expect("ACK");
    queue.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["refer:queue transferred", "dial:queue overtaken"]);
}

#[test]
fn t2_the_number_in_diversion_is_an_input_variable_where_it_is_asked_for() {
    let diversion = "\"A, B\" <sip:+15550100007@pbx.example>;reason=deflection, <sip:+15550100008@pbx.example>";
    for (name, value) in [("sentBy", Some("+15550100007")), ("", None)] {
        let w = World::set(|settings| settings.call.intake.diversion_variable = name.to_owned());
        let mut customer = w.ivr.call().header("Diversion", diversion).invite();
        customer.expect("180");
        let post = w.api.expect_create();
        let variables = post.body().variables.iter().find(|(known, _)| known == "sentBy");
        assert_eq!(variables.map(|(_, value)| value.as_str()), value);
        post.fail(FailureClass::Refused);
        customer.expect_refusal(480);
    }
}

#[test]
fn t2_a_redirected_customer_for_whom_there_is_no_rule_goes_to_the_default_target() {
    for works in [true, false] {
        let w = World::set(|settings| {
            let reach = settings.targets["queue"].clone();
            settings.targets.insert("default".to_owned(), reach);
            let queue = settings.call.targets["queue"].clone();
            settings.call.targets.insert("default".to_owned(), queue);
        });
        let mut customer = w.ivr.call().header("Referred-By", "<sip:ivr@pbx.example>").invite();
        customer.expect("180");
        w.api.expect_create().answer_number(NUMBER, secs(60));
        let mut genagent = w.carrier.expect_invite();
        genagent.answer();
        genagent.expect("ACK");
        customer.expect("200");
        customer.ack();
        asks_for_a_person(&w, &mut genagent);
        let refer = customer.expect("REFER");
        if works {
            customer.reply(&refer, 202);
            customer.bye();
            customer.expect("200 BYE");
            assert_eq!(tried(&w), ["refer:default accepted, unconfirmed"]);
        } else {
            customer.reply(&refer, 405);
            next_rung_takes_over(&w, &mut customer);
            assert_eq!(tried(&w), ["refer:default rejected 405", "dial:default answered"]);
        }
    }
}
