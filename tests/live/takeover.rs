//! T3: the IVR connects its caller to the call it holds with us (an attended transfer): its SBC sends an INVITE with
//! Replaces, and takes the place of the IVR. What each side's RTP port hears meanwhile, packet by packet.

use std::time::Duration;

use switchback::demo::message::{Heard as Message, Invitation};
use switchback::demo::party::{Call, CallEvent, Party};
use switchback::demo::sdp;
use switchback::demo::tap::Tap;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::rtp::Mouth;
use crate::sounds::strictly;
use crate::stage::{SOON, Setting, Stage};
use crate::unbroken::{Ear, GENAGENT, QUEUE as CALLER, is, longest_gap};

/// What the IVR says: 1 kHz as well, but square and softly.
const IVR: [u8; 8] = [0x2e, 0x2e, 0x2e, 0x2e, 0xae, 0xae, 0xae, 0xae];
/// No gap is longer.
const LONGEST: Duration = Duration::from_millis(200);

/// Waits for the answer.
async fn answered(call: &mut Call) -> Box<Message> {
    loop {
        match timeout(SOON, call.next()).await.unwrap() {
            CallEvent::Answered(answer) => return answer,
            CallEvent::Progressed(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Waits for the far side's BYE; returns the number of re-INVITEs before it, each accepted.
fn until_hung_up(mut call: Call, sdp: String) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut offers = 0;
        loop {
            match call.next().await {
                CallEvent::HungUp(_) => return offers,
                CallEvent::Reoffered(offer) => {
                    offers += 1;
                    call.answer_offer(&offer, &sdp);
                }
                _ => {}
            }
        }
    })
}

/// The dialog that this answer made, as the SBC names it (RFC 3891): our tag is To's.
fn replaces(call: &Call, answer: &Message) -> String {
    let tag = |name: &str| {
        let headers = answer.headers();
        let value = headers.iter().find(|(is, _)| is == name).unwrap().1.clone();
        value[value.find(";tag=").unwrap() + 5..].to_owned()
    };
    format!("{};to-tag={};from-tag={}", call.call_id(), tag("To"), tag("From"))
}

#[tokio::test]
async fn t3_the_sbc_takes_the_place_of_the_ivr_and_nobody_is_cut_off_for_long() {
    let _machine = crate::heavy::alone().await;
    let stage = Stage::set(Setting::default()).await;
    let street = &stage.street;
    let mut sbc_address = street.ivr();
    sbc_address.set_port(5080);
    let party = async |here| Party::start(here, Tap::default()).await.unwrap();
    let (ivr, sbc, mut carrier) = (party(street.ivr()).await, party(sbc_address).await, party(street.carrier()).await);
    let [at_ivr, at_sbc, at_genagent] = [street.at(3, 9000), street.at(3, 9100), street.at(4, 9000)];
    let (ivr_mouth, sbc_mouth, genagent_mouth) =
        (Mouth::open(at_ivr).await, Mouth::open(at_sbc).await, Mouth::open(at_genagent).await);
    let [ivr_ear, sbc_ear, genagent_ear] = [&ivr_mouth, &sbc_mouth, &genagent_mouth].map(Ear::of);
    let invitation = |headers, sdp| Invitation {
        target: street.switchback(),
        user: "7000".to_owned(),
        caller: "+15550100042".to_owned(),
        headers,
        sdp,
    };
    let relay = |message: &Message| sdp::audio_address(message.body()).unwrap();

    // The IVR and GenerativeAgent talk.
    let mut held = ivr.call(&invitation(Vec::new(), sdp::describe(at_ivr)));
    let genagent = timeout(SOON, carrier.accept()).await.unwrap().unwrap();
    let towards_genagent_leg = relay(genagent.invite().unwrap());
    assert!(genagent.respond(200, &sdp::describe(at_genagent)));
    let genagent = until_hung_up(genagent, sdp::describe(at_genagent));
    let answer = answered(&mut held).await;
    let _genagent_speaks = genagent_mouth.says(towards_genagent_leg, 4, GENAGENT);
    let ivr_speaks = ivr_mouth.says(relay(&answer), 3, IVR);
    ivr_ear.hears("GenerativeAgent", |heard| is(GENAGENT, heard)).await;
    genagent_ear.hears("the IVR", |heard| is(IVR, heard)).await;

    // The SBC takes its place.
    let named = ("Replaces".to_owned(), replaces(&held, &answer));
    let held = until_hung_up(held, sdp::describe(at_ivr));
    let mut caller = sbc.call(&invitation(vec![named], sdp::describe(at_sbc)));
    let answer = answered(&mut caller).await;
    let _caller_speaks = sbc_mouth.says(relay(&answer), 5, CALLER);
    timeout(SOON, held).await.unwrap().unwrap();
    drop(ivr_speaks);
    sbc_ear.hears("GenerativeAgent", |heard| is(GENAGENT, heard)).await;
    genagent_ear.hears("the caller", |heard| is(CALLER, heard)).await;
    assert!(caller.hang_up(&[]));
    let offers = timeout(SOON, genagent).await.unwrap().unwrap();
    assert!(offers <= 1, "{offers} re-INVITEs to GenerativeAgent");

    let (mut by_customers, by_genagent) = (ivr_ear.all(), genagent_ear.all());
    let before = by_customers.len();
    by_customers.extend(sbc_ear.all());
    let spoken_to = by_customers.windows(2).map(|pair| pair[1].at.saturating_duration_since(pair[0].at)).max().unwrap();
    let taken_over = by_genagent.iter().position(|heard| is(CALLER, heard)).unwrap();
    let gap = by_genagent[taken_over].at - by_genagent[taken_over - 1].at;
    println!(
        "{before} packets to the IVR and {} to the caller, none missing for longer than {spoken_to:?}; {} to \
         GenerativeAgent, {gap:?} from the IVR's last to the caller's first; {offers} re-INVITEs",
        by_customers.len() - before,
        by_genagent.len(),
    );
    assert!(spoken_to < LONGEST, "the customer's side hears nothing for {spoken_to:?}");
    assert!(longest_gap(&by_genagent) < LONGEST, "GenerativeAgent hears nothing for {:?}", longest_gap(&by_genagent));
    strictly(&by_genagent);
    let (outcome, record) = stage.verdict().await;
    assert_eq!((outcome.as_str(), &record["takeovers"]), ("customer_hung_up", &1.into()));
    stage.close(&[]).await;
}
