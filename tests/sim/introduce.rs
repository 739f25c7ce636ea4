//! The way back by an attended transfer: an onward leg answers, and the customer's side takes our place there.

use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::engine::{ms, secs};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, tried, with_ladder};
use crate::peer::Line;
use crate::refer::notify;
use crate::text::Sip;
use crate::world::World;

const DONE: &str = "terminated;reason=noresource";

/// Brings a call to where the customer talks with the queue and his side has been asked to call it itself.
fn introduced(w: &World) -> (Line, Line, Sip) {
    let (mut customer, mut genagent) = talk(w);
    asks_for_a_person(w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    assert!(queue.invite.has("X-GA-transfer"), "the context is in the INVITE: {:?}", queue.invite);
    queue.answer();
    queue.expect("ACK");
    let refer = customer.expect("REFER");
    assert!(w.talking(&customer, &queue), "he waits for nobody: {}", w.ladder());
    (customer, queue, refer)
}

fn world() -> World {
    with_ladder(&["refer_replaces:queue", "bye"])
}

fn ends(w: &World, ended_by: Option<EndedBy>, result: &str) {
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    assert_eq!(tried(w), [format!("refer_replaces:queue {result}")]);
    assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), ended_by);
}

#[test]
fn the_customers_side_takes_our_place_with_the_queue() {
    let w = world();
    let (mut customer, mut queue, refer) = introduced(&w);
    let invite = &queue.invite;
    let contact = queue.response(invite, 200).contact().to_owned();
    let [ours, theirs] = [invite.tag("From"), queue.response(invite, 200).tag("To")].map(str::to_owned);
    let call_id = invite.call_id().replace('@', "%40");
    assert_eq!(
        refer.header("Refer-To"),
        format!("<{contact}?Replaces={call_id}%3Bto-tag%3D{theirs}%3Bfrom-tag%3D{ours}>"),
    );
    customer.reply(&refer, 202);
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_nothing_for(ms(200));
    notify(&mut customer, &refer, DONE, "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    ends(&w, None, "transferred");
    w.golden("introduce");
}

#[test]
fn we_hang_up_where_the_queue_does_not() {
    let w = world();
    let (mut customer, mut queue, refer) = introduced(&w);
    customer.reply(&refer, 202);
    notify(&mut customer, &refer, DONE, "SIP/2.0 200 OK\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    queue.expect_and_ok("BYE");
    ends(&w, None, "transferred");
    w.finish();
}

#[test]
fn a_side_that_cannot_transfer_goes_on_talking() {
    for (status, result) in [(405, "dialled, refer rejected 405"), (603, "dialled, refer rejected 603")] {
        let w = world();
        let (mut customer, mut queue, refer) = introduced(&w);
        customer.reply(&refer, status);
        w.run_for(secs(60));
        assert!(w.talking(&customer, &queue), "{}", w.ladder());
        queue.bye();
        queue.expect("200 BYE");
        customer.expect_and_ok("BYE");
        ends(&w, Some(EndedBy::Onward), result);
        w.finish();
    }
}

#[test]
fn a_transfer_that_fails_or_is_never_heard_of_again_changes_nothing() {
    for (say, result) in
        [(Some("SIP/2.0 486 Busy Here\r\n"), "dialled, refer refused 486"), (None, "dialled, refer no outcome in time")]
    {
        let w = world();
        let (mut customer, mut queue, refer) = introduced(&w);
        customer.reply(&refer, 202);
        match say {
            Some(body) => {
                notify(&mut customer, &refer, DONE, body);
                customer.expect("200 NOTIFY");
            }
            None => w.run_for(secs(60)),
        }
        assert!(w.talking(&customer, &queue), "{}", w.ladder());
        customer.bye();
        customer.expect("200 BYE");
        queue.expect_and_ok("BYE");
        ends(&w, Some(EndedBy::Customer), result);
        w.finish();
    }
}

#[test]
fn a_queue_that_leaves_before_a_failed_transfer_has_ended_the_call() {
    let w = world();
    let (mut customer, mut queue, refer) = introduced(&w);
    customer.reply(&refer, 202);
    queue.bye();
    queue.expect("200 BYE");
    notify(&mut customer, &refer, DONE, "SIP/2.0 481 Gone\r\n");
    customer.expect("200 NOTIFY");
    customer.expect_and_ok("BYE");
    ends(&w, Some(EndedBy::Onward), "dialled, refer refused 481");
    w.finish();
}

#[test]
fn a_customer_who_hangs_up_before_the_refer_is_accepted_has_ended_the_call() {
    let w = world();
    let (mut customer, mut queue, _) = introduced(&w);
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
    ends(&w, Some(EndedBy::Customer), "answered");
    w.finish();
}

#[test]
fn a_customers_side_that_leaves_after_it_has_accepted_is_taken_for_transferred() {
    let w = world();
    let (mut customer, mut queue, refer) = introduced(&w);
    customer.reply(&refer, 202);
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
    ends(&w, None, "accepted, unconfirmed");
    w.finish();
}
