//! T1, T11c: a REFER outside every dialog (RFC 3515) asks us to call the customer. T2: it asked an SBC, who calls us.

use switchback::b2bua::io::{OperatorCommand, Sound, Transport};
use switchback::b2bua::settings::{Network, Peer, Settings};
use switchback::call::rules::{Entry, Matcher};
use switchback::call::verdict::{EndedBy, Outcome, Phase};
use switchback::sip::digest::Credentials;

use crate::asapp::NUMBER;
use crate::context::found;
use crate::engine::{Engine, IVR, Lane, address, ms, secs, settings};
use crate::ladders::{asks_for_a_person, rules};
use crate::peer::{Draft, Line, Party};
use crate::relay::Hears;
use crate::text::Sip;
use crate::ways::{DESK, accepting, notified};
use crate::world::{LONG, World};

fn world() -> (World, Party) {
    world_with(|_| {})
}

fn world_with(more: impl FnOnce(&mut Settings)) -> (World, Party) {
    let w = World::set(|settings| {
        accepting(settings);
        more(settings);
    });
    let desk = w.stranger(DESK);
    (w, desk)
}

fn desk() -> String {
    format!("<sip:+15550123@{DESK}>")
}

/// A REFER of the IVR's to the customer's side, not sent yet.
fn draft<'a>(w: &'a World, to: &str) -> Draft<'a> {
    w.ivr.call().header("Refer-To", to)
}

/// The IVR's REFER has been accepted and the customer's side rings; both are given back.
fn asked(w: &World, desk_phone: &Party) -> (Line, Line) {
    asked_for(w, desk_phone, &desk())
}

fn asked_for(w: &World, desk_phone: &Party, to: &str) -> (Line, Line) {
    let mut ivr = draft(w, to).request("REFER");
    ivr.expect("202 REFER");
    notified(&mut ivr, "100 Trying", "active;expires=");
    (ivr, desk_phone.expect_invite())
}

/// The customer answers, and the IVR is told so: that was its part.
fn answered(ivr: &mut Line, customer: &mut Line) {
    customer.answer();
    customer.expect("ACK");
    notified(ivr, "200 OK", "terminated;reason=noresource");
}

/// GenerativeAgent is asked for and answers.
fn talks(w: &World, customer: &Line) -> Line {
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    w.run_for(ms(50));
    assert!(w.talking(customer, &genagent), "{}", w.ladder());
    genagent
}

fn nobody_is_asked_for(w: &World) {
    assert_eq!(w.count(&w.carrier, "INVITE"), 0);
    assert!(w.record().attempts.is_empty(), "no number is wasted");
}

#[test]
fn t1_an_ivr_sends_the_customer_by_refer() {
    let (w, desk_phone) = world();
    let mut ivr = draft(&w, &desk()).header("Referred-By", "<sip:ivr@198.51.100.10>").request("REFER");
    let begun = w.now();
    let accepted = ivr.expect("202 REFER");
    assert!(w.now() - begun < ms(200), "{:?}", w.now() - begun);
    assert!(accepted.has("Contact") && !accepted.tag("To").is_empty(), "{accepted:?}");
    let notify = notified(&mut ivr, "100 Trying", "active;expires=");
    assert_eq!((notify.header("Event"), notify.tag("From")), ("refer", accepted.tag("To")));
    let mut customer = desk_phone.expect_invite();
    assert_eq!(customer.invite.uri(), format!("sip:+15550123@{DESK}"));
    assert!(customer.invite.header("From").starts_with("<sip:7000@"), "who was dialled calls");
    customer.respond(180);
    notified(&mut ivr, "180 Ringing", "active");
    w.run_for(secs(3));
    answered(&mut ivr, &mut customer);
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Ringback));
    let mut genagent = talks(&w, &customer);
    ivr.expect_nothing_for(secs(5));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[("tier", "gold")]);
    assert_eq!(customer.expect_and_ok("BYE").header("X-GA-tv-tier"), "gold");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    assert!(w.record().answered_at.is_some());
    for dialog in [&ivr, &customer] {
        assert_eq!(found(&w, &dialog.call_id).as_deref(), Some("agent"), "T14");
    }
    w.golden("t1");
}

#[test]
fn t11c_a_refer_without_referred_by_is_accepted_before_anybody_asks_the_api() {
    let (w, desk_phone) = world();
    let mut ivr = draft(&w, &desk()).request("REFER");
    let begun = w.now();
    ivr.expect("202 REFER");
    assert!(w.now() - begun < ms(200));
    notified(&mut ivr, "100", "active");
    let mut customer = desk_phone.expect_invite();
    answered(&mut ivr, &mut customer);
    let create = w.api.expect_create();
    w.run_for(secs(3));
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Ringback));
    create.answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
}

#[test]
fn t1_the_dialog_to_be_replaced_goes_along_and_what_is_for_us_does_not() {
    let (w, desk_phone) = world();
    let uri = format!(
        "<sip:+15550123@{DESK}?Replaces=other%40pbx%3Bto-tag%3Da%3Bfrom-tag%3Db&Route=%3Csip:203.0.113.9%3E\
         &X-GA-extConversationId=conv-1&X-GA-iv-plan=gold%2520plus&User-to-User=task%3Dnone%26site%3Dnorth>"
    );
    let mut ivr = draft(&w, &uri)
        .header("X-GA-taskName", "Billing")
        .header("X-GA-iv-plan", "silver")
        .header("X-GA-iv-queue", "q1")
        .request("REFER");
    ivr.expect("202 REFER");
    notified(&mut ivr, "100", "active");
    let mut customer = desk_phone.expect_invite();
    assert_eq!(customer.invite.all("Replaces"), ["other@pbx;to-tag=a;from-tag=b"]);
    for name in ["Route", "X-GA-extConversationId", "X-GA-iv-plan", "User-to-User"] {
        assert!(!customer.invite.has(name), "{name}: {:?}", customer.invite);
    }
    answered(&mut ivr, &mut customer);
    let create = w.api.expect_create();
    let wanted = create.body().clone();
    assert_eq!((wanted.conversation.0.as_str(), wanted.task.as_deref()), ("conv-1", Some("Billing")));
    let variables = wanted.variables.iter().map(|(name, value)| format!("{name}={value}"));
    assert_eq!(variables.collect::<Vec<_>>(), ["plan=gold plus", "queue=q1", "site=north"]);
    create.answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    let record = w.record();
    assert!(record.caller.ends_with("0123"), "the caller is who was called: {}", record.caller);
}

#[test]
fn t1_policy_and_form_refuse_before_anything_is_done() {
    let (w, _desk) = world();
    for (to, status) in [
        ("<sip:desk@203.0.113.99>", "603 REFER"),
        ("<sip:desk@pbx.example>", "603 REFER"),
        ("<sip:7000@192.0.2.1>", "603 REFER"),
        ("<tel:+15550100>", "603 REFER"),
        ("<sip:desk@198.51.100.77;method=BYE>", "603 REFER"),
        ("<sip:desk@198.51.100.77?X=1%0D%0AEvil=2>", "400 REFER"),
        ("<sip:desk@198.51.100.77?Replaces=nonsense>", "400 REFER"),
        ("<sip:desk", "400 REFER"),
    ] {
        draft(&w, to).request("REFER").expect(status);
    }
    w.ivr.request("REFER").expect("400 REFER");
    draft(&w, &desk()).header("Refer-To", &desk()).request("REFER").expect("400 REFER");
    draft(&w, &desk()).header("Max-Forwards", "0").request("REFER").expect("483 REFER");
    assert_eq!(w.counters().calls, 0);
}

#[test]
fn t1_by_default_nobody_is_followed() {
    let w = World::new();
    draft(&w, &desk()).request("REFER").expect("603 REFER");
    w.carrier.call().header("Refer-To", &desk()).request("REFER").expect("603 REFER");
    assert_eq!(w.counters().calls, 0);
}

#[test]
fn t1_who_wants_to_know_nothing_is_told_nothing() {
    let (w, desk_phone) = world();
    let mut ivr = draft(&w, &desk()).header("Refer-Sub", "false").request("REFER");
    assert_eq!(ivr.expect("202 REFER").header("Refer-Sub"), "false");
    let mut customer = desk_phone.expect_invite();
    customer.answer();
    customer.expect("ACK");
    let mut genagent = talks(&w, &customer);
    ivr.expect_nothing_for(secs(3));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn t1_the_same_refer_makes_one_call() {
    let (w, desk_phone) = world();
    let mut ivr = draft(&w, &desk()).request("REFER");
    let refer = ivr.invite.clone();
    (0..3).for_each(|_| ivr.send(&refer));
    let mut merged = refer.clone();
    merged
        .headers
        .iter_mut()
        .filter(|(name, _)| name == "Via")
        .for_each(|(_, via)| *via = via.replace(";rport", "x;rport"));
    ivr.send(&merged);
    ivr.expect("202 REFER");
    let (first, second) = (ivr.expect_any(), ivr.expect_any());
    let mut words = [first.word(), second.word()];
    words.sort();
    assert_eq!(words, ["482 REFER", "NOTIFY"]);
    [first, second].iter().filter(|sip| sip.is("NOTIFY")).for_each(|notify| ivr.reply(notify, 200));
    assert!(w.count(&w.ivr, "202 REFER") >= 2, "a repeat is answered by its transaction");
    let mut customer = desk_phone.expect_invite();
    customer.respond(486);
    customer.expect("ACK");
    notified(&mut ivr, "486", "terminated");
    desk_phone.expect_nothing_for(secs(2));
    assert_eq!(w.counters().calls, 1);
}

#[test]
fn t1_a_customer_who_refuses_costs_no_number() {
    for status in [404, 486, 603] {
        let (w, desk_phone) = world();
        let (mut ivr, mut customer) = asked(&w, &desk_phone);
        customer.respond(status);
        customer.expect("ACK");
        notified(&mut ivr, &status.to_string(), "terminated");
        nobody_is_asked_for(&w);
        assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::BeforeAnswer));
        assert_eq!(w.record().verdict.evidence.sip_status, Some(status));
    }
}

#[test]
fn t1_a_customer_who_rings_too_long_is_given_up() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    customer.respond(180);
    notified(&mut ivr, "180", "active");
    let cancel = customer.expect("CANCEL");
    notified(&mut ivr, "408", "terminated");
    customer.reply(&cancel, 200);
    customer.respond(487);
    customer.expect("ACK");
    nobody_is_asked_for(&w);
    assert_eq!(w.verdict(), (Outcome::NotConnected, EndedBy::Us, Phase::BeforeAnswer));
}

#[test]
fn t1_a_customer_who_answers_our_cancel_is_hung_up_on() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    customer.respond(180);
    notified(&mut ivr, "180", "active");
    let cancel = customer.expect("CANCEL");
    customer.answer();
    customer.reply(&cancel, 200);
    customer.expect("ACK");
    customer.expect_and_ok("BYE");
    notified(&mut ivr, "408", "terminated");
    nobody_is_asked_for(&w);
}

#[test]
fn t1_a_customer_who_says_nothing_at_all() {
    let (w, desk_phone) = world_with(|settings| settings.call.ring_limit = secs(100));
    let (mut ivr, _customer) = asked(&w, &desk_phone);
    let begun = w.now();
    notified(&mut ivr, "408", "terminated");
    assert!(w.now() - begun <= LONG, "timer B");
    nobody_is_asked_for(&w);
    assert_eq!(w.verdict(), (Outcome::NotConnected, EndedBy::Network, Phase::BeforeAnswer));
}

#[test]
fn s5_an_invite_that_would_be_too_long_costs_its_leg_and_no_more() {
    let (w, desk_phone) = world();
    // It stands in the request line and in To.
    let mut ivr = draft(&w, &format!("<sip:{}@{DESK}>", "x".repeat(16_400))).request("REFER");
    ivr.expect("202 REFER");
    notified(&mut ivr, "100 Trying", "active;expires=");
    notified(&mut ivr, "408", "terminated");
    assert_eq!(w.verdict().0, Outcome::NotConnected);
    assert_eq!(w.count(&desk_phone, "INVITE"), 0);
}

#[test]
fn t1_an_answer_that_cannot_be_used() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    customer.respond_with(200, crate::text::audio("198.51.100.77", 41_000, "18", "sendrecv"));
    customer.expect("ACK");
    customer.expect_and_ok("BYE");
    notified(&mut ivr, "488", "terminated");
    nobody_is_asked_for(&w);
    assert_eq!(w.verdict(), (Outcome::NotConnected, EndedBy::Us, Phase::BeforeAnswer));
}

#[test]
fn t1_a_referrer_who_knows_nothing_of_it_or_is_silent_is_told_no_more() {
    for status in [Some(481), None] {
        let (w, desk_phone) = world();
        let mut ivr = draft(&w, &desk()).request("REFER");
        ivr.expect("202 REFER");
        let notify = ivr.expect("NOTIFY");
        status.into_iter().for_each(|status| ivr.reply(&notify, status));
        let mut customer = desk_phone.expect_invite();
        customer.respond(180);
        w.run_for(secs(1));
        customer.answer();
        customer.expect("ACK");
        let mut genagent = talks(&w, &customer);
        ivr.expect_nothing_for(LONG + secs(5));
        customer.bye();
        customer.expect("200 BYE");
        genagent.expect_and_ok("BYE");
        assert_eq!(w.counters().active_legs, 2, "of which both are tombstones");
    }
}

#[test]
fn t1_one_notify_at_a_time_and_the_last_word_is_not_lost() {
    let (w, desk_phone) = world();
    let mut ivr = draft(&w, &desk()).request("REFER");
    ivr.expect("202 REFER");
    let notify = ivr.expect("NOTIFY");
    let mut customer = desk_phone.expect_invite();
    customer.respond(180);
    customer.answer();
    customer.expect("ACK");
    let mut genagent = talks(&w, &customer);
    ivr.expect_nothing_for(ms(500));
    ivr.reply(&notify, 200);
    notified(&mut ivr, "200 OK", "terminated");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn t1_in_the_subscription_there_is_nothing_else_to_ask_for() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    let refer = ivr.request("REFER").with("Refer-To", desk()).with("Contact", format!("<sip:ivr@{IVR}>"));
    ivr.send(&refer);
    ivr.expect("603 REFER");
    ivr.bye();
    ivr.expect("481 BYE");
    let options = ivr.request("OPTIONS");
    ivr.send(&options);
    ivr.expect("200 OPTIONS");
    let foreign = Sip { headers: options.headers.iter().map(foreign_tag).collect(), ..ivr.request("OPTIONS") };
    ivr.send(&foreign);
    ivr.expect("481 OPTIONS");
    customer.respond(486);
    customer.expect("ACK");
    notified(&mut ivr, "486", "terminated");
    w.run_for(ms(100));
    let late = ivr.request("OPTIONS");
    ivr.send(&late);
    ivr.expect("481 OPTIONS");
}

/// The same header of somebody who guesses.
fn foreign_tag((name, value): &(String, String)) -> (String, String) {
    match name.as_str() {
        "From" => (name.clone(), format!("{value}guessed")),
        "Via" => (name.clone(), value.replace(";rport", "guessed;rport")),
        "CSeq" => (name.clone(), "900 OPTIONS".to_owned()),
        _ => (name.clone(), value.clone()),
    }
}

#[test]
fn t1_an_operator_or_a_stop_ends_it_while_the_customer_rings() {
    for stop in [false, true] {
        let (w, desk_phone) = world();
        let (mut ivr, mut customer) = asked(&w, &desk_phone);
        customer.respond(180);
        notified(&mut ivr, "180", "active");
        let call = w.stage().engine.core.live_calls(switchback::clock::now())[0].call;
        w.operator(OperatorCommand::PullBack(call));
        w.operator(if stop { OperatorCommand::Stop } else { OperatorCommand::HangUp(call) });
        let cancel = customer.expect("CANCEL");
        customer.reply(&cancel, 200);
        customer.respond(487);
        customer.expect("ACK");
        notified(&mut ivr, if stop { "503" } else { "603" }, "terminated");
        nobody_is_asked_for(&w);
        let outcome = if stop { Outcome::Drained } else { Outcome::Operator };
        assert_eq!(w.verdict(), (outcome, EndedBy::Us, Phase::BeforeAnswer));
    }
}

#[test]
fn t1_without_room_it_is_refused_and_nothing_is_kept() {
    type Limited = (&'static str, u16, fn(&mut Settings));
    let full: [Limited; 4] = [
        ("calls", 40, |settings| settings.max_calls = 1),
        ("rate", 40, |settings| settings.max_calls_per_second = 1),
        ("source", 40, |settings| settings.max_calls_per_second_per_source = 1),
        ("ports", 3, |_| {}),
    ];
    for (why, pairs, change) in full {
        let mut settings = settings();
        accepting(&mut settings);
        change(&mut settings);
        let w = World::of(Engine::new(settings, pairs, 1));
        let desk_phone = w.stranger(DESK);
        let (mut ivr, mut customer) = asked(&w, &desk_phone);
        let mut second = draft(&w, &desk()).request("REFER");
        assert!(second.expect("503 REFER").has("Retry-After"), "{why}");
        assert_eq!((w.counters().calls, w.counters().rejected.get(why)), (1, Some(&1)), "{why}");
        customer.respond(486);
        customer.expect("ACK");
        notified(&mut ivr, "486", "terminated");
        desk_phone.expect_nothing_for(secs(1));
    }
}

#[test]
fn t1_the_customers_leg_is_a_leg_like_any_other() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    answered(&mut ivr, &mut customer);
    let create = w.api.expect_create();
    customer.bye();
    customer.expect("200 BYE");
    create.answer_number(NUMBER, secs(60));
    w.carrier.expect_nothing_for(secs(2));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::BeforeAnswer));
}

#[test]
fn t1_a_customer_who_hangs_up_before_its_own_answer_is_heard() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    customer.respond(180);
    notified(&mut ivr, "180", "active");
    customer.bye();
    customer.expect("200 BYE");
    customer.answer();
    customer.expect("ACK");
    notified(&mut ivr, "200", "terminated");
    w.run_for(secs(1));
    assert_eq!(w.count(&w.carrier, "INVITE"), 0);
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::BeforeAnswer));
}

/// What a redirected customer's way back is, and that of one whom an IVR waits for.
fn entries(settings: &mut Settings) {
    let redirected = Matcher { entry: Some(Entry::Redirected), ..Matcher::default() };
    rules(settings, [(redirected, &["dial:queue"]), (Matcher::default(), &["bye"])]);
}

#[test]
fn t1_nobody_waits_behind_a_customer_who_came_by_refer() {
    for replaces in ["", "?Replaces=other%40pbx%3Bto-tag%3Da%3Bfrom-tag%3Db"] {
        let (w, desk_phone) = world_with(entries);
        let (mut ivr, mut customer) = asked_for(&w, &desk_phone, &format!("<sip:+15550123@{DESK}{replaces}>"));
        answered(&mut ivr, &mut customer);
        let mut genagent = talks(&w, &customer);
        asks_for_a_person(&w, &mut genagent);
        let mut queue = w.queue.expect_invite();
        queue.answer();
        queue.expect("ACK");
        w.run_for(ms(50));
        assert!(w.talking(&customer, &queue), "{}", w.ladder());
        queue.bye();
        queue.expect("200 BYE");
        customer.expect_and_ok("BYE");
    }
}

#[test]
fn t2_what_an_sbc_was_told_by_refer_reaches_the_post() {
    let w = World::set(entries);
    let mut customer = w
        .ivr
        .call()
        .header("Referred-By", "<sip:ivr@198.51.100.10>")
        .header("Diversion", "<sip:+15550100@198.51.100.10>;reason=unconditional")
        .header("User-to-User", "conversation=ignored&site=north;encoding=ascii")
        .header("X-GA-extConversationId", "conv-2")
        .header("X-GA-taskName", "Order%20Status")
        .header("X-GA-customerId", "c-7")
        .header("X-GA-iv-note", "caf%C3%A9 %26 more")
        .invite();
    customer.expect("180");
    let create = w.api.expect_create();
    let wanted = create.body().clone();
    assert_eq!((wanted.conversation.0.as_str(), wanted.task.as_deref()), ("conv-2", Some("Order Status")));
    let mut variables: Vec<String> = wanted.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    variables.sort();
    assert_eq!(variables, ["customerId=c-7", "note=café & more", "site=north"]);
    create.answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.answer();
    queue.expect("ACK");
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
    assert_eq!(w.record().customer_call_id, customer.call_id);
}

#[test]
fn t1_over_a_network_that_loses_and_doubles() {
    for seed in 0..20 {
        let mut settings = settings();
        accepting(&mut settings);
        let w = World::of(Engine::new(settings, 40, seed));
        let desk_phone = w.stranger(DESK);
        let lane = Lane { delay: ms(20), jitter: ms(300), loss: 20, twice: 20 };
        w.stage().engine.lanes.insert(w.ivr.address, lane);
        let ivr = draft(&w, &desk()).request("REFER");
        let refer = ivr.invite.clone();
        for _ in 0..4 {
            w.run_for(ms(500));
            ivr.send(&refer);
        }
        let mut customer = desk_phone.expect_invite();
        customer.respond(486);
        customer.expect("ACK");
        desk_phone.expect_nothing_for(LONG * 2);
        let mut ivr = ivr;
        ivr.answer_all();
        assert_eq!((w.counters().calls, w.counters().active_legs), (1, 0), "seed {seed}");
    }
}

#[test]
fn t1_the_referrers_connection_breaks() {
    let (w, desk_phone) = world_with(|settings| settings.sip_others = vec![(Transport::Tcp, settings.sip_address)]);
    w.over(&w.ivr, Transport::Tcp);
    let mut ivr = draft(&w, &desk()).request("REFER");
    ivr.expect("202 REFER");
    ivr.expect("NOTIFY");
    let mut customer = desk_phone.expect_invite();
    w.reset(&w.ivr);
    customer.answer();
    customer.expect("ACK");
    let mut genagent = talks(&w, &customer);
    assert_eq!(w.counters().active_legs, 2, "nobody is told any more");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    ivr.answer_all();
}

#[test]
fn t1_a_drain_lets_it_go_on_and_takes_no_other() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    w.operator(OperatorCommand::Drain);
    draft(&w, &desk()).request("REFER").expect("503 REFER");
    answered(&mut ivr, &mut customer);
    let mut genagent = talks(&w, &customer);
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(LONG);
    assert!(w.stage().engine.closed);
}

#[test]
fn t1_a_customer_who_is_still_rung_is_nobodys_to_take_over() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    customer.respond(180);
    notified(&mut ivr, "180", "active");
    let [theirs, ours] = customer.tags();
    let replaces = format!("{};to-tag={ours};from-tag={theirs}", customer.call_id);
    w.ivr.call().header("Replaces", &replaces).invite().expect_refusal(603);
    customer.respond(486);
    customer.expect("ACK");
    notified(&mut ivr, "486", "terminated");
    nobody_is_asked_for(&w);
}

#[test]
fn t1_who_must_say_who_it_is_says_it_first() {
    let (w, desk_phone) = world_with(|settings| settings.challenge = settings.access.clone());
    assert!(draft(&w, &desk()).request("REFER").expect("401 REFER").has("WWW-Authenticate"));
    desk_phone.expect_nothing_for(secs(1));
    assert_eq!(w.counters().calls, 0);
}

#[test]
fn t1_both_changes_of_a_customers_leg_work_on_one_that_we_called() {
    let (w, desk_phone) = world_with(|settings| {
        settings.peers.push(Peer {
            from: vec![Network { address: address(DESK).ip(), prefix: 32 }],
            ..settings.peers[0].clone()
        });
    });
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    answered(&mut ivr, &mut customer);
    let mut genagent = talks(&w, &customer);
    let refer = customer.request("REFER").with("Refer-To", format!("<sip:other@{DESK}>"));
    customer.send(&refer.with("Contact", format!("<sip:customer@{DESK}>")));
    customer.expect("202 REFER");
    notified(&mut customer, "100", "active");
    let mut other = desk_phone.expect_invite();
    other.answer();
    other.expect("ACK");
    notified(&mut customer, "200", "terminated");
    customer.expect_and_ok("BYE");
    w.run_for(ms(50));
    assert!(w.talking(&other, &genagent), "{}", w.ladder());
    other.bye();
    other.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.record().takeovers, 1);
}

// --- the subscription (RFC 6665) --------------------------------------------------------------------------------------

fn subscribe(line: &mut Line, event: &str, expires: &str) {
    let request = line.request("SUBSCRIBE").with("Event", event).with("Contact", format!("<sip:ivr@{IVR}>"));
    line.send(&if expires.is_empty() { request } else { request.with("Expires", expires) });
}

#[test]
fn t1_a_subscription_is_said_to_last_as_long_as_the_customer_may_ring() {
    for (ring_limit, lasts) in [(secs(30), 62), (secs(300), 332)] {
        let (w, desk_phone) = world_with(|settings| settings.call.ring_limit = ring_limit);
        let mut ivr = draft(&w, &desk()).request("REFER");
        ivr.expect("202 REFER");
        let active = format!("active;expires={lasts}");
        notified(&mut ivr, "100", &active);
        let mut customer = desk_phone.expect_invite();
        customer.respond(180);
        notified(&mut ivr, "180", &active);
        customer.respond(486);
        customer.expect("ACK");
        notified(&mut ivr, "486", "terminated;reason=noresource");
    }
}

#[test]
fn t1_the_referrer_refreshes_its_subscription() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    customer.respond(180);
    notified(&mut ivr, "180", "active");
    let number = ivr.invite.cseq();
    for (event, expires) in [("refer", "3600"), ("refer", ""), (&format!("refer;id={number}"), "62")] {
        subscribe(&mut ivr, event, expires);
        let answer = ivr.expect("200 SUBSCRIBE");
        assert_eq!((answer.header("Expires"), answer.has("Contact")), ("62", true));
        notified(&mut ivr, "180 Ringing", "active;expires=62");
    }
    subscribe(&mut ivr, "refer", "61");
    assert_eq!(ivr.expect("423 SUBSCRIBE").header("Min-Expires"), "62");
    subscribe(&mut ivr, "refer;id=99", "3600");
    ivr.expect("481 SUBSCRIBE");
    subscribe(&mut ivr, "presence", "3600");
    assert_eq!(ivr.expect("489 SUBSCRIBE").header("Allow-Events"), "refer");
    customer.respond(486);
    customer.expect("ACK");
    notified(&mut ivr, "486", "terminated;reason=noresource");
    w.run_for(ms(100));
    subscribe(&mut ivr, "refer", "3600");
    ivr.expect("481 SUBSCRIBE");
}

#[test]
fn t1_a_referrer_who_subscribes_no_longer_is_told_so_and_the_call_goes_on() {
    let (w, desk_phone) = world();
    let (mut ivr, mut customer) = asked(&w, &desk_phone);
    customer.respond(180);
    notified(&mut ivr, "180", "active");
    subscribe(&mut ivr, "refer", "0");
    assert_eq!(ivr.expect("200 SUBSCRIBE").header("Expires"), "0");
    notified(&mut ivr, "180 Ringing", "terminated;reason=timeout");
    customer.answer();
    customer.expect("ACK");
    let mut genagent = talks(&w, &customer);
    ivr.expect_nothing_for(secs(5));
    assert_eq!(w.counters().active_legs, 2, "nobody is told any more");
    subscribe(&mut ivr, "refer", "3600");
    ivr.expect("481 SUBSCRIBE");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn t1_the_end_of_a_subscription_waits_for_the_notify_before_it_and_is_not_taken_back() {
    for answers in [false, true] {
        let (w, desk_phone) = world();
        let mut ivr = draft(&w, &desk()).request("REFER");
        ivr.expect("202 REFER");
        let notify = ivr.expect("NOTIFY");
        let mut customer = desk_phone.expect_invite();
        subscribe(&mut ivr, "refer", "0");
        ivr.expect("200 SUBSCRIBE");
        customer.respond(180);
        if answers {
            customer.answer();
            customer.expect("ACK");
        }
        w.run_for(ms(50));
        ivr.reply(&notify, 200);
        let last =
            if answers { ("200 OK", "terminated;reason=noresource") } else { ("180", "terminated;reason=timeout") };
        notified(&mut ivr, last.0, last.1);
        if !answers {
            customer.answer();
            customer.expect("ACK");
        }
        let mut genagent = talks(&w, &customer);
        ivr.expect_nothing_for(secs(1));
        customer.bye();
        customer.expect("200 BYE");
        genagent.expect_and_ok("BYE");
    }
}

fn known(settings: &mut Settings) {
    let [username, password] = ["ivr", "secret"].map(str::to_owned);
    settings.peers[0].credentials = Some(Credentials { username, password, realm: None });
}

fn asks_who(line: &Line, notify: &Sip, nonce: &str) {
    let challenge = format!("Digest realm=\"ivr\", nonce=\"{nonce}\", qop=\"auth\", algorithm=SHA-256");
    line.send(&line.response(notify, 401).with("WWW-Authenticate", challenge));
}

#[test]
fn t1_a_referrer_who_asks_who_tells_it_is_told_once() {
    let (w, desk_phone) = world_with(known);
    let mut ivr = draft(&w, &desk()).request("REFER");
    ivr.expect("202 REFER");
    let notify = ivr.expect("NOTIFY");
    assert!(!notify.has("Authorization"));
    asks_who(&ivr, &notify, "n1");
    let again = notified(&mut ivr, "100", "active");
    assert_eq!((again.cseq(), again.all("Authorization").len()), (notify.cseq() + 1, 1));
    assert!(again.header("Authorization").contains("username=\"ivr\"") && again.branch() != notify.branch());
    let mut customer = desk_phone.expect_invite();
    customer.respond(180);
    let notify = ivr.expect("NOTIFY");
    assert!(notify.has("Authorization"), "it has asked before");
    asks_who(&ivr, &notify, "n2");
    let again = ivr.expect("NOTIFY");
    assert_eq!(again.cseq(), notify.cseq() + 1);
    asks_who(&ivr, &again, "n3");
    w.run_for(ms(50));
    customer.answer();
    customer.expect("ACK");
    let mut genagent = talks(&w, &customer);
    ivr.expect_nothing_for(secs(1));
    assert_eq!(w.counters().active_legs, 2, "it does not believe us: nobody is there to be told");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn t1_a_referrer_for_whom_there_are_no_credentials_is_told_no_more() {
    let (w, desk_phone) = world();
    let mut ivr = draft(&w, &desk()).request("REFER");
    ivr.expect("202 REFER");
    let notify = ivr.expect("NOTIFY");
    asks_who(&ivr, &notify, "n1");
    let mut customer = desk_phone.expect_invite();
    ivr.expect_nothing_for(secs(1));
    customer.respond(486);
    customer.expect("ACK");
    ivr.expect_nothing_for(secs(1));
}

#[test]
fn t4_the_last_notify_before_our_bye_is_told_to_who_asks_and_the_bye_waits() {
    let (w, desk_phone) = world_with(known);
    let (mut customer, mut genagent) = crate::happy::talk(&w);
    let refer = customer.request("REFER").with("Refer-To", desk()).with("Contact", format!("<sip:pbx@{IVR}>"));
    customer.send(&refer);
    customer.expect("202 REFER");
    notified(&mut customer, "100", "active;expires=62");
    subscribe(&mut customer, "refer", "3600");
    customer.expect("200 SUBSCRIBE");
    notified(&mut customer, "100", "active;expires=62");
    let mut desk = desk_phone.expect_invite();
    desk.answer();
    desk.expect("ACK");
    let last = customer.expect("NOTIFY");
    asks_who(&customer, &last, "n1");
    let again = notified(&mut customer, "200", "terminated");
    assert!(again.has("Authorization") && !last.has("Authorization"));
    customer.expect_and_ok("BYE");
    desk.bye();
    desk.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn t4_a_customers_side_that_subscribes_no_longer_is_followed_all_the_same() {
    let (w, desk_phone) = world();
    let (mut customer, mut genagent) = crate::happy::talk(&w);
    subscribe(&mut customer, "refer", "3600");
    customer.expect("405 SUBSCRIBE");
    let refer = customer.request("REFER").with("Refer-To", desk()).with("Contact", format!("<sip:pbx@{IVR}>"));
    customer.send(&refer);
    customer.expect("202 REFER");
    notified(&mut customer, "100", "active");
    subscribe(&mut customer, "refer", "0");
    customer.expect("200 SUBSCRIBE");
    notified(&mut customer, "100", "terminated;reason=timeout");
    let mut desk = desk_phone.expect_invite();
    desk.answer();
    desk.expect("ACK");
    customer.expect_and_ok("BYE");
    desk.bye();
    desk.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}
